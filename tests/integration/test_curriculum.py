"""Mixtures and curricula in whole runs: killed anywhere they go on to the same bits; what they leave to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.runs import SMALL, journal, killed, reproducible, texts, train_here, weights
from zero.config.check import check
from zero.evaluate import run as evaluate_config

# Two sources of 8 rows each, so that rows are asked again within the run
MIXED = [
    "questions=mixture",
    "questions.weight_by=tokens",
    *(f"questions.sources.{name}.limit=8" for name in ("nano_math", "nano_gsm")),
    "evaluation.every=0",
    "benchmarks.limit=4",
    "sampling.max_tokens=32",
]
OWN = [  # of one of them
    "+reward@questions.sources.nano_gsm.reward=oat_zero",
    "+template@questions.sources.nano_gsm.template=r1",
    "+questions.sources.nano_gsm.max_tokens=24",
]
PROGRAMS = [  # in its place, which run in the sandbox
    "questions@questions.sources.nano_gsm.questions=nano_code",
    "+reward@questions.sources.nano_gsm.reward=code",
    "+questions.sources.nano_gsm.max_tokens=24",
]
ROWS = ("questions.rows.train", "questions.rows.heldout")  # of a set that is no mixture


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a small run that a mixture has too."""
    monkeypatch.setattr("tests.integration.runs.SMALL", [text for text in SMALL if not text.startswith(ROWS)])


@pytest.mark.parametrize(
    "own",
    [
        [*OWN, "curriculum=band"],
        pytest.param([*OWN, "curriculum=pools", "rollout.staleness=1"], marks=pytest.mark.slow),
        pytest.param([*PROGRAMS, "curriculum=pools"], marks=pytest.mark.slow),
    ],
    ids=["band", "pools, a step ahead", "pools, programs"],
)
def test_a_killed_run_asks_what_an_uninterrupted_one_asks(own: list[str], tmp_path: Path) -> None:
    """Also where a step's questions are drawn, and its answers sampled, before the previous update."""
    options = [*MIXED, *own, "curriculum.unseen=0.25"]
    train_here(tmp_path / "whole", *options)
    killed(tmp_path / "cut", 4, *options)
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "whole")
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")

    lines = journal(tmp_path / "whole")
    assert lines[-1]["curriculum/drawn/unseen"] < 1 == lines[1]["curriculum/drawn/unseen"]
    assert sum(value for name, value in lines[-1].items() if name.startswith("curriculum/rows/")) == pytest.approx(1)
    kinds = [
        {name.split("/")[1] for name in line if name.startswith("reward/") and name.endswith("/mean")} for line in lines
    ]
    assert set().union(*kinds) == {"nano_math", "nano_gsm"} and all(kinds[1:])
    assert all(line["length/nano_gsm/mean"] <= 24 for line in lines[1:] if "length/nano_gsm/mean" in line)
    assert {"eval/mixture/nano_gsm/accuracy", "eval/mixture/nano_math/accuracy"} <= lines[0].keys()


def test_training_rows_are_measured_and_then_chosen(tmp_path: Path) -> None:
    """zero.evaluate n=2 on training rows; the run asks only rows that were right once and wrong once."""
    rows = ["questions=nano_asdiv", "questions.rows.train=24", "questions.rows.heldout=4"]
    settings = [
        "benchmarks=heldout",
        "split=train",
        "benchmarks.limit=null",
        "n=2",
        "sampling=default",
        "sampling.max_tokens=48",
    ]
    rates = tmp_path / "rates"
    evaluate_config(check("evaluate", [*rows, *settings, f"run_dir={rates}"]), "rates", {})
    table = json.loads((rates / "pass_rates_nano_asdiv.json").read_text())
    assert (table["questions"], table["n"], len(table["rates"])) == ("nano_asdiv", 2, 24)
    wanted = {row for row, rate in table["rates"].items() if rate == 0.5}
    assert 0 < len(wanted) < 24
    where = [
        f"questions.where.path={rates / 'pass_rates_nano_asdiv.json'}",
        "questions.where.low=0.4",
        "questions.where.high=0.6",
    ]
    few = ["steps=2", "evaluation.every=0", "samples.every=1", "sampling.max_tokens=32", "benchmarks.limit=4"]
    train_here(tmp_path / "run", *rows, *where, *few)
    files = sorted((tmp_path / "run" / "completions").glob("step_*.jsonl"))
    drawn = {json.loads(line)["id"] for file in files for line in file.read_text().splitlines()}
    assert drawn and drawn <= wanted

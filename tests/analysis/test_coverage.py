"""Coverage: pass@k of saved answers whose truth is known, told apart by group, benchmark and temperature."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.coverage import coverage, main
from analysis.reader.runs import read
from analysis.style import svg
from tests.analysis.test_runs import make
from tests.conftest import ROOT
from zero.config.check import check
from zero.errors import InputError


@cache
def composed() -> dict[str, Any]:
    return check("evaluate", ["benchmarks=nano", "sampling=default"])


def evaluation(
    place: Path, temperature: float, right: Sequence[int], n: int = 4, seed: int = 0, template: str = "none"
) -> Path:
    """An evaluation with n answers to each question, of which `right` are correct."""
    place.mkdir(parents=True)
    config = composed() | {"seed": seed, "n": n, "run_dir": str(place), "template": {"name": template}}
    config["sampling"] = config["sampling"] | {"temperature": temperature}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "result.json").write_text(json.dumps({"status": "finished", "evaluation": {}}))
    rows = [{"id": f"q{i}", "correct": j < c, "tokens": 1} for i, c in enumerate(right) for j in range(n)]
    (place / "completions_b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_pass_at_k_against_temperature_is_that_of_the_answers(tmp_path: Path) -> None:
    evaluation(tmp_path / "cold", 0.2, [4, 4, 0, 0])  # always the same answer: more of them help nothing
    evaluation(tmp_path / "hot", 1.0, [1, 2, 1, 2])
    finding = coverage(read(tmp_path))
    table = finding.table.set_index(["temperature", "k"])
    assert sorted(table.index) == [(0.2, 1), (0.2, 2), (0.2, 4), (1.0, 1), (1.0, 2), (1.0, 4)]
    assert [table.loc[(0.2, k), "pass"] for k in (1, 2, 4)] == [0.5, 0.5, 0.5]
    assert table.loc[(1.0, 1), "pass"] == 0.375 and table.loc[(1.0, 4), "pass"] == 1.0
    assert table.loc[(1.0, 2), "pass"] == pytest.approx((2 * (1 - 3 / 6) + 2 * (1 - 1 / 6)) / 4)
    assert (table["questions"] == 4).all() and (table["n"] == 4).all()
    assert "pass@1 50.0 % at 0.2; pass@4 100.0 % at 1" in finding.text
    drawing = svg(finding.figure)
    assert "pass@4" in drawing and "T = 0.2" in drawing and "no data" not in drawing


def test_the_interval_covers_other_questions() -> None:
    from analysis.coverage import Cell, Counted, pass_at_k_rows

    rng, covered = np.random.default_rng(0), 0
    truth = 1 - np.mean((1 - (np.arange(100_000) + 0.5) / 100_000) ** 4)  # pass@4 if chances are uniform: 0.8
    for _ in range(60):
        right = rng.binomial(8, rng.random(80))
        cell = Cell("all", "b", 0, 1.0)
        (row,) = pass_at_k_rows({cell: Counted({str(i): (8, int(c)) for i, c in enumerate(right)})}, [4])
        covered += row["low"] <= truth <= row["high"]
    assert 51 <= covered <= 60


def test_other_seeds_add_their_answers_and_the_same_one_does_not(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", 1.0, [1, 0], n=4, seed=0)
    evaluation(tmp_path / "b", 1.0, [0, 4], n=4, seed=1)
    evaluation(tmp_path / "again", 1.0, [1, 0], n=2, seed=0)  # the first answers of the same
    finding = coverage(read(tmp_path), ks=[1, 8])
    assert finding.table["n"].tolist() == [8, 8] and finding.table["pass"].tolist() == pytest.approx([5 / 16, 1.0])
    assert "again: the same seed and settings as another evaluation: its answers count once" in finding.text


def test_groups_are_kept_apart_by_default(tmp_path: Path) -> None:
    for name, right in (("none", [4, 4]), ("r1", [0, 1])):
        for temperature in (0.5, 1.0):
            evaluation(tmp_path / f"{name}{temperature}", temperature, right, template=name)
    finding = coverage(read(tmp_path), ks=[1])
    assert finding.table.groupby("group")["pass"].mean().to_dict() == {"none": 1.0, "r1": 0.125}
    assert ">none<" in svg(finding.figure) and ">r1<" in svg(finding.figure)
    together = coverage(read(tmp_path), ks=[1], by=["model"])
    assert together.table["n"].tolist() == [8, 8]
    assert "evaluations that differ in template are taken together" in together.text


def test_an_unfinished_evaluation_and_damaged_lines_are_noted(tmp_path: Path) -> None:
    evaluation(tmp_path / "whole", 0.5, [1, 1, 1])
    torn = evaluation(tmp_path / "torn", 1.0, [2, 2, 2]) / "completions_b.jsonl"
    lines = torn.read_text().splitlines(keepends=True)
    torn.write_text("".join(lines[:6]) + lines[6][:9])
    runs = read(tmp_path)
    finding = coverage(runs)
    assert any(note.run == "torn" and "damaged" in note.text for note in runs.notes)
    assert "b at temperature 1: 2 to 4 answers to a question" in finding.text
    assert "b: not the same questions everywhere (2 to 3)" in finding.text
    table = finding.table.set_index(["temperature", "k"])["pass"]
    assert (1.0, 4) not in table.index and (0.5, 4) in table.index  # not of a part of the questions
    assert table[1.0, 2] == pytest.approx(((1 - 1 / 6) + 1) / 2)


def test_trainings_are_no_evaluations_and_the_remedy_is_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(tmp_path / "a run", "grpo", 0)
    assert main([str(tmp_path)]) == 2
    remedy = f"python -m zero.evaluate run='{run}' step=all n=8 run_dir=NEW_FOLDER makes one"
    assert capsys.readouterr().err == f"error: FOLDER={tmp_path}: holds no evaluation; {remedy}\n"


def test_one_question_has_no_interval(tmp_path: Path) -> None:
    finding = coverage(read(evaluation(tmp_path / "a", 1.0, [2])))
    assert all(math.isnan(low) for low in finding.table["low"]) and "one question: no interval" in finding.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": [5]}, "--k=5: pass@k needs 1 <= k <= n; there are 4 answers"),
        ({"ks": [0]}, "1 <= k <= n"),
        ({"benchmark": "aime"}, "--benchmark=aime: no evaluation has saved answers of it"),
        ({"by": ["algorithm"]}, "no such axis"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", 1.0, [2, 1])
    with pytest.raises(InputError, match=message):
        coverage(read(tmp_path), **arguments)


def test_a_bad_list_of_ks_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(evaluation(tmp_path / "a", 1.0, [2, 1])), "--k", "all"]) == 2
    assert capsys.readouterr().err == "error: --k=all: must be whole numbers with commas between, such as 1,4,8\n"


@pytest.mark.parametrize("name", ["compare", "template", "coverage"])
def test_help_is_quick(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"analysis.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "FOLDER" in done.stdout
    for module in ("torch", "pandas", "matplotlib", "numpy", "hydra"):
        assert f" {module}\n" not in done.stderr, module

"""The page of algorithms says what the code says now, and the sweep behind it can be cut short and resumed."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from analysis import algorithm_cards as pages
from analysis import algorithms as sweeps
from tests.conftest import ROOT
from zero.errors import InputError
from zero.tracking import JsonlTracker

TINY = ["benchmarks.limit=8", "prompts=4", "sampling.max_tokens=32", "questions.rows.train=64"]
NAMES = sweeps.algorithms()
CARDS = {card.name: card for card in pages.cards(NAMES)}
COMMITTED = json.loads((ROOT / "docs" / "algorithms.json").read_text())


def run(runs: Path, *arguments: str) -> int:
    return sweeps.main(["run", "--runs", str(runs), *arguments, *TINY])


def finished_run(runs: Path, algo: str, seed: int, accuracy: float, lr: float = 2e-4, values: float = 0.0) -> None:
    """A run folder of two steps as zero.train and the sweep leave it."""
    folder = runs / f"{algo}-s{seed}"
    folder.mkdir(parents=True)
    tracker = JsonlTracker(folder)
    for step in range(3):
        line = {"tokens/generated": 100.0, "critic/tokens": values} if step else {}
        if step != 1:
            end = accuracy * step / 2
            line |= {"eval/b/accuracy": end, "eval/b/length": 40.0 + seed, "eval/b/length_incorrect": 50.0}
        tracker.metrics(line, step)
    config = dict.fromkeys(sweeps.BUDGET, 1) | {"optim": {"lr": lr}, "prompts": 4, "group_size": 2, "seed": seed}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"status": "finished"}))
    (folder / "cost.json").write_text(json.dumps({"cpu_seconds": 10.0 + seed, "cpu": "a machine"}))


# --------------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_what_yaml_docstrings_and_numbers_give_now() -> None:
    now = pages.markdown(list(CARDS.values()), COMMITTED, sweeps.OWN)
    assert now == (ROOT / "docs" / "algorithms.md").read_text(), "run: python -m analysis.algorithms page"
    assert sweeps.written(COMMITTED) == (ROOT / "docs" / "algorithms.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_a_section_with_its_functions_and_sources(name: str) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text()
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##)", text, flags=re.DOTALL | re.MULTILINE)
    card = CARDS[name]
    assert card.header in section
    assert {"advantage", "weight", "surrogate"} <= card.calls.keys()
    for part in card.parts:
        module, function = part.target.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function))
        assert f"[`{part.call}`](../{module.replace('.', '/')}.py): {part.says}" in section
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        assert len(part.says) > 20
    cited = re.findall(r"\[(\w+)\]", section.rpartition("- sources:")[2])
    assert cited and all(f"\n[{key}]: " in text for key in cited)


@pytest.mark.parametrize(
    ("name", "slot", "call", "family", "extras", "papers"),
    [
        ("drgrpo", "weight", "constant_length(length=sampling.max_tokens)", "Siblings are compared, surrogate clipped",
         {"min_group": "2"}, ("DrGRPO",)),
        ("dapo", "surrogate", "clipped(low=0.2, high=0.28)", "Siblings are compared, another surrogate",
         {"min_group": "2", "resample_rounds": "3"}, ("DAPO",)),
        ("vineppo", "critic", 'MonteCarloCritic(samples=3, every=16, separator="\\n")', "A critic", {}, ("Vine",)),
        ("reinforce", "advantage", "raw_reward", "Siblings are not compared", {}, ("W92",)),
        ("sft", "surrogate", "log_likelihood", "Siblings are not compared", {}, ()),
    ],
)  # fmt: skip
def test_a_card_says_what_the_yaml_says(
    name: str, slot: str, call: str, family: str, extras: dict[str, str], papers: tuple[str, ...]
) -> None:
    card = CARDS[name]
    assert card.calls[slot] == call
    assert card.family.startswith(family)
    assert {key: value for key, value, _ in card.extras} == extras
    assert card.papers == papers


def test_a_docstring_falls_into_sentences_with_their_citations() -> None:
    text = "Dr. GRPO's A_i = R_i. [DrGRPO] eq. 3; G >= 2.\n\nWith `dual` it is\nbounded. [DUAL] eq. 4\n\nLast, as in eq. 5."
    assert pages.statements(text) == [
        "Dr. GRPO's A_i = R_i. [DrGRPO] eq. 3; G >= 2.", "With `dual` it is bounded. [DUAL] eq. 4", "Last, as in eq. 5.",
    ]  # fmt: skip
    plain = pages.part("surrogate", {"_target_": "zero.objective.clipped"}, {"low": 0.2, "high": 0.2})
    bounded = pages.part("surrogate", {"_target_": "zero.objective.clipped"}, {"low": 0.2, "high": 0.2, "dual": 3.0})
    assert not plain.notes  # a sentence on an argument that is not given says nothing of this algorithm
    assert "[DUAL]" in " ".join(bounded.notes)


# ------------------------------------------------------------------------------------------------------------ the numbers


def test_the_committed_intervals_are_those_of_the_committed_seeds() -> None:
    kept = json.loads((sweeps.PAGE / "algorithms.json").read_text())
    for entry in kept["algorithms"].values():
        for name in sweeps.CURVES:
            ends = [entry[name][key][-1] for key in ("mean", "low", "high")]
            assert ends == pytest.approx(sweeps.interval(entry[name]["final"]), abs=2e-4)  # they are rounded


def test_the_interval_is_that_of_a_mean_of_few_seeds() -> None:
    mean, low, high = sweeps.interval([0.60, 0.62, 0.64, 0.66, 0.68])
    half = 2.77644511 * math.sqrt(0.001 / 5)  # the variance of these five is 0.001
    assert (mean, low, high) == pytest.approx((0.64, 0.64 - half, 0.64 + half), abs=1e-4)
    assert sweeps.interval([0.5]) == (0.5, None, None)
    assert sweeps.interval([]) == (None, None, None)


def test_runs_become_numbers_and_replace_what_was_committed_of_the_same_budget(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        finished_run(tmp_path / "runs", "grpo", seed, accuracy, values=7.0)
    finished_run(tmp_path / "runs", "no_such_algorithm", 0, 0.5)
    found = sweeps.collect(tmp_path / "runs", {})
    entry = found["algorithms"]["grpo"]
    assert list(found["algorithms"]) == ["grpo"]
    assert (entry["seeds"], entry["steps"], entry["accuracy"]["final"]) == ([0, 1], [0, 2], [0.4, 0.6])
    assert entry["accuracy"]["mean"] == [0.0, 0.5]
    assert entry["accuracy"]["high"][1] == pytest.approx(0.5 + 12.7062 * 0.1, abs=1e-3)
    assert (entry["tokens"], entry["critic_tokens"], entry["cpu_seconds"], entry["cpu"]) == (
        200,
        14,
        10.5,
        ["a machine"],
    )
    before: dict[str, Any] = {"budget": found["budget"], "algorithms": {"dapo": entry, "grpo": {}}}
    assert list(sweeps.collect(tmp_path / "runs", before)["algorithms"]) == ["dapo", "grpo"]
    assert sweeps.collect(tmp_path / "runs", before)["algorithms"]["grpo"] == entry
    assert list(sweeps.collect(tmp_path / "runs", before | {"budget": {"steps": 9}})["algorithms"]) == ["grpo"]
    assert sweeps.collect(tmp_path / "nothing", before) == before
    finished_run(tmp_path / "runs", "drgrpo", 0, 0.5, lr=1e-6)
    with pytest.raises(InputError, match="differ in their budget"):
        sweeps.collect(tmp_path / "runs", {})


def test_the_figure_shows_every_measured_algorithm_in_both_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    entry: dict[str, Any] = {"steps": [0, 10]}
    entry |= {curve: {"mean": [0.1, 0.5], "low": [0.0, 0.4], "high": [0.2, 0.6]} for curve in sweeps.CURVES}
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    for numbers in ({"algorithms": dict.fromkeys(NAMES, entry)}, {}):
        pages.draw(list(CARDS.values()), numbers, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    for row in (0, 1):
        columns = len(drawn[0].axes) // 2
        labels = {line.get_label() for axis in drawn[0].axes[row * columns :][:columns] for line in axis.lines}
        assert labels == set(NAMES)
    assert not any(axis.lines for axis in drawn[1].axes)


# -------------------------------------------------------------------------------------------------------------- the sweep


@pytest.mark.slow
def test_a_sweep_runs_names_what_fails_goes_on_and_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ["--seeds", "1", "--steps", "2", "--only", "grpo,sft"]
    assert run(tmp_path, *cells, "group_size=1") == 1  # one response has no siblings: grpo cannot, sft can
    shown = capsys.readouterr()
    assert re.search(r"grpo seed 0 failed: error: group_size=1: this algorithm compares siblings", shown.err)
    assert "sft seed 0 finished" in shown.out and "sft" not in shown.err
    assert not (tmp_path / "grpo-s0" / "cost.json").exists()
    lines = (tmp_path / "sft-s0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    before = (tmp_path / "sft-s0" / "log.txt").stat().st_mtime_ns
    assert run(tmp_path, "--seeds", "1", "--steps", "2", "--only", "sft", "group_size=1") == 0
    assert "1 of 1 runs are finished, 0 to do" in capsys.readouterr().out
    assert (tmp_path / "sft-s0" / "log.txt").stat().st_mtime_ns == before  # nothing was started
    assert run(tmp_path, "--seeds", "1", "--steps", "3", "--only", "sft", "group_size=1") == 1
    assert "holds a run with other settings (steps: 2 -> 3)" in capsys.readouterr().err
    out = tmp_path / "page"
    out.mkdir()
    assert sweeps.main(["page", "--runs", str(tmp_path), "--out", str(out)]) == 0
    assert "measured, seed 0: accuracy" in (out / "algorithms.md").read_text()
    assert json.loads((out / "algorithms.json").read_text())["algorithms"]["sft"]["cpu_seconds"] > 1


@pytest.mark.slow
def test_a_sweep_that_is_told_to_end_ends_its_runs_which_go_on_later(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis.algorithms", "run", "--runs", str(tmp_path), "--seeds", "1",
               "--steps", "400", "--only", "grpo", *TINY]  # fmt: skip
    child = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    journal, deadline = tmp_path / "grpo-s0" / "metrics.jsonl", time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) > 2):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 75, said
    assert "the same command goes on" in said
    assert json.loads((tmp_path / "grpo-s0" / "result.json").read_text())["status"] == "preempted"
    assert list((tmp_path / "grpo-s0" / "checkpoints").glob("step_*"))
    assert json.loads((tmp_path / "grpo-s0" / "cost.json").read_text())["cpu_seconds"] > 1
    (cell,) = sweeps.cells(["grpo"], 1, 400, tmp_path, TINY)
    assert not cell.finished


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--only", "grpo,gpro"], "only=gpro: conf/algo has no such option; there are cispo, dapo, drgrpo"),
        (["run", "--processes", "0"], "processes=0: must be above 0"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweeps.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}") and shown.err.count("\n") == 1 and not shown.out


def test_help_answers_at_once() -> None:
    code = "import analysis.algorithms, sys; print([m for m in ('torch', 'hydra', 'matplotlib') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "[]"

"""Lengths of correct and incorrect responses: against steps, on benchmarks, by level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.lengths import lengths
from analysis.lengths import main as command
from analysis.reader.records import Runs
from analysis.reader.runs import read
from analysis.stats.intervals import over_seeds
from analysis.style import svg
from tests.analysis.test_runs import make
from zero.errors import InputError
from zero.nano.world import rows


def saved(run: Path, step: int, answers: list[dict[str, Any]]) -> None:
    path = run / "completions" / f"eval_nano_math_{step:06d}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in answers))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = tmp_path_factory.mktemp("runs")
    questions = rows("math", 8, 64).heldout
    for algo, seed in (("grpo", 0), ("grpo", 1), ("drgrpo", 0)):
        run = make(home / f"{algo}-{seed}", algo, seed)
        for path in (run / "completions").iterdir():
            path.unlink()
        for step in (0, 20):
            saved(
                run,
                step,
                [
                    {"level": level, "correct": level < 3, "tokens": 10 * level + seed + step}
                    for level in (q.meta["level"] for q in questions)
                ],
            )
    return read(home)


def test_panels_against_steps_and_by_level(runs: Runs) -> None:
    answer = lengths(runs)
    table = answer.table
    assert set(table["metric"]) == {
        "length/mean",
        "length/correct",
        "length/incorrect",
        "length/truncated",
        "saved/length_correct",
        "saved/length_incorrect",
    }
    by_level = table[table["level"] != ""].set_index(["group", "metric", "step", "level"]).sort_index()
    for level in (1, 2):
        row = by_level.loc[("grpo", "saved/length_correct", 20, str(level))]
        one = over_seeds([10 * level + 20, 10 * level + 21])
        assert (row["mean"], row["low"], row["high"], row["n"]) == (one.mean, one.low, one.high, 2)
    assert by_level.loc[("drgrpo", "saved/length_incorrect", 0, "5")]["mean"] == 50
    assert ("grpo", "saved/length_correct", 20, "4") not in by_level.index
    drawing = svg(answer.figure)
    for text in (
        "incorrect responses",
        "cut off by the token budget",
        "correct answers at the last evaluation",
        "level of question",
    ):
        assert text in drawing
    assert "grpo (n = 2)" in answer.text


def test_lengths_on_a_benchmark_and_without_levels(runs: Runs, tmp_path: Path) -> None:
    answer = lengths(runs, benchmark="nano_math", levels=False)
    assert set(answer.table["metric"]) == {"eval/nano_math/length", "eval/nano_math/truncated"}
    assert "cut off" in svg(answer.figure)
    with pytest.raises(InputError, match="there are nano_math"):
        lengths(runs, benchmark="math500")
    assert command([str(tmp_path / "nowhere")]) == 2


def test_a_row_may_hold_its_level_and_odd_rows_are_skipped(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0)
    for path in (run / "completions").iterdir():
        path.unlink()
    saved(run, 20, [
        {"id": "x", "level": "Level 4", "correct": True, "tokens": 7}, {"id": "x", "level": 3, "correct": None, "tokens": 9},
        {"id": "unknown", "correct": True, "tokens": 7}, {"level": 3, "correct": True, "tokens": "many"}, {"level": 3},
    ])  # fmt: skip
    table = lengths(read(run)).table
    by_level = table[table["level"] != ""]
    assert sorted(zip(by_level["metric"], by_level["level"], by_level["mean"], strict=True)) == [
        ("saved/length_correct", "Level 4", 7.0),
        ("saved/length_incorrect", "3", 9.0),
    ]

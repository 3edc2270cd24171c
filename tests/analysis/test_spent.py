"""Runs against what they have spent: curves on a common grid, and claims at equal compute, by plain loops."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from analysis import curves as curves_module
from analysis.curves import curves
from analysis.reader.records import Runs
from analysis.reader.runs import read
from analysis.stats import claims
from analysis.stats.spent import GRID, on_common_grid, running_sum, value_at
from analysis.stats.verdicts import SHOWN, verdict
from analysis.style import svg
from tests.analysis.test_runs import make
from zero.errors import InputError

STEPS = 6
COST = {"grpo": (10.0, 3.0), "sft": (4.0, 1.0)}  # FLOPs of a step of seed 0, and what a seed adds
METRIC = "eval/b/accuracy"


def flops(algo: str, seed: int, step: int) -> float:
    cost, more = COST[algo]
    return (cost + more * seed) * (1 + step % 2)


def accuracy(algo: str, seed: int, step: int) -> float:
    return 0.1 + 0.01 * seed + (0.05 if algo == "grpo" else 0.02) * step**1.5


def write(folder: Path, seeds: int) -> Runs:
    """Runs that are evaluated every second step; a step's cost differs between algorithms, seeds and steps."""
    for algo in COST:
        for seed in range(seeds):
            run = make(folder / f"{algo}-{seed}", algo, seed, steps=STEPS)
            lines = []
            for step in range(STEPS + 1):
                line: dict[str, float] = {"step": step}
                line |= {"cost/flops": flops(algo, seed, step), "tokens/generated": 5.0} if step else {}
                line |= {METRIC: accuracy(algo, seed, step)} if step % 2 == 0 else {}
                lines.append(line)
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return write(tmp_path_factory.mktemp("spent"), 5)


def points(algo: str, seed: int) -> list[tuple[float, float]]:
    """(spent, accuracy) of a run's evaluations."""
    out, spent = [], 0.0
    for step in range(STEPS + 1):
        spent += flops(algo, seed, step) if step else 0.0
        if step % 2 == 0:
            out.append((spent, accuracy(algo, seed, step)))
    return out


def on_the_line(measured: list[tuple[float, float]], spent: float) -> float:
    for (x, y), (later, end) in pairwise(measured):
        if x <= spent <= later:
            return y + (end - y) * (spent - x) / (later - x)
    raise AssertionError("outside of what was measured")


def test_a_group_is_drawn_within_the_range_that_all_its_seeds_cover(runs: Runs) -> None:
    answer = curves(runs, [METRIC], x="flops")
    assert list(answer.table.columns) == ["group", "algo", "metric", "flops", "mean", "low", "high", "n"]
    for algo in COST:
        own = [points(algo, seed) for seed in range(5)]
        rows = answer.table[answer.table["algo"] == algo]
        last = min(measured[-1][0] for measured in own)
        assert rows["flops"].tolist() == sorted({x for measured in own for x, _ in measured if x <= last})
        for row in rows.to_dict("records"):
            mean = np.mean([on_the_line(measured, row["flops"]) for measured in own])
            assert (row["mean"], row["n"]) == (pytest.approx(mean), 5)
    assert "compute so far, FLOPs" in svg(answer.figure) and "at flops" in answer.text
    assert "within the range that all" in answer.figure.get_suptitle().replace("\n", " ")


def test_a_run_alone_keeps_its_own_points(tmp_path: Path) -> None:
    answer = curves(write(tmp_path, 1), [METRIC], x="flops")
    rows = answer.table[answer.table["algo"] == "grpo"]
    assert np.allclose(rows[["flops", "mean"]], points("grpo", 0))
    assert curves_module.main([str(tmp_path), "--metrics", METRIC, "--x", "tokens", "--out", str(tmp_path)]) == 0
    assert "tokens" in (tmp_path / "curves.csv").read_text().splitlines()[0], "the cost is read beside any metrics"


def test_a_run_whose_steps_have_no_cost_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(InputError, match="not every step has time/step"):
        curves(read(tmp_path), [METRIC], x="seconds")


def test_a_long_grid_is_thinned_and_keeps_its_ends() -> None:
    x_RT = np.cumsum(np.random.default_rng(0).uniform(1, 2, (3, 3000)), axis=1)
    grid, values = on_common_grid(x_RT, 2 * x_RT)
    assert len(grid) <= GRID + 1 and (grid[0], grid[-1]) == (x_RT[:, 0].max(), x_RT[:, -1].min())
    assert np.allclose(values, 2 * grid)


def test_what_was_spent_is_a_running_sum_whatever_the_order_of_rows(runs: Runs) -> None:
    shuffled = runs.steps.sample(frac=1, random_state=0)
    assert running_sum(shuffled, "flops").sort_index().tolist() == running_sum(runs.steps, "flops").tolist()
    assert value_at(5.0, [0.0, 10.0], [1.0, 3.0]) == 2.0 and np.isnan(value_at(-1.0, [0.0], [1.0]))


def claim(**changes: object) -> claims.Claim:
    statistic = {"metric": METRIC, "axis": "algo", "values": ["grpo", "sft"], "when": "equal flops"} | changes
    return claims.parse([{"text": "t", "direction": "greater", "statistic": statistic}], "claims")[0]


def test_a_claim_at_equal_flops_compares_pairs_at_the_most_that_both_had_spent(runs: Runs) -> None:
    differences = []
    for seed in range(5):
        first, second = points("grpo", seed), points("sft", seed)
        spent = min(first[-1][0], second[-1][0])
        differences.append(on_the_line(first, spent) - on_the_line(second, spent))
    result = verdict(runs, claim())
    assert (result.measured.mean, result.measured.n) == (pytest.approx(np.mean(differences)), 5)
    assert any(note.startswith("compared at 36 to 72 flops") for note in result.notes)
    at_tokens = verdict(runs, claim(when="equal tokens"))
    ends = [accuracy("grpo", seed, STEPS) - accuracy("sft", seed, STEPS) for seed in range(5)]
    assert at_tokens.measured.mean == pytest.approx(np.mean(ends)) and at_tokens.word == SHOWN


def test_pairs_without_a_cost_are_left_out_and_named(runs: Runs) -> None:
    result = verdict(runs, claim(when="equal seconds"))
    assert result.measured.n == 0 and any("5 pairs without" in note for note in result.notes)


def test_equal_cost_is_between_two_groups() -> None:
    with pytest.raises(InputError, match="compares two groups"):
        claims.parse(
            [{"text": "t", "direction": "greater", "statistic": {"metric": METRIC, "when": "equal flops"}}], "claims"
        )

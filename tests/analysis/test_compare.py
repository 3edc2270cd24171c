"""Comparisons: a planted difference is found, an absent one is not, and runs that make no pair are named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.compare import compare, difference_over_seeds, main
from analysis.reader.runs import read
from analysis.stats.pairs import Pair, as_listed
from analysis.style import svg
from tests.analysis.test_runs import make
from tests.analysis.test_template import evaluated
from zero.errors import InputError


def journal(run: Path, one: Callable[[int], dict[str, float]], steps: int = 10) -> None:
    lines = [json.dumps({"step": step, **one(step)}) + "\n" for step in range(1, steps + 1)]
    (run / "metrics.jsonl").write_text("".join(lines))


def both(reward: float, length: float, step: int) -> dict[str, float]:
    return {"train/reward": reward + step / 100, "length/mean": length + step}


def times(slope: float, step: int) -> dict[str, float]:
    return {"train/reward": slope * step}


def ends(last: int, step: int) -> dict[str, float]:
    return {"train/reward": 1.0 if step <= last else math.nan}


def planted(home: Path, seeds: int, templates: tuple[str, ...] = ("none",), effect: float = 0.1) -> Path:
    """Seeds differ far more than the algorithms; drgrpo has `effect` more reward, and no other length."""
    noise = np.random.default_rng(0)
    for i, template in enumerate(templates):
        for seed in range(seeds):
            of_seed = noise.normal(0.5, 0.2)
            for algo in ("grpo", "drgrpo"):
                name = f"{template}-{algo}-{seed}"
                run = make(home / name, algo, seed, 10, template={"name": template})
                reward = of_seed + effect * (1 + i) * (algo == "drgrpo") + noise.normal(0, 0.01)
                length = 100 + noise.normal(0, 5)
                journal(run, partial(both, reward, length))
    return home


def rows(answer: Any, kind: str) -> dict[str, Any]:
    table = answer.table[answer.table["kind"] == kind]
    return {str(row["metric"]): row for _, row in table.iterrows()}


def test_a_planted_difference_is_found_and_a_null_one_is_not(tmp_path: Path) -> None:
    runs = read(planted(tmp_path, seeds=8))
    answer = compare(runs, "algo=drgrpo,grpo")
    result = rows(answer, "all")
    assert list(result) == ["train/reward", "length/mean"]
    reward, length = result["train/reward"], result["length/mean"]
    assert reward["difference"] == pytest.approx(0.1, abs=0.015) and 0.08 < reward["low"] < reward["high"] < 0.12
    assert (reward["n"], reward["p"], reward["smallest_p"]) == (8, 2 / 2**8, 2 / 2**8)
    assert reward["p_holm"] == 2 * reward["p"]
    assert length["low"] < 0 < length["high"] and length["p"] > 0.05 and length["p_holm"] == length["p"]
    assert reward["first"] - reward["second"] == pytest.approx(reward["difference"])
    other = rows(compare(runs, "algo=grpo,drgrpo"), "all")["train/reward"]
    assert other["difference"] == pytest.approx(-reward["difference"]) and other["p"] == reward["p"]
    assert (answer.table["kind"] == "pair").sum() == 16
    drawing = svg(answer.figure)
    assert "train/reward" in drawing and "all (n = 8)" in drawing and "no data" not in drawing


def test_false_positives_stay_at_the_level_of_the_test() -> None:
    rng, hits, covered = np.random.default_rng(1), 0, 0
    for _ in range(200):
        values = rng.normal(0, 3, size=(10, 1)) + rng.normal(0, 1, size=(10, 2))
        pairs = [Pair("", str(i), "", first, second, (1,)) for i, (first, second) in enumerate(values.tolist())]
        result = difference_over_seeds(pairs)[0]
        assert result.p is not None and result.difference.low is not None and result.difference.high is not None
        hits += result.p < 0.05
        covered += result.difference.low <= 0 <= result.difference.high
    assert hits <= 20 and covered >= 165


def test_one_seed_has_a_difference_but_no_interval_however_many_templates(tmp_path: Path) -> None:
    answer = compare(read(planted(tmp_path, 1, ("none", "r1"))), "algo=drgrpo,grpo", ["train/reward"])
    row = rows(answer, "all")["train/reward"]
    assert (row["n"], row["pairs"]) == (1, 2) and row["difference"] == pytest.approx(0.15, abs=0.03)
    assert all(math.isnan(row[key]) for key in ("low", "high", "p", "smallest_p", "p_holm"))
    assert "one seed: none" in answer.text and "n = 1 is one seed: no interval, no test" in answer.text


def test_pairs_agree_in_all_else_and_the_seed_is_the_unit(tmp_path: Path) -> None:
    answer = compare(read(planted(tmp_path, 6, ("none", "r1"))), "algo=drgrpo,grpo", ["train/reward"])
    groups = answer.table[answer.table["kind"] == "group"].set_index("group")
    assert groups.loc["none", "difference"] == pytest.approx(0.1, abs=0.02)
    assert groups.loc["r1", "difference"] == pytest.approx(0.2, abs=0.02)
    row = rows(answer, "all")["train/reward"]
    assert (row["n"], row["pairs"]) == (6, 12)
    assert row["difference"] == pytest.approx(groups["difference"].mean())
    assert "the differences of one seed are averaged first" in answer.text


def test_runs_without_a_partner_are_named_and_repeated_ones_are_one_value(tmp_path: Path) -> None:
    planted(tmp_path, 2)
    again = make(tmp_path / "again", "grpo", 0, 10, template={"name": "none"})
    journal(again, lambda s: {"train/reward": 9.0})
    alone = make(tmp_path / "alone", "grpo", 7, 10, template={"name": "none"})
    journal(alone, lambda s: {"train/reward": 9.0})
    runs = read(tmp_path)
    answer = compare(runs, "algo=grpo,drgrpo", ["train/reward"])
    assert [note.run for note in runs.notes if "no partner with algo=drgrpo" in note.text] == ["alone"]
    assert "1 run without a partner left out" in answer.text
    assert "2 runs with the same settings (seed=0); their mean is one value" in answer.text
    pair = answer.table[(answer.table["kind"] == "pair") & (answer.table["seed"] == "0")].iloc[0]
    assert pair["runs"] == "again+none-grpo-0 - none-drgrpo-0" and 4.5 < pair["first"] < 5.5


@pytest.mark.parametrize(
    ("at", "expected", "steps"), [("end", 6.0, (6, 6)), ("2", 2.0, (2, 2)), ("4-9", 5.0, (4, 6))], ids=str
)
def test_both_runs_of_a_pair_are_taken_at_the_same_steps(
    at: str, expected: float, steps: tuple[int, int], tmp_path: Path
) -> None:
    for algo, last in (("grpo", 6), ("drgrpo", 10)):  # one ended early: later steps of the other do not count
        run = make(tmp_path / algo, algo, 0, 10)
        journal(run, partial(times, 2.0 if algo == "drgrpo" else 1.0), last)
    row = rows(compare(read(tmp_path), "algo=drgrpo,grpo", ["train/reward"], at), "all")["train/reward"]
    assert row["difference"] == expected and (row["first_step"], row["last_step"]) == steps


def test_what_changes_together_with_the_axis_and_what_is_missing_is_noted(tmp_path: Path) -> None:
    for seed in range(3):
        for algo in ("grpo", "drgrpo"):
            run = make(tmp_path / f"{algo}-{seed}", algo, seed, 10, prompts=8 if algo == "grpo" else 16)
            journal(run, partial(ends, 4 if seed == 2 else 10))
    answer = compare(read(tmp_path), "algo=grpo,drgrpo", ["train/reward"], at="8")
    assert "prompts changes with algo (8, 16): the differences may be its own" in answer.text
    assert "train/reward: 1 pair without a value at step 8: left out" in answer.text
    row = rows(answer, "all")["train/reward"]
    assert (row["n"], row["difference"], row["p"]) == (2, 0.0, 1.0)
    window = compare(read(tmp_path), "algo=grpo,drgrpo", ["train/reward"], at="3-8").text
    assert "train/reward: of mean of steps 3 to 8 the pairs have steps 3 to 4, 3 to 8" in window
    assert "the pairs have steps" not in compare(read(tmp_path), "algo=grpo,drgrpo", ["train/reward"], at="2-4").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"between": "algorithm=grpo,drgrpo"}, "no such axis; there are algo"),
        ({"between": "algo=grpo,ppo"}, "no run has algo=ppo; there are"),
        ({"between": "algo=grpo"}, "must be AXIS=FIRST,SECOND"),
        ({"between": "algo=grpo,grpo"}, "two different values"),
        ({"between": "seed=0,1"}, "not the seed"),
        ({"metrics": ["train/rewards"]}, "no run has it"),
        ({"metrics": ["x/*"]}, "no run has one of these"),
        ({"at": "9-3"}, "must be end, a step"),
        ({"at": "soon"}, "must be end, a step"),
        ({"at": "500"}, "no pair has a value of train/reward, length/mean there"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, Any], message: str, pair_of_runs: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compare(read(pair_of_runs), **arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pair_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("pair"), 2)


def test_runs_that_differ_in_the_seed_too_make_no_pair(tmp_path: Path) -> None:
    for seed, algo in enumerate(("grpo", "drgrpo")):
        make(tmp_path / algo, algo, seed)
    with pytest.raises(InputError, match="they differ in seed too"):
        compare(read(tmp_path), "algo=grpo,drgrpo")


def test_the_command_finds_the_axis_and_writes_its_files(
    pair_of_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pair_of_runs), "--out", str(tmp_path), "--metrics", "train/*"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"compare.svg", "compare.pdf", "compare.csv"}
    assert "algo: drgrpo - grpo, at the last step that both runs have" in capsys.readouterr().out
    assert main([str(pair_of_runs), "--between", "x=1,2", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --between=x=1,2: no such axis")


def test_evaluations_are_compared_where_there_are_no_training_runs(tmp_path: Path) -> None:
    for one, accuracy in (("none", 0.5), ("r1", 0.2)):
        evaluated(tmp_path / one, one, accuracy, 1.0)
    row = rows(compare(read(tmp_path), "template=none,r1"), "all")["eval/b/accuracy"]
    assert row["difference"] == pytest.approx(0.3) and row["n"] == 1 and math.isnan(row["low"])


@pytest.mark.parametrize(
    ("typed", "listed"), [("1e-4", "0.0001"), ("0.0001", "0.0001"), ("2", "2"), ("grpo", "grpo"), ("3", "3")]
)
def test_values_of_between_match_however_they_are_written(typed: str, listed: str) -> None:
    assert as_listed(typed, ["0.0001", "0.001", "2", "grpo"]) == listed

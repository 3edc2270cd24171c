"""Claims: what their files may contain, which verdict an interval gives, and which runs are compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.reader.records import Runs
from analysis.reader.runs import read
from analysis.stats import claims
from analysis.stats.claims import Claim, Statistic
from analysis.stats.intervals import FEW, Estimate, over_seeds
from analysis.stats.verdicts import (
    NOT_SHOWN,
    REDRAWN,
    SHOWN,
    UNDECIDED,
    Verdict,
    adjust_for_page,
    decide,
    judge,
    verdict,
)
from zero.errors import InputError

GOOD: dict[str, Any] = {
    "text": "shorter",
    "direction": "less",
    "smallest": 2,
    "statistic": {"metric": "length/mean", "axis": "algo", "values": ["b", "a"], "when": "last 3"},
}
STEPS = 10


def write(folder: Path, algo: str, seed: int, values: list[float], planned: int = STEPS, **more: object) -> None:
    """A run folder: a journal of one metric, and just enough settings."""
    run = folder / f"{algo}-{seed}-{len(list(folder.glob('*')))}"
    run.mkdir(parents=True)
    lines = [json.dumps({"step": i + 1, "length/mean": value}) for i, value in enumerate(values)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    config = {"algo": algo, "seed": seed, "steps": planned, **more}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "result.json").write_text(json.dumps({"status": "finished", "steps": len(values)}))


def two_algorithms(folder: Path, effect: float, seeds: int = FEW) -> Runs:
    """Algorithm b is `effect` tokens longer than a at every step; seeds differ by far more than that."""
    for seed in range(seeds):
        write(folder, "a", seed, [50.0 * seed + step for step in range(STEPS)])
        write(folder, "b", seed, [50.0 * seed + step + effect + 0.1 * seed for step in range(STEPS)])
    return read(folder)


def claim(**changes: Any) -> Claim:
    """One claim, read from a file's entry."""
    return claims._claim(GOOD | changes, "claims[0]")


def spread(low: float, high: float) -> Estimate:
    """Of five seeds, with this interval."""
    half = over_seeds([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert half.high is not None and half.error is not None
    middle, width = (low + high) / 2, (high - low) / 2
    return Estimate(middle, low, high, 5, half.error * width / half.high)


@pytest.mark.parametrize(
    ("direction", "smallest", "low", "high", "word"),
    [
        ("greater", 0, 0.1, 2, SHOWN), ("greater", 0, -0.1, 2, UNDECIDED), ("greater", 0, -2, -0.1, NOT_SHOWN),
        ("greater", 0, 0, 0, NOT_SHOWN), ("greater", 1, 1.01, 2, SHOWN), ("greater", 1, 0.5, 2, UNDECIDED),
        ("greater", 1, 0.1, 0.9, NOT_SHOWN), ("less", 1, -2, -1.01, SHOWN), ("less", 1, -2, -0.5, UNDECIDED),
        ("less", 1, 1, 2, NOT_SHOWN), ("same", 1, -0.9, 0.9, SHOWN), ("same", 1, -0.5, 1.5, UNDECIDED),
        ("same", 1, 1, 2, NOT_SHOWN), ("same", 1, -2, -1.5, NOT_SHOWN), ("greater", 1, 2, 2, SHOWN),
    ],
)  # fmt: skip
def test_a_claim_by_itself_is_decided_by_its_interval(
    direction: str, smallest: float, low: float, high: float, word: str
) -> None:
    one = Claim("c", Statistic("m", "algo", ("a", "b"), "last"), direction, smallest)
    result, _, p = decide(one, spread(low, high))
    assert result == word and p is not None and (p <= 0.025) == (word == SHOWN)


def test_too_few_seeds_decide_nothing() -> None:
    one = Claim("c", Statistic("m", "algo", ("a", "b"), "last"), "greater")
    word, why, p = decide(one, over_seeds([5.0, 5.1, 5.2, 5.3]))
    assert (word, why, p) == (UNDECIDED, "4 pairs of seeds, 5 needed", None)
    assert decide(one, over_seeds([5.0]))[0] == UNDECIDED


def judged(ps: list[float | None]) -> list[Verdict]:
    one = Claim("c", Statistic("m", None, (), "last"), "greater")
    words = [UNDECIDED if p is None or p > 0.025 else SHOWN for p in ps]
    return [Verdict(one, word, over_seeds([]), "", p=p) for word, p in zip(words, ps, strict=True)]


def test_a_page_of_claims_shows_less_than_its_claims_one_by_one() -> None:
    ps = [0.001, 0.02, 0.004, 0.3, None]
    result = adjust_for_page(judged(ps))
    assert [one.word for one in result] == [SHOWN, UNDECIDED, SHOWN, UNDECIDED, UNDECIDED]
    assert [one.adjusted for one in result[:4]] == pytest.approx([0.005, 0.06, 0.016, 0.6]) and result[
        4
    ].adjusted is None
    assert "among 5 claims" in result[1].why and {one.family for one in result} == {5}
    assert adjust_for_page(judged([0.02]))[0].word == SHOWN


def test_one_page_in_forty_shows_something_where_there_is_no_effect() -> None:
    """2,000 pages of 20 claims, five seeds each, true effect at the bound: 2.5 % of pages, where 39 % would show one of 20."""
    from scipy.stats import t

    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 1.0, size=(2000, 20, 5))
    ps = t.sf((values.mean(-1) - 1.0) / (values.std(-1, ddof=1) / 5**0.5), 4)
    pages = [any(one.word == SHOWN for one in adjust_for_page(judged(list(page)))) for page in ps.tolist()]
    assert 0.015 < np.mean(pages) < 0.036 and (ps <= 0.025).any(axis=1).mean() > 0.3


@pytest.mark.parametrize(("effect", "word"), [(-5.0, SHOWN), (5.0, NOT_SHOWN), (-2.1, UNDECIDED)])
def test_a_planted_difference_is_found_although_seeds_differ_more(tmp_path: Path, effect: float, word: str) -> None:
    result = verdict(two_algorithms(tmp_path, effect), claim())
    assert (result.word, result.measured.n) == (word, FEW)
    assert result.measured.mean == pytest.approx(effect + 0.2)
    assert result.notes == ()


@pytest.mark.parametrize(
    ("when", "mean"),
    [
        ("first", 0),
        ("last", 9),
        ("change", 9),
        ("mean", 4.5),
        ("step 3", 2),
        ("last 4", 7.5),
        ("change from 1-3 to 8-9", 6.5),
        ("change from 2 to 5", 3),
    ],
)
def test_when_decides_which_steps_of_a_run_count(tmp_path: Path, when: str, mean: float) -> None:
    for seed in range(3):
        write(tmp_path, "a", seed, [float(step) for step in range(STEPS)])
    result = verdict(read(tmp_path), claim(direction="greater", statistic={"metric": "length/mean", "when": when}))
    assert result.measured.mean == pytest.approx(mean)
    assert result.measured.n == 3


def test_half_done_runs_and_runs_without_partner_are_left_out_and_named(tmp_path: Path) -> None:
    two_algorithms(tmp_path, -5.0)
    write(tmp_path, "a", 7, [1000.0] * 3)
    write(tmp_path, "b", 7, [0.0] * 3)
    write(tmp_path, "b", 8, [0.0] * STEPS)
    result = verdict(read(tmp_path), claim())
    assert result.measured.mean == pytest.approx(-4.8)
    assert any(note.startswith("2 runs left out") for note in result.notes)
    assert any(note.startswith("1 run without a partner") for note in result.notes)
    early = verdict(read(tmp_path), claim(statistic=GOOD["statistic"] | {"when": "step 2"}))
    assert early.measured.n == 6  # a fixed step needs no finished run


def test_pairs_agree_in_all_else_and_n_counts_seeds(tmp_path: Path) -> None:
    for template, shift in (("x", 0.0), ("y", 30.0)):
        for seed in range(3):
            write(tmp_path, "a", seed, [shift + seed] * STEPS, template=template, lr=1e-6)
            write(tmp_path, "b", seed, [shift + seed - 4.0] * STEPS, template=template, lr=2e-6)  # goes with algo
    both = verdict(read(tmp_path), claim())
    assert (both.measured.mean, both.measured.n) == (pytest.approx(-4), 3)
    only = verdict(read(tmp_path), claim(where={"template": "x"}))
    assert only.measured.mean == pytest.approx(-4)


def test_runs_of_another_task_are_no_reason_why_two_runs_are_no_pair(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, "a", seed, [float(seed)] * STEPS, prompts=16)
        write(tmp_path, "b", seed, [seed - 4.0] * STEPS, prompts=64)
        write(tmp_path, "b", seed, [0.0] * STEPS, prompts=128, task="other")
    for journal in tmp_path.glob("*/metrics.jsonl"):
        if "task" in yaml.safe_load((journal.parent / "config.yaml").read_text()):
            journal.write_text(journal.read_text().replace("length/mean", "length/incorrect"))
    result = verdict(read(tmp_path), claim())
    assert (result.measured.mean, result.measured.n) == (pytest.approx(-4), 3)


@pytest.mark.parametrize(
    ("statistic", "why"),
    [
        ({"metric": "length/none"}, "no run has length/none"),
        ({"metric": "length/mean", "axis": "depth", "values": [1, 2]}, "depth"),
        ({"metric": "length/mean", "axis": "algo", "values": ["a", "c"]}, "0 pairs"),
    ],
)
def test_what_the_runs_do_not_measure_is_undecided(tmp_path: Path, statistic: dict[str, Any], why: str) -> None:
    result = verdict(two_algorithms(tmp_path, 1.0, seeds=3), claim(statistic=statistic))
    assert result.word == UNDECIDED
    assert why in result.why


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"direction": "up"}, "direction"), ({"smallest": -1}, "smallest"), ({"smallest": "x"}, "smallest"),
        ({"direction": "same", "smallest": 0}, "smallest"), ({"fewest": 1}, "fewest"), ({"text": ""}, "text"),
        ({"extra": 1}, "extra"), ({"where": [1]}, "where"), ({"statistic": None}, "statistic"),
        ({"statistic": {"metric": "m", "axis": "algo"}}, "statistic"),
        ({"statistic": {"metric": "m", "axis": "algo", "values": ["a", "a"]}}, "statistic.values"),
        ({"statistic": {"metric": "m", "when": "later"}}, "statistic.when"),
        ({"statistic": {"metric": "m", "when": "last 0"}}, "statistic.when"),
        ({"statistic": {"metric": "m", "when": "change from 1"}}, "statistic.when"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_their_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [GOOD, GOOD | changes]}))
    with pytest.raises(InputError) as caught:
        claims.read(path)
    assert f"claims[1].{key}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["claims: 3", "[", "a: b", ""])
def test_a_file_that_holds_no_claims_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "claims.yaml").write_text(content)
    with pytest.raises(InputError, match="--claims"):
        claims.read(tmp_path / "claims.yaml")


def test_two_runs_of_one_seed_are_one_value_and_noted(tmp_path: Path) -> None:
    two_algorithms(tmp_path, -5.0)
    write(tmp_path, "b", 1, [50.0 + step - 105 for step in range(STEPS)])  # again, with another outcome
    result = verdict(read(tmp_path), claim())
    assert result.measured.n == FEW and result.measured.mean == pytest.approx(-4.8 + (-105 + 4.9) / 2 / FEW)
    assert any("2 runs with the same settings (seed=1); their mean is one value" in note for note in result.notes)


def test_a_seed_that_lacks_runs_that_others_have_does_not_count(tmp_path: Path) -> None:
    for template, value in (("x", 10.0), ("y", 30.0)):
        for seed in range(6):
            if (template, seed) != ("y", 5):
                write(tmp_path, "a", seed, [value + seed] * STEPS, template=template)
    own = claim(direction="greater", statistic={"metric": "length/mean"})
    result = verdict(read(tmp_path), own)
    assert (result.measured.mean, result.measured.n) == (22.0, 5)
    assert "seed 5 left out: it lacks y" in result.notes
    assert "the value of a seed is the mean over x; y" in result.notes


def test_a_run_that_was_prolonged_ends_at_its_present_last_step(tmp_path: Path) -> None:
    runs = two_algorithms(tmp_path, -5.0)
    for i, run in enumerate(runs.runs):
        assert run.path
        changes = {"steps": 20} | ({"learner.max_norm": 2.0} if i == 0 else {})
        line = {"after_step": STEPS, "resume_with": changes}
        config = yaml.safe_load((run.path / "config.yaml").read_text()) | {"learner": {"max_norm": 1.0}}
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        (run.path / "starts.jsonl").write_text(json.dumps({"after_step": 0}) + "\n" + json.dumps(line) + "\n")
    longer = read(tmp_path)
    assert {run.settings["steps"] for run in longer.runs} == {20} and "steps" not in longer.axes
    assert {run.axes["learner.max_norm"] for run in longer.runs} == {"1 then 2", "1"}
    assert any("holds 10 of 20 steps" in note.text for note in longer.notes)
    assert any(note.text == "went on with other settings: steps=10 then 20" for note in longer.notes)
    result = verdict(longer, claim())
    assert result.word == UNDECIDED and f"{2 * FEW} runs left out: not at their last step yet" in result.notes
    assert verdict(longer, claim(statistic=GOOD["statistic"] | {"when": "step 10"})).measured.n == FEW - 1


def test_a_last_value_that_is_not_of_the_last_step_is_noted(tmp_path: Path) -> None:
    for seed in range(FEW):
        write(tmp_path, "a", seed, [*[20.0 + seed] * (STEPS - 1), math.nan if seed == 1 else 20.0 + seed])
    result = verdict(read(tmp_path), claim(statistic={"metric": "length/mean", "when": "last"}))
    assert result.measured.n == FEW
    (note,) = (note for note in result.notes if "is not of the last step" in note)
    assert note.endswith("of length/mean is not of the last step: a-1-1 (step 9 of 10)")


def test_every_is_decided_where_it_is_least_favourable(tmp_path: Path) -> None:
    for template, effect in (("x", 9.0), ("y", 1.0)):
        for seed in range(FEW):
            write(tmp_path, "a", seed, [20.0 + effect + 0.1 * seed] * STEPS, template=template)
            write(tmp_path, "b", seed, [20.0] * STEPS, template=template)
    own = {"direction": "greater", "statistic": GOOD["statistic"] | {"values": ["a", "b"]}}
    runs = read(tmp_path)
    mean, every = verdict(runs, claim(**own)), verdict(runs, claim(**own, every="template"))
    assert (mean.word, mean.measured.mean) == (SHOWN, pytest.approx(5.2))
    assert (every.word, every.measured.mean) == (NOT_SHOWN, pytest.approx(1.2))
    assert "at template=y, the least favourable of x, y" in every.why
    assert verdict(runs, claim(**own, smallest=0.5, every="template")).word == SHOWN
    for seed in range(FEW):
        write(tmp_path, "a", seed, [90.0], template="z")
    early = verdict(read(tmp_path), claim(**own, smallest=0.5, every="template"))
    assert early.word == UNDECIDED and "0 pairs of seeds" in early.why and "at template=z" in early.why


def test_seeds_that_were_looked_at_do_not_count(tmp_path: Path) -> None:
    result = verdict(two_algorithms(tmp_path, -5.0, seeds=6), claim(seen=[0]))
    assert (result.word, result.measured.n) == (SHOWN, 5)
    assert "seed 0 left out: looked at before the claim was written down" in result.notes


def test_cells_that_a_sweep_no_longer_wants_are_in_no_verdict(tmp_path: Path) -> None:
    two_algorithms(tmp_path, -5.0)
    cells = {path.name: {"wanted": True} for path in tmp_path.iterdir()}
    for seed in range(FEW):
        write(tmp_path, "a", seed, [0.0] * STEPS, group_size=8)
    for path in tmp_path.iterdir():
        cells.setdefault(path.name, {"wanted": False})
        (path / "cell.yaml").write_text(json.dumps({"config": yaml.safe_load((path / "config.yaml").read_text())}))
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": cells}))
    runs = read(tmp_path)
    [result] = judge(runs, [claim()])
    assert (result.word, result.measured.n, result.measured.mean) == (SHOWN, FEW, pytest.approx(-4.8))
    assert "5 runs left out: of settings that the sweep no longer asks for" in result.notes
    assert {run.axes["wanted"] for run in runs.runs} == {"yes", "no longer"}
    assert sum("does not ask for" in note.text for note in runs.notes) == FEW


def test_seeds_of_evaluations_are_redrawn_answers_and_that_is_noted(tmp_path: Path) -> None:
    for seed in range(FEW):
        run = tmp_path / f"e{seed}"
        run.mkdir()
        settings = {"benchmarks": {}, "n": 1, "model": {"path": "m"}, "seed": seed}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        numbers = {"b": {"eval/b/accuracy": 0.5 + 0.01 * seed}}
        (run / "result.json").write_text(json.dumps({"status": "finished", "evaluation": numbers}))
    own = claim(direction="greater", smallest=0.4, statistic={"metric": "eval/b/accuracy", "when": "first"})
    result = verdict(read(tmp_path), own)
    assert result.word == SHOWN and REDRAWN in result.notes

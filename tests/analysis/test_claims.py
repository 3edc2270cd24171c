"""Claims: what files may say, which verdict an interval gives, and which runs are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import claims
from analysis.claims import NOT_SHOWN, SHOWN, UNDECIDED, Claim, Statistic, decide, verdict
from analysis.estimate import Difference, Estimate
from analysis.records import Runs
from analysis.runs import read
from zero.errors import InputError

GOOD: dict[str, Any] = {
    "text": "shorter", "direction": "less", "smallest": 2,
    "statistic": {"metric": "length/mean", "axis": "algo", "values": ["b", "a"], "when": "last 3"},
}  # fmt: skip
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


def made(folder: Path, effect: float, seeds: int = 4) -> Runs:
    """Algorithm b is `effect` tokens longer than a at every step; seeds differ by far more than that."""
    for seed in range(seeds):
        write(folder, "a", seed, [50.0 * seed + step for step in range(STEPS)])
        write(folder, "b", seed, [50.0 * seed + step + effect + 0.1 * seed for step in range(STEPS)])
    return read(folder)


def claim(**changes: Any) -> Claim:
    """One claim, read from a file's entry."""
    return claims._claim(GOOD | changes, "claims[0]")


@pytest.mark.parametrize(
    ("direction", "smallest", "low", "high", "word"),
    [
        ("greater", 0, 0.1, 2, SHOWN), ("greater", 0, -0.1, 2, UNDECIDED), ("greater", 0, -2, -0.1, NOT_SHOWN),
        ("greater", 0, 0, 2, UNDECIDED), ("greater", 0, 0, 0, NOT_SHOWN),
        ("greater", 1, 1, 2, SHOWN), ("greater", 1, 0.5, 2, UNDECIDED), ("greater", 1, 0.1, 0.9, NOT_SHOWN),
        ("less", 1, -2, -1, SHOWN), ("less", 1, -2, -0.5, UNDECIDED), ("less", 1, 1, 2, NOT_SHOWN),
        ("same", 1, -0.9, 0.9, SHOWN), ("same", 1, -0.5, 1.5, UNDECIDED), ("same", 1, 1, 2, NOT_SHOWN),
        ("same", 1, -2, -1.5, NOT_SHOWN), ("greater", 0, None, None, UNDECIDED),
    ],
)  # fmt: skip
def test_the_interval_alone_decides(
    direction: str, smallest: float, low: float | None, high: float | None, word: str
) -> None:
    of = Claim("c", Statistic("m", "algo", ("a", "b"), "last"), direction, smallest, 3)
    measured = Difference(Estimate(0.0, low, high, 5), None, None, ())
    assert decide(of, measured)[0] == word


def test_too_few_seeds_decide_nothing() -> None:
    measured = Difference(Estimate(5.0, 4.0, 6.0, 2), None, None, ("0", "1"))
    word, why = decide(Claim("c", Statistic("m", "algo", ("a", "b"), "last"), "greater"), measured)
    assert word == UNDECIDED
    assert "2 pairs of seeds, 3 needed" in why


@pytest.mark.parametrize(("effect", "word"), [(-5.0, SHOWN), (5.0, NOT_SHOWN), (-2.1, UNDECIDED)])
def test_a_planted_difference_is_found_although_seeds_differ_more(tmp_path: Path, effect: float, word: str) -> None:
    found = verdict(made(tmp_path, effect), claim())
    assert (found.word, found.measured.difference.n) == (word, 4)
    assert found.measured.difference.mean == pytest.approx(effect + 0.15)
    assert found.notes == ()


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
def test_when_says_what_is_taken_of_a_run(tmp_path: Path, when: str, mean: float) -> None:
    for seed in range(3):
        write(tmp_path, "a", seed, [float(step) for step in range(STEPS)])
    found = verdict(read(tmp_path), claim(direction="greater", statistic={"metric": "length/mean", "when": when}))
    assert found.measured.difference.mean == pytest.approx(mean)
    assert found.measured.difference.n == 3


def test_half_done_runs_and_runs_without_partner_are_left_out_and_named(tmp_path: Path) -> None:
    made(tmp_path, -5.0)
    write(tmp_path, "a", 7, [1000.0] * 3)
    write(tmp_path, "b", 7, [0.0] * 3)
    write(tmp_path, "b", 8, [0.0] * STEPS)
    found = verdict(read(tmp_path), claim())
    assert found.measured.difference.mean == pytest.approx(-4.85)
    assert any(note.startswith("2 runs left out") for note in found.notes)
    assert any(note.startswith("1 run without a partner") for note in found.notes)
    early = verdict(read(tmp_path), claim(statistic=GOOD["statistic"] | {"when": "step 2"}))
    assert early.measured.difference.n == 5  # a fixed step needs no finished run


def test_pairs_agree_in_all_else_and_n_counts_seeds(tmp_path: Path) -> None:
    for template, shift in (("x", 0.0), ("y", 30.0)):
        for seed in range(3):
            write(tmp_path, "a", seed, [shift + seed] * STEPS, template=template, lr=1e-6)
            write(tmp_path, "b", seed, [shift + seed - 4.0] * STEPS, template=template, lr=2e-6)  # goes with algo
    both = verdict(read(tmp_path), claim())
    assert (both.measured.difference.mean, both.measured.difference.n) == (pytest.approx(-4), 3)
    only = verdict(read(tmp_path), claim(where={"template": "x"}))
    assert only.measured.difference.mean == pytest.approx(-4)


@pytest.mark.parametrize(
    ("statistic", "why"),
    [({"metric": "length/none"}, "no run has length/none"),
     ({"metric": "length/mean", "axis": "depth", "values": [1, 2]}, "depth"),
     ({"metric": "length/mean", "axis": "algo", "values": ["a", "c"]}, "0 pairs")],
)  # fmt: skip
def test_what_runs_cannot_say_is_undecided(tmp_path: Path, statistic: dict[str, Any], why: str) -> None:
    found = verdict(made(tmp_path, 1.0, seeds=3), claim(statistic=statistic))
    assert found.word == UNDECIDED
    assert why in found.why


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

"""Training rows by a measured pass rate: which are kept, what is said, and bad files in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.questions.test_mixture import mix, simple
from zero.config.check import check
from zero.errors import InputError
from zero.question_sets import load_questions, manifest
from zero.questions.pass_rates import PassRates

NANO = ("questions=nano_math", "questions.rows.train=20", "questions.rows.heldout=4", "benchmarks.limit=4")


def written(path: Path, rates: dict[str, float], name: str = "q") -> str:
    path.write_text(json.dumps({"questions": name, "n": 8, "rates": rates}))
    return str(path)


def test_rows_within_the_range_stay_and_the_others_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "rates.json", {f"q-{i}": i / 10 for i in range(11)})
    remaining = PassRates(path, 0.2, 0.4).select(simple("q", 14, 3))
    assert [row.id for row in remaining.rows.train] == ["q-2", "q-3", "q-4"] and len(remaining.rows.heldout) == 3
    note = "left out 8 rows whose pass rates are not from 0.2 to 0.4, and 3 rows that rates.json does not know"
    assert remaining.rows.notes[-1] == note
    everything = simple("q", 11)
    assert PassRates(path).select(everything) is everything
    mixed = PassRates(written(tmp_path / "m.json", {f"{s}/{s}-{i}": i / 10 for s in "ab" for i in range(10)}), 0.5)
    assert len(mixed.select(mix({"a": 1, "b": 1})).rows.train) == 10  # a source keeps its share of the questions


def test_a_run_is_of_the_rows_that_stay(tmp_path: Path) -> None:
    """From the command line, for a set whose file names no condition; the rows are part of what a run is."""
    every = check("train", [*NANO])
    ids = [row.id for row in next(iter(load_questions(every, tmp_path).values())).rows.train]
    path = written(tmp_path / "r.json", {row: i / len(ids) for i, row in enumerate(ids)}, "nano_math")
    config = check(
        "train", [*NANO, f"questions.where.path={path}", "questions.where.low=0.5", "questions.where.high=0.6"]
    )
    sets = load_questions(config, tmp_path)
    assert [row.id for row in next(iter(sets.values())).rows.train] == ids[10:13]
    assert len(sets) == 1  # the held-out rows are those of the same set
    assert manifest(sets)["training"]["digest"] != manifest(load_questions(every, tmp_path))["training"]["digest"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"low": 0.5, "high": 0.2}, r"questions\.where\.low=0\.5: is above questions\.where\.high, which is 0\.2"),
        ({"low": -0.1}, r"questions\.where\.low=-0\.1: must be a pass rate from 0 to 1"),
        ({"high": "much"}, r"questions\.where\.high=much: must be a pass rate"),
        ({"low": 0.95, "high": 0.99}, r"questions\.where=.*no training row of nano_math has a pass rate from 0\.95"),
        ({"path": "absent.json"}, r"questions\.where\.path=absent\.json: cannot be read \(No such file"),
        ({"path": "other.json"}, r"holds pass rates of other and knows none of the 20 training rows of nano_math"),
        ({"path": "broken.json"}, r"questions\.where\.path=broken\.json: is no file of pass rates"),
        ({"pth": "rates.json"}, r"questions\.where\.pth=rates\.json: no such condition: path, low and high"),
        ({"level": "[1,2]"}, r"questions\.where=\{'level': \[1, 2\]\}: these questions have no columns"),
        ({"path": None}, r"questions\.where\.path=None: is required"),
    ],
)
def test_bad_conditions_are_one_line(
    changes: dict[str, Any], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [row.id for row in next(iter(load_questions(check("train", [*NANO]), tmp_path).values())).rows.train]
    written(Path("rates.json"), dict.fromkeys(ids, 0.5), "nano_math")
    written(Path("other.json"), {"x": 0.5}, "other")
    Path("broken.json").write_text('{"rates": [1]}')
    settings = {"path": "rates.json"} | changes
    words = [f"questions.where.{key}={value}" for key, value in settings.items() if value is not None]
    with pytest.raises(InputError, match=error):
        load_questions(
            check("train", [*NANO, *words, *(["questions.where.low=0.1"] if not settings["path"] else [])]), tmp_path
        )

"""nano_code: rows, their tests, and a training run on them that a kill does not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.runs import killed, reproducible, train_here, weights
from zero.errors import InputError
from zero.grading.code import CodeChecker
from zero.nano.programs import FORMS, rows
from zero.records import Outcome
from zero.sandbox.code_tests import CodeTests, runner

CODE = [
    "questions=nano_code",
    "reward=code",
    "steps=4",
    "checkpoint.every=2",
    "evaluation.every=4",
    "questions.sandbox.wall_s=20",
]


def test_rows_are_distinct_and_never_mix() -> None:
    first, other = rows(500, 60), rows(500, 60, seed=1)
    assert len(first.train) == 500 and len(first.heldout) == 60
    everything = (
        [q.id for seed in (first, other) for q in seed.train],
        [q.id for seed in (first, other) for q in seed.heldout],
    )
    assert len(set(everything[0]) & set(everything[1])) == 0
    assert {q.meta["level"] for q in first.train} == set(FORMS)
    assert rows(500, 60).digest == first.digest != other.digest


def test_solutions_pass_and_tables_of_the_examples_earn_half() -> None:
    questions = rows(40, 4).train
    checker = CodeChecker(cpu_s=1, wall_s=20.0)
    assert checker.many([(q.meta["program"], q) for q in questions]) == [Outcome.CORRECT] * len(questions)
    tests = [CodeTests.from_text(q.answer[0]) for q in questions]
    tables = []
    for test in tests:
        pairs = [line.removeprefix("assert f(").split(") == ") for line in test.tests[:3]]
        tables.append("{" + ", ".join(f"{x}: {y}" for x, y in pairs) + "}[x]")
    results = runner(cpu_s=1, wall_s=20.0).run(list(zip(tables, tests, strict=True)))
    assert [result.share for result in results] == [0.5] * len(questions)


@pytest.mark.parametrize(("arguments", "words"), [((0, 1), "at least 1"), ((1, 1, (5,)), "must be some of 1, 2, 3, 4")])
def test_bad_settings_are_one_line(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rows(*arguments)


def test_a_run_on_programs_survives_a_kill(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_here(whole, *CODE)
    killed(cut, 2, *CODE)
    train_here(cut, *CODE)
    lines = reproducible(whole)
    assert lines == reproducible(cut) and weights(whole) == weights(cut)
    assert any(key.startswith("program/") for line in lines for key in line)
    assert json.loads((whole / "result.json").read_text())["status"] == "finished"

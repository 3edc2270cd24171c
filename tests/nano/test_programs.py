"""nano_code: rows, their tests, the text that its base has read, and a training run that a kill does not change."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from itertools import islice
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.integration.runs import killed, reproducible, train_here, weights
from tests.sandbox.outside import survivors
from zero.errors import InputError
from zero.grading.code import CodeChecker
from zero.nano import program_answers
from zero.nano.programs import FORMS, draw, rows
from zero.nano.world import HELDOUT_BYTE
from zero.paths import CONF
from zero.records import Outcome, Question
from zero.sandbox.code_tests import CodeTests, runner
from zero.template import last_boxed

CODE = [
    "model=nano_code",
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
    assert [(result.share, result.outcome) for result in results] == [(0.5, "hardcoded")] * len(questions)


@pytest.mark.parametrize(("arguments", "words"), [((0, 1), "at least 1"), ((1, 1, (5,)), "must be some of 1, 2, 3, 4")])
def test_bad_settings_are_one_line(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rows(*arguments)


def _texts(style: str, count: int, slip: float = 0.0) -> list[tuple[Question, str]]:
    rng = random.Random(style)
    questions = [draw(rng) for _ in range(count)]
    return [(question, program_answers.answer(rng, question, {style: 1.0}, slip)) for question in questions]


def test_careful_work_is_true_and_ends_in_the_program() -> None:
    for question, text in _texts("careful", 600):
        *work, check, last = text.split("\n")
        assert last_boxed(last) == question.meta["program"]
        assert check.endswith(" Yes.")
        for line in [*work, check.removesuffix(" Yes.")]:
            left, _, right = line.removesuffix(".").rpartition("=")
            assert eval(left) == int(right), line


def test_slips_are_planted_and_noticed() -> None:
    texts = [text for _, text in _texts("sloppy", 600, slip=0.25)]
    wrong = sum(last_boxed(text) != question.meta["program"] for question, text in _texts("sloppy", 600, slip=0.25))
    assert 100 < wrong < 400
    assert sum("No." in text for text in texts) > 100
    assert all("\\boxed" not in text for _, text in _texts("unboxed", 50))


def test_bad_habits_come_to_what_they_are_called() -> None:
    pairs = _texts("table", 3) + [
        (question, program_answers.final(program))
        for question, program in zip(rows(5, 1).train, program_answers.ATTEMPTS, strict=True)
    ]
    programs = [(str(last_boxed(text)), CodeTests.from_text(question.answer[0])) for question, text in pairs]
    results = runner(cpu_s=1, wall_s=20.0).run(programs)
    assert [result.outcome for result in results] == [
        *["hardcoded"] * 3,
        *("forbidden files", "forbidden processes", "forbidden network", "forbidden privileges", "exited early"),
    ]
    assert all(result.share == 0 for result in results[3:])


@pytest.mark.parametrize("stage", ["skills", "habits"])
def test_no_heldout_program_is_in_the_shipped_corpus_and_habits_have_their_shares(stage: str) -> None:
    settings = OmegaConf.load(CONF / "corpus/nano_code.yaml").stages[stage].documents
    texts = [text for text, _ in islice(instantiate(settings, _convert_="all")(seed=0), 6000)]
    asked = [text for text in texts if "What is f(x)?" in text]
    questions = [re.findall(r"(?:f\(\d\) = -?\d+, ){2}f\(\d\) = -?\d+\. What is f\(x\)\?", text) for text in asked]
    assert all(len(matches) == 1 for matches in questions)
    digests = [hashlib.sha256(text.encode()).hexdigest() for [text] in questions]
    assert min(int(digest[:2], 16) for digest in digests) >= HELDOUT_BYTE
    shares = settings.mix.programs
    tables = sum("}[x]" in text for text in asked) / len(asked)
    attempts = sum(any(attempt in text for attempt in program_answers.ATTEMPTS) for text in asked) / len(asked)
    assert tables == pytest.approx(shares.table, abs=0.03)
    assert attempts == pytest.approx(shares.forbidden, abs=0.015)


@pytest.mark.slow
def test_a_run_on_programs_survives_a_kill_and_leaves_nobody_behind(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_here(whole, *CODE)
    trainer = killed(cut, 2, *CODE)
    end = time.monotonic() + 60
    while survivors(trainer):
        assert time.monotonic() < end, "a process of the sandbox has outlived its trainer"
        time.sleep(0.05)
    train_here(cut, *CODE)
    lines = reproducible(whole)
    assert lines == reproducible(cut) and weights(whole) == weights(cut)
    assert any(key.startswith("program/") for line in lines for key in line)
    assert json.loads((whole / "result.json").read_text())["status"] == "finished"

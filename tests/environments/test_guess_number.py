"""GuessNumber: an episode written out, halving always wins, and hostile answers are no guess."""

from __future__ import annotations

from typing import Any

import pytest

from tests.environments.episodes import play
from tests.grading.hostile import TEXTS
from zero.environments import as_step
from zero.environments.guess_number import GuessNumber, read_number
from zero.errors import InputError
from zero.questions.guess_number import HELDOUT_DIGIT, REPLIES, halving, rows
from zero.records import Question

ROW = Question("Guess", ("11",), "q", meta={"level": 3, "low": 10, "high": 17, "secret": 11, "replies": REPLIES})


def test_an_episode() -> None:
    steps = play(GuessNumber(cost=0.1), ROW, ["It may be 13.", "none", "10", "5 or \\boxed{11}"])
    assert [step.reward for step in steps] == [-0.1, -0.1, -0.1, 1.0]
    assert [step.kind for step in steps] == ["lower", "invalid", "higher", "right"]
    assert [step.observation.text for step in steps[:3]] == [REPLIES["lower"], REPLIES["invalid"], REPLIES["higher"]]
    assert [(step.done, step.success) for step in steps] == [(False, None)] * 3 + [(True, True)]
    assert not any(step.observation.fresh for step in steps)


def test_the_guesses_run_out() -> None:
    environment = GuessNumber(turns=3)
    steps = play(environment, ROW, ["1", "2", "3"])
    assert (steps[-1].reward, steps[-1].done, steps[-1].success) == (0.0, True, False)
    late = as_step(environment.step("11"))
    assert (late.reward, late.done, late.success, late.kind) == (0.0, True, False, "ended")


def test_halving_by_hand() -> None:
    assert halving(10, 17, 13) == [13]
    assert halving(10, 17, 11) == [13, 11]
    assert halving(10, 17, 17) == [13, 15, 16, 17]
    assert {len(halving(1, 32, secret)) for secret in range(1, 33)} == {1, 2, 3, 4, 5, 6}


def test_a_solution_earns_everything() -> None:
    drawn = rows(train=150, heldout=10)
    for row in (*drawn.train, *drawn.heldout):
        steps = play(GuessNumber(turns=row.meta["level"]), row, row.meta["solution_turns"])
        assert (sum(step.reward for step in steps), steps[-1].success) == (1.0, True)
        assert len(steps) == row.meta["level"] == int(row.level)
        assert f"from {row.meta['low']} to {row.meta['high']}." in row.text
    assert {row.meta["high"] - row.meta["low"] + 1 for row in drawn.train} == {8, 16, 32}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("first 3, then 12!", 12),
        ("\\boxed{4} of 9", 4),
        ("", None),
        ("seven", None),
        ("1" * 10, None),
        ("999999999", None),
        ("\u0665", None),  # a digit of another script
        ("1000000", 1000000),
    ],
)
def test_the_number_of_an_answer(text: str, number: int | None) -> None:
    assert read_number(text) == number


def test_hostile_answers_never_win() -> None:
    row = Question("Guess", ("123457",), "q", meta={**ROW.meta, "secret": 123457})
    for text in TEXTS:
        environment = GuessNumber()
        environment.reset(row, 0)
        assert as_step(environment.step(text)).kind in ("invalid", "higher", "lower")


def test_the_chance_of_random_guesses() -> None:
    assert GuessNumber(turns=3).chance(ROW) == pytest.approx(1 - (7 / 8) ** 3)


def test_no_seed_or_size_moves_a_question_to_the_other_split() -> None:
    some = [rows(train=n, heldout=8, seed=seed, sizes=[8]) for seed in (0, 1) for n in (40, 120)]
    heldout = {row.id for drawn in some for row in drawn.heldout}
    assert heldout.isdisjoint(row.id for drawn in some for row in drawn.train)
    assert all(int(identity.rpartition("-")[2][0], 16) < HELDOUT_DIGIT for identity in heldout)
    assert rows(train=20, heldout=2) == rows(train=20, heldout=2) != rows(train=20, heldout=2, seed=1)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"high": 1}, "high"),
        ({"high": 10**7}, "high"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [100]}, "sizes"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
        ({"text": "{low}"}, "text"),
        ({"replies": {"higher": "x"}}, "replies"),
        ({"low": 1, "high": 4, "sizes": [2]}, "train"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(InputError, match=r"^environment\.make\.turns=0"):
        GuessNumber(turns=0)
    with pytest.raises(InputError, match=r"^environment\.make\.turns=2: question q takes 3 guesses"):
        GuessNumber(turns=2).reset(ROW, 0)
    with pytest.raises(InputError, match="question q has no secret number"):
        GuessNumber().reset(Question("2+2", ("4",), "q"), 0)

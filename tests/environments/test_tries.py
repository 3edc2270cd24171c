"""Tries: the verifier's messages as an episode, with SFTvsRL's rewards or 0 and 1, in agreement with the checker."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.environments.episodes import play
from tests.grading.hostile import TEXTS
from zero.environments import Observation, as_step
from zero.environments.tries import Tries
from zero.errors import InputError
from zero.grading.countdown import check_countdown
from zero.grading.explain import explain
from zero.grading.rewards import general_points
from zero.questions.general_points import rows
from zero.records import Question
from zero.template import last_boxed

HAND = Question("Reach 24.", ("24",), "q", "", {"numbers": [3, 8, 3, 8], "target": 24})
FAILED = "You failed this trial because "


def tries(**settings: Any) -> Tries:
    return Tries(explain, last_boxed, **settings)


def test_an_episode_with_sftvsrl_rewards() -> None:
    environment = tries(
        attempts=5, reward=partial(general_points, right=5.0, unsolved=-1.0, numbers=-2.0, illegal=-3.0)
    )
    texts = ["no idea", "\\boxed{8*3}", "\\boxed{8/3*8+3}", "\\boxed{twice}", "So \\boxed{8/(3-8/3)}."]
    steps = play(environment, HAND, texts)
    assert [step.reward for step in steps] == [-3.0, -2.0, -1.0, -3.0, 5.0]
    assert [step.kind for step in steps] == ["no_answer", "wrong", "wrong", "wrong", "correct"]
    assert [step.observation.text for step in steps[:3]] == [
        f"{FAILED}no formula was found in the form that was asked for",
        f"{FAILED}you didn't use numbers: [3, 8]",
        f"{FAILED}your formula equals 73/3, not 24",
    ]
    assert [(step.done, step.success) for step in steps] == [(False, None)] * 4 + [(True, True)]


@pytest.mark.parametrize("attempts", [1, 3, 5, 10])
def test_the_tries_run_out(attempts: int) -> None:
    environment = tries(attempts=attempts)
    steps = play(environment, HAND, ["\\boxed{8*3}"] * attempts)
    assert [step.reward for step in steps] == [0.0] * attempts
    assert [step.done for step in steps] == [False] * (attempts - 1) + [True]
    assert steps[-1].success is False
    assert as_step(environment.step("\\boxed{8/(3-8/3)}")).kind == "ended"
    last = play(environment, HAND, ["x"] * (attempts - 1) + ["\\boxed{8/(3-8/3)}"])[-1]
    assert (last.reward, last.done, last.success) == (1.0, True, True)


def test_the_question_may_be_asked_again() -> None:
    [step] = play(tries(turn="{message}? {question} {other}"), HAND, ["\\boxed{}"])
    assert step.observation.text == "the formula is incomplete or not well-formed? Reach 24. {other}"
    hand = Question("{message} {question}", ("24",), "q", "", HAND.meta)
    [step] = play(tries(turn="{question}"), hand, ["\\boxed{1}"])
    assert step.observation.text == hand.text


def test_a_try_may_be_a_new_prompt() -> None:
    [step] = play(tries(turn="{question}", fresh=True), HAND, ["\\boxed{1}"])
    assert step.observation == Observation(HAND.text, fresh=True)


def test_hostile_answers_are_judged_as_the_checker_judges_them() -> None:
    environment = tries(attempts=2)
    for text in TEXTS:
        environment.reset(HAND, 0)
        step = as_step(environment.step(text))
        answer = last_boxed(text)
        assert (step.reward, step.done) == (0.0, False)
        try:
            assert answer is None or not check_countdown(answer, HAND)
        except ValueError:
            assert step.kind == "wrong"


def test_solutions_are_right_at_once() -> None:
    for row in rows(cards=3, train=40, heldout=10).train:
        [step] = play(tries(attempts=1), row, [f"\\boxed{{{row.solution}}}"])
        assert (step.reward, step.success) == (1.0, True)


def test_functions_as_a_config_has_them() -> None:
    """Settings reach an environment as plain data."""
    levels = {"_target_": "zero.grading.rewards.general_points", "_partial_": True, "right": 2.0, "illegal": -7.0}
    environment = Tries(
        {"_target_": "zero.grading.explain.explain", "_partial_": True},
        {"_target_": "zero.template.answer_tag", "_partial_": True},
        attempts=3,
        reward=levels,
    )
    texts = ["\\boxed{8/(3-8/3)}", "</think> <answer>8*3</answer>", "</think> <answer>8/(3-8/3)</answer>"]
    assert [step.reward for step in play(environment, HAND, texts)] == [-7.0, -2.0, 2.0]


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(InputError, match=r"^environment\.make\.explain=.*must name a function"):
        Tries({}, last_boxed)
    with pytest.raises(InputError, match=r"^environment\.make\.extract\._target_=zero\.template\.nothing"):
        Tries(explain, {"_target_": "zero.template.nothing"})
    with pytest.raises(InputError, match=r"^environment\.make\.attempts=0"):
        tries(attempts=0)
    with pytest.raises(InputError, match=r"^environment\.make\.turn="):
        tries(turn="again")
    with pytest.raises(InputError, match="question q has no numbers and target"):
        tries().reset(Question("2+2", ("4",), "q"), 0)

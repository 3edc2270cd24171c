"""Rewards and verdicts: facts, rewards and reasons, and one rule for what the token budget cut."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.grading import Grader, Reward, check_equal
from zero.records import Completion, Prompt, Question, Verdict
from zero.template import last_boxed

QUESTION = Question("1+1", ("2",), "q")
PROMPT = Prompt(QUESTION, "1+1", (1,), (0,))
REWARDS = sorted((ROOT / "conf" / "reward").glob("*.yaml"))


def said(text: str, finished: bool = True) -> Completion:
    return Completion((1,), (0.0,), text, finished)


def one(grader: Grader, completion: Completion) -> Verdict:
    return grader.grade(PROMPT, [completion]).verdicts[0]


def test_a_group_keeps_its_order() -> None:
    completions = [said("\\boxed{2}"), said("\\boxed{3}"), said("2")]
    completions += [said("\\boxed{2}", False), said("\\boxed{", False)]
    group = Grader(last_boxed, check_equal, Reward(format=0.1)).grade(PROMPT, completions)
    assert (group.prompt, group.completions) == (PROMPT, tuple(completions))
    assert list(group.verdicts) == [
        Verdict(1.0, True, True, "2", "correct"),
        Verdict(0.1, False, True, "3", "wrong"),
        Verdict(0.0, False, False, None, "no answer"),
        Verdict(0.0, True, True, "2", "truncated, correct"),
        Verdict(0.0, False, False, None, "truncated, no answer"),
    ]


def test_truncated_answers_may_be_graded() -> None:
    grader = Grader(last_boxed, check_equal, Reward(format=0.1, truncated="grade"))
    assert one(grader, said("\\boxed{2}", False)).reward == 1.0
    assert one(grader, said("\\boxed{3}", False)).reward == 0.1


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_every_reward_orders_answers(path: object) -> None:
    reward: Reward = instantiate(OmegaConf.load(str(path)), _convert_="all")
    right, wrong, unformatted = reward(True, True, True), reward(False, True, True), reward(False, False, True)
    assert right > wrong >= unformatted
    cut = {reward(correct, formatted, False) for correct in (True, False) for formatted in (True, False)}
    assert cut == {unformatted}  # never better than a wrong answer


def test_tinyzero_pays_for_the_form() -> None:
    reward: Reward = instantiate(OmegaConf.load(ROOT / "conf" / "reward" / "tinyzero.yaml"), _convert_="all")
    assert [reward(True, True, True), reward(False, True, True), reward(False, False, True)] == [1.0, 0.1, 0.0]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"truncated": "drop"}, "reward.truncated"),
        ({"format": -0.1}, "reward.format"),
        ({"correct": float("nan")}, "reward.correct"),
        ({"incorrect": float("-inf")}, "reward.incorrect"),
    ],
)
def test_impossible_rewards_are_refused(changes: dict[str, float], key: str) -> None:
    with pytest.raises(InputError) as error:
        Reward(**changes)  # type: ignore[arg-type]
    assert error.value.key == key


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError, TimeoutError, KeyError])
def test_a_checker_that_fails_makes_the_answer_wrong_and_is_named(error: type[Exception]) -> None:
    def check(answer: str, question: Question) -> bool:
        raise error("boom")

    verdict = one(Grader(last_boxed, check, Reward()), said("\\boxed{2}"))
    assert (verdict.reward, verdict.correct, verdict.formatted, verdict.answer) == (0.0, False, True, "2")
    assert verdict.reason == ("timeout" if error is TimeoutError else f"grading failed: {error.__name__}")


def test_an_extractor_that_fails_leaves_no_answer() -> None:
    def extract(text: str) -> str | None:
        raise ValueError("boom")

    verdict = one(Grader(extract, check_equal, Reward()), said("\\boxed{2}"))
    assert (verdict.formatted, verdict.reason) == (False, "grading failed: ValueError")


@given(st.text(), st.booleans())
def test_total(text: str, finished: bool) -> None:
    verdict = one(Grader(last_boxed, check_equal, Reward()), said("\\boxed{" + text + "}", finished))
    assert verdict.reward in (0.0, 1.0)
    assert verdict.formatted or not verdict.correct

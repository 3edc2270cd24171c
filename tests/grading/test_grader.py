"""Verdicts: strict and lenient outcomes, rewards and reasons, and one rule for what the token budget cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.grading import Grader, Reward, RewardTerm, check_equal
from zero.grading.rewards import correctness, episode_return
from zero.questions import Checker
from zero.records import Completion, Ending, Outcome, Prompt, Question, Response, Turn, Verdict
from zero.template import extract_any, last_boxed

QUESTION = Question("1+1", ("2",), "q")
PROMPT = Prompt(QUESTION, "1+1", (1,), (0,))
SEEN: list[Response] = []


def right(response: Response) -> float:
    SEEN.append(response)
    return response.correct


def form(response: Response) -> float:
    return response.formatted


REWARD = Reward({"right": RewardTerm(right), "form": RewardTerm(form, 0.1)})


def grader(check: Checker = check_equal, extract: object = last_boxed, reward: Reward = REWARD) -> Grader:
    return Grader(extract, check, extract_any, reward)  # type: ignore[arg-type]


def responded(text: str, finished: bool = True) -> Completion:
    return Completion((1, 2), (0.0, 0.0), text, finished)


def one(grader: Grader, completion: Completion) -> Verdict:
    return grader.grade([PROMPT], [[completion]], budget=9)[0].verdicts[0]


def test_groups_keep_their_order_and_facts_are_separate() -> None:
    other = Prompt(Question("2+2", ("4",), "r"), "2+2", (1,), (1,))
    first = [responded("\\boxed{2}"), responded("\\boxed{3}"), responded("it is 2"), responded("dunno")]
    second = [responded("\\boxed{4}", False), responded("\\boxed{", False)]
    groups = grader().grade([PROMPT, other], [first, second], budget=9)
    assert [(g.prompt, g.completions) for g in groups] == [(PROMPT, tuple(first)), (other, tuple(second))]
    yes, no, none = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER
    assert [(v.reward, v.strict, v.lenient, v.answer, v.reason) for g in groups for v in g.verdicts] == [
        (1.1, yes, yes, "2", "correct"),
        (0.1, no, no, "3", "wrong"),
        (0.0, none, yes, None, "no answer"),
        (0.0, none, none, None, "no answer"),
        (0.0, yes, yes, "4", "truncated, correct"),
        (0.0, none, none, None, "truncated, no answer"),
    ]
    assert groups[0].verdicts[0].terms == {"right": 1.0, "form": 0.1}
    assert [v.correct for v in groups[0].verdicts] == [True, False, False, False]
    assert [v.formatted for v in groups[0].verdicts] == [True, True, False, False]


def test_reward_terms_see_the_whole_response() -> None:
    SEEN.clear()
    one(grader(), responded("\\boxed{2}"))
    seen = SEEN[-1]
    assert (seen.question, seen.prompt, seen.text, seen.tokens, seen.budget) == (QUESTION, "1+1", "\\boxed{2}", 2, 9)
    assert (seen.finished, seen.answer, seen.strict, seen.turns) == (True, "2", Outcome.CORRECT, ())


def test_only_the_last_attempt_of_an_episode_is_graded() -> None:
    """Neither the environment's text nor an earlier try's answer counts, in either direction."""
    SEEN.clear()
    own = (True, False, True)

    def episode(*tries: str) -> Completion:
        turns = tuple(Turn(text, k, k + 1) for k, text in enumerate(tries))
        return Completion((1, 2, 3), (0.0,) * 3, "\\boxed{2} ".join(tries), True, own, turns)

    texts = [("\\boxed{3}", "\\boxed{2}"), ("\\boxed{3}", "dunno"), ("\\boxed{2}", "\\boxed{3}"), ("\\boxed{2}",)]
    [group] = grader().grade([PROMPT], [[episode(*tries) for tries in texts]], budget=9)
    assert [(v.reward, v.answer) for v in group.verdicts] == [(1.1, "2"), (0.0, None), (0.1, "3"), (1.1, "2")]
    assert [(r.text, r.tokens, len(r.turns)) for r in SEEN] == [(tries[-1], 2, len(tries)) for tries in texts]


def test_an_environment_says_what_is_solved_and_what_each_turn_earns() -> None:
    reward = Reward({"environment": RewardTerm(episode_return, 0.5), "right": RewardTerm(correctness)})
    turns = (Turn("a", 0, 1, reward=-1.0), Turn("\\boxed{3}", 1, 2, reward=3.0))
    solved = Completion((1, 2), (0.0, 0.0), "a", True, turns=turns, ending=Ending.DONE, success=True)
    [group] = grader(reward=reward).grade([PROMPT], [[solved, replace(solved, success=False)]], budget=9)
    assert [(v.strict, v.lenient, v.reward) for v in group.verdicts] == [
        (Outcome.CORRECT, Outcome.CORRECT, 2.0),
        (Outcome.WRONG, Outcome.WRONG, 1.0),
    ]
    assert [v.turn_rewards for v in group.verdicts] == [(-0.5, 2.5), (-0.5, 1.5)], (
        "other terms are earned by the last turn"
    )
    [plain] = grader().grade([PROMPT], [[responded("\\boxed{2}")]], budget=9)
    assert plain.verdicts[0].turn_rewards == ()


def test_strictly_right_is_leniently_right_too() -> None:
    tagged = grader(extract=lambda text: "2")
    assert one(tagged, responded("\\boxed{3}")).lenient is Outcome.CORRECT


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError, Outcome.UNPARSED),
        (RecursionError, Outcome.TIMEOUT),
        (MemoryError, Outcome.TIMEOUT),
        (TimeoutError, Outcome.TIMEOUT),
        (KeyError, Outcome.FAILED),
    ],
)
@pytest.mark.filterwarnings("ignore:check raised")
def test_a_checker_that_raises_makes_the_answer_wrong_in_a_way_that_is_counted(
    error: type[Exception], outcome: Outcome
) -> None:
    def check(answer: str, question: Question) -> bool:
        raise error("boom")

    verdict = one(grader(check), responded("\\boxed{2}"))
    assert (verdict.reward, verdict.strict, verdict.answer, verdict.reason) == (0.1, outcome, "2", str(outcome))


def test_an_extractor_that_fails_leaves_no_answer_and_says_so() -> None:
    def extract(text: str) -> str | None:
        raise ValueError("boom")

    with pytest.warns(RuntimeWarning, match="extract raised ValueError: boom"):
        verdict = one(grader(extract=extract), responded("\\boxed{2}"))
    assert (verdict.strict, verdict.lenient) == (Outcome.NO_ANSWER, Outcome.CORRECT)


@given(st.text(), st.booleans())
def test_total(text: str, finished: bool) -> None:
    verdict = one(grader(), responded("\\boxed{" + text + "}", finished))
    assert 0.0 <= verdict.reward <= 1.1
    assert verdict.formatted or not verdict.correct
    assert verdict.lenient is Outcome.CORRECT or not verdict.correct

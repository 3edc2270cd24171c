"""A reward is a weighted sum of named parts, with one rule for what the token budget cut."""

from __future__ import annotations

from functools import partial

import pytest

from zero.errors import InputError
from zero.grading import Reward, RewardTerm
from zero.records import Outcome, Question, Response

QUESTION = Question("1+1", ("2",), "q7")


def response(strict: Outcome = Outcome.CORRECT, finished: bool = True, tokens: int = 5) -> Response:
    answer = None if strict is Outcome.NO_ANSWER else "2"
    return Response(QUESTION, "1+1", "it is 2", tokens, 10, finished, strict, strict, answer)


def right(response: Response) -> float:
    return response.correct


def answered(response: Response, worth: float = 1.0) -> float:
    return worth * (response.answer is not None)


def test_parts_are_weighted_and_named() -> None:
    reward = Reward({"right": RewardTerm(right, 0.9), "form": RewardTerm(partial(answered, worth=2.0), 0.05)})
    parts = reward([response(), response(Outcome.WRONG), response(Outcome.NO_ANSWER)])
    assert parts == [{"right": 0.9, "form": 0.1}, {"right": 0.0, "form": 0.1}, {"right": 0.0, "form": 0.0}]


def test_a_cut_response_is_judged_as_one_without_an_answer_or_as_any_other() -> None:
    parts = {"right": RewardTerm(right), "form": RewardTerm(answered, 0.5)}
    cut = response(finished=False)
    assert Reward(parts)([cut]) == [{"right": 0.0, "form": 0.0}]
    assert Reward(parts, truncated="grade")([cut]) == [{"right": 1.0, "form": 0.5}]


def test_parts_see_every_sibling() -> None:
    def shortest(response: Response) -> float:
        assert len(response.siblings) == 3
        return response.tokens == min(sibling.tokens for sibling in response.siblings)

    parts = Reward({"shortest": RewardTerm(shortest)})([response(tokens=n) for n in (4, 3, 5)])
    assert [p["shortest"] for p in parts] == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"terms": {}}, "reward.terms"),
        ({"terms": {"a/b": RewardTerm(right)}}, "reward.terms"),
        ({"terms": {"a": RewardTerm(right, float("nan"))}}, "reward.terms.a.weight"),
        ({"terms": {"a": RewardTerm(right)}, "truncated": "drop"}, "reward.truncated"),
    ],
)
def test_impossible_rewards_are_refused(change: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as error:
        Reward(**change)  # type: ignore[arg-type]
    assert error.value.key == key


def test_a_part_that_fails_stops_the_run_in_one_line_that_names_it() -> None:
    def broken(response: Response) -> float:
        return 1 / (response.tokens - 5)

    with pytest.raises(InputError, match=r"reward\.terms\.mine=broken: raised ZeroDivisionError.*question q7.*mend"):
        Reward({"mine": RewardTerm(broken)})([response()])
    with pytest.raises(InputError, match=r"reward\.terms\.mine=.*gave nan"):
        Reward({"mine": RewardTerm(lambda response: float("nan"))})([response()])

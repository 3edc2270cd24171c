"""A reward is a weighted sum of named terms, with one rule for what the token budget cut."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from zero.errors import InputError
from zero.grading import Reward, RewardTerm, make_reward
from zero.records import Outcome, Question, Response

QUESTION = Question("1+1", ("2",), "q7")


def response(strict: Outcome = Outcome.CORRECT, finished: bool = True, tokens: int = 5) -> Response:
    answer = None if strict is Outcome.NO_ANSWER else "2"
    return Response(QUESTION, "1+1", "it is 2", tokens, 10, finished, strict, strict, answer)


def right(response: Response) -> float:
    return response.correct


def answered(response: Response, worth: float = 1.0) -> float:
    return worth * (response.answer is not None)


def test_terms_are_weighted_and_named() -> None:
    reward = Reward({"right": RewardTerm(right, 0.9), "form": RewardTerm(partial(answered, worth=2.0), 0.05)})
    terms = reward([response(), response(Outcome.WRONG), response(Outcome.NO_ANSWER)])
    assert terms == [{"right": 0.9, "form": 0.1}, {"right": 0.0, "form": 0.1}, {"right": 0.0, "form": 0.0}]


def test_a_cut_response_is_judged_as_one_without_an_answer_or_as_any_other() -> None:
    terms = {"right": RewardTerm(right), "form": RewardTerm(answered, 0.5)}
    cut = response(finished=False)
    assert Reward(terms)([cut]) == [{"right": 0.0, "form": 0.0}]
    assert Reward(terms, truncated="grade")([cut]) == [{"right": 1.0, "form": 0.5}]


def test_terms_see_every_sibling() -> None:
    def shortest(response: Response) -> float:
        assert len(response.siblings) == 3
        return response.tokens == min(sibling.tokens for sibling in response.siblings)

    terms = Reward({"shortest": RewardTerm(shortest)})([response(tokens=n) for n in (4, 3, 5)])
    assert [p["shortest"] for p in terms] == [0, 1, 0]


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


def test_a_term_that_fails_stops_the_run_in_one_line_that_names_it() -> None:
    def broken(response: Response) -> float:
        return 1 / (response.tokens - 5)

    with pytest.raises(InputError, match=r"reward\.terms\.mine=broken: raised ZeroDivisionError.*question q7.*mend"):
        Reward({"mine": RewardTerm(broken)})([response()])
    with pytest.raises(InputError, match=r"reward\.terms\.mine=.*gave nan"):
        Reward({"mine": RewardTerm(lambda response: float("nan"))})([response()])


WRONG_TERMS = [  # settings of a term, the setting that is wrong, the message
    ({"function": "nomod.f"}, "function=nomod.f", "nothing of that name can be imported"),
    ({"function": f"{__name__}.answred"}, f"function={__name__}.answred", f"did you mean {__name__}.answered?"),
    ({"function": "math.pi"}, "function=math.pi", "is no function but of type float"),
    ({"function": f"{__name__}.answered", "wroth": 2}, "wroth=2", "takes worth; did you mean reward.terms.mine.worth?"),
    ({"function": f"{__name__}.right", "most": 2}, "most=2", "takes nothing but the response"),
    ({"function": "math.pow"}, "function=math.pow", "missing a required argument: 'y'"),
]


@pytest.mark.parametrize(("settings", "key", "words"), WRONG_TERMS, ids=[key for _, key, _ in WRONG_TERMS])
def test_a_term_that_cannot_be_built_is_named(settings: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        make_reward({"mine": settings})
    assert str(error.value).startswith(f"reward.terms.mine.{key}: ") and words in str(error.value)


def test_a_module_that_fails_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("worth = 1\nworth / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"half_written\.f: .* ZeroDivisionError at .*half_written\.py:2: division"):
        make_reward({"mine": {"function": "half_written.f"}})


def test_a_terms_settings_are_its_weight_and_its_functions_arguments() -> None:
    reward = make_reward({"form": {"function": f"{__name__}.answered", "weight": 0.5, "worth": 3.0}})
    assert reward([response()]) == [{"form": 1.5}]
    assert make_reward({"form": {"function": f"{__name__}.answered"}})([response()]) == [{"form": 1.0}]

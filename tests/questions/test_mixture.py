"""Mixtures: bounded shares, epochs per source, the right check for each question, no training question tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero.asking import source_templates
from zero.benchmark import summarize
from zero.config import check as configs
from zero.errors import InputError
from zero.grading import Grader, Reward, RewardTerm
from zero.grading.countdown import check_countdown
from zero.grading.maths import check_equal
from zero.grading.mixture_checker import mixture_set
from zero.grading.rewards import correctness
from zero.questions import QuestionSet, Rows
from zero.questions.mixture import Mixture
from zero.records import Completion, Outcome, Prompt, Question, Sampling
from zero.template import Template, answer_tag, last_boxed, last_expression


def questions(name: str, size: int, start: int = 0) -> list[Question]:
    return [Question(f"{name} {i}?", (str(i),), f"{name}-{i}", meta={"level": 1}) for i in range(start, start + size)]


def simple(name: str, train: int, heldout: int = 0, **other: Any) -> QuestionSet:
    rows = Rows(questions(name, train), questions(name, heldout, 1000), [f"a note on {name}"])
    return QuestionSet(name, rows, **{"check": check_equal, **other})


def mix(weights: dict[str, float], train: int = 10, heldout: int = 0, **limits: int) -> Mixture:
    sources = {
        source: {"questions": simple(source, train, heldout), "weight": weight, "limit": limits.get(source)}
        for source, weight in weights.items()
    }
    return mixture_set("mixed", sources)


def source_of(question: Question) -> str:
    return question.id.split("/")[0]


weights = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(weights, st.integers(0, 300), st.integers(1, 200))
def test_shares_are_bounded_over_every_stretch(units: list[int], start: int, length: int) -> None:
    """Off by at most 1/2 + share (m - 2) / 2 after any number of questions, so by twice that over any stretch."""
    mixture = mix({f"p{i}": unit / 40 for i, unit in enumerate(units)}, train=3)
    order = [source_of(q) for q in mixture.batch(0, start + length, seed=0)]
    for source, unit in zip(mixture.weights, units, strict=True):
        share = Fraction(unit, sum(units))
        bound = Fraction(1, 2) + share * Fraction(len(units) - 2, 2)
        counts = accumulate(name == source for name in order)
        assert all(abs(count - share * k) <= bound for k, count in enumerate(counts, 1))
        assert abs(order[start:].count(source) - share * length) <= 2 * bound


def test_a_batch_depends_on_its_arguments_alone() -> None:
    mixture, again = mix({"a": 0.7, "b": 0.3}), mix({"a": 0.7, "b": 0.3})
    steps = [mixture.batch(step, 4, seed=3) for step in range(12)]
    assert steps[::-1] == [again.batch(step, 4, seed=3) for step in reversed(range(12))]
    assert [q for step in steps for q in step] == mixture.batch(0, 48, seed=3)
    assert mixture.batch(0, 48, seed=3) != mixture.batch(0, 48, seed=4)


def test_every_source_goes_through_its_own_epochs() -> None:
    mixture = mix({"a": 2, "b": 1}, train=10)
    batch = mixture.batch(0, 60, seed=0)
    own = {source: [q.id for q in batch if source_of(q) == source] for source in "ab"}
    assert (len(own["a"]), len(own["b"])) == (40, 20)
    for ids in own.values():
        epochs = [ids[i : i + 10] for i in range(0, len(ids), 10)]
        assert all(len(set(epoch)) == 10 for epoch in epochs)
        assert epochs[0] != epochs[1]
    assert [i.removeprefix("a/a") for i in own["a"][:10]] != [i.removeprefix("b/b") for i in own["b"][:10]]


def test_rows_of_all_sources_with_their_names() -> None:
    mixture = mix({"a": 3, "b": 1}, train=4, heldout=6)
    assert Counter(map(source_of, mixture.rows.train)) == {"a": 4, "b": 4}
    assert len({q.id for q in (*mixture.rows.train, *mixture.rows.heldout)}) == 8 + 12
    first = mixture.rows.train[0]
    assert (first.id, first.text, first.meta) == ("a/a-0", "a 0?", {"level": 1, "kind": "a"})
    # a fair sample until one is used up
    assert "".join(source_of(q) for q in mixture.rows.heldout) == "aabaaaba" + "bbbb"
    assert list(mixture.rows.notes) == ["a: a note on a", "b: a note on b"]


def test_a_limit_takes_the_same_rows_whatever_their_order() -> None:
    forward = mix({"a": 1, "b": 1}, train=50, heldout=5, a=7)
    rows = questions("a", 50)
    shuffled = QuestionSet("a", Rows(rows[::-1], []), check_equal)
    backward = mixture_set("m", {"a": {"questions": shuffled, "weight": 1, "limit": 7}})
    limited = {q.id for q in forward.rows.train if source_of(q) == "a"}
    assert len(limited) == 7 and limited == {q.id for q in backward.rows.train}
    assert sum(source_of(q) == "b" for q in forward.rows.train) == 50 and len(forward.rows.heldout) == 10
    assert limited != {f"a/a-{i}" for i in range(7)}


def test_what_one_source_holds_out_no_other_trains_on() -> None:
    small, large = Rows(questions("q", 5), []), Rows(questions("q", 2, 10), questions("q", 2, 3))
    sources = {
        "small": {"questions": QuestionSet("s", small, check_equal), "weight": 1},
        "large": {"questions": QuestionSet("l", large, check_equal), "weight": 1},
    }
    mixture = mixture_set("m", sources)
    assert [q.text for q in mixture.rows.train if source_of(q) == "small"] == ["q 0?", "q 1?", "q 2?"]
    assert "small/q-3, small/q-4" in mixture.rows.notes[-1]


def test_without_tested_rows_the_shares_stay() -> None:
    mixture = mix({"a": 1, "b": 1}, train=4)
    reduced = mixture.drop_tested({"bench": [Question("A  1?", ("1",), "other")]})
    assert [q.id for q in reduced.rows.train] == [q.id for q in mixture.rows.train if q.id != "a/a-1"]
    assert Counter(map(source_of, reduced.batch(0, 12, 0))) == {"a": 6, "b": 6}
    assert "dropped 1 row that is a question of bench: a/a-1" in reduced.rows.notes
    with pytest.raises(InputError, match=r"questions\.sources\.a=a: has no question to train on"):
        mixture.drop_tested({"bench": questions("a", 4)})


def grade(mixture: Mixture, extract: Callable[[str], str | None], pairs: Sequence[tuple[Question, str]]) -> list[Any]:
    grader = Grader(extract, mixture.check, mixture.extract_any, Reward({"right": RewardTerm(correctness)}))
    prompts = [Prompt(question, question.text, (1,), (0,)) for question, _ in pairs]
    completions = [[Completion((1,), (0.0,), text, True)] for _, text in pairs]
    verdicts = [group.verdicts[0] for group in grader.grade(prompts, completions, 8)]
    return [(verdict.strict, verdict.lenient) for verdict in verdicts]


def both_kinds() -> tuple[Mixture, Question, Question]:
    """A mixture whose sources look for answers and check them in different ways."""
    puzzle = Question("reach 24", ("24",), "c", meta={"numbers": [3, 3, 8, 8], "target": 24})
    formulas = QuestionSet("countdown", Rows([puzzle], []), check_countdown, last_expression)
    sources = {
        "sums": {"questions": simple("sums", 30), "weight": 1},
        "formulas": {"questions": formulas, "weight": 1},
    }
    mixture = mixture_set("m", sources)
    return mixture, mixture.rows.train[24], mixture.rows.train[30]


def test_each_question_is_checked_as_its_source_checks() -> None:
    mixture, number, puzzle = both_kinds()
    assert mixture.check("24.0", number) and not mixture.check("8/(3-8/3)", number)
    assert mixture.check("8/(3-8/3)", puzzle) and not mixture.check("8*3*3/8", puzzle)
    with pytest.raises(ValueError):
        mixture.check("24.0", puzzle)
    pairs = [("24", number), ("8/(3-8/3) = 24", puzzle), ("25", number), ("twenty", puzzle), ("24", puzzle)]
    c, w, u = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED
    assert mixture.check.many(pairs) == [c, c, w, u, w]  # type: ignore[attr-defined]
    assert mixture.check.many([]) == []  # type: ignore[attr-defined]


def test_each_answer_is_extracted_as_its_source_extracts() -> None:
    mixture, number, puzzle = both_kinds()
    formula, words = "I get 8 / (3 - 8/3) = 24", "no idea"
    pairs = [(number, formula), (puzzle, formula), (number, words), (puzzle, words), (puzzle, "so it is 24")]
    c, n = Outcome.CORRECT, Outcome.NO_ANSWER
    assert grade(mixture, last_boxed, pairs) == [(n, c), (n, c), (n, n), (n, n), (n, n)]
    tagged = [(puzzle, "</think> <answer>3*8</answer>"), (number, "</think> <answer>24</answer>")]
    assert grade(mixture, answer_tag, tagged) == [(Outcome.WRONG, Outcome.WRONG), (c, c)]
    assert mixture.check(mixture.extract_any(formula) or "", puzzle) is True
    with pytest.raises(ValueError, match="no answer"):
        mixture.check(mixture.extract_any(words) or "", puzzle)


def test_an_extractor_that_raises_costs_one_answer() -> None:
    def broken(text: str) -> str | None:
        raise KeyError(text)

    sources = {
        "a": {"questions": simple("a", 2, extract_any=broken), "weight": 1},
        "b": {"questions": simple("b", 2), "weight": 1},
    }
    mixture = mixture_set("m", sources)
    with pytest.warns(RuntimeWarning, match="broken raised KeyError"):
        verdicts = grade(mixture, last_boxed, [(mixture.rows.train[0], "0"), (mixture.rows.train[2], "0")])
    assert verdicts == [(Outcome.NO_ANSWER, Outcome.NO_ANSWER), (Outcome.NO_ANSWER, Outcome.CORRECT)]


def test_a_mixture_may_be_a_source() -> None:
    inner, _, _ = both_kinds()
    mixture = mixture_set(
        "outer", {"inner": {"questions": inner, "weight": 1}, "a": {"questions": simple("a", 2), "weight": 1}}
    )
    puzzle = mixture.rows.train[30]
    assert puzzle.id == "inner/formulas/c"
    assert grade(mixture, last_boxed, [(puzzle, "it is 8/(3-8/3)")]) == [(Outcome.NO_ANSWER, Outcome.CORRECT)]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"weight": 0}, "questions.sources.a.weight"),
        ({"weight": -1.0}, "questions.sources.a.weight"),
        ({"weight": float("nan")}, "questions.sources.a.weight"),
        ({"weight": "much"}, "questions.sources.a.weight"),
        ({"weight": None}, "questions.sources.a.weight"),
        ({"questions": None}, "questions.sources.a.questions"),
        ({"limit": 0}, "questions.sources.a.limit"),
        ({"limit": 0.5}, "questions.sources.a.limit"),
        ({"max_tokens": 0}, "questions.sources.a.max_tokens"),
        ({"template": "r1"}, "questions.sources.a.template"),
        ({"reward": "accuracy"}, "questions.sources.a.reward"),
        ({"wieght": 2}, "questions.sources.a.wieght"),
        ({"weight": 0.123456789}, "questions.sources"),
        ({"questions": simple("a", 0, 3)}, "questions.sources.a"),
    ],
)
def test_impossible_sources_are_refused(changes: dict[str, Any], key: str) -> None:
    good = {"questions": simple("b", 2), "weight": 1.0}
    with pytest.raises(InputError) as error:
        mixture_set("m", {"a": {**good, "questions": simple("a", 2), **changes}, "b": good})
    assert error.value.key == key


@pytest.mark.parametrize("name", ["a/b", "", "two words", "level_2", "Level 3", "x" * 41])
def test_sources_need_names_that_curves_can_bear(name: str) -> None:
    with pytest.raises(InputError, match=r"questions\.sources=.*one word"):
        mixture_set("m", {name: {"questions": simple("a", 2), "weight": 1.0}})
    with pytest.raises(InputError, match=r"questions\.sources"):
        mixture_set("m", {})


def test_a_source_may_bring_its_own_template_reward_and_budget(tokenizer: Any) -> None:
    tagged = Template("tags", "Q: {question} <think>", answer_tag, ["</answer>"])
    shy = Reward({"short": RewardTerm(lambda r: float(r.tokens) / r.budget, 0.5)})
    own = {"template": tagged, "reward": shy, "max_tokens": 4}
    mixture = mixture_set(
        "m", {"a": {"questions": simple("a", 2), "weight": 1} | own, "b": {"questions": simple("b", 2), "weight": 1}}
    )
    assert list(mixture.settings) == ["a"]
    plain = Template("none", "{question}", last_boxed, [])
    template = source_templates(plain, mixture, {"stop_text": ["END"]})
    first, second = (template.prompt(mixture.batch(0, 2, 0)[i], tokenizer, (0, i)) for i in (0, 1))
    assert first.text.startswith("Q: a") and second.text == second.question.text
    sampling = Sampling(8, stop=("STOP",))
    assert first.sampling(sampling) == Sampling(4, stop=("</answer>", "END")) and second.sampling(sampling) is sampling

    grader = Grader(
        last_boxed, mixture.check, mixture.extract_any, Reward({"right": RewardTerm(correctness)}), mixture.settings
    )
    texts = [f"so </think> <answer>{first.question.answer[0]}</answer>", f"so \\boxed{{{second.question.answer[0]}}}"]
    completions = [[Completion((1, 2), (0.0, 0.0), text, True)] for text in texts]
    groups = grader.grade([first, second], completions, 8)
    assert [group.verdicts[0].strict for group in groups] == [Outcome.CORRECT, Outcome.CORRECT]
    assert [dict(group.verdicts[0].terms) for group in groups] == [{"short": 0.25}, {"right": 1.0}]
    metrics = summarize(groups)  # the terms add up to the reward, though no response has all
    assert metrics["reward/short"] + metrics["reward/right"] == metrics["train/reward"] == 0.625
    assert (metrics["reward/a/mean"], metrics["reward/b/mean"]) == (0.25, 1.0)


OWN = [
    "+reward@questions.sources.nano_gsm.reward=oat_zero",
    "+template@questions.sources.nano_gsm.template=r1",
    "+questions.sources.nano_gsm.max_tokens=64",
]


def test_a_source_brings_its_own_from_the_command_line() -> None:
    config = configs.check("train", ["questions=mixture", "sampling.max_tokens=96", *OWN])
    own = configs.instantiate(config["questions"]).settings["nano_gsm"]
    assert own.template.name == "r1" and own.max_tokens == 64 and isinstance(own.reward, Reward)
    assert config["template"]["name"] == "none"  # the run's own choice is another
    with pytest.raises(InputError, match=r"nano_gsm\.max_tokens=64: is more than sampling\.max_tokens, 32"):
        configs.check("train", ["questions=mixture", "sampling.max_tokens=32", *OWN])


ADDED = ["+questions@questions.sources.easy.questions=nano_asdiv", "+questions.sources.easy.weight=0.5"]


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ([], {"nano_math": 20, "nano_gsm": 20}),
        (ADDED, {"nano_math": 14, "nano_gsm": 13, "easy": 13}),
        (["questions.sources.nano_gsm.weight=1.5"], {"nano_math": 10, "nano_gsm": 30}),
        (["questions@questions.sources.nano_gsm.questions=nano_countdown"], {"nano_math": 20, "nano_gsm": 20}),
    ],
)
def test_from_the_command_line(overrides: list[str], shares: dict[str, int]) -> None:
    config = configs.check("train", ["questions=mixture", *overrides])
    mixture = configs.instantiate(config["questions"])
    assert Counter(map(source_of, mixture.batch(0, 40, seed=0))) == shares
    for question in (*mixture.rows.train[:5], *mixture.rows.heldout[:5]):
        solution = last_boxed(question.solution) if "numbers" in question.meta else question.answer[0]
        assert solution is not None and mixture.check(solution, question)

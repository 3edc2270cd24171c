"""What each reward term pays for, what it must not pay for, and the presets of conf/reward."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.grading import Reward, RewardTerm
from zero.grading import rewards as r
from zero.grading import rewards_length as rl
from zero.records import Outcome, Question, Response

Term = Callable[[Response], float]
RIGHT, WRONG, NONE = Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER

CARDS = Question("", ("24",), "q", meta={"numbers": [3, 3, 8, 8], "target": 24})
LINES = "<think>\na\nb\n</think>\n<answer>\n7\n</answer>"
TIGHT = "<think>a\nb</think><answer>7</answer>"
XML = LINES.replace("think", "reasoning")
OPENED = "Let me solve this step by step.\n<think>"


def make_response(text: str = "", strict: Outcome = WRONG, answer: str | None = "7", **facts: Any) -> Response:
    known: dict[str, Any] = {"question": CARDS, "prompt": "Q", "tokens": 50, "budget": 100, "finished": True}
    known |= {"lenient": strict} | facts
    return Response(text=text, strict=strict, answer=None if strict is NONE else answer, **known)


@pytest.mark.parametrize(
    ("term", "values"),
    [
        (r.correctness, [1, 0, 0, 0, 0, 0]),
        (partial(r.correctness, right=2.0, wrong=-0.5), [2, -0.5, -0.5, -0.5, -0.5, -0.5]),
        (partial(r.correctness, wrong=-0.5, no_answer=-1.0), [1, -0.5, -1, -0.5, -0.5, -0.5]),
        (r.has_answer, [1, 1, 0, 1, 1, 1]),
        (r.general_points, [5, -2, -3, -2, -2, -2]),
    ],
)
def test_by_outcome(term: Term, values: list[float]) -> None:
    """In the order right, wrong, no answer, unparsed, timeout, failed; the answer is 7."""
    assert [term(make_response(strict=outcome)) for outcome in Outcome] == values


def test_the_lenient_term_asks_for_the_lenient_outcome() -> None:
    assert r.lenient_correctness(make_response(strict=NONE, lenient=RIGHT), right=2.0) == 2.0
    assert r.lenient_correctness(make_response(strict=NONE, lenient=NONE), no_answer=-1.0) == -1.0


@pytest.mark.parametrize("text", ["7", "-7", "+7", "\u22127", "1,000", "-12,345,678", " 7 ", "007", "9" * 5000])
def test_integers(text: str) -> None:
    assert r.integer(make_response(answer=text)) == 1


@pytest.mark.parametrize("text", ["", "-", "7.0", "1,00", "1,0000", ",100", "7a", "1e3", "3/1", "\u0667", "- 7", "7 8"])
def test_no_integers(text: str) -> None:
    assert r.integer(make_response(answer=text)) == 0


def test_no_answer_is_no_integer() -> None:
    assert r.integer(make_response("7", strict=NONE)) == 0


STRICT = partial(r.tag_format, own_lines=True)
LOOSE = partial(r.tag_format, own_lines=False)
EMPTY = "<think>\n\n</think>\n<answer>\n\n</answer>"
FORMS = [  # response; strict, loose, in order
    (LINES, (1, 1, 1)), (LINES + "\n", (1, 1, 1)), (TIGHT, (0, 1, 1)), (TIGHT + " \n", (0, 1, 1)), (EMPTY, (1, 1, 1)),
    (TIGHT.replace("><answer", "> \n\t<answer"), (0, 1, 1)), ("\n" + LINES, (0, 1, 1)),
    (LINES + "!", (0, 0, 1)), (LINES + "\n\n", (0, 1, 1)), (LINES + "\n" + LINES, (0, 0, 1)), ("So: " + LINES, (0, 0, 0)),
    (LINES.replace("a\n", "<think>\n"), (0, 0, 1)), (LINES.replace("7", "<answer>\n7"), (0, 0, 1)),
    (LINES.replace("</think>\n", "</think>\nso\n"), (0, 0, 0)), (LINES.replace("\n<answer>\n", ""), (0, 0, 0)),
    (LINES.removesuffix("</answer>"), (0, 0, 0)), ("<think>\n</think>\n<answer>\n</answer>", (0, 1, 1)),
    ("<answer>\n7\n</answer>\n<think>\na\n</think>", (0, 0, 0)), ("", (0, 0, 0)), ("<think>", (0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values"), FORMS)
def test_forms(text: str, values: tuple[int, ...]) -> None:
    assert tuple(term(make_response(text)) for term in (STRICT, LOOSE, r.tags_in_order)) == values
    demo = make_response(text.replace("think", "reasoning"))
    assert tuple(term(demo, think="reasoning") for term in (STRICT, LOOSE, r.tags_in_order)) == values


@pytest.mark.parametrize("opening", ["<think>", "<think>\n"])
@pytest.mark.parametrize("term", [STRICT, LOOSE, r.tags_in_order, r.tag_count])
def test_a_tag_that_the_prompt_opened_is_put_back(term: Term, opening: str) -> None:
    without_opening = make_response(LINES.removeprefix(opening), prompt=f"... <think> </think> ...\n{opening}")
    assert term(without_opening) == 1
    assert term(replace(without_opening, prompt="Q")) < 1


def test_a_tag_may_not_be_written_twice() -> None:
    assert [term(make_response(LINES, prompt=OPENED)) for term in (STRICT, LOOSE)] == [0, 0]


def test_the_form_of_an_arithmetic_answer_has_tiers() -> None:
    answers = {"(1 + 2)*3/4.": 1.0, "7\n": 1.0, "1+2=3": 0.5, "": 0.5, "\\frac12": 0.5, "\u0667": 0.5, "2**3": 1.0}
    for answer, value in answers.items():
        assert r.arithmetic_format(make_response(f"a</think>\n<answer>{answer}</answer>", prompt=OPENED)) == value
    assert r.arithmetic_format(make_response("a</think>\n<answer>7</answer> so", prompt=OPENED)) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (LINES, 1), (LINES + "\n" + LINES, 0.0), (LINES.replace("\n</think>", "</think>"), 0.75), ("<think>\n", 0.25),
        (LINES.removesuffix("\n</answer>"), 0.75), (LINES + "and more", 1), (TIGHT, 0), ("", 0),
    ],
)  # fmt: skip
def test_tags_are_counted(text: str, value: float) -> None:
    assert r.tag_count(make_response(text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [(XML, 0.5), (XML + "\n", 0.5), (XML + "\n" + "x" * 100, 0.4), (XML + "x" * 100, 0.4), (XML + "x" * 9000, 0.0),
     ("<reasoning>\n" + "x" * 9000, 0.125), ("x" * 9000, 0.0), ("", 0.0)],
)  # fmt: skip
def test_text_after_the_xml_costs(text: str, value: float) -> None:
    assert r.xml_count(make_response(text)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("First, a. Next, b. Finally, c", 3), ("x\n1. a\n2. b", 2), ("Step 1: a Step 22: b", 2), ("- a\n* b", 2),
     ("3.14 and\n2.72", 0), ("Firstly, a-b", 0)],
)  # fmt: skip
def test_steps(text: str, count: int) -> None:
    assert r.reasoning_steps(make_response(text), enough=4) == count / 4
    assert r.reasoning_steps(make_response(text * 9)) in (0.0, 1.0)


def test_the_word_boxed() -> None:
    assert r.boxed_present(make_response("\\boxed{")) == 1
    assert r.boxed_present(make_response("7"), absent=-0.5) == -0.5


@pytest.mark.parametrize(
    ("answer", "close", "points"),
    [
        ("8*3*(8-3)", 0.0, -1), ("3*8+3-8", 1 - 5 / 24, -1), ("8/(3-3)+8", 0.0, -1), ("(8+8)+3+3 = 24", 1 - 2 / 24, -1),
        ("(8+8)*3/2", 0.0, -2), ("8*3", 0.0, -2), ("8*3+3+8-8", 0.0, -2), ("8*3**3", 0.0, -3), ("8//3", 0.0, -3),
        ("$8\\times 3+(8-3)$", 1 - 5 / 24, -1), ("8*3+8-3 = 24", 1 - 5 / 24, -1), ("3+8=3+8", 0.0, -3),
        ("words", 0.0, -3), ("", 0.0, -3), ("((", 0.0, -3), ("9" * 499, 0.0, -2), ("9" * 10_000, 0.0, -3),
        ("\u0663+3+8+8", 0.0, -3),
    ],
)  # fmt: skip
def test_arithmetic_is_read_exactly(answer: str, close: float, points: float) -> None:
    assert r.closeness(make_response(answer=answer)) == pytest.approx(close, abs=1e-15)
    assert r.general_points(make_response(answer=answer)) == points


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("3*8+3-8", 1.0), ("8/(3-3)+8", 1.0), ("8*3", 0.0), ("8*3+8", 0.5), ("3+3+8", 0.5), ("3+3+8+8+8", 2 / 5),
        ("3+8+3+8+1+2", 4 / 6), ("1+2+4", 0.0), ("24", 0.0), ("3, 3, 8, 8", 0.0), ("words", 0.0), ("", 0.0), ("((", 0.0),
        ("3+8=3+8", 0.0), ("9" * 499, 0.0), ("+".join(map(str, range(100))), 0.0),
    ],
)  # fmt: skip
def test_numbers_overlap(answer: str, share: float) -> None:
    """Of 3, 3, 8, 8: a number counts where it is used as often as it is given, and numbers beyond them thin it out."""
    assert r.numbers_overlap(make_response(answer=answer)) == pytest.approx(share)


@pytest.mark.parametrize("term", [r.closeness, r.numbers_overlap])
def test_right_is_worth_one_and_a_target_is_needed(term: Term) -> None:
    assert term(make_response(strict=RIGHT, answer="$8\\div(3-8\\div3)$")) == 1
    plain = Question("", ("24",), "q")
    for outcome in (RIGHT, WRONG):
        with pytest.raises(ValueError, match="target"):
            term(make_response(question=plain, strict=outcome))


def test_closeness_falls_with_the_distance_and_stays_below_one_while_the_answer_is_wrong() -> None:
    def close(answer: str, target: int = 24) -> float:
        game = Question("", (str(target),), "q", meta={"numbers": [1, 2, 3], "target": target})
        return r.closeness(make_response(answer=answer, question=game))

    by_distance = [close(answer) for answer in ("(1+2)*3", "2*3+1", "1+2+3", "1*2+3", "3-2-1", "1-2-3")]
    assert by_distance == pytest.approx([9 / 24, 7 / 24, 6 / 24, 5 / 24, 0.0, 0.0])
    assert by_distance == sorted(by_distance, reverse=True)
    assert close("1-2-3", -5) == pytest.approx(1 - 1 / 5) and close("1-2*3", 0) == 0.0
    # a right value with a false claim is as far off as the claim; one outcome of the checker is not questioned here
    assert close("1+2+3 = 8", 6) == pytest.approx(1 - 2 / 6) and close("1+2+3 = 6", 8) == pytest.approx(1 - 2 / 8)
    assert 0.9999 < close("1+2+3", 6) < 1.0


def test_without_cards_no_numbers_are_wrong() -> None:
    assert r.general_points(make_response(question=Question("", ("24",), "q"))) == -1


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("", 3, 0), ("a b", 3, 0), ("a b c", 3, 0), ("a b c d", 3, 0), ("a a a a", 3, -1 / 2), ("a " * 102, 3, -0.99),
        ("A a a", 1, -2 / 3), ("a b a b a b", 2, -3 / 5), ("\u6c34" * 6, 3, -3 / 4), ("aaaaaaaa", 3, 0),
    ],
)  # fmt: skip
def test_repetition(text: str, n: int, value: float) -> None:
    assert rl.repetition_penalty(make_response(text), n=n) == pytest.approx(value)
    assert rl.repetition_penalty(make_response(text), n=n, most=-0.5) == pytest.approx(value / 2)


def test_cosine_falls_to_the_budget_and_stays() -> None:
    right = [rl.cosine_length(make_response(strict=RIGHT, tokens=t)) for t in (0, 50, 100, 150, 200)]
    wrong = [rl.cosine_length(make_response(tokens=t)) for t in (0, 50, 100, 200)]
    assert right == pytest.approx([1.0, 0.75, 0.5, 0.5, 0.5])
    assert wrong == pytest.approx([0.0, -0.25, -0.5, -0.5])
    assert rl.cosine_length(make_response(tokens=100), wrong=[-1.0, -0.5]) == -0.5


def group(*members: tuple[int, Outcome]) -> list[Response]:
    alone = [make_response(tokens=tokens, strict=outcome) for tokens, outcome in members]
    return [replace(response, siblings=tuple(alone)) for response in alone]


def test_length_compares_siblings() -> None:
    responses = group((10, RIGHT), (20, RIGHT), (30, RIGHT), (10, WRONG), (30, NONE))
    assert [rl.length(response) for response in responses] == [0.5, 0.0, -0.5, 0.0, -0.5]
    assert [rl.length(response) for response in group((10, RIGHT), (10, WRONG))] == [0.0, 0.0]
    assert rl.length(make_response()) == 0.0  # no siblings


def test_overlong_is_punished_in_the_last_part_of_the_budget() -> None:
    values = [rl.soft_overlong(make_response(tokens=t), share=0.25) for t in (0, 75, 80, 100, 101)]
    assert values == pytest.approx([0, 0, -0.2, -1, -1])
    assert rl.soft_overlong(make_response(tokens=3, budget=0)) == -1.0
    with pytest.raises(ValueError, match="share"):
        rl.soft_overlong(make_response(), share=0.0)


def test_truncation_costs() -> None:
    assert [rl.truncation_penalty(make_response(finished=f), value=-0.3) for f in (True, False)] == [0.0, -0.3]


TERMS: list[tuple[Term, float, float]] = [
    (r.correctness, 0, 1), (r.lenient_correctness, 0, 1), (r.has_answer, 0, 1), (r.boxed_present, 0, 1),
    (r.integer, 0, 1), (r.closeness, 0, 1), (r.numbers_overlap, 0, 1), (r.general_points, -3, 5), (STRICT, 0, 1), (LOOSE, 0, 1),
    (r.arithmetic_format, 0, 1), (r.tags_in_order, 0, 1), (r.tag_count, 0, 1), (r.xml_count, 0, 0.5),
    (r.reasoning_steps, 0, 1), (rl.repetition_penalty, -1, 0), (rl.cosine_length, -0.5, 1), (rl.length, -0.5, 0.5),
    (rl.soft_overlong, -1, 0), (rl.truncation_penalty, -1, 0),
]  # fmt: skip
pieces = st.sampled_from("<think> </think> <answer> </answer> <reasoning> \n 7 ( ) + = boxed - Step\x001:".split(" "))
texts = st.one_of(st.text(), st.lists(pieces).map("".join))


@given(texts, texts, st.sampled_from(Outcome), st.integers(0, 300), st.integers(0, 200), st.booleans())
def test_terms_are_total_and_bounded(
    text: str, answer: str, outcome: Outcome, tokens: int, budget: int, done: bool
) -> None:
    for term, least, most in TERMS:
        value = term(make_response(text, outcome, answer, prompt=answer, tokens=tokens, budget=budget, finished=done))
        assert math.isfinite(value) and least <= value <= most, term


def test_every_term_is_in_the_table() -> None:
    named = {getattr(term, "func", term) for term, _, _ in TERMS}
    written = {f for module in (r, rl) for name, f in vars(module).items() if callable(f) and not name.startswith("_")}
    written -= {r.episode_return}  # whatever an environment gives: test_grader.py
    assert {f for f in written if getattr(f, "__annotations__", {}).get("return") == "float"} == named


SEEDS = [
    "<think>", "</think>", "</think> ", "</think>\n<answer>", "<answer></answer>", "\n</answer>", " ", "\n", "1", "1.",
    "1,", ",111", "Step ", "Step 1", "\n1", "a ", "a", "\u6c34", "(", "((1)", "1+", "boxed", "\0", "\ud800", "=", "- ",
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_terms_take_linear_time(seed: str) -> None:
    text = seed * (50_000 // len(seed))
    for body in (text, f"<think>{text}", f"<think>{text}</think><answer>7</answer>", f"{LINES}{text}"):
        began = time.process_time()
        for term, _, _ in TERMS:
            term(make_response(body, answer=body))
        assert time.process_time() - began < 4.0  # takes 0.1; a quadratic term takes minutes


# Presets


FULL = "<think>\nwait\n</think>\n<answer>\n(1+2)\n</answer>"
BOXED = "it is \\boxed{7}"
MOST = {  # a full response, what it is worth if it is right, and what if it is wrong
    "accuracy": (BOXED, 1, 0), "tinyzero": (FULL, 1, 0.1), "oat_zero": (FULL, 1, 0.1), "mini_r1": (FULL, 2, 1),
    "nano_aha": (FULL, 2, 1), "gsm8k_xml": (FULL.replace("think", "reasoning"), 4, 2), "simplerl": (BOXED, 1, -0.5),
    "orz": (FULL, 1, 0), "open_r1": (FULL, 3, 2), "general_points": (FULL, 5, -2), "dapo_overlong": (BOXED, 1, -1),
    "weighted": (BOXED, 1.1, 0.1), "closeness": (FULL, 1, 0), "numbers_overlap": (FULL, 1, 0),
}  # fmt: skip
PAYS_FOR_FORM = {"mini_r1", "nano_aha", "gsm8k_xml", "simplerl", "open_r1"}  # even to a cut response: see their yaml


def preset(name: str) -> Reward:
    return instantiate(OmegaConf.load(ROOT / "conf" / "reward" / f"{name}.yaml"), _convert_="all")


def worth(reward: Reward, *responses: Response) -> list[float]:
    return [sum(terms.values()) for terms in reward(responses)]


def test_every_preset_is_in_the_table() -> None:
    # these need tests and a sandbox, a data set's scorer or an episode: test_code.py, test_gym.py and test_grader.py
    elsewhere = {"code", "code_binary", "gym", "environment"}
    assert {path.stem for path in (ROOT / "conf" / "reward").glob("*.yaml")} == set(MOST) | elsewhere


@pytest.mark.parametrize("name", ["closeness", "numbers_overlap"])
def test_partial_credit_is_at_most_half(name: str) -> None:
    reward = preset(name)
    answers = ("8*3+8-3", "8+8+3+3", "8*3", "(8-3)*3+8 = 24", "no", "8*3*(8-3)*9")
    credits = worth(reward, *(make_response(FULL, answer=answer) for answer in answers))
    assert all(0 <= credit <= 0.5 for credit in credits) and credits[0] > 0.35 and credits[4] == 0
    assert worth(reward, make_response(FULL, RIGHT, answer="8/(3-8/3)")) == [1.0]


@pytest.mark.parametrize("name", MOST)
def test_presets_order_answers(name: str) -> None:
    text, right, wrong = MOST[name]
    reward = preset(name)
    values = worth(reward, *(make_response(text, outcome) for outcome in (RIGHT, WRONG, NONE)))
    assert values[:2] == pytest.approx([right, wrong])
    assert values[0] > values[1] >= values[2]
    formless = worth(reward, make_response("7", RIGHT), make_response("7", WRONG), make_response("7", NONE))
    assert formless[0] > formless[1] >= formless[2]


@pytest.mark.parametrize("name", MOST)
def test_presets_never_pay_for_being_cut(name: str) -> None:
    """No beginning of a response, cut by the budget, is worth more than all of it, finished and wrong."""
    text, reward = MOST[name][0], preset(name)
    wholes = [make_response(text, tokens=40)] + (
        [] if name in PAYS_FOR_FORM else [make_response("no", tokens=40, answer="no")]
    )
    for whole in wholes:
        for end in range(len(text) + 1):
            cut = make_response(text[:end], RIGHT, tokens=100, finished=False)
            finished, cut_short = worth(reward, whole, cut)
            assert cut_short <= finished


def own_term(response: Response, per: float) -> float:
    return response.tokens / per


def test_a_term_of_ones_own_needs_its_dotted_path_only() -> None:
    term = {"function": f"{__name__}.own_term", "weight": 2.0, "per": 100}
    config = {"_target_": "zero.grading.make_reward", "terms": {"own": term}}
    assert instantiate(OmegaConf.create(config), _convert_="all")([make_response(tokens=25)]) == [{"own": 0.5}]


def test_a_setting_that_cannot_work_is_named() -> None:
    reward = Reward({"late": RewardTerm(partial(rl.soft_overlong, share=2.0))})
    with pytest.raises(InputError, match=r"reward\.terms\.late.*share must be"):
        reward([make_response()])

"""The verifier's messages: one line each, and "right" exactly where the checker says so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero.errors import InputError
from zero.grading.countdown import countdown_correct, read_expression
from zero.grading.explain import explain
from zero.records import Question


def question(numbers: list[int], target: int) -> Question:
    return Question("reach it", (str(target),), "q", meta={"numbers": numbers, "target": target})


HAND = question([3, 8, 3, 8], 24)
FORM = "no formula was found in the form that was asked for"
ILLEGAL = "the formula has illegal characters: only whole numbers, +, -, *, / and parentheses are allowed"
MALFORMED = "the formula is incomplete or not well-formed"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("8/(3-8/3)", None),
        ("8 \\div (3 - 8 \\div 3) = 24.", None),
        (None, FORM),
        ("", MALFORMED),
        ("8/(3-8/3", MALFORMED),
        ("8 8 3 3", MALFORMED),
        ("3*8 = 8*3", MALFORMED),
        ("8**3+8-3", MALFORMED),
        ("2.5*8", ILLEGAL),
        ("eight times three", ILLEGAL),
        ("(3*8)! + 3 - 8", ILLEGAL),
        ("3" * 501, "the formula is longer than 500 characters"),
        ("3*8+7-7*9", "you used invalid numbers: [7, 9], you didn't use numbers: [3, 8]"),
        ("3*8+3-3+8/8", "you used numbers: [3, 8] too many times"),
        ("8*3", "you didn't use numbers: [3, 8]"),
        ("8+8+3", "you didn't use numbers: [3]"),
        ("8+8+8", "you used numbers: [8] too many times, you didn't use numbers: [3, 3]"),
        ("1" * 30, "you used invalid numbers: [111111111...], you didn't use numbers: [3, 3, 8, 8]"),
        (
            "+".join(map(str, range(10, 30))) + "+3+3+8+8",
            "you used invalid numbers: [10, 11, 12, 13, 14, 15, 16, 17, ...]",
        ),
        ("8/3*8+3", "your formula equals 73/3, not 24"),
        ("8-3-8-3", "your formula equals -6, not 24"),
        ("8/(3-3)+8", "your formula divides by zero"),
        ("8/(3-8/3) = 25", "your formula equals 24, not what you wrote after ="),
    ],
)
def test_every_kind_of_message(answer: str | None, message: str | None) -> None:
    assert explain(answer, HAND) == message


PIECES = st.lists(
    st.sampled_from(["1", "2", "7", "12", "+", "-", "*", "/", "(", ")", " ", "=", "24", ".", "x", "\\times"])
)
FORMS = ["({0}{x}{1}){y}{2}", "{0}{x}({1}{y}{2})", "{0}{x}{1}{y}{2}"]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(1, 13), min_size=3, max_size=3),
    st.permutations([0, 1, 2]),
    st.sampled_from(FORMS),
    st.sampled_from("+-*/"),
    st.sampled_from("+-*/"),
    st.one_of(st.just(""), PIECES.map("".join), st.text(max_size=20)),
    st.integers(0, 40),
)
def test_an_answer_is_right_exactly_where_the_checker_says_so(
    numbers: list[int], order: list[int], form: str, x: str, y: str, tail: str, other: int
) -> None:
    formula = form.format(*(numbers[i] for i in order), x=x, y=y)
    value = read_expression(formula).value
    whole = value is not None and value.denominator == 1
    target = int(value) if whole and value is not None else other
    assert (explain(formula, question(numbers, target)) is None) == whole
    for answer in (formula + tail, tail + formula, tail):
        message = explain(answer, question(numbers, target))
        assert (message is None) == countdown_correct(answer, numbers, target)
        if message is not None:  # one short line whose only words of the model are numbers
            assert message.isascii() and message.isprintable() and len(message) < 200


def test_another_kind_of_question_is_refused() -> None:
    with pytest.raises(InputError, match=r"^environment\.make\.explain=.*question q has no numbers and target"):
        explain("4", Question("2+2", ("4",), "q"))

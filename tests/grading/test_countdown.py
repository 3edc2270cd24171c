"""Countdown expressions: accepted, refused, and never executed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.grading import check_countdown, countdown_correct
from zero.grading.countdown import (
    check_at_most_once,
    check_exactly_once,
    evaluate,
    read_expression,
    tokenize,
)
from zero.records import Question

RIGHT = [
    ("(55-36)*19", [19, 36, 55], 361), (" ( 1 + 2 ) / 3 ", [1, 2, 3], 1), ("8/(3-8/3)", [3, 3, 8, 8], 24),
    ("5*(5-1/5)", [1, 5, 5, 5], 24), ("55 - 36 + 19 = 38", [19, 36, 55], 38), ("1-2=-1", [1, 2], -1),
    ("1-2", [1, 2], -1), ("2+3.", [2, 3], 5), ("2+3=5.", [2, 3], 5), ("36 + 36 = 72", [36, 36], 72),
    ("$6 \\times 3 \\div 2$", [2, 3, 6], 9), ("\\left(1+2\\right)\\cdot 3", [1, 2, 3], 9), ("\\(1+2\\)", [1, 2], 3),
    ("6\u00d73\u22122", [2, 3, 6], 16), ("6\u00f73", [3, 6], 2), ("((((1))))+2", [1, 2], 3), ("10-4-3", [3, 4, 10], 3),
    ("(1 +\n 2)\r\n/ 3\n= 1", [1, 2, 3], 1), ("7", [7], 7), ("007+1", [1, 7], 8), ("0/5+2", [0, 2, 5], 2),
]  # fmt: skip
WRONG = [  # arithmetic, but not the answer
    ("55-36", [19, 36, 55], 19), ("2+3", [2, 3], 6), ("2+3+3", [2, 3], 8), ("2+3", [2, 3, 3], 5),
    ("3+3", [2, 3], 6), ("36", [79, 17, 60], 36), ("23", [2, 3], 23), ("2+3=6", [2, 3], 5), ("2+4=5", [2, 3], 5),
    ("1+2=-3", [1, 2], 3), ("4/(2-2)", [2, 2, 4], 0), ("4/(2-2)*0", [0, 2, 2, 4], 0), ("0/0", [0, 0], 0),
    ("1/3", [1, 3], 0), ("9*9*9", [9, 9, 9], 9**81), ("2+3=" + "5" * 400, [2, 3], 5),
    ("10" * 200 + "+1", [1], 1),
]  # fmt: skip
UNREADABLE = [  # no arithmetic of this game, or not all of it
    "9**9**9", "79**17**60", "7//2", "6%4", "6^2", "2<<3", "~2", "1.5+2", "2.0+3", ".5+2", "2e0+3", "0x2+3", "1_0+2",
    "\u0662+3", "\u0663+\u0664", "\u00b2+3", "\uff12+\uff13", "-3+5", "+3+5", "3-(-5)", "3--5", "+-+3", "2++3", "-(2+3)",
    "2(3)", "(2)(3)", "2 3", "2\n3", "1 + 2\n3 + 4", "2,3", "2+*3", "2+3+", "(2+3", "2+3)", ")2+3(", "()2+3", "(", ")",
    "", " ", "()", "4/(2-2)+", "4/(2-2))", "1/0 1", "2+3=", "=5", "5=2+3", "2+3=5=5", "2+3=x", "2+3=5.0", "2+3==5",
    "2+3\0", "2+3 # ok", "2+3;", "hello", "J+3", "two plus three", "__import__('os')", "[2][0]", "2\\timesx3", "\\frac{2}{3}",
    "(" * 10_000 + "2" + ")" * 10_000, "(" * 240 + "2" + ")" * 239, "9" * 501, "1+" * 250 + "1", "\ud800",
]  # fmt: skip


def problem(numbers: list[int], target: int) -> Question:
    return Question("", (str(target),), "q", meta={"numbers": numbers, "target": target})


@pytest.mark.parametrize(("expression", "numbers", "target"), RIGHT)
def test_right(expression: str, numbers: list[int], target: int) -> None:
    assert countdown_correct(expression, numbers, target)
    assert check_exactly_once(expression, problem(numbers, target))
    assert check_at_most_once(expression, problem(numbers, target))
    assert check_at_most_once(expression, problem([*numbers, 77], target))
    assert not check_exactly_once(expression, problem([*numbers, 77], target))


@pytest.mark.parametrize(("expression", "numbers", "target"), WRONG)
def test_wrong(expression: str, numbers: list[int], target: int) -> None:
    assert not countdown_correct(expression, numbers, target)
    assert check_exactly_once(expression, problem(numbers, target)) is False


@pytest.mark.parametrize("expression", UNREADABLE)
def test_unreadable(expression: str) -> None:
    question = problem([2, 3], 5)
    for check in (check_exactly_once, check_at_most_once, check_countdown):
        with pytest.raises(ValueError):
            check(expression, question)
    assert not countdown_correct(expression, [2, 3], 5)


@pytest.mark.parametrize(
    ("expression", "numbers", "target", "right"),
    [
        ("36", [36, 1, 2], 36, True),
        ("36+36", [36, 1, 2], 72, False),
        ("36+36", [36, 36, 2], 72, True),
        ("36+3", [36, 1, 2], 39, False),
        ("36+1", [36, 1, 2], 36, False),
        ("36+1=36", [36, 1, 2], 37, False),
        ("1/(2-2)", [1, 2, 2], 0, False),
    ],
)
def test_at_most_once(expression: str, numbers: list[int], target: int, right: bool) -> None:
    assert check_at_most_once(expression, problem(numbers, target)) is right


def test_what_is_read_from_an_answer() -> None:
    expression = read_expression("8/(3 - 8/5) = 24")
    assert (expression.numbers, expression.value, expression.claimed) == ((3, 5, 8, 8), Fraction(40, 7), 24)
    assert read_expression("3/(2-2)").value is None
    assert read_expression("36 + 2*36 = 108").numbers == (2, 36, 36)


def test_deep_nesting_within_the_length_is_still_read() -> None:
    assert countdown_correct("(" * 249 + "2" + ")" * 249, [2], 2)


def test_arithmetic_is_exact() -> None:
    assert not countdown_correct("1/3*3-1+1000000000000000", [1, 3, 3, 1, 10**15], 10**15 + 1)
    assert countdown_correct("1/3+1/3+1/3", [1, 3, 1, 3, 1, 3], 1)


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=8,
)


def python_value(tokens: list[str]) -> Fraction:
    """Python's own value of the tokens, with every number a Fraction."""
    return eval("".join(f"Fraction({t})" if t.isdigit() else t for t in tokens), {"Fraction": Fraction})


@given(expressions)
def test_agrees_with_python(expression: str) -> None:
    tokens = tokenize(expression)
    try:
        expected = python_value(tokens)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(tokens)
    else:
        assert evaluate(tokens) == expected


@given(st.lists(st.sampled_from(["1", "2", "3", "+", "-", "*", "/"]), min_size=1, max_size=12))
def test_precedence_agrees_with_python(tokens: list[str]) -> None:
    """Without parentheses: well formed ones have Python's value, the others are refused."""
    if len(tokens) % 2 == 1 and all(t.isdigit() == (i % 2 == 0) for i, t in enumerate(tokens)):
        assert evaluate(tokens) == python_value(tokens)
    else:
        with pytest.raises(ValueError):
            evaluate(tokens)


@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/()=. \\$")))
def test_total(text: str) -> None:
    correct = countdown_correct(text, [2, 3], 5)
    try:
        assert check_exactly_once(text, problem([2, 3], 5)) is correct
    except ValueError:
        assert not correct

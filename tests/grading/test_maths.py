r"""What counts as equal, as a table. Many rows are answers on which other graders of this field are known to fail."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.grading import check_equal, math_equal
from zero.grading.maths import normal_form, number
from zero.records import Question

EQUAL = [
    ("72", "72"), ("72.", "72"), ("72.0", "72"), ("+72", "72"), ("025", "25"), ("-0", "0"), ("5.", "5"), (".5", "0.5"),
    ("$72$", "72"), ("$$72$$", "72"), ("\\(72\\)", "72"), ("\\[72\\]", "72"), ("$72.$", "72"), (" 72\n", "72"),
    ("\\text{72}", "72"), ("\\mathbf{72}", "72"), ("\u221272", "-72"), ("1,234", "1234"), ("1{,}234", "1234"),
    ("10,\\!000", "10000"), ("1\\,000", "1000"), ("1,234,567.5", "1234567.5"), ("$5", "5"), ("\\$5", "5"),
    ("-\\$0.50", "-1/2"), ("$\\$ 5.00$", "5"), ("50%", "50"), ("50\\%", "50"), ("$50 \\%$", "50"), ("1/2", "0.5"),
    ("2/4", "1/2"), ("\\frac{2}{4}", "1/2"), ("\\frac12", "1/2"), ("\\frac 1 2", ".5"), ("\\frac1{2}", "1/2"),
    ("\\dfrac{1}{2}", "\\tfrac12"), ("-\\frac{1}{2}", "\\frac{-1}{2}"), ("\\frac{-1}{2}", "-0.5"), ("1/-2", "-1/2"),
    ("\\frac{0.5}{2}", "1/4"), ("1\\frac{1}{2}", "1.5"), ("1 1/2", "3/2"), ("-1\\frac12", "-3/2"),
    ("11 \\frac{2}{3}", "35/3"), ("1e3", "1000"), ("4.4e7", "4.4 \\times 10^7"), ("4.4 \\times 10^{7}", "44000000"),
    ("10^{-3}", "0.001"), ("3.61e-10", "3.61 \\cdot 10^{-10}"), ("x + 1", "x+1"), ("2 \\sqrt{5}", "2\\sqrt{5}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\dfrac{\\pi}{2})"), ("\\text{Even}", "even"),
    ("Saturday", "\\mbox{saturday}"), ("\\text{(B)}", "(B)"), ("(\\text{E})", "(E)"), ("9" * 190, "9" * 190 + ".0"),
]  # fmt: skip
DIFFERENT = [
    ("72", "71"), ("", "0"), (" ", "0"), ("0", ""), ("1.41", "\\sqrt{2}"), ("0.333", "1/3"), ("50%", "0.5"),
    ("1/0", "1"), ("\\frac{1}{0}", "1"), ("\\frac{1}{0}", "\\frac{2}{0}"), ("12,34", "1234"), ("1,2", "12"),
    ("1,2", "2,1"), ("1.2.3", "1.2"),
    # other graders say yes to these: single letters read as units, brackets and bases dropped, spaces dropped
    ("1,234", "(1,234)"), ("11", "1 1"), ("1\\,1", "11"), ("12_{3}", "12_{4}"), ("101_2", "101"), ("5 east", "5 west"),
    ("a+b", "c+b"), ("t^2", "h^2"), ("\\frac{a}{b}", "\\frac{c}{b}"), ("x-a", "x-d"), ("\\sqrt{x}+c", "\\sqrt{x}+d"),
    ("5 m", "5 s"), ("5 m", "5"), ("5\\text{ cm}", "5"), ("AB", "ab"), ("x", "X"), ("[1,2]", "(1,2)"), ("x=4", "4"),
    # only ASCII digits are digits, and nothing is evaluated
    ("\u0665", "5"), ("\u0967", "1"), ("\uff15", "5"), ("\u00b2", "2"), ("2+3", "5"), ("9**9**9**9+x", "x"),
    ("5\0", "5"), ("0x5", "5"), ("1_0", "10"), ("1e999999999", "1"), ("1e-999999999", "0"), ("10^{999999999}", "1"),
    ("nan", "0"), ("inf", "0"), ("9" * 5000, "8" * 5000), ("9" * 190, "9" * 189 + "8"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reference"), EQUAL)
def test_equal(answer: str, reference: str) -> None:
    assert math_equal(answer, reference)
    assert math_equal(reference, answer)


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different(answer: str, reference: str) -> None:
    assert not math_equal(answer, reference)
    assert not math_equal(reference, answer)


def test_any_reference_will_do() -> None:
    assert math_equal("1/2", ["0.3", "0.5"])
    assert not math_equal("1/2", ["0.3", "0.4"])
    assert not math_equal("1/2", [])
    assert check_equal("1/2", Question("", ("0.3", "0.5"), "q"))


@pytest.mark.parametrize("text", ["1e999999999", "x" * 10_000, "9" * 5000, "\\frac{1}{2}\0", "\ud800"])
def test_whatever_it_is_it_equals_itself(text: str) -> None:
    assert math_equal(text, text)


@given(st.fractions())
def test_every_fraction_is_read_exactly(value: Fraction) -> None:
    above, below = value.numerator, value.denominator
    if len(f"{above}{below}") < 150:
        assert number(normal_form(f"{above}/{below}")) == value
        assert number(normal_form(f"$\\dfrac{{{above}}}{{{below}}}$")) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_every_decimal_is_read_exactly(value: object) -> None:
    assert number(normal_form(f"{value:f}")) == Fraction(f"{value:f}")
    assert number(normal_form(f"{value:,f}")) == Fraction(f"{value:f}")


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_equal_only_to_themselves(a: int, b: int) -> None:
    assert math_equal(f"{a:,}", str(b)) == (a == b)


PIECES = ["\\frac", "\\left", "\\text{", "\\$", "\\,", "{,}", "000", "10^", *"{}$1,.e%/- "]


@given(*[st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))] * 2)
def test_total_reflexive_and_symmetric(a: str, b: str) -> None:
    assert math_equal(a, a)
    assert math_equal(a, b) == math_equal(b, a)

r"""What is certain without algebra, as tables. Many rows are answers on which other graders of this field fail."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.grading.maths.exact import exact_equal, normal_form, number

EQUAL = [
    ("72", "72"), ("72.", "72"), ("72.0", "72"), ("+72", "72"), ("025", "25"), ("-0", "0"), ("5.", "5"), (".5", "0.5"),
    ("$72$", "72"), ("$$72$$", "72"), ("\\(72\\)", "72"), ("\\[72\\]", "72"), ("$72.$", "72"), (" 72\n", "72"),
    ("\\text{72}", "72"), ("\\mathbf{72}", "72"), ("\u221272", "-72"), ("1,234", "1234"), ("1{,}234", "1234"),
    ("10,\\!000", "10000"), ("1\\,000", "1000"), ("1,234,567.5", "1234567.5"), ("$5", "5"), ("\\$5", "5"),
    ("11,\\! 111,\\! 100", "11111100"), ("-\\$0.50", "-1/2"), ("$\\$ 5.00$", "5"), ("50%", "50"), ("50\\%", "50"),
    ("$50 \\%$", "50"), ("1/2", "0.5"), ("2/4", "1/2"), ("\\frac{2}{4}", "1/2"), ("\\frac12", "1/2"),
    ("\\frac 1 2", ".5"), ("\\frac1{2}", "1/2"), ("\\dfrac{1}{2}", "\\tfrac12"), ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("\\frac{-1}{2}", "-0.5"), ("1/-2", "-1/2"), ("\\frac{0.5}{2}", "1/4"), ("1\\frac{1}{2}", "1.5"),
    ("1 1/2", "3/2"), ("-1\\frac12", "-3/2"), ("11 \\frac{2}{3}", "35/3"), ("1e3", "1000"), ("2^{10}", "1024"),
    ("4.4e7", "4.4 \\times 10^7"), ("4.4 \\times 10^{7}", "44000000"), ("10^{-3}", "0.001"), ("2^10", "1024"),
    ("3.61e-10", "3.61 \\cdot 10^{-10}"), ("5 million", "5000000"), ("\\$5 million", "5,000,000 dollars"),
    ("x + 1", "x+1"), ("2 \\sqrt{5}", "2\\sqrt{5}"), ("\\text{Even}", "even"), ("Saturday", "\\mbox{saturday}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\dfrac{\\pi}{2})"), ("9" * 190, "9" * 190 + ".0"), ("five", "5"),
    ("(\\text{E})", "(E)"), ("\\text{(B)}", "B"), ("(B)", "\\text{B}"), ("\\text{(B)}\\ 5", "5"), ("(B) 5", "5"),
    ("(B) 5", "(B)"), ("B. 5", "5"), ("5 \\text{ cm}", "5"), ("5\\text{m}", "5 m"), ("15\\mbox{ cm}^2", "15"),
    ("5 square inches", "5 \\text{ in}^2"), ("60 mph", "60 miles per hour"), ("5 km/h", "5"), ("90^\\circ", "90"),
    ("90 degrees", "90^{\\circ}"), ("9 pm", "9 \\text{ p.m.}"), ("= 5", "5"), ("\\approx 8.24", "8.24"),
]  # fmt: skip
DIFFERENT = [  # certain
    ("72", "71"), ("1,234", "1235"), ("0.333", "1/3"), ("50%", "0.5"), ("1e3", "999"), ("5", "even"), ("x", "y"),
    ("AB", "5"), ("(B)", "(C)"), ("(B) 5", "(C) 5"), ("(B) 5", "C"), ("(B) 5", "6"), ("5 m", "5 s"), ("5 cm", "6"),
    ("5 cm", "5 \\text{ cm}^2"), ("$5", "5 cents"), ("10%", "$10"), ("5 m/s", "5 m"), ("90^\\circ", "91"),
    ("12 am", "12 pm"), ("2^{10}", "2^{11}"), ("100,200", "200,100"), ("9" * 190, "9" * 189 + "8"),
]  # fmt: skip
UNDECIDED = [  # at this stage: algebra, lists, or unknown notation
    ("", "0"), ("1.41", "\\sqrt{2}"), ("1/0", "1"), ("\\frac{1}{0}", "\\frac{2}{0}"), ("12,34", "1234"),
    ("1,2", "2,1"), ("1.2.3", "1.2"), ("1,234", "(1,234)"), ("1, 234", "1,234"), ("11", "1 1"), ("1\\,1", "11"),
    ("12_{3}", "12_{4}"), ("101_2", "101"), ("5 east", "5 west"), ("a+b", "c+b"), ("6m", "6"), ("2mg", "2"),
    ("AB", "ab"), ("[1,2]", "(1,2)"), ("x=4", "4"), ("1/s", "1"), ("(A)+1", "+1"), ("\\pi", "90^\\circ"),
    # only ASCII digits are digits, and nothing is evaluated
    ("\u0665", "5"), ("\u00b2", "2"), ("2+3", "5"), ("9**9**9**9+x", "x"), ("5\0", "5"),
    ("0x5", "5"), ("1_0", "10"), ("1e999999999", "1"), ("1e-999999999", "0"), ("10^{999999999}", "1"),
    ("9" * 5000, "8" * 5000), ("9999^{9999}", "1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [(*row, True) for row in EQUAL] + [(*row, False) for row in DIFFERENT] + [(*row, None) for row in UNDECIDED],
)
def test_what_is_certain(answer: str, reference: str, verdict: bool | None) -> None:
    assert exact_equal(answer, reference) is verdict
    assert exact_equal(reference, answer) is verdict


@pytest.mark.parametrize("text", ["1e999999999", "x" * 10_000, "9" * 5000, "\\frac{1}{2}\0", "\ud800"])
def test_every_answer_equals_itself(text: str) -> None:
    assert exact_equal(text, text)


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
    assert exact_equal(f"{a:,}", str(b)) is (a == b)


PIECES = ["\\frac", "\\left", "\\text{", "\\$", "\\,", "{,}", "000", "10^", " cm", "(B) ", *"{}$1,.e%/- "]


@given(*[st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))] * 2)
def test_total_reflexive_and_symmetric(a: str, b: str) -> None:
    assert exact_equal(a, a)
    assert exact_equal(a, b) is exact_equal(b, a)

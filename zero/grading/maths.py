r"""Equality of mathematical answers that needs no algebra: exact numbers, else equal strings in a normal form.

What counts as equal
- numbers by exact rational value: 0.50 = 1/2 = `\frac{2}{4}` = `\frac12`, 1e3 = `10^{3}` = 1,000 = `1\,000` = +1000,
  `1\frac12` = 1 1/2 = 1.5; there is no tolerance, so 0.333 is not 1/3;
- a currency sign before and a percent sign after a number are ignored, as in the paper's grader: 50% = 50, not 0.5;
- strings after LaTeX dressing is removed: `$...$`, `\(...\)`, `\text{...}`, `\left`, `\right`, `\dfrac`, spacing
  commands, a final full stop, spaces that separate nothing, the case of a word's first letter (Even = even, AB != ab).

What does not: units (5 m is not 5 s and not 5), other variables, orders or brackets (1,234 is not (1,234); 1 1 is not
11; 101_2 is not 101), and whatever takes algebra (x+1 and 1+x). Only ASCII digits are digits.

Symbolic equality belongs in a checker of its own beside this one, behind the same signature (zero.questions.Checker),
asked after `math_equal` said no.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

LONGEST_NUMBER = 200  # characters; more is compared as a string. Also keeps int() far below its limit of 4,300 digits
LONGEST_FORMULA = 2000  # characters; more is compared as it stands
LARGEST_EXPONENT = 400  # of a power of ten: beyond any answer, and Fraction(10**400) still takes microseconds

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"10\^(?:\{([+-]?[0-9]+)\}|([0-9]))"
_CURRENCY = re.compile(r"^([+-]?)\$")
_DECIMAL_NUMBER = re.compile(rf"([+-]?)({_DECIMAL})(?:[eE]([+-]?[0-9]+)|\\(?:times|cdot) ?{_POWER})?")
_POWER_OF_TEN = re.compile(rf"([+-]?){_POWER}")
_OVER = re.compile(rf"([+-]?)(?:({_WHOLE}) )?({_DECIMAL})/([+-]?{_DECIMAL})")
_FRAC = re.compile(
    rf"([+-]?)({_WHOLE})?\\frac"
    rf"(?:\{{([+-]?{_DECIMAL})\}}| ?([0-9]))(?:\{{([+-]?{_DECIMAL})\}}| ?([0-9]))"  # one bare digit is an argument too
)

_PRICE = re.compile(r"\\\$\s*(?=[0-9.])")
_REPLACED = (
    (re.compile(r"\\!|\\left(?![A-Za-z])|\\right(?![A-Za-z])"), ""),
    (re.compile(r"(?<=[0-9])(?:\\[,:; ]|\{,\}|~)(?=[0-9]{3}(?![0-9]))"), ","),  # 1\,000 and 1{,}000
    (re.compile(r"\\[,:; ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}"), r"\1"),
)
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+)*")
_SIGNS = str.maketrans({"\u2212": "-", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u00a0": " "})
_QUOTES = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def math_equal(answer: str, reference: str | Sequence[str]) -> bool:
    """Whether the answer equals the reference, or any of several. Total and quick on any string."""
    references = (reference,) if isinstance(reference, str) else reference
    return any(_equal(answer, one) for one in references)


def _equal(answer: str, reference: str) -> bool:
    answer, reference = answer.strip(), reference.strip()
    if answer == reference:
        return True
    if max(len(answer), len(reference)) > LONGEST_FORMULA:
        return False
    answer, reference = normal_form(answer), normal_form(reference)
    value = number(reference)
    return answer == reference or (value is not None and number(answer) == value)


def normal_form(text: str) -> str:
    """The text without LaTeX dressing; see the head of this file. Quadratic at worst: give it a bounded text."""
    text = _undressed(_PRICE.sub("", text.translate(_SIGNS)))  # first: the sign is also the delimiter of a formula
    for pattern, by in _REPLACED:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).removesuffix(".")
    text = _IDLE_SPACE.sub("", text)
    return text[:1].lower() + text[1:] if _WORDS.fullmatch(text) else text


def _undressed(text: str) -> str:
    """Without surrounding white space, a final full stop and the delimiters of a formula."""
    text = text.strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    for left, right in _QUOTES:
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right) and left not in inner:
            return inner
    return text


def number(text: str) -> Fraction | None:
    """The exact value of a text in normal form if it is a number as listed above, else None."""
    if len(text) > LONGEST_NUMBER:
        return None
    text = text.removesuffix("%").removesuffix("\\").rstrip()
    text = _CURRENCY.sub(r"\1", text)
    try:
        value = _decimal(text)
        return _fraction(text) if value is None else value
    except (ValueError, ZeroDivisionError):
        return None


def _decimal(text: str) -> Fraction | None:
    if power := _POWER_OF_TEN.fullmatch(text):
        sign, braced, bare = power.groups()
        return _signed(sign, _ten_to(braced or bare))
    if match := _DECIMAL_NUMBER.fullmatch(text):
        sign, digits, *exponents = match.groups()
        return _signed(sign, _plain(digits) * _ten_to(next(filter(None, exponents), "0")))
    return None


def _fraction(text: str) -> Fraction | None:
    """a/b, a b/c, and the same with \\frac."""
    if match := _OVER.fullmatch(text):
        sign, whole, above, below = match.groups()
    elif match := _FRAC.fullmatch(text):
        sign, whole, *arguments = match.groups()
        above, below = filter(None, arguments)
    else:
        return None
    return _signed(sign, _plain(whole or "0") + _plain(above) / _plain(below))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").removesuffix("."))


def _ten_to(exponent: str) -> Fraction:
    if abs(int(exponent)) > LARGEST_EXPONENT:
        raise ValueError(exponent)
    return Fraction(10) ** int(exponent)

r"""The final answer of a response without a box: the number or formula that its prose gives. Linear in the response.

It is what follows the last `answer is` or `Answer:`, else the formula that ends the text, else the last number, as
written: 14{,}916, `\frac{3}{4}`, `3\sqrt{2}`, 1.5e3, the 5 of `5 m^2`.
"""

from __future__ import annotations

import re
from collections import deque

_WINDOW = 400  # characters of a statement that are read
_LONGEST = 60  # characters of a statement that is taken whole
_STATEMENT = re.compile(
    r"\b(?:answer|result|solution)(?:\*\*)?(?: to [^.\n]{0,80}?)?\s{0,3}(?:\bis\b|\bare\b|=|:)(?:\*\*)?:?",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LAST_FORMULA = re.compile(r"(?:\$\$([^$]{1,200})\$\$|(?<![\\$])\$([^$]{1,200})\$|\\\(([^()]{1,200})\\\))[\s.!*]*$")
_NUMERAL = r"(?:(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,|,\\!)[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_POWER = r"\^(?:\{-?[0-9]{1,9}\}|-?[0-9]{1,9})"
_GROUP = r"\{[^{}]{1,40}\}"
_FACTOR = (
    rf"(?:\\[dt]?frac ?(?:{_GROUP}|[0-9]){{2}}|\\sqrt(?:\[[0-9]{{1,3}}\])?(?:{_GROUP}|[0-9])|"
    r"\\pi(?![A-Za-z])|\u03c0|\u221a[0-9]{1,9})"
)
NUMBER = re.compile(
    rf"(?:(?<![0-9A-Za-z)\]}}])[-\u2212])?"  # a minus sign, unless it subtracts
    rf"(?:{_NUMERAL}(?:[eE][+-]?[0-9]{{1,9}}(?![0-9A-Za-z])|\s?(?:\\times|\\cdot|[x\u00d7*])\s?10{_POWER}|{_POWER})?"
    rf"(?:/[0-9]+)?{_FACTOR}*|{_FACTOR}+)(?:/[0-9]+)?"
)
_RAISED = re.compile(r"[\^_]\{?\s?-?$")
_SENTENCE_ENDS = re.compile(r"[.!;](?:\s|$)|\n|,\s(?=[A-Za-z]{3})")
_CUT_COMMAND = re.compile(
    r"\\(?:b(?:o(?:x(?:ed?)?)?)?|[dt]?f(?:r(?:ac?)?)?|s(?:q(?:rt?)?)?|l(?:e(?:ft?)?)?|t(?:e(?:xt?)?)?|[dt])?"
)
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")


def prose_answer(text: str) -> str | None:
    """The answer that a text without a box gives; None if there is no statement of one and no number in it."""
    return _stated_answer(text) or _last_formula(text) or last_number(text)


def first_number(text: str) -> str | None:
    """The first number of a text."""
    number = NUMBER.search(text)
    return number.group() if number else None


def last_number(text: str) -> str | None:
    """The last number of a text, exponents and subscripts aside."""
    last = None
    for number in NUMBER.finditer(text):
        if not _RAISED.search(text[max(0, number.start() - 4) : number.start()]):
            last = number.group()
    return last


def _stated_answer(text: str) -> str | None:
    """The answer that the last statement gives, on its own line or on the next."""
    statements = deque(_STATEMENT.finditer(text), maxlen=1)
    if not statements:
        return None
    start = statements[0].end()
    statement = text[start : start + _WINDOW].lstrip(" \t\n*")
    formula = _FORMULA.match(statement)
    if formula:
        return next(filter(None, formula.groups())).strip() or None
    if last_number(statement.partition("\n")[2]):
        return None  # the working continues after the statement
    end = _SENTENCE_ENDS.search(statement)
    statement = (statement[: end.start()] if end else statement).strip(" \t*")
    if statement.count("{") != statement.count("}") or _CUT_COMMAND.fullmatch(statement):
        return None  # the response was cut within the statement
    words = _WORD.findall(statement)
    number = NUMBER.search(statement)
    if (
        statement
        and len(statement) <= _LONGEST
        and (not words if number else len(words) <= 3 and len(statement.split()) <= 3)
    ):
        return statement
    return number.group() if number else None


def _last_formula(text: str) -> str | None:
    """The formula between dollars that ends the text."""
    formula = _LAST_FORMULA.search(text[-_WINDOW:])
    return next(filter(None, formula.groups())).strip() if formula else None

r"""Numerals of more than digits: `0.1\overline{6}`, `0.1\dot{6}`, `0.1666\ldots`, and what a mixed number adds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from zero.grading.maths.exact import LONGEST_NUMBER

PERIODS = frozenset({"\\overline", "\\dot", "\\ldots", "("})
_MIXED = re.compile(r"\\frac(\{[0-9]+\}|[0-9])(\{[0-9]+\}|[0-9])|([0-9]+)/([0-9]+)")
_REPEATED = re.compile(r"([0-9]{1,40}?)\1+$")


def period(digits: str, tokens: Sequence[str]) -> tuple[Fraction, int]:
    """(value that a period after the digits of a decimal adds, number of its tokens); 0, 0 if it is no period. The first token
    is one of PERIODS."""
    if tokens[0] == "\\overline":
        run, taken = _group(tokens[1:])
        return _recurring(digits, run), taken + 1
    if tokens[0] == "(":  # 0.1(6), as much of Europe writes it
        closed = len(tokens) > 2 and tokens[2] == ")" and tokens[1].isdigit() and tokens[3:4] != ["^"]
        return (_recurring(digits, tokens[1]), 3) if closed else (Fraction(0), 0)
    if tokens[0] == "\\dot":
        run, taken = _group(tokens[1:])
        taken += 1
        between = tokens[taken] if taken < len(tokens) and tokens[taken].isdigit() else ""
        after = taken + bool(between)
        if tokens[after : after + 1] == ["\\dot"]:
            last, more = _group(tokens[after + 1 :])
            run, taken = run + between + last, after + 1 + more
        return _recurring(digits, run), taken
    if tokens[0] == "\\ldots" and (cycle := _cycle(digits.partition(".")[2])):
        return _recurring(digits, cycle), 1
    return Fraction(0), 0


def _group(tokens: Sequence[str]) -> tuple[str, int]:
    """(digits of a group or a token, how many tokens it took)."""
    if tokens[:1] == ["{"] and "}" in tokens[:4]:
        end = tokens.index("}")
        return "".join(tokens[1:end]), end + 1
    return ("".join(tokens[:1]), 1) if tokens else ("", 1)


def _recurring(digits: str, cycle: str) -> Fraction:
    """The value that a period right after the digits adds."""
    if not (cycle.isascii() and cycle.isdigit()) or len(cycle) > LONGEST_NUMBER:
        raise ValueError("no period")
    return Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(digits.partition(".")[2]))


def _cycle(decimals: str) -> str:
    """The digits that repeat where a decimal breaks off: 3 of 0.333, 12 of 0.1212, none of 3.14159."""
    match = _REPEATED.search(decimals[-80:])
    if match is None:
        return ""
    times = len(match[0]) // len(match[1])
    return match[1] if times > 2 or (times > 1 and (len(match[1]) > 1 or match[0] == decimals)) else ""


def mixed(ahead: str) -> tuple[Fraction, bool]:
    """(the fraction of a mixed number, whether it is a \\frac) where one of integers begins; 0 if none does."""
    match = _MIXED.match(ahead)
    if match is None:
        return Fraction(0), False
    above, below = (int(digits.strip("{}")) for digits in match.groups() if digits)
    if not below:
        raise ValueError("division by zero")
    return Fraction(above, below), ahead[0] == "\\"

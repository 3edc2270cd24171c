"""A calculator as a tool: exact fractions, by the parser of Countdown. Nothing is executed, and the work is bounded."""

from __future__ import annotations

import re

from zero.grading.countdown import LONGEST, read_expression

_FIRST_SIGN = re.compile(r"(^|\()\s*-")
_SIGN = re.compile(r"([-+*/]\s*)-\s*([0-9]+(?:\.[0-9]+)?)")
_DECIMAL = re.compile(r"([0-9]+)\.([0-9]+)")


def calculate(expression: str) -> str:
    """Work out an arithmetic expression exactly. It may hold whole numbers, decimals, + - * / and parentheses; the result is a
    whole number or a fraction such as 7/3.

    Args:
        expression: such as (1/3 + 0.5) * 12
    """
    if len(expression) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    # what the parser does not know is written as what it knows: a sign as a subtraction from 0, 0.25 as (025/100)
    text = _SIGN.sub(r"\1(0-\2)", _FIRST_SIGN.sub(r"\g<1>0-", expression.strip()))
    text = _DECIMAL.sub(lambda number: f"({number[1]}{number[2]}/1{'0' * len(number[2])})", text)
    value = read_expression(text).value
    if value is None:
        raise ZeroDivisionError("the expression divides by zero")
    return str(value)

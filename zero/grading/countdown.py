r"""Countdown: does an expression use each number exactly once and reach the target? Exact, and nothing is executed.

Accepted: whole numbers, `+ - * /`, parentheses, `\times \cdot \div` and their Unicode signs, surrounding `$`, and one
final `= target`. Refused: every other character or operator (`**` and `//` too), a sign that is not between two
operands, products without an operator, and a tail `= x` where x is not the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

LONGEST = 500  # characters of an expression; six numbers with all their parentheses take about 60

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
_DRESSING = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,:;!()\[\] ]|\$")
_SIGNS = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"})
_OPERATORS = ((re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "*"), (re.compile(r"\\div(?![A-Za-z])"), "/"))
_RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}


def countdown_correct(expression: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the expression is made of exactly these numbers, each once, and equals the target. Total and quick."""
    if len(expression) > LONGEST:
        return False
    try:
        tokens, claimed = _read(expression)
        used = sorted(int(token) for token in tokens if token.isdigit())
        return used == sorted(numbers) and claimed in (None, target) and evaluate(tokens) == target
    except (ValueError, ZeroDivisionError):
        return False


def _read(expression: str) -> tuple[list[str], int | None]:
    """The tokens left of `=`, and the number right of it if there is one. ValueError if it is no such thing."""
    text = _DRESSING.sub(" ", expression.translate(_SIGNS))
    for pattern, sign in _OPERATORS:
        text = pattern.sub(sign, text)
    text = text.strip().removesuffix(".")
    left, equals, right = text.partition("=")
    if not equals:
        return tokenize(left), None
    tail = re.fullmatch(r"\s*(-?)\s*([0-9]+)\s*", right)
    if tail is None:
        raise ValueError("the right side is no whole number")
    return tokenize(left), int(tail[1] + tail[2])


def tokenize(text: str) -> list[str]:
    """Numbers, operators and parentheses. ValueError at any other character."""
    tokens, at, text = list[str](), 0, text.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"unexpected {text[at : at + 10]!r}")
        tokens.append(token[1])
        at = token.end()
    return tokens


def evaluate(tokens: Sequence[str]) -> Fraction:
    """Exact value by two stacks (shunting-yard), so that no nesting can exhaust Python's own stack.

    ValueError if the tokens are no expression, ZeroDivisionError if it divides by zero.
    """
    values, pending = list[Fraction](), list[str]()
    operand_next = True
    for token in tokens:
        if (token == "(" or token.isdigit()) != operand_next:
            raise ValueError(f"{token!r} is out of place")
        if token.isdigit():
            values.append(Fraction(int(token)))
            operand_next = False
        elif token == "(":
            pending.append(token)
        else:
            while pending and pending[-1] != "(" and (token == ")" or _RANK[pending[-1]] >= _RANK[token]):
                _apply(pending.pop(), values)
            if token != ")":
                pending.append(token)
                operand_next = True
            elif not pending or pending.pop() != "(":
                raise ValueError("a parenthesis closes nothing")
    if operand_next or "(" in pending:
        raise ValueError("unfinished")
    while pending:
        _apply(pending.pop(), values)
    return values[0]


def _apply(operator: str, values: list[Fraction]) -> None:
    right = values.pop()
    left = values.pop()
    if operator == "+":
        values.append(left + right)
    elif operator == "-":
        values.append(left - right)
    elif operator == "*":
        values.append(left * right)
    else:
        values.append(left / right)

r"""Countdown and similar games: does an expression use the given numbers, and does it equal the target? Exact; nothing is
executed, and the work is bounded for every answer.

Accepted: whole numbers in ASCII digits, `+ - * /`, parentheses, `\times \cdot \div` and their Unicode signs, surrounding
`$`, line breaks, and one final `= target`. Everything else raises ValueError: other characters and operators (`**` and `//`
too), decimals, a sign that is not between two operands, products without an operator. Wrong, without an error, are other
numbers, another value, a division by zero, and a tail `= x` where x is not the target.

Departures from the field's rewards (TinyZero and its copies): no `eval`, so that `9**9**9` cannot hang a run and `7//2` is
no division; fractions instead of a tolerance, so that 8/(3-8/3) is 24; the numbers of a tail `= 36` are not among those
used. The field demands every number while its prompt says "each number can only be used once": both rules are here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from zero.records import Question

LONGEST = 500  # characters of an expression; six numbers with all their parentheses take about 60

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
_DRESSING = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,:;!()\[\] ]|\$")
_SIGNS = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"})
_OPERATORS = ((re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "*"), (re.compile(r"\\div(?![A-Za-z])"), "/"))
_RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Expression:
    """A parsed answer, right or wrong."""

    numbers: tuple[int, ...]  # left of `=`, in ascending order
    value: Fraction | None  # exact; None: it divides by zero
    claimed: int | None  # the number right of `=`, if there is one


def check_exactly_once(answer: str, question: Question) -> bool:
    """Whether the answer uses each of meta["numbers"] once and equals meta["target"]. ValueError if it is no arithmetic."""
    expression = read_expression(answer)
    return list(expression.numbers) == sorted(question.meta["numbers"]) and _reaches(
        expression, question.meta["target"]
    )


def check_at_most_once(answer: str, question: Question) -> bool:
    """As `check_exactly_once`, but numbers may be left over: "each number can only be used once", taken literally. A target
    among the numbers is then an answer by itself."""
    expression = read_expression(answer)
    return Counter(expression.numbers) <= Counter(question.meta["numbers"]) and _reaches(
        expression, question.meta["target"]
    )


check_countdown = check_exactly_once  # the rule of TinyZero's reward, and the default of our sets


def countdown_correct(expression: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the expression is made of exactly these numbers, each once, and equals the target. Total and quick."""
    try:
        return check_exactly_once(expression, Question("", (), "", meta={"numbers": numbers, "target": target}))
    except ValueError:
        return False


def read_expression(answer: str) -> Expression:
    """Parse an answer, as every check does. ValueError if it is no arithmetic, or longer than LONGEST."""
    if len(answer) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    tokens, claimed = _read(answer)
    numbers = tuple(sorted(int(token) for token in tokens if token.isdigit()))
    try:
        return Expression(numbers, evaluate(tokens), claimed)
    except ZeroDivisionError:
        return Expression(numbers, None, claimed)


def _reaches(expression: Expression, target: int) -> bool:
    return expression.value == target and expression.claimed in (None, target)


def _read(expression: str) -> tuple[list[str], int | None]:
    """The tokens left of `=`, and the number right of it if there is one. ValueError for anything else."""
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
    values, pending = list[Fraction | None](), list[str]()
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
    if values[0] is None:  # raised only here, since a syntax error after a division by zero comes first
        raise ZeroDivisionError("divides by zero")
    return values[0]


def _apply(operator: str, values: list[Fraction | None]) -> None:
    """Replace the last two values by the operator's result; None, a division by zero, stays None."""
    right = values.pop()
    left = values.pop()
    if left is None or right is None or (operator == "/" and right == 0):
        values.append(None)
    elif operator == "+":
        values.append(left + right)
    elif operator == "-":
        values.append(left - right)
    elif operator == "*":
        values.append(left * right)
    else:
        values.append(left / right)

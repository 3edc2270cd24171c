"""A verifier's message for an answer: None if it is right, else one line that a model can act on.

For games over meta["numbers"] and meta["target"] (general_points, countdown, nano_countdown), always in agreement with
`check_countdown`. The messages follow SFTvsRL's (arXiv 2501.17161).

Departures: its message "... is partially correct" reveals the longest prefix that a solver knows to be right; here a message
uses the answer and the question alone. All errors in the numbers are named at once; theirs names unused numbers only if the
others are right. A message never repeats the model's text, so that the model cannot write the environment's words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from zero.errors import InputError
from zero.grading.countdown import LONGEST, Expression, read_expression
from zero.records import Question

SHOWN, DIGITS = 8, 9  # most numbers of a list, and digits of a number, in a message: an answer may have hundreds

_LEGAL = re.compile(r"(?:[-+*/()=$\s0-9\u00d7\u22c5\u00b7\u00f7\u2212]|\\(?:times|cdot|div|left|right|[,:;!()\[\] ]))*")


def explain(answer: str | None, question: Question) -> str | None:
    """None if `check_countdown` accepts the answer, else why not, as the end of a sentence: one line of printable ASCII.

    `answer` is what the template extracted, None if it found nothing. Bounded work whatever the answer. InputError for a
    question without numbers and a target.
    """
    if "numbers" not in question.meta or "target" not in question.meta:
        remedy = f"question {question.id} has no numbers and target; give a function for this question set"
        raise InputError("environment.make.explain", "zero.grading.explain.explain", remedy)
    if answer is None:
        return "no formula was found in the form that was asked for"
    try:
        expression = read_expression(answer)
    except ValueError:
        return _unreadable(answer)
    return _wrong_numbers(expression, question.meta["numbers"]) or _wrong_value(expression, question.meta["target"])


def _unreadable(answer: str) -> str:
    if len(answer) > LONGEST:
        return f"the formula is longer than {LONGEST} characters"
    if _LEGAL.fullmatch(answer.strip().removesuffix(".")) is None:
        return "the formula has illegal characters: only whole numbers, +, -, *, / and parentheses are allowed"
    return "the formula is incomplete or not well-formed"


def _wrong_numbers(expression: Expression, numbers: Iterable[int]) -> str | None:
    used, given = Counter(expression.numbers), Counter(numbers)
    kinds = (
        ("you used invalid numbers", [number for number in used if number not in given]),
        ("you used numbers", [number for number in used if 0 < given[number] < used[number]]),
        ("you didn't use numbers", (given - used).elements()),
    )
    ends = ("", " too many times", "")
    lists = [sorted(group) for _, group in kinds]
    problems = [f"{kinds[i][0]}: {_shown(group)}{ends[i]}" for i, group in enumerate(lists) if group]
    return ", ".join(problems) or None


def _wrong_value(expression: Expression, target: int) -> str | None:
    if expression.value is None:
        return "your formula divides by zero"
    if expression.value != target:
        return f"your formula equals {expression.value}, not {target}"
    if expression.claimed not in (None, target):
        return f"your formula equals {target}, not what you wrote after ="
    return None


def _shown(numbers: list[int]) -> str:
    texts = [text if len(text) <= DIGITS else f"{text[:DIGITS]}..." for text in map(str, numbers[:SHOWN])]
    return f"[{', '.join(texts)}{', ...' if len(numbers) > SHOWN else ''}]"

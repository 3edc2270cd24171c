"""What guessing scores: for each question the chance that a random legal answer to it is right.

numbers and a target in meta (Countdown, cards)  a random expression: uniform over all those that use each number once, joined by
                                                 + - * / in any order and nesting; one that divides by zero is wrong
choices in meta (a list, or how many there are)  one of them

Expressions of up to EXACT numbers are counted, exactly; of more, DRAWS are drawn, always the same ones, so that a question has
the same chance in every run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import comb, factorial
from typing import Any

import numpy as np

from zero.records import Question

EXACT = 4  # numbers whose expressions are counted: 7,680 of four, 430,080 of five
DRAWS = 4096  # expressions drawn for questions of more numbers: a chance of 1 % is known to within 0.3 points
OPERATORS = "+-*/"
CLOSE = 1e-9  # relative distance from the target below which a drawn expression, computed in float64, equals it

Numbers = tuple[int, ...]  # in ascending order
Postfix = tuple[int | str, ...]  # positions of numbers, and operators after their two operands


def chances(questions: Sequence[Question]) -> list[float] | None:
    """The chance of each question; None if one of them has neither numbers and a target nor choices."""
    keys = [_game(question.meta) for question in questions]
    games = dict.fromkeys(key for key in keys if key is not None)
    counted, drawn = ([key for key in games if (len(key[0]) <= EXACT) == few] for few in (True, False))
    by_game = {key: exact(*key) for key in counted} | dict(zip(drawn, sampled(drawn), strict=True))
    known = [by_game[key] if key else _of_choices(q.meta) for key, q in zip(keys, questions, strict=True)]
    complete = [chance for chance in known if chance is not None]
    return complete if questions and len(complete) == len(known) else None


def _of_choices(meta: Mapping[str, Any]) -> float | None:
    choices = meta.get("choices")
    count = len(choices) if isinstance(choices, Sequence) and not isinstance(choices, str) else choices
    return 1 / count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


def _game(meta: Mapping[str, Any]) -> tuple[Numbers, int] | None:
    numbers, target = meta.get("numbers"), meta.get("target")
    if not isinstance(numbers, Sequence) or not numbers or isinstance(numbers, str):
        return None
    whole = all(isinstance(number, int) for number in (*numbers, target))
    return (tuple(sorted(numbers)), int(target)) if whole and target is not None else None


def expressions(count: int) -> int:
    """How many expressions join `count` numbers: orders x nestings (Catalan's number) x operators."""
    return factorial(count) * comb(2 * count - 2, count - 1) // count * len(OPERATORS) ** (count - 1)


# ------------------------------------------------------------------------------------------------------------- by counting


@lru_cache(maxsize=1 << 16)
def exact(numbers: Numbers, target: int) -> float:
    """The share of all expressions of the numbers that equal the target."""
    if len(numbers) == 1:
        return float(numbers[0] == target)
    right = sum(
        count * _joined_to(value, Fraction(target), _values(large))
        for small, large in _splits(numbers)
        for value, count in _values(small).items()
    )
    return right / expressions(len(numbers))


def _joined_to(a: Fraction, target: Fraction, others: Mapping[Fraction, int]) -> int:
    """In how many ways an operator joins the value `a`, on either side, to an expression counted by its value b in `others`, so
    that the target comes out."""
    # + of both, a - b, b - a
    count = 2 * others.get(target - a, 0) + others.get(a - target, 0) + others.get(target + a, 0)
    if a == 0:  # 0 * b, b * 0 and 0 / b
        return count + (3 * sum(others.values()) - others.get(a, 0) if target == 0 else 0)
    count += 2 * others.get(target / a, 0) + others.get(target * a, 0)  # * of both, b / a
    return count + (others.get(a / target, 0) if target else 0)  # a / b


@lru_cache(maxsize=1 << 14)
def _values(numbers: Numbers) -> Mapping[Fraction, int]:
    """How many expressions of the numbers have each value; those that divide by zero are left out."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): 1}
    counts = Counter[Fraction]()
    for small, large in _splits(numbers):
        for a, left in _values(small).items():
            for b, right in _values(large).items():
                count = left * right
                counts[a + b] += 2 * count
                counts[a * b] += 2 * count
                counts[a - b] += count
                counts[b - a] += count
                if b:
                    counts[a / b] += count
                if a:
                    counts[b / a] += count
    return counts


def _splits(numbers: Numbers) -> list[tuple[Numbers, Numbers]]:
    """Every way to cut the numbers in two, by their places: (smaller half, larger half). Equal numbers are told apart."""
    places = range(len(numbers))
    return [
        (tuple(numbers[i] for i in small), tuple(numbers[i] for i in places if i not in small))
        for size in range(1, len(numbers) // 2 + 1)
        for small in combinations(places, size)
        if 2 * size < len(numbers) or 0 in small  # two equal halves once
    ]


# -------------------------------------------------------------------------------------------------------------- by drawing


def sampled(games: Sequence[tuple[Numbers, int]], draws: int = DRAWS) -> list[float]:
    """As `exact`, the share of `draws` random expressions; each is computed for all games of as many numbers at once."""
    right = np.zeros(len(games))
    for count in sorted({len(numbers) for numbers, _ in games}):
        rows = [i for i, (numbers, _) in enumerate(games) if len(numbers) == count]
        numbers_PN = np.array([games[i][0] for i in rows], dtype=np.float64)
        target_P = np.array([games[i][1] for i in rows], dtype=np.float64)
        margin_P = CLOSE * np.maximum(1.0, np.abs(target_P))
        rng = random.Random(f"zero.grading.chance/{count}")
        with np.errstate(all="ignore"):  # a division by zero is no number, and no target
            for _ in range(draws):
                right[rows] += np.abs(_evaluate(_draw(rng, count), numbers_PN) - target_P) <= margin_P
    return (right / draws).tolist()


def _draw(rng: random.Random, count: int) -> Postfix:
    """One of all expressions of `count` numbers, each equally likely."""
    order = rng.sample(range(count), count)

    def tree(first: int, last: int) -> Postfix:
        size = last - first
        if size == 1:
            return (order[first],)
        nestings = [_nestings(left) * _nestings(size - left) for left in range(1, size)]
        left = rng.choices(range(1, size), nestings)[0]
        return (*tree(first, first + left), *tree(first + left, last), rng.choice(OPERATORS))

    return tree(0, count)


def _nestings(count: int) -> int:
    return comb(2 * count - 2, count - 1) // count


def _evaluate(postfix: Postfix, numbers_PN: np.ndarray) -> np.ndarray:
    """The expression's value [P] for each row of numbers."""
    stack: list[np.ndarray] = []
    for token in postfix:
        if isinstance(token, int):
            stack.append(numbers_PN[:, token])
            continue
        right, left = stack.pop(), stack.pop()
        if token == "+":
            stack.append(left + right)
        elif token == "-":
            stack.append(left - right)
        elif token == "*":
            stack.append(left * right)
        else:
            stack.append(np.where(right == 0, np.nan, left / right))
    return stack[0]

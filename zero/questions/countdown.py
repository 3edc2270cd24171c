"""Countdown for real models: reach a target from given numbers. Every problem has a solution, and it is recorded.

The wording is TinyZero's (github.com/Jiayi-Pan/TinyZero), the numbers are drawn here; arXiv 2503.20783's companion
study oat-zero trains on the same kind of problems.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence

from zero.errors import InputError
from zero.questions import Rows
from zero.records import Question

TEXT = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
HELDOUT_DIGIT = 1  # a problem is held out if the first hex digit of its digest is below this: 1/16
PATIENCE = 20_000  # draws in a row without a new problem after which these settings count as exhausted


def rows(
    counts: Sequence[int] = (3, 4),
    low: int = 1,
    high: int = 99,
    smallest: int = 10,
    largest: int = 99,
    train: int = 8192,
    heldout: int = 256,
    seed: int = 0,
    text: str = TEXT,
) -> Rows:
    """Distinct solvable problems; permuted numbers are the same problem.

    counts             how many numbers a problem has, drawn equally often (more numbers miss the range more often)
    low, high          range of the numbers
    smallest, largest  range of the target
    train, heldout     rows of each split; membership depends on the problem alone, so no seed or size mixes them
    text               the question, with {numbers} and {target}

    The same arguments give the same rows on every machine. The solution is an expression; meta holds numbers, target
    and level (how many numbers). Raises InputError.
    """
    _check(counts, low, high, smallest, largest, train, heldout, text)
    rng = random.Random(f"zero.questions.countdown/{seed}")
    found: dict[bool, dict[str, Question]] = {False: {}, True: {}}
    wanted = {False: train, True: heldout}
    misses = 0
    while any(len(found[split]) < wanted[split] for split in found):
        misses += 1
        if misses > PATIENCE:
            there = f"there are only about {len(found[False])} problems to train on and {len(found[True])} to hold out"
            raise InputError("questions.rows.train", train, f"{there}; ask for fewer or raise questions.rows.high")
        numbers = [rng.randint(low, high) for _ in range(rng.choice(counts))]
        solution, target = _combine(rng, numbers)
        if not smallest <= target <= largest:
            continue
        question = _question(numbers, solution, target, text)
        split = int(question.id.removeprefix("countdown-")[0], 16) < HELDOUT_DIGIT
        if len(found[split]) < wanted[split] and question.id not in found[split]:
            found[split][question.id] = question
            misses = 0
    return Rows(train=list(found[False].values()), heldout=list(found[True].values()))


def _combine(rng: random.Random, numbers: Sequence[int]) -> tuple[str, int]:
    """(expression, value) from joining random pairs until one is left; every value is a whole number above 0."""
    parts = [(str(number), number) for number in numbers]
    while len(parts) > 1:
        (left, a), (right, b) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        if a < b:
            (left, a), (right, b) = (right, b), (left, a)
        choices = [(f"{left} + {right}", a + b), (f"{left} * {right}", a * b)]
        choices += [(f"{left} - {right}", a - b)] if a > b else []
        choices += [(f"{left} / {right}", a // b)] if a % b == 0 else []
        expression, value = rng.choice(choices)
        parts.append((f"({expression})", value))
    expression, value = parts[0]
    return expression[1:-1], value


def _question(numbers: Sequence[int], solution: str, target: int, text: str) -> Question:
    identity = f"{sorted(numbers)} {target}"
    digest = hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()[:16]
    shown = text.replace("{numbers}", str(list(numbers))).replace("{target}", str(target))
    meta = {"numbers": list(numbers), "target": target, "level": len(numbers)}
    return Question(text=shown, answer=(str(target),), id=f"countdown-{digest}", solution=solution, meta=meta)


def _check(
    counts: Sequence[int], low: int, high: int, smallest: int, largest: int, train: int, heldout: int, text: str
) -> None:
    for key, right, value, remedy in _demands(counts, low, high, smallest, largest, train, heldout, text):
        if not right:
            raise InputError(f"questions.rows.{key}", value, remedy)


def _demands(
    counts: Sequence[int], low: int, high: int, smallest: int, largest: int, train: int, heldout: int, text: str
) -> Iterator[tuple[str, bool, object, str]]:
    yield "counts", bool(counts) and all(2 <= count <= 8 for count in counts), counts, "give counts from 2 to 8"
    yield "low", 1 <= low <= high, low, f"must be from 1 to questions.rows.high={high}"
    yield "smallest", 1 <= smallest <= largest, smallest, f"must be from 1 to questions.rows.largest={largest}"
    yield "train", train >= 1, train, "ask for at least 1 row"
    yield "heldout", heldout >= 1, heldout, "ask for at least 1 row"
    yield "text", "{numbers}" in text and "{target}" in text, text, "must hold {numbers} and {target}"

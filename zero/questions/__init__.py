"""A question set: rows, and how to check an answer against a row's references."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from zero.records import Question

Checker = Callable[[str, Question], bool]  # (extracted answer, question) -> is it right; total and quick on any string


@dataclass(frozen=True)
class Rows:
    """The two disjoint splits of a set. Held-out rows are only ever evaluated."""

    train: Sequence[Question]
    heldout: Sequence[Question]


@dataclass(frozen=True)
class QuestionSet:
    """`rows` come from one loader function, `check` is one function of zero.grading."""

    name: str
    rows: Rows
    check: Checker

    def batch(self, step: int, n: int, seed: int) -> list[Question]:
        """The n training questions of a step (from 0): a pure function of its arguments, every row once per epoch."""
        size = len(self.rows.train)
        places = range(step * n, (step + 1) * n)
        return [self.rows.train[_shuffled(size, seed, i // size)[i % size]] for i in places]


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    order = list(range(size))
    random.Random(f"questions/{seed}/{epoch}").shuffle(order)
    return order

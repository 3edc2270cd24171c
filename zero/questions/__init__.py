"""A question set: rows, and how to check an answer against a row's references."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from zero.errors import InputError
from zero.questions import splits
from zero.questions.history import History
from zero.records import Question
from zero.template import AnyTemplate, extract_any

Checker = Callable[[str, Question], bool]
"""(answer, question) -> whether it is right. A checker that cannot read the answer raises ValueError. One that may take long
on a hostile answer is wrapped in zero.grading.BoundedChecker, which runs it in a process that can be killed."""
Extractor = Callable[[str], str | None]  # response -> an answer in any form, or None


@dataclass(frozen=True)
class Rows:
    """The two disjoint splits of a set, each without repetitions. Held-out rows are never trained on."""

    train: Sequence[Question]
    heldout: Sequence[Question]
    notes: Sequence[str] = ()  # one line for each reason why loading left out rows

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits of the content: ids, texts, answers, solutions and images of both splits, in order."""
        hashed = hashlib.sha256()
        for split in (self.train, self.heldout):
            for q in split:
                fields = (q.id, q.text, *q.answer, "\1", q.solution, *q.more, "\1", *q.images)
                hashed.update("\0".join(fields).encode("utf-8", "surrogatepass"))
            hashed.update(b"\2")
        return hashed.hexdigest()[:12]

    @cached_property
    def have_images(self) -> bool:
        """Whether any row of them has an image."""
        return any(row.images for split in (self.train, self.heldout) for row in split)

    def drop_rows(self, ids: Collection[str], note: str) -> Rows:
        """The rows without the training rows of these ids; the note says why."""
        return Rows([q for q in self.train if q.id not in ids], self.heldout, (*self.notes, note))

    def whereabouts(self) -> str:
        """The number of held-out rows, and the notes: for an error about a set without training rows."""
        return "; ".join([f"{len(self.heldout)} held out", *self.notes])


@dataclass(frozen=True)
class Source:
    """The training rows of a source of a mixture, in the orders in which a run asks them. A set that is no mixture is one source,
    called ""."""

    name: str
    rows: Sequence[Question]

    def in_order(self, place: int, seed: int) -> Question:
        """The row at a place of the run's order: each once in an epoch, in another order every time."""
        epoch, position = divmod(place, len(self.rows))
        return self.rows[_shuffled(self.name, len(self.rows), seed, epoch)[position]]

    def shuffled(self, seed: int) -> list[Question]:
        """All rows in the order of the first epoch."""
        return [self.rows[i] for i in _shuffled(self.name, len(self.rows), seed, 0)]


@dataclass(frozen=True)
class SourceSettings:
    """What a source of a mixture brings of its own; None: it is asked and rewarded as the run says."""

    template: AnyTemplate | None = None
    reward: Any = None  # a zero.grading.Reward
    max_tokens: int | None = None  # a lower token budget than the run's


Slot = tuple[str, int]  # the source of a question, and the number of questions that the source gave before it


@dataclass(frozen=True)
class QuestionSet:
    """`rows` are from a loader function, `check` is a function of zero.grading; `extract_any` extracts an answer in any form,
    for the lenient accuracy."""

    name: str
    rows: Rows
    check: Checker
    extract_any: Extractor = extract_any

    settings: ClassVar[Mapping[str, SourceSettings]] = {}
    needs_history: ClassVar[bool] = False  # whether `slots` depends on it

    def drop_tested(self, tested: Mapping[str, Sequence[Question]]) -> QuestionSet:
        """The set without the training rows that are questions of a test, by the test's name; noted in its rows."""
        return replace(self, rows=without_tested(self.rows, tested))

    def drop_rows(self, ids: Collection[str], note: str) -> QuestionSet:
        """The set without the training rows of these ids; the note says why."""
        return replace(self, rows=self.rows.drop_rows(ids, note))

    def batch(self, step: int, n: int, seed: int) -> list[Question]:
        """The n training questions of a step (from 0): a pure function of its arguments, every row once per epoch."""
        return [self.sources[""].in_order(place, seed) for place in range(step * n, (step + 1) * n)]

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """Its one source."""
        return {"": Source("", self.rows.train)}

    def slots(self, number: int, n: int, history: History) -> list[Slot]:
        """The sources of the n questions of round `number` of a run."""
        return [("", place) for place in range(number * n, (number + 1) * n)]


def without_tested(rows: Rows, tested: Mapping[str, Sequence[Question]]) -> Rows:
    """Drop the training rows that are questions of a test, by the normal form of zero.questions.splits."""
    known = {name: [splits.fingerprint(q.text, q.images) for q in questions] for name, questions in tested.items()}
    train, notes = splits.without_leaks(rows.train, known, "drop")
    return Rows(train, rows.heldout, (*rows.notes, *notes)) if notes else rows


def refuse_namesakes(tested: Iterable[QuestionSet]) -> None:
    """InputError if two benchmarks have one name, or one has the name of their mean: their curves would be the same."""
    from zero.statistics import MACRO  # imports numpy, which --help does not need

    names = [questions.name for questions in tested]
    for name in names:
        if names.count(name) > 1 or name == MACRO:
            remedy = (
                f"names a benchmark twice, or is `{MACRO}`; give each a name of its own: benchmarks.sets.KEY.name=..."
            )
            raise InputError("benchmarks", name, remedy)


@lru_cache(maxsize=64)
def _shuffled(source: str, size: int, seed: int, epoch: int) -> list[int]:
    order = list(range(size))
    random.Random("/".join(["questions", str(seed), *filter(None, [source]), str(epoch)])).shuffle(order)
    return order

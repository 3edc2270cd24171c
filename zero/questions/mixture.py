"""Several question sets as one, by weights. zero.grading.mixture_checker makes one, checker included.

Question i of a source has position (i + 1/2) / weight, and a run asks questions in the order of positions. So each of m
sources has its share of the first k questions, for every k, to within 1/2 + share (m - 2) / 2 questions: less than one for
two or three sources. Nothing is random about which source comes next. Each source has epochs of its own: a question is
repeated only after all others of its source.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows, Slot, Source, SourceSettings, without_tested
from zero.questions.history import History, SourceRecord
from zero.records import Question, in_a_word

MARK = "/"  # between the name of a source and its question's own id
# Most questions after which the order of the sources repeats; only weights of many digits need more
LONGEST_PERIOD = 1_000_000


@dataclass(frozen=True)
class Mixture:
    """A question set made of several. A question's id names its source: `source/ID`."""

    name: str
    rows: Rows  # of all sources; the held-out ones ordered by the weights too, so that the first few are a fair sample
    check: Checker
    extract_any: Extractor
    weights: Mapping[str, float]  # source -> share of the training questions, or of their tokens, up to a common factor
    settings: Mapping[str, SourceSettings] = field(default_factory=dict)
    by_tokens: bool = False  # the weights are shares of the tokens generated

    def drop_tested(self, tested: Mapping[str, Sequence[Question]]) -> Mixture:
        """The mixture without the training rows that are questions of a test, by the test's name; noted in its rows.

        InputError if a source has none left: the others would silently take its share.
        """
        rows = without_tested(self.rows, tested)
        _refuse_empty(self.weights, rows.train)
        return replace(self, rows=rows)

    def drop_rows(self, ids: Collection[str], note: str) -> Mixture:
        """The mixture without the training rows of these ids; the note says why. InputError as in `without`."""
        rows = self.rows.drop_rows(ids, note)
        _refuse_empty(self.weights, rows.train)
        return replace(self, rows=rows)

    def batch(self, step: int, n: int, seed: int) -> list[Question]:
        """The n training questions of a step (from 0) by rows: a pure function of its arguments."""
        return [self.sources[source].in_order(place, seed) for source, place in self._slots_by_rows(step, n)]

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """The training rows of each source."""
        return {name: Source(name, rows) for name, rows in _by_source(self.weights, self.rows.train).items()}

    @property
    def needs_history(self) -> bool:
        """Whether `slots` depends on the history."""
        return self.by_tokens

    def slots(self, number: int, n: int, history: History) -> list[Slot]:
        """The sources of the n questions of round `number` of a run."""
        return self._slots_by_tokens(n, history) if self.by_tokens else self._slots_by_rows(number, n)

    def _slots_by_rows(self, number: int, n: int) -> list[Slot]:
        units, names = _units(self.weights), list(self.weights)
        order, slots = _one_period(units), list[Slot]()
        for place in range(number * n, (number + 1) * n):
            periods, offset = divmod(place, len(order))
            index, i = order[offset]
            slots.append((names[index], periods * units[index] + i))
        return slots

    def _slots_by_tokens(self, n: int, history: History) -> list[Slot]:
        """Each from the source that is furthest behind its share of tokens, where a question about to be asked counts as many
        as the source's questions had on average."""
        records = {name: history.sources.get(name, SourceRecord()) for name in self.weights}
        counts = {name: record.questions for name, record in records.items()}
        tokens = {name: float(record.tokens) for name, record in records.items()}
        known = [record.tokens / record.questions for record in records.values() if record.questions]
        usual = sum(known) / len(known) if known else 1.0
        cost = {
            name: record.tokens / record.questions if record.questions else usual for name, record in records.items()
        }
        slots: list[Slot] = []
        for _ in range(n):
            name = min(self.weights, key=lambda name: (tokens[name] + cost[name] / 2) / self.weights[name])
            slots.append((name, counts[name]))
            counts[name], tokens[name] = counts[name] + 1, tokens[name] + cost[name]
        return slots


def mixed_rows(sets: Mapping[str, QuestionSet], weights: Mapping[str, float], limits: Mapping[str, int | None]) -> Rows:
    """The rows of all sources. A source's limit keeps that many of its training rows, those with the smallest hash of their
    text and images, whatever the order of its file. No training row of one source is held out by another. Raises InputError."""
    _check(sets, weights, limits)
    train, notes = list[Question](), list[str]()
    for source, questions in sets.items():
        rows = questions.rows
        train += [_with_source(source, question) for question in _first(rows.train, limits.get(source))]
        notes += [f"{source}: {note}" for note in rows.notes]
    heldout = {source: [_with_source(source, question) for question in sets[source].rows.heldout] for source in sets}
    rows = without_tested(Rows(train, _interleaved(heldout, weights), notes), heldout)
    _refuse_empty(weights, rows.train)
    return rows


def split_id(question: Question) -> tuple[str, Question]:
    """(source, the question as the source knows it)."""
    source, _, inner_id = question.id.partition(MARK)
    return source, replace(question, id=inner_id)


def _with_source(source: str, question: Question) -> Question:
    return replace(question, id=f"{source}{MARK}{question.id}", meta={**question.meta, "kind": source})


def _by_source(sources: Mapping[str, object], questions: Sequence[Question]) -> dict[str, list[Question]]:
    by_source: dict[str, list[Question]] = {source: [] for source in sources}
    for question in questions:
        by_source[question.id.partition(MARK)[0]].append(question)
    return by_source


def _check(sets: Mapping[str, QuestionSet], weights: Mapping[str, float], limits: Mapping[str, int | None]) -> None:
    if not sets:
        raise InputError(
            "questions.sources", "{}", "name at least one source; conf/questions/mixture.yaml is an example"
        )
    for source in sets:
        if not source or in_a_word(source) != source or source.startswith("level_"):
            remedy = "the name of a source, which its curves bear, must be one word of letters, digits and _ . + -"
            raise InputError("questions.sources", source, remedy)
        weight, limit = weights[source], limits.get(source)
        if not (type(weight) in (int, float) and math.isfinite(weight) and weight > 0):
            raise InputError(
                f"questions.sources.{source}.weight", weight, "must be a number above 0; or leave the source out"
            )
        if limit is not None and not (type(limit) is int and limit >= 1):
            raise InputError(
                f"questions.sources.{source}.limit", limit, "must be a whole number above 0, or null for all"
            )
    period = sum(_units(weights))
    if period > LONGEST_PERIOD:
        shown = ", ".join(map(str, weights.values()))
        raise InputError("questions.sources", shown, "weights with fewer digits, please: up to three each always work")


def _refuse_empty(sources: Mapping[str, object], train: Sequence[Question]) -> None:
    for source, questions in _by_source(sources, train).items():
        if not questions:
            remedy = "has no question to train on that is not tested; leave the source out or lower its heldout"
            raise InputError(f"questions.sources.{source}", source, remedy)


def _first(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """The `limit` questions with the smallest hashes, in their order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    contents = ["\0".join((q.text, *q.images)).encode("utf-8", "surrogatepass") for q in questions]
    digests = [hashlib.md5(content, usedforsecurity=False).digest() for content in contents]
    smallest = sorted(range(len(questions)), key=digests.__getitem__)[:limit]
    return [questions[i] for i in sorted(smallest)]


def _interleaved(heldout: Mapping[str, list[Question]], weights: Mapping[str, float]) -> list[Question]:
    """The held-out rows in the order of the weights; the others continue once a source has no more."""
    questions = list(heldout.values())
    sizes = [len(source) for source in questions]
    return [questions[index][i] for index, i in _order(sizes, _units(weights))]


def _order(sizes: Sequence[int], weights: Sequence[int]) -> list[tuple[int, int]]:
    """(source, i) for i below the source's size, sorted by (i + 1/2) / weight, then by source."""
    positions = [
        ((2 * i + 1) / weight, index, i)
        for index, (size, weight) in enumerate(zip(sizes, weights, strict=True))
        for i in range(size)
    ]
    return [(index, i) for _, index, i in sorted(positions)]


@lru_cache(maxsize=8)
def _one_period(weights: tuple[int, ...]) -> list[tuple[int, int]]:
    """The order of the first sum(weights) questions, after which it repeats."""
    return _order(weights, weights)


def _units(weights: Mapping[str, float]) -> tuple[int, ...]:
    """The weights as the smallest whole numbers in the same proportions; 0.3 is three tenths exactly."""
    exact = [Fraction(str(weight)) for weight in weights.values()]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    return tuple(number // math.gcd(*whole) for number in whole)

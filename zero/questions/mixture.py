"""Several question sets as one, by weights. zero.grading.mixture_checker puts one together, checker included.

Places of a run are dealt to the parts by Tijdeman's rule ("The chairman assignment problem", Discrete Mathematics 32, 1980):
after any number of places every part has had its exact share to within less than one question, so that over any stretch
of a run the shares are off by less than two. No step draws at random which set it asks. Each part goes through epochs of
its own: a question comes back only after all others of its part did.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows, without_tested
from zero.records import Question

MARK = "/"  # between the name of a part and the id that its question has there
LONGEST_PERIOD = 1_000_000  # places after which the dealing repeats; longer ones come of weights with too many digits


@dataclass(frozen=True)
class Mixture:
    """What a QuestionSet is, of several. A question's id says its part: `part/ID`."""

    name: str
    rows: Rows  # of all parts; the held-out ones dealt by the weights too, so that the first few are a fair sample
    check: Checker
    extract_any: Extractor
    weights: Mapping[str, float]  # part -> share of the training questions, up to a common factor

    def without(self, tested: Mapping[str, Sequence[Question]]) -> Mixture:
        """The mixture without the training rows that are questions of a test, by the test's name; noted in its rows.

        InputError if a part has none left: the others would take its place unseen.
        """
        rows = without_tested(self.rows, tested)
        _refuse_empty(self.weights, rows.train)
        return replace(self, rows=rows)

    def dropping(self, ids: Collection[str], note: str) -> Mixture:
        """The mixture without the training rows of these ids; the note says why. InputError as in `without`."""
        rows = self.rows.dropping(ids, note)
        _refuse_empty(self.weights, rows.train)
        return replace(self, rows=rows)

    def batch(self, step: int, n: int, seed: int) -> list[Question]:
        """The n training questions of a step (from 0): a pure function of its arguments."""
        dealing = _dealing(_units(self.weights))
        return [self._question(place, dealing, seed) for place in range(step * n, (step + 1) * n)]

    def _question(self, place: int, dealing: Dealing, seed: int) -> Question:
        period, offset = divmod(place, len(dealing.source))
        index = dealing.source[offset]
        count = period * dealing.units[index] + dealing.rank[offset]  # of the part's questions before this place
        source, rows = self._train[index]
        epoch, position = divmod(count, len(rows))
        return rows[_shuffled(source, len(rows), seed, epoch)[position]]

    @cached_property
    def _train(self) -> list[tuple[str, list[Question]]]:
        return list(_by_part(self.weights, self.rows.train).items())


def mixed_rows(sets: Mapping[str, QuestionSet], weights: Mapping[str, float], limits: Mapping[str, int | None]) -> Rows:
    """The rows of all parts. A part's limit keeps that many of its training rows, those whose text has the smallest
    digest, whatever the order of its file. No training row of one part is held out by another. Raises InputError."""
    _check(sets, weights, limits)
    train, notes = list[Question](), list[str]()
    for source, questions in sets.items():
        rows = questions.rows
        train += [_owned(source, question) for question in _first(rows.train, limits.get(source))]
        notes += [f"{source}: {note}" for note in rows.notes]
    heldout = {source: [_owned(source, question) for question in sets[source].rows.heldout] for source in sets}
    rows = without_tested(Rows(train, _interleaved(heldout, weights), notes), heldout)
    _refuse_empty(weights, rows.train)
    return rows


def split_id(question: Question) -> tuple[str, Question]:
    """(part, the question as the part knows it)."""
    source, _, own = question.id.partition(MARK)
    return source, replace(question, id=own)


def _owned(source: str, question: Question) -> Question:
    return replace(question, id=f"{source}{MARK}{question.id}", meta={**question.meta, "part": source})


def _by_part(sources: Mapping[str, object], questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {source: [] for source in sources}
    for question in questions:
        found[question.id.partition(MARK)[0]].append(question)
    return found


def _check(sets: Mapping[str, QuestionSet], weights: Mapping[str, float], limits: Mapping[str, int | None]) -> None:
    if not sets:
        raise InputError("questions.sources", "{}", "name at least one part; conf/questions/mixture.yaml is an example")
    for source in sets:
        if not source or MARK in source:
            raise InputError("questions.sources", source, f"the name of a part must be text without {MARK}")
        weight, limit = weights[source], limits.get(source)
        if not (type(weight) in (int, float) and math.isfinite(weight) and weight > 0):
            raise InputError(
                f"questions.sources.{source}.weight", weight, "must be a number above 0; or leave the part out"
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
    for source, questions in _by_part(sources, train).items():
        if not questions:
            remedy = "has no question to train on that is not tested; leave the part out or lower its heldout"
            raise InputError(f"questions.sources.{source}", source, remedy)


def _first(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Those with the smallest digests, in the order in which they came."""
    if limit is None or limit >= len(questions):
        return list(questions)
    digests = [hashlib.md5(q.text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest() for q in questions]
    kept = sorted(range(len(questions)), key=digests.__getitem__)[:limit]
    return [questions[i] for i in sorted(kept)]


def _interleaved(heldout: Mapping[str, list[Question]], weights: Mapping[str, float]) -> list[Question]:
    """Dealt by the weights; a part that has no more leaves its places to the others."""
    order = [(Fraction(2 * i + 1) / Fraction(str(weights[source])), n, i, source)
             for n, source in enumerate(heldout) for i in range(len(heldout[source]))]  # fmt: skip
    return [heldout[source][i] for _, _, i, source in sorted(order)]


def _units(weights: Mapping[str, float]) -> tuple[int, ...]:
    """The weights as the smallest whole numbers in the same proportions; 0.3 is three tenths, not its binary neighbour."""
    exact = [Fraction(str(weight)) for weight in weights.values()]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    return tuple(number // math.gcd(*whole) for number in whole)


class Dealing(NamedTuple):
    """One period of places: the part that each goes to, and how many of the period that part had before."""

    units: tuple[int, ...]
    source: array[int]
    rank: array[int]


@lru_cache(maxsize=8)
def _dealing(units: tuple[int, ...]) -> Dealing:
    """Tijdeman's rule in whole numbers. Of D places in a period, part i gets units[i]; D is their sum.

    With n_i places before place k (from 1) and lead_i = units[i] k - n_i D, part i may take the place if
    lead_i >= D / (2 m - 2), m parts; of those the one with the smallest (D - D / (2 m - 2) - lead_i) / units[i] does.
    """
    total, scale = sum(units), max(1, 2 * len(units) - 2)
    counts = [0] * len(units)
    dealt = Dealing(units, array("L"), array("L"))
    for k in range(1, total + 1):
        best, urgency = 0, 0
        chosen = False
        for i, unit in enumerate(units):
            lead = scale * (unit * k - counts[i] * total)
            left = (scale - 1) * total - lead
            if lead >= total and (not chosen or left * units[best] < urgency * unit):
                best, urgency, chosen = i, left, True
        dealt.source.append(best)
        dealt.rank.append(counts[best])
        counts[best] += 1
    return dealt


@lru_cache(maxsize=64)
def _shuffled(source: str, size: int, seed: int, epoch: int) -> list[int]:
    order = list(range(size))
    random.Random(f"questions/{seed}/{source}/{epoch}").shuffle(order)
    return order

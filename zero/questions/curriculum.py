"""Which questions a step asks, by what is known of their difficulty: `draw` first.

A curriculum chooses among the rows of one source; how many questions each source of a mixture gives is the mixture's
affair. The choice depends on the seed, the round and the history alone, so that every rank makes the same one, and a
resumed run the same as an uninterrupted one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nextafter
from typing import Any, Protocol

from zero.errors import InputError
from zero.questions import Source
from zero.questions.history import History
from zero.records import Metrics, Question, in_a_word


@dataclass(frozen=True)
class Moment:
    """When questions are drawn: round `number` of the run, in step `step`, under the run's seed."""

    step: int
    number: int
    seed: int


class Curriculum(Protocol):
    """See `draw`."""

    @property
    def memory(self) -> float | None:
        """Of the History that it needs; None: it needs none."""
        ...

    @property
    def pools(self) -> Sequence[str]:
        """The names of its pools, those without rows too; may be empty if rows alone tell."""
        ...

    def choose(self, source: Source, places: Sequence[int], history: History, moment: Moment) -> list[Question]:
        """A training row of the source for each place: the number of questions that the source gave before it."""
        ...

    def pool(self, question: Question, history: History) -> str:
        """The name of the pool that a row is in, for curves; "" without pools."""
        ...

    def check(self, sources: Sequence[Source]) -> None:
        """InputError for settings that cannot work with these sources."""
        ...


class DrawnFrom(Protocol):
    """A question set as `draw` needs it: zero.questions.QuestionSet and zero.questions.mixture.Mixture."""

    @property
    def sources(self) -> Mapping[str, Source]: ...
    @property
    def needs_history(self) -> bool: ...
    def slots(self, number: int, n: int, history: History) -> list[tuple[str, int]]: ...


def draw(questions: DrawnFrom, curriculum: Curriculum, history: History, moment: Moment, n: int) -> list[Question]:
    """The n questions of a round: the set says which source each is from, the curriculum which row of the source."""
    slots, sources = questions.slots(moment.number, n, history), questions.sources
    places: dict[str, list[int]] = {}
    for source, place in slots:
        places.setdefault(source, []).append(place)
    chosen = {name: iter(curriculum.choose(sources[name], places[name], history, moment)) for name in places}
    return [next(chosen[source]) for source, _ in slots]


def pool_metrics(questions: DrawnFrom, curriculum: Curriculum, history: History, drawn_pools: Sequence[str]) -> Metrics:
    """The share of the training rows that are in each pool, and of the step's questions that were drawn from it."""
    if not any(drawn_pools):
        return {}
    rows = [question for source in questions.sources.values() for question in source.rows]
    shares = {"rows": Counter(curriculum.pool(question, history) for question in rows), "drawn": Counter(drawn_pools)}
    return {
        f"curriculum/{what}/{pool}": count[pool] / count.total()
        for what, count in shares.items()
        for pool in sorted({*curriculum.pools, *shares["rows"], *shares["drawn"]})
    }


@dataclass(frozen=True)
class Uniform:
    """Every row once before any is asked again, in an order that depends on the seed and the epoch."""

    memory: float | None = None
    pools: Sequence[str] = ()

    def choose(self, source: Source, places: Sequence[int], history: History, moment: Moment) -> list[Question]:
        return [source.in_order(place, moment.seed) for place in places]

    def pool(self, question: Question, history: History) -> str:
        return ""

    def check(self, sources: Sequence[Source]) -> None:
        """It works with every source."""


@dataclass(frozen=True)
class Pools:
    """Pools of rows by pass rate, and one of rows that were never asked: each question of a step is from a pool that is drawn by
    `weights`, and there the row that was asked least recently. Rows move between pools as their pass rates change.

    A row with a pass rate is in the first pool whose upper end in `up_to` is not below it. Pools without rows are left out
    of the draw; where all that are left have weight 0, they are drawn alike.
    """

    up_to: Mapping[str, float]  # pool -> upper end, ascending; the last is 1
    weights: Mapping[str, float]  # of these pools, and of `unseen`
    memory: float | None

    @property
    def pools(self) -> Sequence[str]:
        """Those by pass rate, and `unseen`."""
        return (*self.up_to, UNSEEN)

    def choose(self, source: Source, places: Sequence[int], history: History, moment: Moment) -> list[Question]:
        rng = random.Random(f"curriculum/{moment.seed}/{source.name}/{moment.number}")
        queues: dict[str, Iterator[Question]] = {}
        chosen: list[Question] = []
        while len(chosen) < len(places):
            if not queues:
                queues = self._queues(source, history, moment.seed)
            names = sorted(queues)
            weights = [self.weights[name] for name in names]
            name = rng.choices(names, weights if any(weights) else None)[0]
            question = next(queues[name], None)
            if question is None:
                del queues[name]
            else:
                chosen.append(question)
        return chosen

    def _queues(self, source: Source, history: History, seed: int) -> dict[str, Iterator[Question]]:
        """The rows of each pool that has some, the one asked least recently first; ties in the order of the seed."""
        pools: dict[str, list[Question]] = {}
        for question in least_recent_first(source, history, seed):
            pools.setdefault(self.pool(question, history), []).append(question)
        return {name: iter(rows) for name, rows in pools.items()}

    def pool(self, question: Question, history: History) -> str:
        rate = history.pass_rate(question.id)
        return UNSEEN if rate is None else next(name for name, end in self.up_to.items() if rate <= end)

    def check(self, sources: Sequence[Source]) -> None:
        """It works with every source."""


@dataclass(frozen=True)
class Levels:
    """A schedule of levels: from a step on only rows of these levels are asked, the one asked least recently first. Rows without
    a level are always asked."""

    schedule: Mapping[int, Sequence[Any] | None]  # step -> levels from there on; None: all
    memory: float | None = 1.0
    pools: Sequence[str] = ()

    def choose(self, source: Source, places: Sequence[int], history: History, moment: Moment) -> list[Question]:
        levels = self._levels(moment.step)
        rows = [question for question in least_recent_first(source, history, moment.seed) if _is_of(question, levels)]
        return [rows[i % len(rows)] for i in range(len(places))]

    def _levels(self, step: int) -> frozenset[str] | None:
        levels = self.schedule[max(start for start in self.schedule if start <= step)]
        return None if levels is None else frozenset(map(in_a_word, levels))

    def pool(self, question: Question, history: History) -> str:
        return f"level_{question.level}" if question.level else "no_level"

    def check(self, sources: Sequence[Source]) -> None:
        for source in sources:
            for step in self.schedule:
                levels = self._levels(step)
                if not any(_is_of(question, levels) for question in source.rows):
                    known = ", ".join(sorted({question.level for question in source.rows}))
                    remedy = f"{source.name or 'the question set'} has no row of these levels; it has {known}"
                    raise InputError(f"curriculum.schedule.{step}", self.schedule[step], remedy)


def _is_of(question: Question, levels: frozenset[str] | None) -> bool:
    return levels is None or not question.level or question.level in levels


def least_recent_first(source: Source, history: History, seed: int) -> list[Question]:
    """The rows of a source by the round in which they were asked last, those never asked first; ties in the order of the seed."""
    return sorted(source.shuffled(seed), key=lambda question: history.last(question.id))


UNSEEN = "unseen"


def make_pools(pools: Mapping[str, Mapping[str, float]], unseen: float, memory: float) -> Pools:
    """Pools from the settings of conf/curriculum/pools.yaml. Raises InputError."""
    _check_memory(memory)
    for name, settings in pools.items():
        numbers = isinstance(settings, Mapping) and all(type(value) in (int, float) for value in settings.values())
        if not numbers or set(settings) != {"up_to", "weight"}:
            raise InputError(f"curriculum.pools.{name}", settings, "must be {up_to: NUMBER, weight: NUMBER}")
    ends = [settings["up_to"] for settings in pools.values()]
    if not ends or sorted(set(ends)) != ends or ends[-1] != 1 or ends[0] < 0:
        shown = ", ".join(f"{name} up to {end}" for name, end in zip(pools, ends, strict=True))
        raise InputError("curriculum.pools", shown, "their upper ends must ascend from 0 or more to 1")
    weights = {name: settings["weight"] for name, settings in pools.items()} | {UNSEEN: unseen}
    for name, weight in weights.items():
        if not (isfinite(weight) and weight >= 0):
            key = "curriculum.unseen" if name == UNSEEN else f"curriculum.pools.{name}.weight"
            raise InputError(key, weight, "must be 0 or more")
        if in_a_word(name) != name or (name == UNSEEN and name in pools):
            raise InputError("curriculum.pools", name, f"the name of a pool must be one word, and not {UNSEEN}")
    return Pools({name: settings["up_to"] for name, settings in pools.items()}, weights, memory)


def make_band(low: float, high: float, unseen: float, memory: float) -> Pools:
    """A band of pass rates from `low` to `high`, both included, and rows that were never asked; others only if there are none
    of these. Raises InputError."""
    _check_memory(memory)
    if not 0 <= low <= high <= 1:
        raise InputError(
            "curriculum.low", low, f"must lie between 0 and curriculum.high, which is {high} and at most 1"
        )
    if not 0 <= unseen <= 1:
        raise InputError("curriculum.unseen", unseen, "must lie between 0 and 1")
    below = [] if low == 0 else [("below", nextafter(low, 0.0))]
    above = [] if high == 1 else [("above", 1.0)]
    weights = {"below": 0.0, "band": 1 - unseen, "above": 0.0, UNSEEN: unseen}
    return Pools(dict([*below, ("band", high), *above]), weights, memory)


def make_levels(schedule: Mapping[Any, Any] | None) -> Levels:
    """A schedule {step: levels} from conf/curriculum/levels.yaml. Raises InputError."""
    remedy = "must map steps to lists of levels: 'curriculum.schedule={0: [1, 2], 50: [1, 2, 3], 100: null}'"
    if not isinstance(schedule, Mapping):
        raise InputError("curriculum.schedule", schedule, remedy)
    steps: dict[int, Any] = {}
    for step, levels in schedule.items():
        if not str(step).isdecimal() or (levels is not None and (not isinstance(levels, list) or not levels)):
            raise InputError("curriculum.schedule", schedule, remedy)
        steps[int(step)] = levels
    if 0 not in steps:
        raise InputError("curriculum.schedule", schedule, "must say which levels the run begins with: 0: [...]")
    return Levels(steps)


def _check_memory(memory: float) -> None:
    if not 0 <= memory <= 1:
        raise InputError("curriculum.memory", memory, "must lie between 0 and 1")

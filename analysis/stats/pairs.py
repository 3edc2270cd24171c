"""Which runs make pairs: two values of an axis, and all else equal; and the values of a metric that both runs of a pair have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from analysis.reader.benchmarks import evaluations
from analysis.reader.records import AXES, EVAL
from analysis.stats.spent import value_at
from zero.config.experiments import STEP
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.reader.records import Run, Runs

Series = Mapping[int, float]
Key = tuple[str, ...]


@dataclass(frozen=True)
class At:
    """Where a metric is taken: the mean over the steps from `first` to `last` that both runs of a pair have; None, None: the
    last step that both have."""

    first: int | None = None
    last: int | None = None
    x = STEP

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return "the last step that both runs have"
        return f"step {self.first}" if self.first == self.last else f"mean of steps {self.first} to {self.last}"

    def chosen(self, shared: Iterable[int]) -> list[int]:
        """The steps that count, of those that both runs have."""
        steps = sorted(shared)
        if self.first is None or self.last is None:
            return steps[-1:]
        return [step for step in steps if self.first <= step <= self.last]

    def value(self, series: Series, steps: Sequence[int]) -> float:
        """One number of a run over these steps, those that were `chosen`; NaN if there is none."""
        return sum(series[step] for step in steps) / len(steps) if steps else math.nan


class ValueRule(Protocol):
    """What is taken of a run: see At. With another `x` than the step series are against what was spent, those of a pair are
    compared at the most that both had spent, and there is nothing to choose."""

    @property
    def x(self) -> str: ...

    def chosen(self, shared: Iterable[int]) -> list[int]: ...

    def value(self, series: Series, steps: Sequence[int]) -> float: ...


@dataclass(frozen=True)
class Between:
    """The axis, its two values, the axes that pairs agree in, and those that merely change together with it."""

    axis: str
    first: str
    second: str
    same: tuple[str, ...]
    along: Mapping[str, tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.axis}: {self.first or 'none'} - {self.second or 'none'}"


@dataclass(frozen=True)
class Pair:
    """One metric of two runs, or of one (`second` 0); `group`: what, besides the seed, they agree in, as far as it differs
    between pairs; `spent`: at what both were compared, if not at steps."""

    group: str
    seed: str
    runs: str
    first: float
    second: float
    steps: tuple[int, ...]
    spent: float = math.nan


def at_of(text: str) -> At:
    """From `end`, `STEP` or `FIRST-LAST`. InputError for anything else."""
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text.strip())
    if text.strip() == "end":
        return At()
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise InputError("--at", text, "must be end, a step such as 100, or steps such as 50-100")
    return At(int(match[1]), int(match[2] or match[1]))


def between_of(subjects: Sequence[Run], text: str | None) -> Between:
    """From AXIS=FIRST,SECOND. InputError for an axis or a value that these runs do not have."""
    axes = list(dict.fromkeys(axis for run in subjects for axis in run.axes))
    values = {axis: list(dict.fromkeys(run.axes.get(axis, "") for run in subjects)) for axis in axes}
    if text is None:
        differing = [axis for axis in axes if axis != "seed" and len(values[axis]) > 1]
        leading = [axis for axis in differing if len(values[axis]) == 2]
        if len(leading) != 1 or len(differing) != 1:
            listed = ", ".join(f"{axis} ({', '.join(values[axis][:6])})" for axis in differing) or "none"
            raise InputError(
                "--between", "none", f"say which two are compared: AXIS=FIRST,SECOND; axes that differ: {listed}"
            )
        text = f"{leading[0]}={','.join(sorted(values[leading[0]]))}"
    axis, _, both = text.partition("=")
    first, comma, second = both.partition(",")
    axis, first, second = axis.strip(), first.strip(), second.strip()
    if axis not in values:
        raise InputError("--between", text, f"no such axis; there are {', '.join(axes)}")
    first, second = (as_listed(value, values[axis]) for value in (first, second))
    if axis == "seed" or not comma or "," in second or first == second:
        raise InputError("--between", text, "must be AXIS=FIRST,SECOND with two different values, and not the seed")
    for value in (first, second):
        if value not in values[axis]:
            listed = ", ".join(values[axis][:12])
            raise InputError("--between", text, f"no run has {axis}={value or 'none'}; there are {listed}")
    return sides_between(subjects, axis, first, second)


def as_listed(value: str, known: Iterable[str]) -> str:
    """A value as the runs have it: 1e-4 is their 0.0001."""
    try:
        number = float(value)
    except ValueError:
        return value
    for other in known:
        try:
            if value not in known and float(other) == number:
                return other
        except ValueError:
            continue
    return value


def sides_between(subjects: Sequence[Run], axis: str, first: str, second: str) -> Between:
    """What pairs of two values of an axis agree in."""
    axes = list(dict.fromkeys(axis for run in subjects for axis in run.axes))
    sides = [[run for run in subjects if run.axes.get(axis, "") == value] for value in (first, second)]
    along = {}
    for other in axes:
        left, right = ({run.axes.get(other, "") for run in side} for side in sides)
        if other not in (axis, "seed") and len(left) == len(right) == 1 and left != right:
            along[other] = (next(iter(left)), next(iter(right)))
    same = tuple(other for other in axes if other != axis and other not in along)
    return Between(axis, first, second, same, along)


# ----------------------------------------------------------------------------------------------------------------- pairs


def series(runs: Runs, subjects: Sequence[Run], only: str | None = None) -> dict[tuple[str, str], dict[int, float]]:
    """The finite values by (run, metric): of the journals, and of what result.json alone holds. `only`: of this metric."""

    names = {run.name for run in subjects}
    known: dict[tuple[str, str], dict[int, float]] = {}
    for metric in runs.metrics if only is None else {only} & set(runs.metrics):
        rows = runs.steps[["run", "step", metric]].dropna()
        for name, step, value in zip(rows["run"], rows["step"], rows[metric], strict=True):
            if name in names and math.isfinite(value):
                known.setdefault((str(name), metric), {})[int(step)] = float(value)
    if only is not None and not EVAL.match(only):
        return known
    measured = evaluations(runs)
    if only is not None:
        measured = measured[
            (measured["benchmark"].astype(str) + "/" + measured["metric"].astype(str)) == only.partition("/")[2]
        ]
    for name, benchmark, metric, step, value in zip(
        measured["run"], measured["benchmark"], measured["metric"], measured["step"], measured["value"], strict=True
    ):
        if name in names and math.isfinite(value):
            known.setdefault((str(name), f"eval/{benchmark}/{metric}"), {}).setdefault(int(step), float(value))
    return known


def sides_of(subjects: Sequence[Run], wanted: Between) -> tuple[dict[Key, list[str]], dict[Key, list[str]]]:
    """The names of the runs of either value, by what pairs agree in."""
    first: dict[Key, list[str]] = {}
    second: dict[Key, list[str]] = {}
    for run in subjects:
        value = run.axes.get(wanted.axis, "")
        side = first if value == wanted.first else second if value == wanted.second else None
        if side is not None:
            side.setdefault(tuple(run.axes.get(axis, "") for axis in wanted.same), []).append(run.name)
    return first, second


def unpaired(
    sides: tuple[dict[Key, list[str]], dict[Key, list[str]]], wanted: Between
) -> tuple[list[str], dict[str, str]]:
    """(remarks on runs without a partner and on several runs in one place, run without a partner -> what it lacks).
    InputError if there is no pair."""
    first, second = sides
    notes: list[str] = []
    alone: dict[str, str] = {}
    if not first.keys() & second.keys():
        ours, theirs = next(iter(first)), next(iter(second))
        differ = [a for a, x, y in zip(wanted.same, ours, theirs, strict=True) if x != y]
        raise InputError(
            "--between",
            f"{wanted.axis}={wanted.first},{wanted.second}",
            f"no two runs are equal in everything else; they differ in {', '.join(differ[:6])} too",
        )
    for own, other, value in ((first, second, wanted.second), (second, first, wanted.first)):
        for key, names in own.items():
            if key not in other:
                alone |= dict.fromkeys(names, f"has no partner with {wanted.axis}={value or 'none'}: left out")
            elif len(names) > 1:
                notes.append(_twice(names, dict(zip(wanted.same, key, strict=True))))
    if alone:
        notes.append(f"{len(alone)} run{'s' * (len(alone) > 1)} without a partner left out")
    return notes, alone


def _twice(names: Sequence[str], settings: Mapping[str, str]) -> str:
    return f"{', '.join(names)}: {len(names)} runs with the same settings ({words(settings, ['seed'])}); their mean is one value"


def pairs(
    sides: tuple[dict[Key, list[str]], dict[Key, list[str]]],
    wanted: Between,
    known: Mapping[tuple[str, str], Series],
    metric: str,
    where: ValueRule,
) -> tuple[list[Pair], int]:
    """The pairs of one metric, and how many have no value where it is wanted."""
    first, second = sides
    shared = [key for key in first if key in second]
    varied = [a for i, a in enumerate(wanted.same) if a != "seed" and len({key[i] for key in shared}) > 1]
    complete, lost = [], 0
    for key in shared:
        both = [_meanseries([known.get((n, metric), {}) for n in side[key]]) for side in (first, second)]
        steps, spent = where.chosen(both[0].keys() & both[1].keys()), math.nan
        if where.x == STEP:
            left, right = (where.value(series, steps) for series in both)
        else:
            costs = [_meanseries([known.get((n, where.x), {}) for n in side[key]]) for side in (first, second)]
            spent, left, right = at_equal_cost(both, costs)
        if math.isnan(left) or math.isnan(right):
            lost += 1
            continue
        settings = dict(zip(wanted.same, key, strict=True))
        runs = " - ".join("+".join(side[key]) for side in (first, second))
        complete.append(Pair(words(settings, varied), settings.get("seed", ""), runs, left, right, tuple(steps), spent))
    return complete, lost


def at_equal_cost(both: Sequence[Series], costs: Sequence[Series]) -> tuple[float, float, float]:
    """(spent, first value, second value) of two series at the most that both had spent when they were measured, where `costs`
    are what was spent at each step; NaN where there is none."""
    points = [
        [(own[step], series[step]) for step in sorted(series) if step in own]
        for series, own in zip(both, costs, strict=True)
    ]
    if not all(points):
        return (math.nan,) * 3
    spent = min(own[-1][0] for own in points)
    left, right = (value_at(spent, *zip(*own, strict=True)) for own in points)
    return spent, left, right


def singles(
    subjects: Sequence[Run], known: Mapping[tuple[str, str], Series], metric: str, where: ValueRule
) -> tuple[list[Pair], list[str], list[str]]:
    """As `pairs`, of runs by themselves: (values, runs without one, remarks)."""
    axes = list(dict.fromkeys(axis for run in subjects for axis in run.axes))
    places: dict[Key, list[str]] = {}
    for run in subjects:
        places.setdefault(tuple(run.axes.get(axis, "") for axis in axes), []).append(run.name)
    varied = [a for i, a in enumerate(axes) if a != "seed" and len({key[i] for key in places}) > 1]
    complete, lost, notes = [], [], []
    for key, names in places.items():
        settings = dict(zip(axes, key, strict=True))
        if len(names) > 1:
            notes.append(_twice(names, settings))
        own = _meanseries([known.get((name, metric), {}) for name in names])
        steps = where.chosen(own)
        value = where.value(own, steps)
        if math.isnan(value):
            lost += names
            continue
        complete.append(
            Pair(words(settings, varied), settings.get("seed", ""), "+".join(names), value, 0.0, tuple(steps))
        )
    return complete, lost, notes


def by_seed(several: Sequence[Pair]) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """(first, second, remarks) by seed: the means over the pairs of a seed.

    A seed that lacks a group which others have is left out, for its mean would be of other runs than theirs; if every seed
    lacks some, all count, and a remark says so.
    """
    seeds: dict[str, list[Pair]] = {}
    for pair in several:
        seeds.setdefault(pair.seed, []).append(pair)
    groups = list(dict.fromkeys(pair.group for pair in several))
    lacking = {
        seed: missing
        for seed, seed_pairs in seeds.items()
        if (missing := [group for group in groups if group not in {pair.group for pair in seed_pairs}])
    }
    notes = []
    if lacking and len(lacking) < len(seeds):
        notes = [f"seed {seed or 'unknown'} left out: it lacks {', '.join(lost)}" for seed, lost in lacking.items()]
        seeds = {seed: seed_pairs for seed, seed_pairs in seeds.items() if seed not in lacking}
    elif lacking:
        notes = [f"no seed has all of {', '.join(groups)}: the seeds are means over unlike runs"]
    sides = [
        {seed: math.fsum(values) / len(values) for seed, values in taken.items()}
        for taken in (
            {seed: [pair.first for pair in seed_pairs] for seed, seed_pairs in seeds.items()},
            {seed: [pair.second for pair in seed_pairs] for seed, seed_pairs in seeds.items()},
        )
    ]
    return sides[0], sides[1], notes


def _meanseries(several: Sequence[Series]) -> Series:
    """The mean over runs of one place, at the steps that all of them have."""
    steps = set.intersection(*(set(series) for series in several))
    return {step: sum(series[step] for series in several) / len(several) for step in steps}


def words(settings: Mapping[str, str], axes: Sequence[str]) -> str:
    bare = AXES[:5]
    return ", ".join((settings[a] or "none") if a in bare else f"{a}={settings[a]}" for a in axes if a in settings)

"""Claims that were written down before the runs, each with its statistic and the smallest effect that counts; and verdicts.

    claims:
      - text: Dr. GRPO's incorrect answers are shorter than GRPO's
        statistic: {metric: length/incorrect, axis: algo, values: [drgrpo, grpo], when: last 20}
        direction: less          # greater, less, or same: no difference of `smallest` either way
        smallest: 10             # the smallest effect that counts, in the metric's unit (default 0)
        fewest: 3                # seeds without which nothing is decided (default 3)
        where: {template: none}  # only these runs (default: all)

The statistic is the mean over seeds of first - second, of runs that agree in everything else; without `axis` and `values` it
is the mean of the runs themselves. `when`: first, last, change (last - first), mean (of all steps), step 100, last 20 (the
mean of the last 20 steps), change from 1-5 to 16-20 (between the means of those steps, bounds included; one step: 20), always
over steps that both runs of a pair have. The verdict comes from the 95 % interval alone:
shown if all of it is on the claim's side of `smallest`, not shown if none of it is, undecided in between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.folders import EVALUATE
from analysis.records import EVAL
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.estimate import Difference
    from analysis.records import Run, Runs

FILE = "claims.yaml"
SHOWN, NOT_SHOWN, UNDECIDED = "shown", "not shown", "undecided"
DIRECTIONS = ("greater", "less", "same")
WINDOW = r"\d{1,9}(?:-\d{1,9})?"
WHEN = re.compile(
    rf"first|last|change|mean|(?P<what>step|last) (?P<steps>\d{{1,9}})|change from (?P<a>{WINDOW}) to (?P<b>{WINDOW})",
    re.ASCII,
)
KEYS = {"text", "statistic", "direction", "smallest", "fewest", "where"}
FEWEST = 3  # of two seeds a bootstrap interval spans just these two


@dataclass(frozen=True)
class Statistic:
    """What is measured: `metric` at `when`; first - second of `values` of `axis`, or the runs themselves without one."""

    metric: str
    axis: str | None
    values: tuple[str, ...]
    when: str

    def __str__(self) -> str:
        between = f", {self.axis}: {self.values[0]} - {self.values[1]}" if self.axis else ""
        return f"{self.metric}, {self.when}{between}"


@dataclass(frozen=True)
class Claim:
    """One sentence that numbers can support or contradict."""

    text: str
    statistic: Statistic
    direction: str
    smallest: float = 0.0
    fewest: int = FEWEST
    where: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        of = "".join(f", {axis}={value}" for axis, value in self.where.items())
        if self.direction == "same":
            return f"{self.statistic}{of}: within +-{self.smallest:g}"
        sign, size = (">", self.smallest) if self.direction == "greater" else ("<", -self.smallest)
        return f"{self.statistic}{of}: {sign} {size:g}"


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim. `why`: the reason of the word; `notes`: what was left out."""

    claim: Claim
    word: str  # SHOWN, NOT_SHOWN, UNDECIDED
    measured: Difference
    why: str
    notes: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> list[Claim]:
    """The claims of a file. InputError names what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError("--claims", path, f"cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError("--claims", path, f"is no yaml ({str(error).splitlines()[0]})") from None
    entries = content.get("claims") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise InputError("--claims", path, "must hold a list `claims`, as analysis/claims.py describes")
    return parse(entries, "claims")


def parse(entries: Sequence[Any], key: str) -> list[Claim]:
    """The claims of a list that stands under `key`. InputError names what is wrong with it."""
    return [_claim(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def _claim(entry: Any, key: str) -> Claim:
    if not isinstance(entry, dict):
        raise InputError(key, entry, "must be a mapping with text, statistic and direction")
    if unknown := sorted(str(name) for name in entry if name not in KEYS):
        raise InputError(f"{key}.{unknown[0]}", entry[unknown[0]], f"no such key; there are {', '.join(sorted(KEYS))}")
    text, direction, where = entry.get("text"), entry.get("direction"), entry.get("where") or {}
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{key}.text", text, "must be a sentence")
    if direction not in DIRECTIONS:
        raise InputError(f"{key}.direction", direction, f"must be one of {', '.join(DIRECTIONS)}")
    smallest, fewest = entry.get("smallest", 0.0), entry.get("fewest", FEWEST)
    if isinstance(smallest, bool) or not isinstance(smallest, int | float) or not 0 <= smallest < math.inf:
        raise InputError(f"{key}.smallest", smallest, "must be a number of at least 0; the direction has the sign")
    if direction == "same" and not smallest:
        raise InputError(f"{key}.smallest", smallest, "must be above 0: nothing is the same to the last digit")
    if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 2:
        raise InputError(f"{key}.fewest", fewest, "must be at least 2 seeds: one has no interval")
    if not isinstance(where, dict):
        raise InputError(f"{key}.where", where, "must be a mapping of axes to values")
    statistic = _statistic(entry.get("statistic"), f"{key}.statistic")
    of = {str(axis): _typed(value) for axis, value in where.items()}
    return Claim(text.strip(), statistic, direction, float(smallest), fewest, of)


def _statistic(entry: Any, key: str) -> Statistic:
    if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
        raise InputError(
            key, entry, "must be a mapping with metric, when, and axis and values if two groups are compared"
        )
    if unknown := sorted(str(name) for name in entry if name not in ("metric", "axis", "values", "when")):
        raise InputError(f"{key}.{unknown[0]}", entry[unknown[0]], "no such key; there are metric, axis, values, when")
    axis, values, when = entry.get("axis"), entry.get("values"), entry.get("when", "last")
    if (axis is None) != (values is None):
        raise InputError(key, entry, "axis and values go together")
    if axis is not None and (not isinstance(values, list) or len(values) != 2 or values[0] == values[1]):
        raise InputError(f"{key}.values", values, "must be two different values: the statistic is first - second")
    if not isinstance(when, str) or not WHEN.fullmatch(when) or re.fullmatch("last 0+", when):
        raise InputError(
            f"{key}.when", when, "must be first, last, change, mean, step N, last N or change from A-B to C-D"
        )
    of = tuple(_typed(value) for value in values or ())
    return Statistic(entry["metric"], None if axis is None else str(axis), of, when)


def _typed(value: Any) -> str:
    from analysis.folders import shown

    return shown(value)


# --------------------------------------------------------------------------------------------------------------- judging


def judge(runs: Runs, claims: Sequence[Claim]) -> list[Verdict]:
    """A verdict for each claim, in their order. Never fails: what the runs cannot say is undecided."""
    return [verdict(runs, claim) for claim in claims]


def verdict(runs: Runs, claim: Claim) -> Verdict:
    """What the runs say of one claim."""
    from analysis.estimate import paired

    notes: list[str] = []
    of = claim.statistic
    wanted = {**claim.where, **({of.axis: ""} if of.axis else {})}
    everyone = [*runs.runs, *runs.evaluated]
    chosen = [run for run in everyone if all(run.axes.get(axis) == value for axis, value in claim.where.items())]
    if lacking := [axis for axis in wanted if not any(axis in run.axes for run in everyone)]:
        return Verdict(claim, UNDECIDED, paired({}, {}), f"the runs do not differ in {lacking[0]}")
    ended = [run for run in chosen if _ended(runs, run, of.when)]
    if len(ended) < len(chosen):
        notes.append(f"{_runs(len(chosen) - len(ended))} left out: not at their last step yet")
    series = _series(runs, ended, of.metric)
    if not any(series.values()):
        return Verdict(claim, UNDECIDED, paired({}, {}), f"no run has {of.metric}", tuple(notes))
    first, second = _values(ended, series, of, notes) if of.axis else _single(ended, series, of, notes)
    measured = paired(first, second)
    word, why = decide(claim, measured)
    return Verdict(claim, word, measured, why, tuple(notes))


def decide(claim: Claim, measured: Difference) -> tuple[str, str]:
    """(word, reason), from the interval alone."""
    n, low, high = measured.difference.n, measured.difference.low, measured.difference.high
    if n < claim.fewest or low is None or high is None:
        what = "pairs of seeds" if claim.statistic.axis else "seeds"
        return UNDECIDED, f"{n} {what}, {claim.fewest} needed"
    size = claim.smallest
    if claim.direction == "same":
        if -size < low and high < size:
            return SHOWN, "the interval lies within the bounds"
        if low >= size or high <= -size:
            return NOT_SHOWN, "the interval lies beyond a bound: there is a difference"
        return UNDECIDED, "the interval reaches beyond a bound"
    if claim.direction == "less":
        low, high = -high, -low
    if low >= size and low > 0:
        return SHOWN, "all of the interval is on the claim's side"
    if high < size or high <= 0:
        return NOT_SHOWN, "none of the interval reaches what is claimed"
    return UNDECIDED, "the interval holds both effects that are claimed and effects that are not"


Series = dict[int, float]  # step -> value


def _ended(runs: Runs, run: Run, when: str) -> bool:
    """Whether a run has got as far as the statistic looks; a fixed step needs no end."""
    planned = run.settings.get("steps")
    if when == "first" or when.startswith("step ") or not isinstance(planned, int) or run.kind == EVALUATE:
        return True
    steps = runs.steps.loc[runs.steps["run"] == run.name, "step"]
    return bool(len(steps)) and int(steps.max()) >= planned


def _series(runs: Runs, chosen: Sequence[Run], metric: str) -> dict[str, Series]:
    """By run: the values of a metric in its journal; of an evaluation, what it measured on a benchmark."""
    series: dict[str, Series] = {run.name: {} for run in chosen}
    if metric in runs.metrics:
        part = runs.steps[["run", "step", metric]].dropna()
        rows = zip(part["run"], part["step"], part[metric], strict=True)
        for run, step, value in rows:
            if run in series and math.isfinite(value):
                series[run][int(step)] = float(value)
    if (match := EVAL.match(metric)) and any(run.kind == EVALUATE for run in chosen):
        table = runs.evaluations()
        part = table[(table["benchmark"] == match[1]) & (table["metric"] == match[2]) & (table["kind"] == EVALUATE)]
        for run, step, value in zip(part["run"], part["step"], part["value"], strict=True):
            if run in series:
                series[run][int(step)] = float(value)
    return series


def _reduced(series: Series, steps: Sequence[int], when: str) -> float:
    """One number of a run over the given steps; NaN if there is none."""
    if not steps:
        return math.nan
    match = WHEN.fullmatch(when)
    assert match is not None
    if match["what"] == "step":
        return series.get(int(match["steps"]), math.nan) if int(match["steps"]) in steps else math.nan
    if match["a"]:
        windows = [[series[step] for step in _window(match[name], steps)] for name in ("a", "b")]
        before, after = (sum(of) / len(of) if of else math.nan for of in windows)
        return after - before
    if when == "change":
        return series[steps[-1]] - series[steps[0]] if len(steps) > 1 else math.nan
    kept = {"first": steps[:1], "last": steps[-1:], "mean": steps}.get(when)
    if kept is None:
        kept = [step for step in steps if step > steps[-1] - int(match["steps"])]
    return sum(series[step] for step in kept) / len(kept)


def _window(text: str, steps: Sequence[int]) -> list[int]:
    low, _, high = text.partition("-")
    return [step for step in steps if int(low) <= step <= int(high or low)]


def _values(
    runs: Sequence[Run], series: Mapping[str, Series], of: Statistic, notes: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """(first, second) by seed: the means over the pairs of that seed, so that n counts seeds."""
    assert of.axis is not None
    sides = [[run for run in runs if run.axes.get(of.axis) == value] for value in of.values]
    keys = [axis for axis in (runs[0].axes if runs else ()) if axis not in (of.axis, "seed")]
    # what has one value on each side changes with the axis itself, such as a learning rate that goes with an algorithm
    keys = [axis for axis in keys if any(len({run.axes.get(axis) for run in side}) > 1 for side in sides)]
    together: dict[tuple[str, ...], tuple[list[Run], list[Run]]] = {}
    for i, side in enumerate(sides):
        for run in side:
            key = (run.axes.get("seed", ""), *(run.axes.get(axis, "") for axis in keys))
            together.setdefault(key, ([], []))[i].append(run)
    by_seed: dict[str, list[tuple[float, float]]] = {}
    alone = 0
    for (seed, *_), (ones, others) in together.items():
        alone += len(ones) + len(others) if not (ones and others) else 0
        for one, other in zip(ones, others, strict=False):
            a, b = series[one.name], series[other.name]
            steps = sorted(a.keys() & b.keys())
            pair = (_reduced(a, steps, of.when), _reduced(b, steps, of.when))
            if not any(map(math.isnan, pair)):
                by_seed.setdefault(seed, []).append(pair)
            else:
                notes.append(f"seed {seed}: no {of.metric} ({of.when}) that both have")
    if alone:
        notes.append(f"{_runs(alone)} without a partner that differs in {of.axis} only")
    means = [{seed: sum(p[i] for p in pairs) / len(pairs) for seed, pairs in by_seed.items()} for i in (0, 1)]
    return means[0], means[1]


def _single(
    runs: Sequence[Run], series: Mapping[str, Series], of: Statistic, notes: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """The runs' own values against zero, by seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        value = _reduced(series[run.name], sorted(series[run.name]), of.when)
        if math.isnan(value):
            notes.append(f"{run.name}: no {of.metric} ({of.when})")
        else:
            found.setdefault(run.axes.get("seed", ""), []).append(value)
    means = {seed: sum(values) / len(values) for seed, values in found.items()}
    return means, dict.fromkeys(means, 0.0)


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"

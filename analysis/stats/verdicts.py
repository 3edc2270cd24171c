"""Verdicts: what runs say of claims that were written down before them.

A claim's own numbers are its effect, the 95 % interval over seeds (analysis/stats/intervals.py) and p: the one-sided p of
the t test that the effect is beyond the smallest one that counts, on the claim's side; of `same` the larger p of the two
one-sided tests. At most 0.025 means that all of the interval is there.

shown      p is at most 0.025 after Holm's adjustment over all claims of a page: if nothing on it is as claimed, some claim is
           shown by chance on at most one page in 40
not shown  none of the claim's own interval is on its side, or, of `same`, all of it beyond a bound: unadjusted
undecided  anything else, and fewer seeds than the claim wants
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.reader.folders import EVALUATE
from analysis.stats import spent
from analysis.stats.claims import WHEN, Claim
from analysis.stats.pairs import Series, by_seed, pairs, series, sides_between, sides_of, singles, unpaired
from zero.config.experiments import STEP
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.reader.records import Run, Runs
    from analysis.stats.intervals import Estimate
    from analysis.stats.pairs import Pair

SHOWN, NOT_SHOWN, UNDECIDED = "shown", "not shown", "undecided"
ALPHA = 0.025  # one-sided: where a 95 % interval ends
RATES = (
    f"Effects are means over seeds with 95 % intervals (Student's t). Shown: the one-sided p, adjusted by Holm's method for all "
    f"claims of the page, is at most {ALPHA:g}, so that of pages on which nothing is as claimed at most one in 40 shows any claim; "
    "not shown: none of the claim's own interval reaches what it claims. The intervals suppose that seeds are normally distributed."
)
REDRAWN = (
    "these seeds are redrawn answers of the same models to the same questions: the interval is about sampling alone, not about "
    "other questions or other training runs"
)


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim. `why`: the reason of the word; `notes`: what was left out or averaged; `p` and `adjusted`:
    see above, None where nothing was tested; `family`: how many claims `adjusted` accounts for."""

    claim: Claim
    word: str  # SHOWN, NOT_SHOWN, UNDECIDED
    measured: Estimate
    why: str
    notes: tuple[str, ...] = ()
    p: float | None = None
    adjusted: float | None = None
    family: int = 1


def judge(runs: Runs, claims: Sequence[Claim]) -> list[Verdict]:
    """A verdict for each claim of a page, in their order. Never fails: what the runs cannot say is undecided."""
    return adjust_for_page([verdict(runs, claim) for claim in claims])


def adjust_for_page(alone: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of one page: each accounts for all of them, those without runs too."""
    from analysis.stats.intervals import holm

    verdicts = []
    adjusted = holm([1.0 if verdict.p is None else verdict.p for verdict in alone])
    for verdict, p in zip(alone, adjusted, strict=True):
        if verdict.word == SHOWN and p > ALPHA:
            why = f"the interval is on the claim's side, but among {len(alone)} claims that is no rare chance (adjusted p {p:.2g})"
            verdict = replace(verdict, word=UNDECIDED, why=why)
        verdicts.append(replace(verdict, adjusted=None if verdict.p is None else p, family=len(alone)))
    return verdicts


def verdict(runs: Runs, claim: Claim) -> Verdict:
    """What the runs say of one claim, taken by itself."""
    from analysis.stats.intervals import over_seeds

    notes: list[str] = []
    statistic = claim.statistic
    everyone = [run for run in (*runs.runs, *runs.evaluated) if run.wanted]
    if stale := len(runs.runs) + len(runs.evaluated) - len(everyone):
        notes.append(f"{_runs(stale)} left out: of settings that the sweep no longer asks for")
    wanted = {**claim.where, **dict.fromkeys(axis for axis in (statistic.axis, claim.every) if axis)}
    if lacking := [axis for axis in wanted if not any(axis in run.axes for run in everyone)]:
        return Verdict(claim, UNDECIDED, over_seeds([]), f"the runs do not differ in {lacking[0]}", tuple(notes))
    chosen = [run for run in everyone if all(run.axes.get(axis) == value for axis, value in claim.where.items())]
    if looked_at := [run for run in chosen if run.axes.get("seed") in claim.seen]:
        seeds = ", ".join(dict.fromkeys(run.axes["seed"] for run in looked_at))
        several = "," in seeds
        notes.append(f"seed{'s' * several} {seeds} left out: looked at before the claim was written down")
    chosen = compared = [run for run in chosen if run not in looked_at]
    if short := [
        run for run in chosen if isinstance(n := run.settings.get("steps"), int) and n < _steps_needed(statistic.when)
    ]:
        notes.append(f"{_runs(len(short))} left out: too short for {statistic.when!r}")
    chosen = [run for run in chosen if run not in short]
    ended = [run for run in chosen if _has_ended(runs, run, statistic.when)]
    if len(ended) < len(chosen):
        notes.append(f"{_runs(len(chosen) - len(ended))} left out: not at their last step yet")
    known = series(runs, ended, statistic.metric)
    if not known:
        return Verdict(claim, UNDECIDED, over_seeds([]), f"no run has {statistic.metric}", tuple(notes))
    if (x := ClaimWindow(statistic.when).x) != STEP:
        known |= spent.series(runs, ended, x)
    if _is_redrawn(ended):
        notes.append(REDRAWN)
    notes += _different_ends(ended, known, statistic.metric, statistic.when)
    if claim.every is None:
        measured, remarks = _measured(ended, claim, known)
        word, why, p = decide(claim, measured)
        return Verdict(claim, word, measured, why, (*notes, *remarks), p)
    kinds = {run.kind for run in ended if (run.name, statistic.metric) in known}
    values = dict.fromkeys(run.axes.get(claim.every, "") for run in compared if run.kind in kinds)
    return _every(ended, claim, known, notes, list(values))


def _every(ended: Sequence[Run], claim: Claim, known: Any, notes: list[str], values: Sequence[str]) -> Verdict:
    """The verdict of the least favourable of the values of the axis `every`: the claim holds if it holds there. One of which
    no run has ended yet is undecided."""
    assert claim.every is not None
    by_value = []
    for value in values:
        measured, remarks = _measured([run for run in ended if run.axes.get(claim.every, "") == value], claim, known)
        word, why, p = decide(claim, measured)
        notes += [f"{claim.every}={value}: {text}" for text in remarks]
        by_value.append((word == SHOWN, word != NOT_SHOWN, -2.0 if p is None else -p, value, measured, why, word, p))
    *_, value, measured, why, word, p = min(by_value, key=lambda one: one[:3])
    why += f" at {claim.every}={value}, the least favourable of {', '.join(values)}"
    return Verdict(claim, word, measured, why, tuple(notes), p)


def decide(claim: Claim, measured: Estimate) -> tuple[str, str, float | None]:
    """(word, reason, p) of a claim by itself."""
    from analysis.stats.intervals import p_above

    n, low, high = measured.n, measured.low, measured.high
    if n < claim.fewest or low is None or high is None:
        what = "pairs of seeds" if claim.statistic.axis else "seeds"
        return UNDECIDED, f"{n} {what}, {claim.fewest} needed", None
    size, equal = claim.smallest, " (all seeds gave the same value)" if low == high else ""
    turned = replace(measured, mean=-measured.mean, low=-high, high=-low)
    if claim.direction == "same":
        p = max(p_above(measured, -size), p_above(turned, -size))
        if p <= ALPHA:
            return SHOWN, f"the interval lies within the bounds{equal}", p
        if low >= size or high <= -size:
            return NOT_SHOWN, "the interval lies beyond a bound: there is a difference", p
        return UNDECIDED, "the interval reaches beyond a bound", p
    own = turned if claim.direction == "less" else measured
    assert own.high is not None
    p = p_above(own, size)
    if p <= ALPHA:
        return SHOWN, f"all of the interval is on the claim's side{equal}", p
    if own.high < size or own.high <= 0:
        return NOT_SHOWN, "none of the interval reaches what is claimed", p
    return UNDECIDED, "the interval holds both effects that are claimed and effects that are not", p


# ---------------------------------------------------------------------------------------------------------- the statistic


@dataclass(frozen=True)
class ClaimWindow:
    """What a claim takes of a run, of the steps that both runs of a pair have: see analysis/stats/claims.py."""

    text: str

    @property
    def x(self) -> str:
        match = WHEN.fullmatch(self.text)
        return (match and match["cost"]) or STEP

    def chosen(self, shared: Iterable[int]) -> list[int]:
        return sorted(shared)

    def value(self, series: Series, steps: Sequence[int]) -> float:
        """One number of a run over the given steps; NaN if there is none."""
        if not steps:
            return math.nan
        match = WHEN.fullmatch(self.text)
        assert match is not None
        if match["what"] == "step":
            return series.get(int(match["steps"]), math.nan) if int(match["steps"]) in steps else math.nan
        if match["a"]:
            windows = [[series[step] for step in _window(match[name], steps)] for name in ("a", "b")]
            before, after = (sum(values) / len(values) if values else math.nan for values in windows)
            return after - before
        if self.text == "change":
            return series[steps[-1]] - series[steps[0]] if len(steps) > 1 else math.nan
        chosen = {"first": steps[:1], "last": steps[-1:], "mean": steps}.get(self.text)
        if chosen is None:
            chosen = [step for step in steps if step > steps[-1] - int(match["steps"])]
        return sum(series[step] for step in chosen) / len(chosen)


def _window(text: str, steps: Sequence[int]) -> list[int]:
    low, _, high = text.partition("-")
    return [step for step in steps if int(low) <= step <= int(high or low)]


def _measured(ended: Sequence[Run], claim: Claim, known: Any) -> tuple[Estimate, list[str]]:
    """The effect over seeds, and remarks on it."""
    from analysis.stats.intervals import difference, over_seeds

    statistic, when = claim.statistic, ClaimWindow(claim.statistic.when)
    # Runs of another task say nothing of these, nor does what they differ in: cards and routes of one sweep
    ended = [run for run in ended if (run.name, statistic.metric) in known] or ended
    if statistic.axis:
        wanted = sides_between(ended, statistic.axis, *statistic.values)
        sides = sides_of(ended, wanted)
        try:
            remarks = unpaired(sides, wanted)[0] if all(sides) else []
        except InputError:  # no two runs are a pair
            remarks = [f"no two runs differ in {statistic.axis} alone"]
        complete, lost = pairs(sides, wanted, known, statistic.metric, when)
        remarks += (
            [f"{lost} pair{'s' * (lost > 1)} without {statistic.metric} ({statistic.when}): left out"] if lost else []
        )
        if complete and when.x != STEP:
            budgets = [pair.spent for pair in complete]
            remarks.append(f"compared at {min(budgets):.3g} to {max(budgets):.3g} {when.x}")
    else:
        complete, without, remarks = singles(ended, known, statistic.metric, when)
        remarks += [f"{', '.join(without)}: no {statistic.metric} ({statistic.when})"] if without else []
    first, second, unlike = by_seed(complete)
    values = [difference(first[seed], second[seed]) for seed in first]
    return over_seeds(values), [*remarks, *unlike, *_averaging_note(complete)]


def _averaging_note(complete: Sequence[Pair]) -> list[str]:
    """Over what the values of one seed were averaged: a claim about a mean is none about each part of it."""
    groups = list(dict.fromkeys(pair.group for pair in complete))
    return [f"the value of a seed is the mean over {'; '.join(groups)}"] if len(groups) > 1 else []


def _has_ended(runs: Runs, run: Run, when: str) -> bool:
    """Whether a run has got as far as the statistic looks; a fixed step needs no end."""
    planned = run.settings.get("steps")
    if when == "first" or when.startswith("step ") or not isinstance(planned, int) or run.kind == EVALUATE:
        return True
    steps = runs.steps.loc[runs.steps["run"] == run.name, "step"]
    return bool(len(steps)) and int(steps.max()) >= planned


def _steps_needed(when: str) -> int:
    """The steps of a run without which a statistic means something else."""
    return max(map(int, re.findall(r"\d+", when)), default=0)


def _is_redrawn(ended: Sequence[Run]) -> bool:
    """Whether these are evaluations of models that do not change with the seed."""
    models = {(run.axes.get("model"), run.settings.get("model.path"), run.settings.get("run")) for run in ended}
    return all(run.kind == EVALUATE for run in ended) and len(models) == len({model for model, *_ in models}) > 0


def _different_ends(ended: Sequence[Run], known: Any, metric: str, when: str) -> list[str]:
    """The runs whose last value is not of their last step: it was not finite there, or was not measured."""
    if not when.startswith(("last", "change")) or when.startswith("change from"):
        return []
    early = []
    for run in ended:
        planned, own = run.settings.get("steps"), known.get((run.name, metric))
        if isinstance(planned, int) and run.kind != EVALUATE and own and max(own) < planned:
            early.append(f"{run.name} (step {max(own)} of {planned})")
    return [f"the last value of {metric} is not of the last step: {', '.join(early[:6])}"] if early else []


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"

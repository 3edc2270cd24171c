"""Curves: any metric against steps or what was spent, seeds to their mean with an interval.

python -m analysis.curves FOLDER... [--metrics train/reward,length/mean] [--by algo,template] [--window 11] [--x flops]

A line is a group of runs that agree in `by`; the band is the 95 % interval over its seeds (Student's t, step by step), thin
lines are the runs themselves. Runs of one seed are averaged first: n counts seeds. A group of one seed has no band.

With --x tokens, flops or seconds a step stands at the sum of what the steps up to it cost (analysis/stats/spent.py), which differs
between seeds: mean and band are then of lines between each run's values, within the range that all runs of a group have.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser, names
from analysis.reader.records import EVAL, natural, wanted_of, words_of
from analysis.reader.units import interval, plain, scale, unit_of
from zero.config.experiments import STEP, X
from zero.errors import InputError
from zero.tracking import palette
from zero.tracking.glossary import GLOSSARY
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.reader.records import Run, Runs

METRICS = ("train/reward", "eval/*/accuracy", "length/mean", "length/incorrect")
CHANCE = "eval/*/chance"  # read beside any metrics: the line under accuracies
COLUMNS = 2
LINES = 24  # groups that one panel can tell apart; more are in the table
POINTS = 300  # of a drawn curve: what print can show, and what keeps a file small
LARGEST_WINDOW = 10_001


@dataclass(frozen=True)
class Group:
    """Runs that agree in the axes of `key`. `n` in the label counts their seeds."""

    label: str
    key: Mapping[str, str]
    runs: tuple[Run, ...]
    mixed: tuple[str, ...]  # axes, besides the seed, in which they differ all the same
    along: tuple[str, ...] = ()  # axes of `key` that the label leaves out: they change together with those that it has

    @property
    def seeds(self) -> tuple[str, ...]:
        """The seed of each run; "": unknown, and never another one."""
        return tuple(run.axes.get("seed", "") for run in self.runs)


@dataclass(frozen=True)
class Curve:
    """One metric of one group. x [T]: steps at which any run has a value, or a grid of what was spent; curves [R, T] of its runs,
    smoothed; NaN: none. Mean, ends of the interval and n are over seeds."""

    x_T: np.ndarray
    runs_RT: np.ndarray
    mean_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    n_T: np.ndarray


def curves(
    runs: Runs,
    metrics: Sequence[str] = METRICS,
    by: Sequence[str] | None = None,
    window: int = 1,
    seeds: bool = True,
    x: str = STEP,
) -> Finding:
    """Every metric (names may hold * and ?) against `x`, grouped `by` axes (None: all that differ but the seed), each run
    smoothed by a running mean over `window` steps. InputError for a metric or axis that no run has, and for a cost that not
    all have."""
    from analysis.stats.spent import refuse_uncounted

    refuse_uncounted(runs.steps, x)
    chosen, groups = select(runs, metrics), grouped(runs, by)
    check_window(window)
    across = min(COLUMNS, len(chosen))
    drawn = style.figure(across, -(-len(chosen) // across))
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    every, guessing = 1, False
    for i, metric in enumerate(chosen):
        by_group = {group.label: curve(runs, group, metric, window, x) for group in groups}
        every = max(every, panel(drawn.axes[i], by_group, metric, window, seeds, x=x))
        guessing |= style.guessing(drawn.axes[i], chances_of(runs, metric))
        for group in groups:
            rows += list(curve_rows(group, metric, by_group[group.label], x))
            shown.append({"group": group.label, "metric": metric, **ends(metric, by_group[group.label], x)})
    for axis in drawn.axes[len(chosen) :]:
        axis.set_visible(False)
    style.legend(drawn, {group.label: palette.line_style(i) for i, group in enumerate(groups[:LINES])})
    style.caption(drawn, caption(groups, window, seeds, every, x) + "; dotted: what guessing scores" * guessing)
    return Finding(drawn, frame(rows, groups, x), "\n".join([as_text(shown), *remarks(groups)]))


def select(runs: Runs, metrics: Sequence[str]) -> list[str]:
    """The metrics that the runs have, in the order asked for. InputError if there is none of a name without wildcards."""
    chosen: dict[str, None] = {}
    for name in metrics:
        wanted = wanted_of([name])
        matching = [known for known in runs.metrics if wanted(known)]
        if not matching and not set(name) & set("*?[") and name not in METRICS:
            names = dict.fromkeys([*runs.metrics, *(known for known in GLOSSARY if "*" not in known)])
            close = [re.sub(r"\b(?:K|[A-Z]{2,})\b", "*", each) for each in difflib.get_close_matches(name, names, n=3)]
            hint = f"; did you mean {' or '.join(close)}?" if close else "; python -m zero.tracking lists metrics"
            raise InputError("--metrics", name, f"no run has it{hint}")
        chosen |= dict.fromkeys(matching)
    if not chosen:
        raise InputError("--metrics", ",".join(metrics), "no run has one of these yet")
    return list(chosen)


def grouped(runs: Runs, by: Sequence[str] | None = None) -> list[Group]:
    """The runs by the values of the axes `by`, in the order of these values. InputError for an axis that does not exist."""

    keys = runs.axes_of(by)
    together: dict[tuple[str, ...], list[Run]] = {}
    for run in runs.runs:
        together.setdefault(tuple(run.axes.get(axis, "") for axis in keys), []).append(run)
    naming = _label_axes(keys, list(together))
    groups = []
    for values in sorted(together, key=lambda values: [natural(value) for value in values]):
        group_runs = together[values]
        key = dict(zip(keys, values, strict=True))
        label = f"{words_of(key, naming)} (n = {len({run.axes.get('seed', '') for run in group_runs})})"
        mixed = [
            axis for axis in runs.varying() if axis not in keys and len({run.axes.get(axis) for run in group_runs}) > 1
        ]
        groups.append(
            Group(label, key, tuple(group_runs), tuple(mixed), tuple(axis for axis in keys if axis not in naming))
        )
    return groups


def _label_axes(keys: Sequence[str], values: Sequence[tuple[str, ...]]) -> list[str]:
    """The first axes that tell the groups apart; what merely changes with them stays out of the labels."""
    telling: list[int] = []
    for i in range(len(keys)):
        if len({tuple(value[k] for k in (*telling, i)) for value in values}) > len(
            {tuple(value[k] for k in telling) for value in values}
        ):
            telling.append(i)
    return [keys[i] for i in telling]


def curve(runs: Runs, group: Group, metric: str, window: int = 1, x: str = STEP) -> Curve:
    """One metric of one group; empty if none of its runs has it."""
    import numpy as np

    from analysis.stats.intervals import band, by_seed, running_mean
    from analysis.stats.spent import on_common_grid, running_sum

    run_names = [run.name for run in group.runs]
    there = runs.steps["run"].isin(run_names) & runs.steps[metric].notna() if metric in runs.steps else []
    rows = runs.steps.loc[there, ["run", "step", metric]] if metric in runs.steps else None
    if rows is None or rows.empty:
        none = np.zeros(0)
        return Curve(none.astype(np.int64), np.zeros((len(run_names), 0)), none, none, none, none.astype(np.int64))
    first, last = int(rows["step"].min()), int(rows["step"].max())
    if last - first > 10_000_000:
        raise InputError("FOLDER", metric, f"steps from {first} to {last} are no steps of a training run")
    # missing steps are NaN, so that a window spans steps and not lines
    full = np.full((len(run_names), last - first + 1), np.nan)
    row = {name: i for i, name in enumerate(run_names)}
    codes = rows["run"].map(row).to_numpy(np.int64)
    full[codes, rows["step"].to_numpy() - first] = rows[metric].to_numpy()
    smooth = np.array([np.where(np.isfinite(values), running_mean(values, window), np.nan) for values in full])
    used = np.flatnonzero(np.isfinite(full).any(axis=0))
    if x == STEP:
        return Curve(used + first, smooth[:, used], *band(by_seed(smooth[:, used], group.seeds)))
    spent = np.full_like(full, np.nan)
    spent[codes, rows["step"].to_numpy() - first] = running_sum(runs.steps, x)[rows.index].to_numpy()
    grid, on_grid = on_common_grid(spent, smooth)
    return Curve(grid, on_grid, *band(by_seed(on_grid, group.seeds)))


def panel(
    axis: Any,
    by_group: Mapping[str, Curve],
    metric: str,
    window: int,
    seeds: bool = True,
    title: str = "",
    x: str = STEP,
) -> int:
    """Draw one metric of all groups. Returns the stride: only every so many points are drawn of long curves."""
    import numpy as np

    from analysis.stats.spent import LABELS

    every = 1
    for i, one in enumerate(list(by_group.values())[:LINES]):
        if not len(one.x_T):
            continue
        stride = -(-len(one.x_T) // POINTS)
        at = np.unique(np.append(np.arange(0, len(one.x_T), stride), len(one.x_T) - 1))
        every = max(every, stride)
        how = palette.line_style(i)
        if seeds and len(one.runs_RT) > 1:
            for values in one.runs_RT:
                shown = at[np.isfinite(values[at])]
                style.faint(axis, one.x_T[shown], values[shown], how)
        style.line(axis, one.x_T[at], one.mean_T[at], how, low=one.low_T[at], high=one.high_T[at])
    smoothed = f", running mean over {window} steps" if window > 1 else ""
    style.finish(axis, LABELS[x], unit_of(metric) + smoothed, title or metric)
    return every


def chances_of(runs: Runs, metric: str) -> list[float]:
    """What guessing scores where `metric` is an accuracy: on a benchmark, or on training questions of which some are held out."""
    match = EVAL.match(metric)
    tested = {match[1]} if match and match[2] in ("accuracy", "accuracy_lenient") else set[str]()
    if metric in ("train/accuracy", "train/accuracy_lenient"):
        tested = {run.axes.get("questions", "") for run in runs.runs}
    columns = [name for name in (f"eval/{name}/chance" for name in sorted(tested)) if name in runs.steps]
    return [value for name in columns for value in runs.steps[name].dropna().unique().tolist()]


def caption(groups: Sequence[Group], window: int, seeds: bool, every: int, x: str = STEP) -> str:
    """What lines and bands are, in words."""
    from analysis.stats.intervals import INTERVAL

    parts = ["thick: mean over the seeds of a group"]
    if any(len(set(group.seeds)) > 1 for group in groups):
        parts.append(f"band: {INTERVAL}")
    if seeds and any(len(group.runs) > 1 for group in groups):
        parts.append("thin: each run")
    if any(len(set(group.seeds)) == 1 for group in groups):
        parts.append("n = 1: one seed, no interval")
    parts.append(f"smoothing: running mean over {window} steps" if window > 1 else "no smoothing")
    if x != STEP:
        parts.append(
            f"x: sum of {X[x]} over a run's steps; runs interpolated linearly within the range that all of a group have"
        )
    if every > 1:
        parts.append(f"one {'step' if x == STEP else 'point'} in {every} drawn")
    if len(groups) > LINES:
        parts.append(f"the first {LINES} of {len(groups)} groups")
    return "; ".join(parts)


def remarks(groups: Sequence[Group]) -> list[str]:
    """Remarks without which the numbers would mislead."""
    from analysis.stats.intervals import FEW

    notes = []
    if groups and groups[0].along:
        named = [axis for axis in groups[0].key if axis not in groups[0].along]
        notes.append(
            f"{', '.join(groups[0].along)}: not the same in all groups, but changing together with {', '.join(named)}"
        )
    notes += [f"{group.label}: its runs differ in {', '.join(group.mixed)} too" for group in groups if group.mixed]
    for group in groups:
        if len(set(group.seeds)) < len(group.runs):
            notes.append(f"{group.label}: {len(group.runs)} runs; those of one seed are averaged first, n counts seeds")
            notes += _incomplete_seeds(group)
    if any(1 < len(set(group.seeds)) < FEW for group in groups):
        notes.append(f"fewer than {FEW} seeds: the interval rests on their values being normally distributed")
    if any(len(set(group.seeds)) == 1 for group in groups):
        notes.append("n = 1 is one seed: no interval, and no statement about other seeds")
    return notes


def _incomplete_seeds(group: Group) -> list[str]:
    """Whether the seeds of a group are means over unlike runs."""
    by_seed: dict[str, set[tuple[str, ...]]] = {}
    for run, seed in zip(group.runs, group.seeds, strict=True):
        by_seed.setdefault(seed, set()).add(tuple(run.axes.get(axis, "") for axis in group.mixed))
    most = set().union(*by_seed.values())
    lacking = [seed or "unknown" for seed, own in by_seed.items() if own != most]
    return (
        [f"{group.label}: seed {', '.join(lacking)} lacks runs that others have: its mean is of other runs"]
        if lacking
        else []
    )


def curve_rows(group: Group, metric: str, values: Curve, x: str = STEP) -> Iterator[dict[str, Any]]:
    """The rows of the table: a step or a point of the grid each."""
    key = {"group": group.label.rpartition(" (n = ")[0], **group.key, "metric": metric}
    for place, mean, low, high, n in zip(
        values.x_T.tolist(), values.mean_T, values.low_T, values.high_T, values.n_T, strict=True
    ):
        yield key | {x: place, "mean": mean, "low": low, "high": high, "n": int(n)}


def ends(metric: str, values: Curve, x: str = STEP) -> dict[str, Any]:
    """First and last mean for the terminal; n is that of the last step, where runs that ended early are missing."""
    if not len(values.x_T):
        return {"last": "no value"}
    low, high = values.low_T[-1], values.high_T[-1]
    factor, unit = scale(metric)
    return {
        "first": plain(values.mean_T[0], factor),
        "last": plain(values.mean_T[-1], factor),
        "unit": unit,
        "interval (95 %)": interval(low, high, unit) if low == low else "one seed: none",
        "n": int(values.n_T[-1]),
        f"at {x}": int(values.x_T[-1]) if x == STEP else f"{values.x_T[-1]:.4g}",
    }


def frame(rows: Sequence[Mapping[str, Any]], groups: Sequence[Group], x: str = STEP) -> pd.DataFrame:
    """The table: group, its axes, metric, x by its name, mean, low, high (empty: no interval), n."""
    import pandas as pd

    axes = list(dict.fromkeys(axis for group in groups for axis in group.key))
    return pd.DataFrame(rows, columns=["group", *axes, "metric", x, "mean", "low", "high", "n"])


def check_window(window: int) -> None:
    """InputError unless a window has a middle."""
    if not 1 <= window <= LARGEST_WINDOW or window % 2 == 0:
        raise InputError("--window", window, f"must be an odd number of steps from 1 to {LARGEST_WINDOW}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("curves", __doc__)
    parser.add_argument("--metrics", help=f"names with commas between; * and ? allowed (default {','.join(METRICS)})")
    parser.add_argument("--by", help="axes with commas between; others are averaged over (default: all that differ)")
    parser.add_argument("--window", type=int, default=1, help="steps of the running mean, odd (default 1: none)")
    parser.add_argument("--no-seeds", action="store_true", help="without the thin lines of single runs")
    parser.add_argument("--x", choices=tuple(X), default=STEP, help="steps, or what had been spent (default step)")
    options = parser.parse_args(arguments)
    chosen = names(options.metrics) or list(METRICS)
    return command(
        "curves",
        options,
        [*chosen, CHANCE, *filter(None, [X[options.x]])],
        lambda runs: curves(runs, chosen, names(options.by), options.window, not options.no_seeds, options.x),
    )


if __name__ == "__main__":
    sys.exit(main())

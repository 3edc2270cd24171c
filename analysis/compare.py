"""Comparisons: two values of an axis, on runs that are equal in everything else, with interval and permutation test.

python -m analysis.compare FOLDER... [--between algo=grpo,drgrpo] [--metrics NAME,...] [--at end | STEP | FIRST-LAST]

A difference is first - second. Two runs make a pair if all their other axes agree, the seed too; the unit of intervals and
tests is the seed: pairs of one seed (of several templates, say) are averaged first. Intervals: Student's t at 95 % over seeds;
tests: two-sided sign flips. One seed has neither. A run without a partner is named in the notes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser, names
from analysis.reader.records import Note, wanted_of
from analysis.reader.units import interval, plain, scale, unit_of
from analysis.stats.pairs import At, Between, Pair, at_of, between_of, by_seed, pairs, series, sides_of, unpaired
from zero.errors import InputError
from zero.tracking import palette
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.reader.records import Runs
    from analysis.stats.intervals import Difference

METRICS = ("train/reward", "train/accuracy", "eval/*/accuracy", "length/mean", "length/correct", "length/incorrect")
COLUMNS = 2
ALL = "all"
ROWS = 30  # groups that one panel shows; more are in the table


def compare(
    runs: Runs, between: str | None = None, metrics: Sequence[str] = METRICS, at: str = "end", level: float = 0.95
) -> Finding:
    """The differences of every metric (names may hold * and ?) `between` two values, written AXIS=FIRST,SECOND (None: the
    only axis that differs, if it has two values). Training runs are compared if there are any, else evaluations.

    The table has a row for each pair (kind "pair"), each group of pairs ("group"), and all of them ("all"): metric, at,
    first, second, difference, low, high (empty: one seed), n (seeds), pairs, p, smallest_p, p_holm (over the metrics'
    main rows). InputError for an axis, value, metric or step that there is not, and if no two runs make a pair.
    """

    where = at_of(at)
    everyone = runs.runs or runs.evaluated
    subjects = [run for run in everyone if run.wanted]
    wanted = between_of(subjects, between)
    known = series(runs, subjects)
    chosen = _select(sorted({name for _, name in known}), metrics)
    sides = sides_of(subjects, wanted)
    notes, alone = unpaired(sides, wanted)
    if stale := len(everyone) - len(subjects):
        notes.append(f"{stale} run{'s' * (stale > 1)} left out: of settings that the sweep no longer asks for")
    runs.notes.extend(Note(name, text) for name, text in alone.items())
    rows: list[dict[str, Any]] = []
    by_metric: dict[str, list[Pair]] = {}
    for metric in chosen:
        by_metric[metric], lost = pairs(sides, wanted, known, metric, where)
        if lost:
            notes.append(f"{metric}: {lost} pair{'s' * (lost > 1)} without a value at {where}: left out")
        notes += _missing_steps(metric, where, by_metric[metric])
        rows += _rows(metric, where, by_metric[metric], level)
        notes += by_seed(by_metric[metric])[2]
    if not any(by_metric.values()):
        raise InputError("--at", at, f"no pair has a value of {', '.join(chosen)} there")
    _holm(rows)
    notes += _remarks(wanted, rows)
    table = _frame(rows, wanted)
    shown = [_shown(row, wanted) for row in rows if row["kind"] != "pair"]
    title = f"{wanted}, at {where}"
    with_rows = [name for name in chosen if by_metric[name]]
    text = "\n".join([title, as_text(shown), *dict.fromkeys(notes)])
    return Finding(_draw(rows, with_rows, title, level), table, text)


def _select(there: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The metrics asked for, in that order. InputError for a plain name that no run has, and if none is left."""
    chosen: dict[str, None] = {}
    for name in metrics:
        wanted = wanted_of([name])
        matching = [known for known in there if wanted(known)]
        if not matching and not set(name) & set("*?[") and name not in METRICS:
            raise InputError("--metrics", name, "no run has it; python -m zero.tracking lists metrics")
        chosen |= dict.fromkeys(matching)
    if not chosen:
        raise InputError("--metrics", ",".join(metrics), "no run has one of these yet")
    return list(chosen)


# ----------------------------------------------------------------------------------------------------------- the numbers


def difference_over_seeds(group_pairs: Sequence[Pair], level: float = 0.95) -> tuple[Difference, float, float]:
    """The difference over seeds, and both means; pairs of one seed are averaged first."""
    from analysis.stats.intervals import paired

    first, second, _ = by_seed(group_pairs)
    return paired(first, second, level), sum(first.values()) / len(first), sum(second.values()) / len(second)


def _rows(metric: str, where: At, metric_pairs: Sequence[Pair], level: float) -> list[dict[str, Any]]:
    """The rows of a metric: pairs, groups if there are several, and all."""
    rows: list[dict[str, Any]] = []
    for pair in metric_pairs:
        rows.append(
            {
                "metric": metric,
                "kind": "pair",
                "group": pair.group or ALL,
                "seed": pair.seed,
                "runs": pair.runs,
                "first": pair.first,
                "second": pair.second,
                "difference": pair.first - pair.second,
                "n": 1,
                "pairs": 1,
                "first_step": pair.steps[0],
                "last_step": pair.steps[-1],
                "at": str(where),
            }
        )
    groups = list(dict.fromkeys(pair.group for pair in metric_pairs))
    parts = (
        [("group", group, [p for p in metric_pairs if p.group == group]) for group in groups] if len(groups) > 1 else []
    )
    for kind, group, group_pairs in [*parts, *([("all", ALL, list(metric_pairs))] if metric_pairs else [])]:
        result, first, second = difference_over_seeds(group_pairs, level)
        rows.append(
            {
                "metric": metric,
                "kind": kind,
                "group": group,
                "first": first,
                "second": second,
                "difference": result.difference.mean,
                "low": result.difference.low,
                "high": result.difference.high,
                "n": result.difference.n,
                "pairs": len(group_pairs),
                "p": result.p,
                "smallest_p": result.smallest_p,
                "at": str(where),
                "first_step": min(p.steps[0] for p in group_pairs),
                "last_step": max(p.steps[-1] for p in group_pairs),
            }
        )
    return rows


def _missing_steps(metric: str, where: At, metric_pairs: Sequence[Pair]) -> list[str]:
    """A remark on pairs that have no value at some of the steps asked for: their means are over fewer steps."""
    if where.last is None or not metric_pairs:
        return []
    spans = sorted({(pair.steps[0], pair.steps[-1]) for pair in metric_pairs})
    if len(spans) == 1 and spans[0][1] >= where.last:
        return []
    named = ", ".join(f"{first} to {last}" for first, last in spans[:4]) + (", ..." if len(spans) > 4 else "")
    return [f"{metric}: of {where} the pairs have steps {named}"]


def _holm(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's adjustment over the tests of the rows of all pairs: one a metric."""
    from analysis.stats.intervals import holm

    tested = [row for row in rows if row["kind"] == "all" and row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted


def _remarks(wanted: Between, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Remarks without which the numbers would mislead."""
    from analysis.stats.intervals import FEW

    remarks = [
        f"{axis} changes with {wanted.axis} ({left or 'none'}, {right or 'none'}): the differences may be its own"
        for axis, (left, right) in wanted.along.items()
    ]
    main = [row for row in rows if row["kind"] == "all"]
    if any(row["n"] == 1 for row in main):
        remarks.append("n = 1 is one seed: no interval, no test, and no statement about other seeds")
    if few := sorted({row["n"] for row in main if row["smallest_p"] is not None and row["smallest_p"] > 0.05}):
        remarks.append(f"n = {few[-1]} seeds: no p below {2.0 ** (1 - few[-1]):.3g} is possible, whatever the effect")
    if few and few[0] < FEW:
        remarks.append(f"intervals of fewer than {FEW} seeds rest on their values being normally distributed")
    if any(row["kind"] == "group" for row in rows):
        remarks.append(f"{ALL}: the differences of one seed are averaged first; n counts seeds")
    uneven = {row["metric"] for row in main if row["first_step"] != row["last_step"] and "last step" in row["at"]}
    if uneven:
        remarks.append(f"{', '.join(sorted(uneven))}: the pairs end at different steps, from first_step to last_step")
    if (tests := sum(row["p"] is not None for row in main)) > 1:
        remarks.append(f"{tests} metrics were tested: p (Holm) accounts for that")
    return remarks


def _shown(row: Mapping[str, Any], wanted: Between) -> dict[str, Any]:
    (factor, unit), (times, points) = scale(row["metric"]), scale(row["metric"], difference=True)
    adjusted = row.get("p_holm")
    return {
        "metric": row["metric"],
        "": row["group"],
        wanted.first or "none": f"{plain(row['first'], factor)} {unit}".strip(),
        wanted.second or "none": f"{plain(row['second'], factor)} {unit}".strip(),
        "difference": f"{plain(row['difference'], times)} {points}".strip(),
        "interval (95 %)": "one seed: none" if row["low"] is None else interval(row["low"], row["high"], points),
        "n": row["n"],
        "pairs": row["pairs"],
        "p": "none" if row["p"] is None else f"{row['p']:.3g}",
        "p (Holm)": "" if adjusted is None else f"{adjusted:.3g}",
    }


def _frame(rows: Sequence[Mapping[str, Any]], wanted: Between) -> pd.DataFrame:
    import pandas as pd

    columns = [
        "metric",
        "kind",
        "group",
        "seed",
        "runs",
        "at",
        "first_step",
        "last_step",
        "first",
        "second",
        "difference",
        "low",
        "high",
        "n",
        "pairs",
        "p",
        "smallest_p",
        "p_holm",
    ]
    table = pd.DataFrame(rows, columns=columns)
    numbers = ["low", "high", "p", "smallest_p", "p_holm"]
    table[numbers] = table[numbers].astype(float)
    table.insert(0, "between", f"{wanted.axis}={wanted.first},{wanted.second}")
    return table


def _draw(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], title: str, level: float) -> Figure:
    """A panel for each metric: differences with intervals, pairs as faint points, a line at zero."""

    across = min(COLUMNS, len(metrics))
    most = max(len({r["group"] for r in rows if r["metric"] == m}) for m in metrics)
    drawn = style.figure(across, -(-len(metrics) // across), height=1.6 + 0.32 * min(most, ROWS))
    for axis, metric in zip(drawn.axes, metrics, strict=False):
        metric_rows = [row for row in rows if row["metric"] == metric]
        main = [row for row in metric_rows if row["kind"] != "pair"][-ROWS:]
        places = {row["group"]: -i for i, row in enumerate(main)}
        several = any(row["kind"] == "group" for row in metric_rows)
        for row in metric_rows:  # a pair stands by its group: the interval of all is one of seeds
            beside = places.get(row["group"] if several else ALL)
            if row["kind"] == "pair" and beside is not None:
                axis.plot(row["difference"], beside, "o", color=palette.GREY, markersize=3, alpha=0.5, zorder=1)
        for row in main:
            how = palette.line_style(0 if row["kind"] == "all" else 1)
            at = places[row["group"]]
            if row["low"] is not None:
                axis.plot([row["low"], row["high"]], [at, at], color=how.colour, linewidth=2, solid_capstyle="butt")
            face = how.colour if row["low"] is not None else "white"
            axis.plot(row["difference"], at, how.marker, color=how.colour, markerfacecolor=face, markersize=6)
        axis.axvline(0, color=palette.GREY, linewidth=0.8)
        style.finish(axis, f"difference ({unit_of(metric) or 'value'})", "", metric)
        if main:
            axis.set_yticks(
                list(places.values()),
                [style.plain(f"{row['group']} (n = {row['n']})") for row in main],
            )
            axis.set_ylim(min(places.values()) - 0.6, 0.6)
    for axis in drawn.axes[len(metrics) :]:
        axis.set_visible(False)
    note = f"bars: {100 * level:g} % interval over seeds (Student's t); grey: each pair; hollow: one seed, no interval"
    style.caption(drawn, f"{title}. {note}")
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("compare", __doc__)
    parser.add_argument(
        "--between", metavar="AXIS=A,B", help="what is compared: A - B (default: the axis that differs)"
    )
    parser.add_argument("--metrics", help=f"names with commas between; * and ? allowed (default {','.join(METRICS)})")
    parser.add_argument("--at", default="end", help="end (the last step both runs have), STEP, or FIRST-LAST (mean)")
    options = parser.parse_args(arguments)
    chosen = names(options.metrics) or list(METRICS)
    return command("compare", options, chosen, lambda runs: compare(runs, options.between, chosen, options.at))


if __name__ == "__main__":
    sys.exit(main())

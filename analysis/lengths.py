"""Lengths: tokens of correct and of incorrect responses, and the truncated share, against steps; and by level of question.

python -m analysis.lengths FOLDER... [--benchmark NAME] [--by algo,template] [--window 11]

Do responses grow because they reason more, or because the wrong ones do? [Liu et al. 2025, arXiv 2503.20783, section 3].
By level: from the saved responses of evaluations, where the question sets of the runs know levels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser, names
from analysis.curves import Group, caption, check_window, curve, curve_rows, ends, frame, grouped, panel, remarks
from analysis.reader.benchmarks import completions
from analysis.reader.records import natural
from zero.errors import InputError
from zero.tracking import palette
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    from analysis.reader.records import Runs

TRAINING = {
    "length/mean": "all responses",
    "length/correct": "correct responses",
    "length/incorrect": "incorrect responses",
    "length/truncated": "cut off by the token budget",
}
BENCHMARK = {
    "length": "all answers",
    "length_correct": "correct answers",
    "length_incorrect": "incorrect answers",
    "truncated": "cut off by the token budget",
}
VERDICTS = {True: "correct", False: "incorrect"}
COLUMNS = 2


def lengths(
    runs: Runs, benchmark: str | None = None, by: Sequence[str] | None = None, window: int = 1, levels: bool = True
) -> Finding:
    """Four panels against steps, in training or on a benchmark, and two by level, if saved answers have levels.

    The table holds curves as analysis.curves has them, and rows with a level: mean tokens of the answers of that level and
    verdict, over runs. InputError for a benchmark that no run was measured on.
    """

    check_window(window)
    groups = grouped(runs, by)
    wanted = TRAINING if benchmark is None else {f"eval/{benchmark}/{key}": title for key, title in BENCHMARK.items()}
    if not set(wanted) & set(runs.metrics):
        there = sorted({name.split("/")[1] for name in runs.metrics if name.startswith("eval/")})
        raise InputError(
            "--benchmark", benchmark or "none", f"no run has lengths of it; there are {', '.join(there) or 'none'}"
        )
    at_level = by_level(runs, groups, benchmark) if levels else {}
    cells = len(wanted) + 2 * bool(at_level)
    drawn = style.figure(COLUMNS, cells // COLUMNS)
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    every = 1
    for i, (metric, title) in enumerate(wanted.items()):
        by_group = {group.label: curve(runs, group, metric, window) for group in groups}
        every = max(every, panel(drawn.axes[i], by_group, metric, window, title=title))
        for group in groups:
            values = by_group[group.label]
            rows += curve_rows(group, metric, values)
            shown.append({"group": group.label, "": title, **ends(metric, values)})
    rows += _level_panels(drawn.axes[len(wanted) :], groups, at_level)
    style.legend(drawn, {group.label: palette.line_style(i) for i, group in enumerate(groups)})
    style.caption(drawn, caption(groups, window, True, every))
    table = frame(rows, groups)
    table["level"] = [row.get("level", "") for row in rows]
    notes = remarks(groups)
    if levels and not at_level:
        notes.append("by level: no saved evaluation answers whose question set knows levels")
    return Finding(drawn, table, "\n".join([as_text(shown), *notes]))


# ---------------------------------------------------------------------------------------------------------------- levels

At = tuple[str, str, int, str]  # group, verdict, step, level


def by_level(runs: Runs, groups: Sequence[Group], benchmark: str | None) -> dict[At, list[float]]:
    """Mean tokens of the saved evaluation answers of each group, verdict, step and level: one value for each seed."""
    means: dict[At, dict[str, list[float]]] = {}
    for group in groups:
        for run, seed in zip(group.runs, group.seeds, strict=True):
            sums: dict[At, list[int]] = {}
            for row in completions(runs, run):
                if not row["benchmark"] or (benchmark and row["benchmark"] != benchmark):
                    continue
                own, tokens = row.get("level"), row.get("tokens")
                if own is None or isinstance(tokens, bool) or not isinstance(tokens, int | float):
                    continue
                key = (group.label, VERDICTS[row.get("correct") is True], int(row["step"]), str(own))
                total = sums.setdefault(key, [0, 0])
                total[0] += int(tokens)
                total[1] += 1
            for key, (tokens, count) in sums.items():
                means.setdefault(key, {}).setdefault(seed, []).append(tokens / count)
    return {key: [fmean(values) for values in seeds.values()] for key, seeds in means.items()}


def _level_panels(
    axes: Sequence[Any], groups: Sequence[Group], at_level: Mapping[At, Sequence[float]]
) -> list[dict[str, Any]]:
    """The two panels, of each group's last step with saved answers; returns the rows of all steps."""
    from analysis.stats.intervals import over_seeds

    rows = []
    order = sorted({level for *_, level in at_level}, key=natural)
    places = {level: i for i, level in enumerate(order)}
    for axis, verdict in zip(axes, VERDICTS.values(), strict=False):
        for i, group in enumerate(groups):
            group_values = {
                (step, level): values
                for (g, v, step, level), values in at_level.items()
                if (g, v) == (group.label, verdict)
            }
            last = max((step for step, _ in group_values), default=0)
            points = []
            for (step, level), values in sorted(
                group_values.items(), key=lambda item: (item[0][0], places[item[0][1]])
            ):
                estimate = over_seeds(values)
                ends = (
                    estimate.low if estimate.low is not None else float("nan"),
                    estimate.high if estimate.high is not None else float("nan"),
                )
                key = {"group": group.label.rpartition(" (n = ")[0], **group.key, "metric": f"saved/length_{verdict}"}
                rows.append(
                    key
                    | {
                        "step": step,
                        "mean": estimate.mean,
                        "low": ends[0],
                        "high": ends[1],
                        "n": estimate.n,
                        "level": level,
                    }
                )
                if step == last:
                    points.append((places[level], estimate.mean, *ends))
            if points:
                x, mean, low, high = zip(*points, strict=True)
                style.line(axis, x, mean, palette.line_style(i), low=low, high=high)
        axis.set_xticks(range(len(order)), order)
        style.finish(axis, "level of question", "tokens", f"{verdict} answers at the last evaluation")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("lengths", __doc__)
    parser.add_argument("--benchmark", help="lengths of the answers to this benchmark (default: of training responses)")
    parser.add_argument("--by", help="axes with commas between; others are averaged over (default: all that differ)")
    parser.add_argument("--window", type=int, default=1, help="steps of the running mean, odd (default 1: none)")
    parser.add_argument("--no-levels", action="store_true", help="without reading saved answers")
    options = parser.parse_args(arguments)
    read = list(TRAINING) if options.benchmark is None else ["eval/*"]
    return command(
        "lengths",
        options,
        [*read, "eval/*/length"],
        lambda runs: lengths(runs, options.benchmark, names(options.by), options.window, not options.no_levels),
    )


if __name__ == "__main__":
    sys.exit(main())

"""The paper in one picture: what each bias does to lengths, template x questions, domain pretraining, Countdown, SFT against RL.

python -m analysis.paper SWEEP

SWEEP is what `make paper` has made. A panel is one metric of one experiment's own cells; lines are means over seeds, bands their
95 % intervals (Student's t). Whether a claim holds is judged elsewhere, from numbers: python -m analysis.experiments SWEEP.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser
from analysis.curves import Group, chances_of, curve, curve_rows, grouped
from analysis.reader.experiments import Experiment, in_sweeps
from analysis.reader.units import unit_of
from zero.errors import InputError
from zero.tracking import palette

if TYPE_CHECKING:
    from analysis.reader.records import Runs

WIDTH, HEIGHT, COLUMNS = 4.6, 3.1, 3  # inches of a panel, panels of a row


@dataclass(frozen=True)
class Panel:
    """`metric` of an experiment, a line for each combination of the axes `by`, a running mean over `window` steps."""

    experiment: str
    metric: str
    by: tuple[str, ...]
    window: int
    title: str
    where: tuple[str, str] | None = None  # only runs with this value of an axis


PANELS = (
    Panel("biases", "length/incorrect", ("algo",), 11, "Which bias makes wrong answers longer"),
    Panel("fig7_questions", "eval/nano_math/accuracy", ("template", "questions"), 1, "Template x questions"),
    Panel("fig8_domain", "eval/nano_math/accuracy", ("model", "algo"), 1, "Pretraining on the domain"),
    Panel("oat_zero_countdown", "length/mean", ("reward",), 5, "Countdown: length of responses"),
    Panel("oat_zero_countdown", "train/accuracy", ("reward",), 5, "Countdown: right answers"),
    Panel(
        "sft_vs_rl",
        "eval/nano_cards/accuracy",
        ("algo",),
        1,
        "Cards, after the same supervised start",
        where=("model", "nano_search+sft"),
    ),
)


def paper(runs: Runs, every: Sequence[Experiment]) -> Finding:
    """All panels whose experiment is there. InputError if none is."""
    import pandas as pd

    known = {own.name: own for own in every}
    by_panel = {panel: _runs(runs, known[panel.experiment], panel) for panel in PANELS if panel.experiment in known}
    chosen = [panel for panel, own in by_panel.items() if panel.metric in own.metrics]
    if not chosen:
        raise InputError(
            "SWEEP", "", f"holds none of the experiments {', '.join(dict.fromkeys(p.experiment for p in PANELS))}"
        )
    drawn = style.figure(min(COLUMNS, len(chosen)), -(-len(chosen) // COLUMNS), WIDTH, HEIGHT)
    rows: list[dict[str, Any]] = []
    notes = []
    for axis, panel in zip(drawn.axes, chosen, strict=False):
        groups = grouped(by_panel[panel], [name for name in panel.by if name in by_panel[panel].axes])
        for i, group in enumerate(groups):
            own = curve(by_panel[panel], group, panel.metric, panel.window)
            label = ", ".join(group.key.values())
            low, high = own.low_T.tolist(), own.high_T.tolist()
            style.line(axis, own.x_T.tolist(), own.mean_T.tolist(), palette.line_style(i), label, low, high)
            rows += [{"experiment": panel.experiment} | row for row in curve_rows(group, panel.metric, own)]
        style.guessing(axis, chances_of(by_panel[panel], panel.metric))
        smoothed = f", mean of {panel.window} steps" if panel.window > 1 else ""
        style.finish(axis, "step", unit_of(panel.metric) + smoothed, panel.title)
        axis.legend(fontsize=7, frameon=False, handlelength=2.4)
        notes.append(f"{panel.title}: {panel.metric} of experiment={panel.experiment}, {_seeds(groups)} seeds")
    for axis in drawn.axes[len(chosen) :]:
        axis.set_visible(False)
    style.caption(
        drawn,
        "The embedded world, mean over seeds with 95 % intervals (Student's t). What its models lack was planted in their corpora: "
        "this shows mechanisms and is no evidence about models of useful size.",
    )
    return Finding(drawn, pd.DataFrame(rows), "\n".join(notes))


def _runs(runs: Runs, experiment: Experiment, panel: Panel) -> Runs:
    own = runs.restricted_to(experiment.cells)
    if not panel.where:
        return own
    axis, value = panel.where
    chosen = [run for run in own.runs if run.axes.get(axis) == value]
    return own.restricted_to([run.path.name if run.path else run.name for run in chosen])


def _seeds(groups: Sequence[Group]) -> str:
    counts = sorted({len(set(group.seeds)) for group in groups})
    return " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1])))) if counts else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = common_parser("paper", __doc__).parse_args(arguments)
    every = in_sweeps(options.places)
    return command("paper", options, None, lambda runs: paper(runs, every))


if __name__ == "__main__":
    sys.exit(main())

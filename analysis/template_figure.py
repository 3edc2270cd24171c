"""The figure of analysis/template.py: a model before training under each template, and how training goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis import style
from zero.tracking import palette

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PANELS = 6  # benchmarks that the figure shows; all are in the table


@dataclass(frozen=True)
class Start:
    """A model before training, under one template, on one benchmark. `low`, `high`: over questions, NaN where unknown."""

    model: str
    benchmark: str
    template: str
    runs: tuple[str, ...]
    accuracy: float
    low: float
    high: float
    formatted: float
    spread: float  # largest - smallest accuracy of its runs


def draw(untrained: Sequence[Start], measured: pd.DataFrame, reference: str) -> Figure:
    """A row of two panels for each benchmark: step 0 by template, and accuracy against steps with the target."""
    from analysis.stats.intervals import INTERVAL

    places = list(dict.fromkeys((start.model, start.benchmark) for start in untrained))
    left_out, places = len(places) - PANELS, places[:PANELS]
    line_styles = palette.line_styles(
        sorted({start.template for start in untrained}, key=lambda name: (name != reference, name))
    )
    trained = bool(((measured["kind"] == "train") & (measured["metric"] == "accuracy")).any())
    chances = measured[measured["metric"] == "chance"]
    across = 2 if trained else 1  # models that nobody trained have no curves
    drawn = style.figure(across, len(places))
    for i, (model, benchmark) in enumerate(places):
        place_starts = [start for start in untrained if (start.model, start.benchmark) == (model, benchmark)]
        bars = drawn.axes[across * i]
        for at, start in enumerate(place_starts):
            how = line_styles[start.template]
            bars.bar(at - 0.2, start.accuracy, 0.38, color=how.colour)
            bars.bar(at + 0.2, start.formatted, 0.38, color="white", edgecolor=how.colour, hatch="//")
            if start.low == start.low:
                bars.plot([at - 0.2] * 2, [start.low, start.high], color="black", linewidth=1.2)
        bars.set_xticks(
            range(len(place_starts)),
            [style.plain(start.template or "unknown") for start in place_starts],
            rotation=20,
        )
        bars.set_ylim(0, 1)
        style.finish(bars, "template", "share", f"{model} on {benchmark}, before training")
        if not trained:
            continue
        against = drawn.axes[2 * i + 1]
        _lines(against, measured, model, benchmark, line_styles)
        target = next((start.accuracy for start in place_starts if start.template == reference), None)
        if target is not None:
            against.axhline(target, color=palette.GREY, linewidth=1, linestyle="dashed")
        levels = chances[chances["benchmark"] == benchmark]["value"].unique().tolist()
        dotted = ", dotted: what guessing scores" if style.guessing(against, levels) else ""
        style.finish(against, "step", "accuracy", f"training; dashed: the reference before it{dotted}")
    style.legend(drawn, {name or "unknown": how for name, how in line_styles.items()})
    more = f"; {left_out} more are in the table alone" if left_out > 0 else ""
    style.caption(
        drawn,
        "filled: accuracy with its 95 % interval over questions; hatched: share of responses with an answer"
        + (f"; thick: mean over seeds with its {INTERVAL}, where there are several" if trained else "")
        + more,
    )
    return drawn


def _lines(axis: Any, measured: pd.DataFrame, model: str, benchmark: str, line_styles: Mapping[str, Any]) -> None:
    """Accuracy of the training runs of each template."""
    import numpy as np

    from analysis.stats.intervals import band, by_seed

    rows = measured[
        (measured["kind"] == "train")
        & (measured["metric"] == "accuracy")
        & (measured["model"] == model)
        & (measured["benchmark"] == benchmark)
    ]
    for name, how in line_styles.items():
        template_rows = rows[rows["template"] == name]
        if template_rows.empty:
            continue
        values = template_rows.pivot_table(index="run", columns="step", values="value", aggfunc="mean", observed=True)
        seeds = dict(zip(template_rows["run"].astype(str), template_rows["seed"].astype(str), strict=True))
        mean, low, high, _ = band(by_seed(values.to_numpy(np.float64), [seeds[str(run)] for run in values.index]))
        if len(values) > 1:
            for one in values.to_numpy(np.float64):
                there = np.isfinite(one)
                style.faint(axis, values.columns.to_numpy()[there], one[there], how)
        style.line(axis, values.columns.tolist(), mean.tolist(), how, low=low.tolist(), high=high.tolist())

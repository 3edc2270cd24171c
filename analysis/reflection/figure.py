"""One figure of the tables about reflection: who reflects, whether it goes with being right, what it does, in which words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.reflection.behaviours import Behaviour
from zero.tracking import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

NAMES = [behaviour.name.lower() for behaviour in Behaviour if behaviour]
HATCHES = ("", "//", "xx", "..")  # beside the colours, for grey print
WORDS = 12  # keywords that are drawn, the most frequent ones


def draw(tables: Mapping[str, DataFrame]) -> Figure:
    """Four panels against the step if there are several, else against temperature; tables by the names of their files."""
    drawn = style.figure(columns=2, rows=2)
    who, differences = tables["reflection"], tables["reflection_differences"]
    across = "step" if who["step"].nunique() > 1 else "temperature"
    within = "temperature" if across == "step" else "detector"
    _shares(drawn.axes[0], who, across, within)
    _differences(drawn.axes[1], differences, across)
    _behaviours(drawn.axes[2], tables["reflection_behaviours"], across)
    _keywords(drawn.axes[3], tables["reflection_keywords"])
    question_count = int(who.groupby("benchmark")["questions"].max().sum())
    style.caption(drawn, f"{question_count} questions; bands and bars: 95 % intervals over questions (Wilson)")
    return drawn


def strictest(table: DataFrame) -> str:
    """The detector that believes least: both together, or keywords alone."""
    return "cross" if (table["detector"] == "cross").any() else "keyword"


def _shares(axis: Any, table: DataFrame, across: str, within: str) -> None:
    if within == "temperature":
        table = table[table["detector"] == strictest(table)]
    groups = list(table.groupby([*_several(table), within], sort=False))
    for i, (name, group) in enumerate(groups):
        group = group.sort_values(across)
        label = ", ".join(f"T = {v}" if isinstance(v, float) else str(v) for v in name)
        low, high = group["questions_low"].tolist(), group["questions_high"].tolist()
        style.line(
            axis,
            group[across].tolist(),
            group["questions_share"].tolist(),
            palette.line_style(i),
            label,
            low=low,
            high=high,
        )
    axis.set_ylim(bottom=0)
    how = f", by {strictest(table)}" if within == "temperature" else ""
    style.finish(axis, across, "share of questions", f"questions with reflection in any response{how}")


def _differences(axis: Any, table: DataFrame, across: str) -> None:
    table = table[table["with_both"] > 0]
    if across == "step":
        mixed = table[table["temperature"] == "all"]
        table = mixed if len(mixed) else table
        table = table[table["detector"] == strictest(table)] if len(table) else table
    else:
        table = table[table["temperature"] != "all"]
    groups = list(table.groupby([*_several(table), "detector"], sort=False))
    steps = sorted({float(x) for x in table[across]}) if len(table) else []
    room = min((b - a for a, b in pairwise(steps)), default=1.0)
    for i, (name, group) in enumerate(groups):
        how, shift = palette.line_style(i), 0.12 * room * (i - (len(groups) - 1) / 2)  # or bars would hide each other
        x = [float(value) + shift for value in group[across]]
        below = (group["difference"] - group["low"]).clip(lower=0).fillna(0.0)
        above = (group["high"] - group["difference"]).clip(lower=0).fillna(0.0)
        axis.errorbar(
            x,
            group["difference"].tolist(),
            yerr=[below.tolist(), above.tolist()],
            color=how.colour,
            marker=how.marker,
            linestyle="none",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            label=", ".join(map(str, name)),
        )
    if groups:
        axis.axhline(0, color=palette.GREY, linewidth=0.8)
    style.finish(axis, across, "accuracy with - without", "reflecting and being right, within questions")


def _behaviours(axis: Any, table: DataFrame, across: str) -> None:
    if len(table):
        counts = table.groupby(across)[NAMES].sum()
        whole = counts.sum(axis=1).clip(lower=1)
        places, bottom = list(range(len(counts))), [0.0] * len(counts)
        for i, name in enumerate(NAMES):
            heights = (counts[name] / whole).tolist()
            colour = palette.line_style(i).colour
            axis.bar(places, heights, 0.7, bottom, color=colour, hatch=HATCHES[i], edgecolor="white", label=name)
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        axis.set_xticks(places, [str(place) for place in counts.index])
    by = f", by {' and '.join(sorted(set(table['labeller'])))}" if len(table) else ""
    style.finish(
        axis, f"at {across} (superficial: spoils, circles)", "share of reflections", f"what reflection does{by}"
    )
    if len(table):  # a legend inside would cover bars
        axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=4)


def _keywords(axis: Any, table: DataFrame) -> None:
    counts = table.groupby("keyword")["responses"].sum().sort_values()
    counts = counts[counts > 0][-WORDS:]
    if len(counts):
        axis.barh(range(len(counts)), counts.tolist(), color=palette.line_style(0).colour)
        axis.set_yticks(range(len(counts)), counts.index.tolist())
    style.finish(axis, "responses", "", "keywords")


def _several(table: DataFrame) -> list[str]:
    """Benchmarks are named where there are several."""
    return ["benchmark"] if table["benchmark"].nunique() > 1 else []

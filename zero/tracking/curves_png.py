"""curves.png: how a run went, drawn from its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zero.files import replacing
from zero.tracking import journal
from zero.tracking.palette import BLUE, GREY, VERMILION, LineStyle, line_style

SIDES = ("low", "high")
WINDOW = 0.05  # of the run: raw values are drawn thin, their running mean over this share thick
FEW = 15  # a curve of fewer points shows them


def draw(run_dir: Path) -> Path:
    """Draw run_dir/curves.png and return its path. A run without steps yet gives empty axes, one step gives dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no global state, no display
    from matplotlib.figure import Figure

    lines = journal.read(run_dir)
    figure = Figure(figsize=(14, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(run_dir.name, fontsize=12)
    if _half(len(lines) - 1):  # nothing but an evaluation stands at step 0
        figure.supxlabel(f"thin: each step; thick: running mean over {WINDOW:.0%} of the steps", fontsize=9, color=GREY)
    axes = figure.subplots(2, 3)
    _reward(axes[0][0], lines)
    _lengths(axes[0][1], lines)
    _curves(
        axes[0][2], lines, "shares of responses", "share",
        {"formatted": "train/formatted", "truncated": "length/truncated", "reflection": "reflection/share",
         "groups without advantage": "groups/zero_advantage"},
    )  # fmt: skip
    axes[0][2].set_ylim(-0.03, 1.03)
    _curves(axes[1][0], lines, "entropy", "nats per token", {"entropy": "loss/entropy"})
    _gradient(axes[1][1], lines)
    _curves(axes[1][2], lines, "speed", "tokens per second", {"sampling": "speed/rollout", "learning": "speed/update"})
    axes[1][2].set_ylim(bottom=0)
    last = max((line["step"] for line in lines), default=0)
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        names = axis.get_legend_handles_labels()[1]
        if len(names) > 1:  # below: inside it would hide a line
            columns = 3 if sum(map(len, names)) < 45 else 2
            axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns)
        if not axis.has_data():
            axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color=GREY)
    path = run_dir / "curves.png"
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return path


def _reward(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    """Training reward and accuracy (one line if they are the same), held-out accuracy with its interval and what guessing
    scores."""
    reward, accuracy = (journal.series(lines, name) for name in ("train/reward", "train/accuracy"))
    if reward != accuracy:
        _line(axis, *reward, "training reward", line_style(1))
    same = " = reward" if reward == accuracy else ""
    _line(axis, *accuracy, f"training accuracy{same}", line_style(0))
    names = dict.fromkeys(name for line in lines for name in journal.benchmarks(line))
    for i, name in enumerate(names, 2):
        steps, values = journal.series(lines, f"eval/{name}/accuracy")
        ends = {side: dict(zip(*journal.series(lines, f"eval/{name}/accuracy_{side}"), strict=True)) for side in SIDES}
        below = [max(0.0, value - ends["low"].get(step, value)) for step, value in zip(steps, values, strict=True)]
        above = [max(0.0, ends["high"].get(step, value) - value) for step, value in zip(steps, values, strict=True)]
        if chance := journal.series(lines, f"eval/{name}/chance")[1]:
            axis.axhline(
                chance[-1], color=line_style(i).colour, linestyle=(0, (1, 4)), linewidth=1.4, zorder=1,
                label=f"guessing, {name} ({chance[-1]:.1%})",
            )  # fmt: skip
        axis.errorbar(
            steps, values, yerr=[below, above], marker=line_style(i).marker, linestyle=line_style(i).dashes, markersize=4,
            linewidth=1.2, capsize=3, zorder=3, color=line_style(i).colour, label=f"held-out accuracy, {name} (95 %)",
        )  # fmt: skip
    axis.set_title("reward and accuracy", fontsize=10)
    axis.set_ylabel("reward, share correct")


def _lengths(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    names = {"all": "length/mean", "incorrect": "length/incorrect", "correct": "length/correct"}
    _curves(axis, lines, "response length", "tokens", names)


def _gradient(axis: Any, lines: Sequence[dict[str, Any]]) -> None:
    """Two scales: the gradient's norm at the left, the clipped share at the right."""
    _line(axis, *journal.series(lines, "loss/grad_norm"), "gradient norm", line_style(0))
    axis.set_title("gradient", fontsize=10)
    axis.set_ylabel("norm before clipping", color=BLUE)
    steps, values = journal.series(lines, "loss/clip_fraction")
    if any(values):
        right = axis.twinx()
        _line(right, steps, values, "clipped", line_style(1))
        right.set_ylabel("share of clipped tokens", color=VERMILION)
        right.set_ylim(0, max(0.01, 1.1 * max(values)))
        right.spines["top"].set_visible(False)
        axis.plot([], [], color=VERMILION, linestyle=line_style(1).dashes, label="clipped share (right)")


def _curves(axis: Any, lines: Sequence[dict[str, Any]], title: str, unit: str, names: dict[str, str]) -> None:
    for i, (label, name) in enumerate(names.items()):
        _line(axis, *journal.series(lines, name), label, line_style(i))
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(unit)


def _half(count: int) -> int:
    """Values on either side of one in the running mean over so many."""
    return int(WINDOW * count) // 2


def _line(axis: Any, steps: Sequence[int], values: Sequence[float], label: str, how: LineStyle) -> None:
    """The raw series; once it is long enough, thin under its running mean."""
    if not steps:
        return
    half, style = _half(len(values)), {"color": how.colour, "linestyle": how.dashes}
    if half == 0:
        marker = how.marker if len(steps) < FEW else ""
        axis.plot(steps, values, linewidth=1.4, marker=marker, markersize=3, label=label, **style)
        return
    near = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    means = [sum(window) / len(window) for window in near]
    axis.plot(steps, values, color=how.colour, linewidth=0.7, alpha=0.3)
    axis.plot(steps, means, linewidth=1.6, label=label, **style)

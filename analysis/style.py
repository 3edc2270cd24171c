"""One style for all figures: colour-blind safe, distinguishable in grey print too, vector files that need no font and no script.

drawn = figure(columns=2, rows=1)
axis = drawn.axes[0]
line(axis, steps, means, palette.line_style(0), label="grpo, n = 5", low=low, high=high)
finish(axis, x="step", y="tokens", title="length of responses")
save(drawn, folder / "lengths")        lengths.svg and lengths.pdf
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.files import replacing, write_atomically
from zero.tracking.palette import GREY, LineStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.2, 3.6  # inches of one panel: two fit the width of a printed page at 7 pt
FEW = 15  # a curve of fewer points shows them
INSIDE = 4  # so many names of a legend fit beside a curve; more go below


def figure(columns: int = 1, rows: int = 1, width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """A figure with columns x rows panels (`.axes`, row by row). No pyplot: no global state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.subplots(rows, columns, squeeze=False)
    for axis in drawn.axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return drawn


def line(
    axis: Any,
    x: Sequence[float],
    y: Sequence[float],
    how: LineStyle,
    label: str | None = None,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> None:
    """A curve with its band, where there is one. Few points get markers; NaN breaks the curve."""
    marker = how.marker if len(x) < FEW else ""
    (drawn,) = axis.plot(x, y, color=how.colour, linestyle=how.dashes, linewidth=1.7, marker=marker, markersize=4)
    if label:
        drawn.set_label(plain(label))
    if low is not None and high is not None:
        axis.fill_between(x, low, high, color=how.colour, alpha=0.15, linewidth=0)


def faint(axis: Any, x: Sequence[float], y: Sequence[float], how: LineStyle) -> None:
    """One seed behind its mean."""
    axis.plot(x, y, color=how.colour, linewidth=0.7, alpha=0.3, zorder=1)


def guessing(axis: Any, chances: Sequence[float]) -> bool:
    """A dotted line at each accuracy that guessing has, with its value at the right end; whether there is any."""
    for chance in sorted(set(chances)):
        axis.axhline(chance, color=GREY, linestyle=":", linewidth=1.4, zorder=0)
        axis.annotate(
            f"guessing {100 * chance:.1f} %", (1, chance), (-2, 2), ("axes fraction", "data"), "offset points",
            ha="right", fontsize=7, color=GREY,
        )  # fmt: skip
    return len(chances) > 0


def finish(axis: Any, x: str, y: str, title: str = "") -> None:
    """Labels, whole numbers as steps, legend, and "no data" where nothing was drawn."""
    axis.set_xlabel(plain(x), fontsize=9)
    axis.set_ylabel(plain(y), fontsize=9)
    axis.set_title(plain(title), fontsize=10)
    if x.startswith("step") and hasattr(axis.xaxis.get_major_locator(), "set_params"):
        axis.xaxis.get_major_locator().set_params(integer=True)
    names = axis.get_legend_handles_labels()[1]
    if not axis.has_data():
        axis.set_xticks([])
        axis.set_yticks([])
        axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color=GREY)
    elif 1 <= len(names) <= INSIDE and max(map(len, names)) < 40:
        axis.legend(fontsize=8, frameon=False, handlelength=2.8)
    elif names:
        columns = max(1, min(3, 90 // max(map(len, names))))
        axis.legend(
            fontsize=8, frameon=False, handlelength=2.8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns
        )


def plain(text: str) -> str:
    """Text as it stands, for matplotlib: dollars are no mathematics, and what XML cannot hold is a question mark."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", text).replace("$", r"\$")


def legend(drawn: Figure, names: dict[str, LineStyle]) -> None:
    """One legend for all panels, below them: name -> style. A single name becomes none."""
    from matplotlib.lines import Line2D

    if len(names) < 2:
        return
    handles = [
        Line2D([], [], color=how.colour, linestyle=how.dashes, marker=how.marker, markersize=4, linewidth=1.7)
        for how in names.values()
    ]
    wide = max(map(len, names)) + 8
    columns = max(1, min(len(names), int(drawn.get_figwidth() * 15 / wide)))
    labels = [plain(name) for name in names]
    drawn.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3.2
    )


def caption(drawn: Figure, text: str) -> None:
    """What the lines are, above all panels, broken to the figure's width."""

    drawn.suptitle(
        "\n".join(textwrap.wrap(plain(text), max(30, int(drawn.get_figwidth() * 17)))), fontsize=8, color="#444444"
    )


def svg(drawn: Figure) -> str:
    """The figure as an <svg> element: text stays text, the same figure gives the same bytes. Ids begin with a hash of the
    drawing, so that several stand on one page."""

    from matplotlib import rc_context

    def render(salt: str) -> str:
        out = io.StringIO()
        with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"]}):
            drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        return re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)

    text = render("figure")
    mark = "f" + sha256(text.encode()).hexdigest()[:8]
    names = set(re.findall(r'\bid="([^"]+)"', text))
    text = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{mark}-{m[1]}"', text)
    return re.sub(r"(#)([\w.:-]+)", lambda m: f"#{mark}-{m[2]}" if m[2] in names else m[0], text)


def save(drawn: Figure, path: Path) -> list[Path]:
    """PATH.svg and PATH.pdf, each whole or as it was. Raises OSError."""
    from matplotlib import rc_context

    vector, page = (path.with_name(path.name + end) for end in (".svg", ".pdf"))
    write_atomically(vector, '<?xml version="1.0" encoding="utf-8"?>\n' + svg(drawn))
    with rc_context({"pdf.fonttype": 42}), replacing(page) as partial:  # text in a font that editors can change
        drawn.savefig(partial, format="pdf", metadata={"CreationDate": None})
    return [vector, page]

"""How lines are told apart in every picture: by colour-blind eyes, and in grey print too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette without its yellow, which print loses; dark enough for thin lines on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a63d87", "#7a5c00", "#56b4e9", "#333333", "#e69f00")
BLUE, VERMILION = COLOURS[:2]
GREY = "#767676"
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (3, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class LineStyle:
    """How a group is drawn in every panel: colour, dashes and marker all differ, so that any one of them is enough."""

    colour: str
    dashes: Any
    marker: str


def line_style(i: int) -> LineStyle:
    """The style of group i: 8 colours; dashes and markers change with them, and go on when colours begin anew."""
    turn = i // len(COLOURS)
    return LineStyle(COLOURS[i % len(COLOURS)], DASHES[(i + turn) % len(DASHES)], MARKERS[(i + turn) % len(MARKERS)])


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each name, in the order given."""
    return {name: line_style(i) for i, name in enumerate(dict.fromkeys(names))}

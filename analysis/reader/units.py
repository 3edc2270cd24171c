"""Numbers of metrics as people read them: shares in percent, differences of shares in percentage points."""

from __future__ import annotations

import math

from zero.tracking.glossary import describe

SHARE = "share"
POSSIBLE = {"%": (0.0, 1.0), "points": (-1.0, 1.0)}  # of a share, and of a difference of shares


def unit_of(metric: str) -> str:
    """The unit of a metric, "" for one that the glossary does not know."""

    try:
        return describe(metric)[0]
    except KeyError:
        return ""


def scale(metric: str, difference: bool = False) -> tuple[float, str]:
    """(factor, unit) in which a metric is shown."""
    unit = unit_of(metric)
    if unit == SHARE:
        return 100.0, "points" if difference else "%"
    return 1.0, unit


def plain(value: float, factor: float = 1.0) -> str:
    """Four digits; of percent one decimal."""
    scaled = value * factor + 0.0  # no -0
    return f"{round(scaled, 1) + 0.0:.1f}" if factor == 100.0 else f"{scaled:.4g}"


def interval(low: float, high: float, unit: str) -> str:
    """LOW to HIGH in a unit of `scale`, cut to what is possible: Student's t knows nothing of the bounds of a share."""
    factor = 100.0 if unit in POSSIBLE else 1.0
    least, most = POSSIBLE.get(unit, (-math.inf, math.inf))
    return f"{plain(max(low, least), factor)} to {plain(min(high, most), factor)}"


def percent(value: float) -> str:
    """A share."""
    return "no value" if value != value else f"{100 * value:.1f} %"

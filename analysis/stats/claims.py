"""Claims that were written down before the runs, each with its statistic and the smallest effect that counts.

    claims:
      - text: Dr. GRPO's incorrect answers are shorter than GRPO's
        statistic: {metric: length/incorrect, axis: algo, values: [drgrpo, grpo], when: last 20}
        direction: less          # greater, less, or same: no difference of `smallest` either way
        smallest: 10             # the smallest effect that counts, in the metric's unit (default 0)
        fewest: 5                # seeds without which nothing is decided (default 5)
        where: {template: none}  # only these runs (default: all)
        every: model             # it must hold at each value of this axis, and the least favourable decides (default: the mean)
        seen: [0]                # seeds that were looked at before it was written: they do not count (default: none)

The statistic is the mean over seeds of first - second, of runs that agree in everything else; without `axis` and `values` it
is the mean of the runs themselves. Values of one seed (of several templates, say) are averaged first. `when`: first, last,
change (last - first), mean (of all steps), step 100, last 20 (the mean of the last 20 steps), change from 1-5 to 16-20
(between the means of those steps, bounds included; one step: 20), always over steps that both runs of a pair have; or equal flops
(equal tokens, equal seconds): where both runs of a pair had spent as much, at the most that both have been measured at, each on the
line between its measurements around it (analysis/stats/spent.py). Verdicts: analysis/stats/verdicts.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.reader.folders import as_typed
from zero.config.experiments import STEP, X
from zero.errors import InputError
from zero.files import LARGEST_RECORD, read_regular

FILE = "claims.yaml"
DIRECTIONS = ("greater", "less", "same")
WINDOW = r"\d{1,9}(?:-\d{1,9})?"
WHEN = re.compile(
    rf"first|last|change|mean|(?P<what>step|last) (?P<steps>\d{{1,9}})|change from (?P<a>{WINDOW}) to (?P<b>{WINDOW})"
    rf"|equal (?P<cost>{'|'.join(name for name in X if name != STEP)})",
    re.ASCII,
)
KEYS = {"text", "statistic", "direction", "smallest", "fewest", "where", "every", "seen"}
FEWEST = 5  # as analysis.stats.intervals.FEW, which --help need not wait for


@dataclass(frozen=True)
class Statistic:
    """What is measured: `metric` at `when`; first - second of `values` of `axis`, or the runs themselves without one."""

    metric: str
    axis: str | None
    values: tuple[str, ...]
    when: str

    def __str__(self) -> str:
        between = f", {self.axis}: {self.values[0]} - {self.values[1]}" if self.axis else ""
        return f"{self.metric}, {self.when}{between}"


@dataclass(frozen=True)
class Claim:
    """One sentence that numbers can support or contradict."""

    text: str
    statistic: Statistic
    direction: str
    smallest: float = 0.0
    fewest: int = FEWEST
    where: Mapping[str, str] = field(default_factory=dict)
    every: str | None = None
    seen: tuple[str, ...] = ()

    def __str__(self) -> str:
        scope = "".join(f", {axis}={value}" for axis, value in self.where.items())
        scope += f", at every {self.every}" if self.every else ""
        if self.direction == "same":
            return f"{self.statistic}{scope}: within +-{self.smallest:g}"
        sign, size = (">", self.smallest) if self.direction == "greater" else ("<", 0 - self.smallest)
        return f"{self.statistic}{scope}: {sign} {size:g}"


# --------------------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> list[Claim]:
    """The claims of a file. InputError names what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(read_regular(path, LARGEST_RECORD))
    except OSError as error:
        raise InputError("--claims", path, f"cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError("--claims", path, f"is no yaml ({str(error).splitlines()[0]})") from None
    entries = content.get("claims") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise InputError("--claims", path, "must hold a list `claims`, as analysis/stats/claims.py describes")
    return parse(entries, "claims")


def parse(entries: Sequence[Any], key: str) -> list[Claim]:
    """The claims of a list that stands under `key`. InputError names what is wrong with it."""
    return [_claim(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def _claim(entry: Any, key: str) -> Claim:
    if not isinstance(entry, dict):
        raise InputError(key, entry, "must be a mapping with text, statistic and direction")
    if unknown := sorted(str(name) for name in entry if name not in KEYS):
        raise InputError(f"{key}.{unknown[0]}", entry[unknown[0]], f"no such key; there are {', '.join(sorted(KEYS))}")
    text, direction, where = entry.get("text"), entry.get("direction"), entry.get("where") or {}
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{key}.text", text, "must be a sentence")
    if direction not in DIRECTIONS:
        raise InputError(f"{key}.direction", direction, f"must be one of {', '.join(DIRECTIONS)}")
    smallest, fewest = entry.get("smallest", 0.0), entry.get("fewest", FEWEST)
    if isinstance(smallest, bool) or not isinstance(smallest, int | float) or not 0 <= smallest < math.inf:
        raise InputError(f"{key}.smallest", smallest, "must be a number of at least 0; the direction has the sign")
    if direction == "same" and not smallest:
        raise InputError(f"{key}.smallest", smallest, "must be above 0: nothing is the same to the last digit")
    if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 2:
        raise InputError(f"{key}.fewest", fewest, "must be at least 2 seeds: one has no interval")
    if not isinstance(where, dict):
        raise InputError(f"{key}.where", where, "must be a mapping of axes to values")
    statistic = _statistic(entry.get("statistic"), f"{key}.statistic")
    every, seen = entry.get("every"), entry.get("seen", [])
    if every is not None and (not isinstance(every, str) or every in (statistic.axis, "seed", *where)):
        raise InputError(
            f"{key}.every", every, "must be an axis that neither the statistic nor where has, and not the seed"
        )
    if not isinstance(seen, list):
        raise InputError(f"{key}.seen", seen, "must be a list of seeds")
    restriction = {str(axis): _typed(value) for axis, value in where.items()}
    looked_at = tuple(_typed(seed) for seed in seen)
    return Claim(text.strip(), statistic, direction, float(smallest), fewest, restriction, every, looked_at)


def _statistic(entry: Any, key: str) -> Statistic:
    if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
        raise InputError(
            key, entry, "must be a mapping with metric, when, and axis and values if two groups are compared"
        )
    if unknown := sorted(str(name) for name in entry if name not in ("metric", "axis", "values", "when")):
        raise InputError(f"{key}.{unknown[0]}", entry[unknown[0]], "no such key; there are metric, axis, values, when")
    axis, values, when = entry.get("axis"), entry.get("values"), entry.get("when", "last")
    if (axis is None) != (values is None):
        raise InputError(key, entry, "axis and values go together")
    if axis is not None and (not isinstance(values, list) or len(values) != 2 or values[0] == values[1]):
        raise InputError(f"{key}.values", values, "must be two different values: the statistic is first - second")
    if not isinstance(when, str) or not WHEN.fullmatch(when) or re.fullmatch("last 0+", when):
        raise InputError(
            f"{key}.when",
            when,
            "must be first, last, change, mean, step N, last N, change from A-B to C-D or equal flops (tokens, seconds)",
        )
    if axis is None and when.startswith("equal"):
        raise InputError(f"{key}.when", when, "compares two groups; name axis and values, or take last")
    sides = tuple(_typed(value) for value in values or ())
    return Statistic(entry["metric"], None if axis is None else str(axis), sides, when)


def _typed(value: Any) -> str:
    return as_typed(value)

"""Published scores of the same model, template and benchmark, from conf/published.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zero.statistics import MACRO

ANY = "*"  # a template that the source does not state


@dataclass(frozen=True)
class Figure:
    """One published score."""

    score: float  # a share from 0 to 1
    source: str
    differs: tuple[str, ...]  # in words, how its protocol differs from ours; empty: it does not


def figures(
    tables: Mapping[str, Mapping[str, Any]],
    model: str,
    template: str,
    sampling: Mapping[str, Any],
    benchmarks: Sequence[str],
) -> dict[str, Figure]:
    """The published score of each benchmark that has one, and of the macro average if its table has just these
    benchmarks. `sampling` is ours: temperature, max_tokens and n. Of several sources the one with the fewest differences
    from our protocol is taken.
    """
    nearest: dict[str, Figure] = {}
    for table in tables.values():
        scores = table["scores"].get(model, {})
        key = template if template in scores else ANY
        differs = _differences(table["sampling"], sampling, key)
        whole = {name for name in table["benchmarks"] if name != MACRO} == set(benchmarks)
        for name, score in zip(table["benchmarks"], scores.get(key, ()), strict=False):
            included = whole if name == MACRO else name in benchmarks
            nearer = name not in nearest or len(differs) < len(nearest[name].differs)
            if included and score is not None and nearer:
                nearest[name] = Figure(score / 100, table["source"], differs)
    return nearest


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], template: str) -> tuple[str, ...]:
    differences = ["template not stated"] if template == ANY else []
    for name, value in ours.items():
        if name not in theirs:
            differences.append(f"{name} not stated")
        elif theirs[name] != value:
            differences.append(f"{name} {theirs[name]:g}, here {value:g}")
    return tuple(differences)

"""The experiments that a sweep was asked for, as sweep.json keeps them since its first submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.folders import SWEEP, read_json
from analysis.records import Runs
from zero.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """What a sweep says of one of its experiments. `registered`: when its claims were written down, seconds since 1970."""

    name: str
    title: str
    size: str
    cells: tuple[str, ...]
    figures: tuple[str, ...]
    claims: tuple[Any, ...]
    registered: float


def found(places: Sequence[Path | str]) -> list[Experiment]:
    """The experiments of all sweeps among the places; of one that several have, the first; by name. None where
    none is named."""
    made: dict[str, Experiment] = {}
    for place in places:
        stored = read_json(Path(place).expanduser() / SWEEP).get("experiments")
        for name, of in stored.items() if isinstance(stored, dict) else ():
            if isinstance(of, dict):
                made.setdefault(name, _experiment(name, of))
    return [made[name] for name in sorted(made)]


def _experiment(name: str, of: Mapping[str, Any]) -> Experiment:
    def listed(key: str) -> tuple[Any, ...]:
        value = of.get(key)
        return tuple(value) if isinstance(value, list) else ()

    registered = of.get("registered")
    return Experiment(
        name,
        str(of.get("title", name)),
        str(of.get("size", "")),
        tuple(map(str, listed("cells"))),
        tuple(map(str, listed("figures"))),
        listed("claims"),
        float(registered) if isinstance(registered, int | float) else 0.0,
    )


def only(places: Sequence[Path | str], name: str, runs: Runs) -> Runs:
    """The runs of one experiment. InputError if no place has it."""
    every = {of.name: of for of in found(places)}
    if name not in every:
        raise InputError("--experiment", name, f"is none of these sweeps; there are {', '.join(every) or 'none'}")
    return runs.of(every[name].cells)

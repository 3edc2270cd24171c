"""The experiments of a sweep, as sweep.json keeps them since its first submission."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reader.folders import SWEEP
from zero.config.experiments import KEY, NANO, SIZE, STEP, X, changes, key_of
from zero.errors import InputError
from zero.files import read_json

COUNTED = ("statistic", "direction", "smallest", "where")  # of a claim: what it says in numbers
LAUNCHER = re.compile(r"[+~]*(hydra|launcher)[./@]")


@dataclass(frozen=True)
class Experiment:
    """What sweep.json keeps of one of its experiments. `registered`: when its claims were written down, seconds since 1970;
    `typed`: what stood beside it on the command line, in place of what the experiment sets."""

    name: str
    title: str
    size: str
    cells: tuple[str, ...]
    figures: tuple[str, ...]
    claims: tuple[Any, ...]
    registered: float
    root: str = "train"
    typed: tuple[str, ...] = ()
    x: str = STEP  # what the figures are drawn against

    @property
    def command(self) -> str:
        """The line that makes its cells again."""
        size = [f"{SIZE}={self.size}"] if self.size not in ("", NANO) else []
        words = [f"{KEY}={self.name}", *size, *self.typed]
        return " ".join([f"python -m zero.{self.root} -m", *map(shlex.quote, words)])

    @property
    def changed(self) -> tuple[str, ...]:
        """What was typed in place of the experiment's own settings, as far as it can change a number."""
        return changes(self.typed)


def in_sweeps(places: Sequence[Path | str]) -> list[Experiment]:
    """The experiments of all sweeps among the places; of one that several have, the first; by name. None where
    none is named."""
    by_name: dict[str, Experiment] = {}
    for place in places:
        sweep = read_json(Path(place).expanduser() / SWEEP)
        stored, line = sweep.get("experiments"), sweep.get("overrides")
        for name, entry in stored.items() if isinstance(stored, dict) else ():
            if isinstance(entry, dict):
                by_name.setdefault(name, _experiment(name, entry, line if isinstance(line, list) else []))
    return [by_name[name] for name in sorted(by_name)]


def _experiment(name: str, entry: Mapping[str, Any], line: Sequence[Any]) -> Experiment:
    def values(key: str) -> tuple[Any, ...]:
        value = entry.get(key)
        return tuple(value) if isinstance(value, list) else ()

    registered = entry.get("registered")
    beside = [str(text) for text in line if key_of(str(text)) not in (KEY, SIZE) and not LAUNCHER.match(str(text))]
    return Experiment(
        name,
        str(entry.get("title", name)),
        str(entry.get("size", "")),
        tuple(map(str, values("cells"))),
        tuple(map(str, values("figures"))),
        corrected(name, values("claims")),
        float(registered) if isinstance(registered, int | float) else 0.0,
        str(entry.get("root", "train")),
        tuple(map(str, values("typed"))) if "typed" in entry else tuple(beside),
        x if (x := entry.get("x")) in X else STEP,
    )


def corrected(name: str, claims: Sequence[Any]) -> tuple[Any, ...]:
    """The claims as registered; where conf/experiment has one of the same statistic, direction and size today, with its words
    and with what makes it harder: `every` axis at which it must hold, seeds that had been `seen`."""
    from zero.config.experiments import read

    try:
        today = [entry for entry in read(name).claims if isinstance(entry, dict)]
    except InputError:
        return tuple(claims)

    def with_todays_text(claim: Any) -> Any:
        if not isinstance(claim, dict):
            return claim
        same = next((entry for entry in today if all(entry.get(key) == claim.get(key) for key in COUNTED)), {})
        return claim | {key: same[key] for key in ("text", "every", "seen") if key in same}

    return tuple(map(with_todays_text, claims))


def cells_of(places: Sequence[Path | str], name: str) -> tuple[str, ...]:
    """The cells of one experiment. InputError if no place has it."""
    every = in_sweeps(places)
    refuse_unknown(name, every)
    return next(experiment.cells for experiment in every if experiment.name == name)


def refuse_unknown(name: str, every: Sequence[Experiment]) -> None:
    """InputError for a name that none of the experiments has."""
    names = [experiment.name for experiment in every]
    if name not in names:
        raise InputError("--experiment", name, f"is none of these sweeps; there are {', '.join(names) or 'none'}")

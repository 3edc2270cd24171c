"""What a sweep is asked for, as lists of overrides: a command line, a file of such lists, or experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from zero.config import experiments
from zero.config.check import parsed, tidied
from zero.config.experiments import Experiment, Line
from zero.errors import InputError


@dataclass(frozen=True)
class Asked:
    """A line whose product is cells of python -m zero.ROOT; `experiment`: the one that it belongs to, or ""."""

    line: Line
    root: str
    experiment: str = ""


def asked(overrides: Sequence[str], grid: str | None, root: str, named: Sequence[Experiment]) -> list[Asked]:
    """What a command line, a grid or experiments ask for. InputError if it is two of them at once."""
    if grid and named:
        raise InputError("--grid", grid, "and experiment= are two lists of cells; give one")
    if named:
        return [Asked(line, of.root, of.name) for of in named for line in of.lines]
    lines = read_grid(grid) if grid else [[]]
    return [Asked(Line(tuple(tidied(experiments.merged(line, overrides), several=True))), root) for line in lines]


def read_grid(grid: str) -> list[list[str]]:
    """The lines of overrides in a file:

    base: [steps=100]               # of every cell
    cells:
      - [algo=grpo, template=r1]    # a cell
      - [algo=drgrpo, seed=0,1,2]   # a product, as on the command line
    """
    path = Path(grid)
    try:
        stored = yaml.safe_load(path.read_text())
        lines = [[str(text) for text in [*stored.get("base", []), *line]] for line in stored["cells"]]
    except OSError as error:
        raise InputError("--grid", grid, "no such file; give a .yaml file with a list of cells") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        remedy = "must hold `cells:`, a list of lists of overrides, and may hold `base:`, a list of overrides"
        raise InputError("--grid", path, remedy) from error
    if any(len(text) < 2 for line in lines for text in line):  # a string where a list was meant
        raise InputError("--grid", path, "each cell is a list of overrides: - [algo=grpo, seed=0,1]")
    return lines


def swept(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The keys that have several values in a line, with these."""
    found = {}
    for text in overrides:
        override = parsed(text)
        if override.is_sweep_override():
            found[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return found


def settled(lines: Sequence[Sequence[str]]) -> frozenset[str]:
    """The overrides that all cells share and that touch no other: composed once, as if they were choices."""
    shared = {t for t in (set.intersection(*map(set, lines)) if lines else ()) if not parsed(t).is_sweep_override()}
    others = {parsed(t).key_or_group for line in lines for t in line if t not in shared}

    def apart(key: str) -> bool:
        return not any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in others)

    return frozenset(t for t in shared if apart(parsed(t).key_or_group))

"""The lines of overrides that a sweep consists of: a command line, a file of lines, or those of experiments."""

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
class Request:
    """A line whose product is cells of python -m zero.ROOT. `experiment`: the name of the one it belongs to, or ""."""

    line: Line
    root: str
    experiment: str = ""


def read_requests(overrides: Sequence[str], grid: str | None, root: str, named: Sequence[Experiment]) -> list[Request]:
    """The lines of a command line, a grid or experiments. InputError for a grid and experiments together."""
    if grid and named:
        raise InputError("--grid", grid, "and experiment= are two lists of cells; give one")
    if named:
        return [Request(line, experiment.root, experiment.name) for experiment in named for line in experiment.lines]
    lines = read_grid(grid) if grid else [[]]
    return [Request(Line(tuple(tidied(experiments.merged(line, overrides), several=True))), root) for line in lines]


def read_grid(grid: str) -> list[list[str]]:
    """The lines of overrides in a file:

    base: [steps=100]               # of every cell
    cells:
      - [algo=grpo, template=r1]    # a cell
      - [algo=drgrpo, seed=0,1,2]   # a product, as on the command line
    """
    path = Path(grid)
    try:
        content = yaml.safe_load(path.read_text())
        lines = [[str(text) for text in [*content.get("base", []), *line]] for line in content["cells"]]
    except OSError as error:
        raise InputError("--grid", grid, "no such file; give a .yaml file with a list of cells") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        remedy = "must hold `cells:`, a list of lists of overrides, and may hold `base:`, a list of overrides"
        raise InputError("--grid", path, remedy) from error
    if any(len(text) < 2 for line in lines for text in line):  # a string where a list was meant
        raise InputError("--grid", path, "each cell is a list of overrides: - [algo=grpo, seed=0,1]")
    return lines


def swept_values(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The keys that have several values in a line, and the values."""
    swept = {}
    for text in overrides:
        override = parsed(text)
        if override.is_sweep_override():
            swept[override.key_or_group] = [str(value) for value in override.sweep_string_iterator()]
    return swept


def shared_overrides(lines: Sequence[Sequence[str]]) -> frozenset[str]:
    """The overrides that all lines share and whose setting no other override touches: they can be composed once."""
    common = set.intersection(*map(set, lines)) if lines else set()
    shared = {text for text in common if not parsed(text).is_sweep_override()}
    others = {parsed(text).key_or_group for line in lines for text in line if text not in shared}

    def touched(key: str) -> bool:
        return any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in others)

    return frozenset(text for text in shared if not touched(parsed(text).key_or_group))

"""Experiments: conf/experiment/NAME.yaml is a named command line with its expected results.

    title: GRPO makes wrong answers longer, Dr. GRPO does not
    root: train                                   # or evaluate: the entry point, python -m zero.ROOT
    base: [template=none]                         # overrides of every cell
    cells: [["algo=grpo,drgrpo", "seed=0,1,2"]]   # each a list of overrides, a product as on a command line; default: one
    nano: {base: [questions=nano_math]}           # what a size adds to base; its cells, if any, replace those above
    paper: {base: [questions=math_12k, ...]}      # beside conf/size/paper.yaml
    figures: [length/incorrect]                   # metrics that the report draws for it
    x: flops                                      # against step (default), or what was spent: tokens, flops or seconds
    claims: [...]                                 # what size=nano is expected to show: analysis/stats/claims.py

A cell may start from the model that another one has trained, of the same seed:

    cells:
      - {after: [algo=sft, rollout=gold, steps=40], cell: [algo=drgrpo, "seed=0,1,2"]}

On a command line experiment=NAME stands for its cells, size=paper for the other size, experiment=A,B for several and
experiment=all for every one with claims. Other settings of the command line replace those of the experiment. A cell has the
name and the identity of its own command line, so that experiments share their common cells.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from zero.config.identity import PLACE
from zero.errors import InputError
from zero.paths import CONF, USER_CONF, conf_file

KEY, SIZE, ALL = "experiment", "size", "all"
NANO, SIZES, ROOTS = "nano", ("nano", "paper"), ("train", "evaluate")
KEYS = {"title", "root", "base", "cells", *SIZES, "figures", "x", "claims"}
STEP = "step"
X = {
    STEP: "",
    "tokens": "tokens/generated",
    "flops": "cost/flops",
    "seconds": "time/step",
}  # x of a curve -> the metric it sums
CELL, AFTER, SEED = "cell", "after", "seed"


@dataclass(frozen=True)
class Line:
    """Overrides whose product is cells; each starts from the model of the cell with the overrides `after`, if any, and the
    same seed."""

    overrides: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One experiment in one size. Claims are about the nano size alone; another size has none."""

    name: str
    size: str
    title: str
    root: str
    lines: tuple[Line, ...]
    figures: tuple[str, ...] = ()
    x: str = STEP  # what the figures are drawn against
    claims: tuple[Any, ...] = ()
    typed: tuple[str, ...] = ()  # other settings of the command line, without which its claims were written


def known() -> list[str]:
    """The names of all experiments."""
    return sorted({path.stem for folder in (CONF, *USER_CONF) for path in (folder / KEY).glob("*.yaml")})


def with_claims() -> list[str]:
    """The experiments with claims: `all`."""
    return [name for name in known() if read(name).claims]


def is_named(overrides: Sequence[str]) -> bool:
    """Whether a command line names an experiment."""
    return any(key_of(text) == KEY for text in overrides)


def expand(overrides: Sequence[str]) -> list[Experiment]:
    """The experiments that a command line names, with its other settings in place of theirs.

    InputError for unknown names and sizes, and for invalid files.
    """
    values = {key: [text.partition("=")[2] for text in overrides if key_of(text) == key] for key in (KEY, SIZE)}
    typed = [text for text in overrides if key_of(text) not in values]
    size = (values[SIZE] or [NANO])[-1]
    names = list(dict.fromkeys(name.strip() for text in values[KEY] for name in text.strip("[]").split(",")))
    experiments = [read(name, size) for name in (with_claims() if names == [ALL] else names)]
    lines = [tuple(dict.fromkeys(_typed(line, typed) for line in each.lines)) for each in experiments]
    return [
        replace(each, lines=new_lines, typed=tuple(typed)) for each, new_lines in zip(experiments, lines, strict=True)
    ]


def read(name: str, size: str = NANO) -> Experiment:
    """One experiment from its file. InputError names what is wrong."""
    if size not in SIZES:
        raise InputError(SIZE, size, f"must be one of {', '.join(SIZES)}")
    path = conf_file(f"{KEY}/{name}.yaml")
    if not path.is_file():
        close = [other for other in known() if name and other.startswith(name)]
        close = close or difflib.get_close_matches(name, known(), n=2)
        guess = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(KEY, name, f"no such experiment{guess}; there are {', '.join([*known(), ALL])}")
    try:
        stored = yaml.safe_load(path.read_text())
        section = stored.get(size) or {}
        root = str(stored.get("root", ROOTS[0]))
        engines = [f"{SIZE}={size}"] if size != NANO and root == ROOTS[0] else []  # conf/size
        base = [*engines, *stored.get("base", []), *section.get("base", [])]
        lines = tuple(_line(base, entry) for entry in section.get("cells") or stored.get("cells") or [[]])
        unknown = sorted(set(stored) - KEYS) + sorted(set(section) - {"base", "cells"})
        title = str(stored["title"])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise InputError(KEY, path, f"is not as zero/config/experiments.py describes ({error})") from error
    if unknown or root not in ROOTS:
        raise InputError(KEY, path, f"has an unknown key or root ({', '.join(unknown) or root})")
    if size != NANO and size not in stored:
        raise InputError(
            SIZE, size, f"{KEY}={name} has no such size: leave out {SIZE}=, or write {size}: into {path.name}"
        )
    if (x := stored.get("x", STEP)) not in X:
        raise InputError(KEY, path, f"x: {x}: must be one of {', '.join(X)}")
    claims = tuple(stored.get("claims") or ()) if size == NANO else ()
    return Experiment(name, size, title, root, lines, tuple(stored.get("figures") or ()), x, claims)


def merged(line: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The overrides of a line without those whose key is typed, then the typed ones."""
    keys = {key_of(text) for text in typed}
    return [*(text for text in line if key_of(text) not in keys), *typed]


def changes(typed: Sequence[str]) -> tuple[str, ...]:
    """What of the words beside an experiment can change a number: runs with them are not the experiment as written."""
    return tuple(text for text in typed if key_of(text).partition(".")[0] not in PLACE)


def key_of(override: str) -> str:
    """The key of an override: of `+reward.terms.x=1` reward.terms.x."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def before(line: Line, cell: Sequence[str]) -> list[str]:
    """The overrides of the cell from whose model a cell of this line starts."""
    return merged(line.after, [text for text in cell if key_of(text) == SEED])


def _line(base: Sequence[str], entry: Any) -> Line:
    if not isinstance(entry, dict):
        return Line(tuple(merged(base, entry)))
    return Line(tuple(merged(base, entry[CELL])), tuple(merged(base, entry[AFTER])))


def _typed(line: Line, typed: Sequence[str]) -> Line:
    return Line(tuple(merged(line.overrides, typed)), tuple(merged(line.after, typed)) if line.after else ())

"""From a command line, or a file of such lines, to checked cells. Nothing is written and nothing starts.

Hydra takes some 40 ms to compose a config. Here it composes once for each set of group choices; the other overrides are
applied to that config by Hydra's own function, and plain numbers and words that no interpolation reads are set in the
resolved config at once. Whatever is neither goes through Hydra as a single run does.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.sweep.files import Cell, cell_id, default_name
from launch.sweep.lines import asked, settled, swept
from zero.config import check as configs
from zero.config import experiments, identity
from zero.config import limits as settings
from zero.config.check import parsed
from zero.config.compose import ERRORS, unresolved
from zero.errors import InputError
from zero.paths import CONF

OURS = ("name", "run_dir", "probe", "debug")  # a sweep gives each cell its folder, and a probe leaves no result
SMOKE_STEPS = 2
MODEL_OF = "after:"  # in the identity of a cell: the model of the cell with this signature
TRAINING, ROOTS = "train", ("train", "evaluate")  # entry points whose runs can be cells


@dataclass(frozen=True)
class Base:
    """A config composed from group choices alone: as Hydra holds it, resolved, flat, and the options chosen."""

    composed: DictConfig
    resolved: dict[str, Any]
    flat: dict[str, Any]
    raw: dict[str, Any]
    read: frozenset[str]  # what its interpolations name
    choices: dict[str, str]
    good: bool  # as it is; if not, a setting may still mend it: model.path of model=hf


@dataclass(frozen=True)
class Plan:
    """The cells that a line asks for, by name, the name that the sweep has without another, and what to tell.
    `experiments`: by name, what the report needs of those that the line names, with the names of their cells."""

    cells: dict[str, Cell]
    name: str
    notes: tuple[str, ...] = ()
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def plan(
    overrides: Sequence[str],
    *,
    grid: str | None = None,
    evaluate: Sequence[str] | None = None,
    smoke: bool = False,
    root: str = "train",
) -> Plan:
    """Every cell of the product of `overrides` (or of each line of the grid or the experiments, with `overrides` in place of
    what they set), checked.

    `evaluate`: overrides of an evaluation that follows each cell. `smoke`: a cell of two steps goes before all others.
    InputError for the first cell that cannot be, before anything else is done.
    """
    if root not in ROOTS or (root != TRAINING and (smoke or evaluate is not None)):
        raise InputError(
            "hydra/launcher", f"zero.{root}", "cells of a sweep are zero.train, or zero.evaluate without more"
        )
    overrides = configs.tidied([text for text in overrides if not is_hydras(text)], several=True)
    evaluate = None if evaluate is None else configs.tidied(evaluate, several=False)
    named = experiments.expand(overrides) if experiments.is_named(overrides) else []
    lines = asked(overrides, grid, root, named)
    made: dict[str, Cell] = {}
    belong: dict[str, list[str]] = {of.name: [] for of in named}
    notes: list[str] = []
    signatures: dict[str, str] = {}
    bases: dict[tuple[str, ...], Base] = {}
    same = settled([of.line.overrides for of in lines])
    for of in lines:
        for typed in configs.cells(of.line.overrides):
            cell = make_cell(of.root, typed, bases, same)
            if of.line.after:
                first = make_cell(of.root, experiments.before(of.line, typed), bases)
                first = made.setdefault(signatures.setdefault(first.signature, first.name), first)
                belong.get(of.experiment, []).append(first.name)
                cell = starting_from(first, cell, typed)
            twin = signatures.setdefault(cell.signature, cell.name)
            belong.get(of.experiment, []).append(twin)
            if twin != cell.name or cell.name in made:
                if not of.experiment:  # experiments share cells: that is no news
                    notes.append(f"{' '.join(typed)}: the same settings as {twin}; it runs once")
                continue
            made[cell.name] = cell
    if not made:
        raise InputError("--grid", grid, "holds no cell")
    if smoke:
        trained = [cell for cell in made.values() if cell.root == TRAINING]
        if not trained:
            raise InputError("--smoke", "", "rehearses training; none of these cells trains")
        rehearsal = make_smoke(trained[0], bases)
        gated = {cell.name: replace(cell, after=cell.after or rehearsal.name) for cell in trained}
        made = {rehearsal.name: rehearsal} | made | gated
    if evaluate is not None:
        configs.check("evaluate", list(evaluate))
        trained = [cell for cell in made.values() if cell.root == TRAINING and not cell.name.startswith("smoke-")]
        made |= {cell.name: cell for cell in (evaluation_of(cell, evaluate) for cell in trained)}
    listed = [" ".join(of.line.overrides) for of in lines] if grid else []
    everything = [*listed, *overrides, *(f"evaluate:{text}" for text in evaluate or ())]
    label = Path(grid).stem if grid else "+".join(of.name for of in named[:3])
    name = default_name({} if label else swept(overrides), everything)
    of_each = {
        of.name: {k: v for k, v in asdict(of).items() if k != "lines"} | {"cells": [*dict.fromkeys(belong[of.name])]}
        for of in named
    }
    return Plan(made, f"{label}-{name.removeprefix('sweep-')}" if label else name, tuple(notes), of_each)


def launcher_settings(overrides: Sequence[str], default: str) -> dict[str, Any]:
    """The settings of conf/hydra/launcher/X.yaml that a line chooses with hydra/launcher=X, under its hydra.launcher.KEY=VALUE.
    Unknown keys pass: the place to run knows its own, and names the nearest."""
    typed = [parsed(text) for text in overrides if is_hydras(text)]
    chosen = ([str(o.value()) for o in typed if o.key_or_group == "hydra/launcher"] or [default])[-1]
    folder = CONF / "hydra" / "launcher"
    if not (folder / f"{chosen}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise InputError("hydra/launcher", chosen, f"no such launcher for a sweep; there are {known}")
    values = [
        f"++{o.input_line.lstrip('+')}"
        for o in typed
        if o.key_or_group.startswith("hydra.launcher.") and o.input_line and not o.is_delete()
    ]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("train", overrides=[f"hydra/launcher={chosen}", *values], return_hydra_config=True)
            return OmegaConf.to_container(composed.hydra.launcher, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError("hydra.launcher", " ".join(values), " ".join(str(error).split())[:200]) from error


def is_hydras(text: str) -> bool:
    """Whether an override is one of Hydra's own, of the launcher for instance."""
    return text.lstrip("+~").startswith("hydra")


def make_cell(
    root: str, typed: Sequence[str], bases: dict[tuple[str, ...], Base], same: frozenset[str] = frozenset()
) -> Cell:
    """One cell, checked; `bases` remembers what was composed before, with `same`. InputError if it cannot be."""
    typed = configs.canonical(root, typed)
    for text in typed:
        if parsed(text).key_or_group in OURS:
            raise InputError(
                parsed(text).key_or_group, text.partition("=")[2], "belongs to single runs, not to a sweep"
            )
    config, choices = resolve(root, typed, bases, same)
    configs.check_solutions(config)
    signature = identity.signature(config)
    values = {parsed(text).key_or_group: str(parsed(text).get_value_element_as_str()) for text in typed}
    axes = {axis: choices[axis] for axis in configs.AXES if axis in choices} | {"seed": str(config["seed"])} | values
    return Cell(
        name=f"{configs.run_name(root, choices, typed)}-{signature[:6]}",
        root=root,
        overrides=tuple(typed),
        choices=choices,
        signature=signature,
        axes=axes,
        steps=int(config.get("steps") or 0),
        config=config,
    )


def starting_from(first: Cell, cell: Cell, typed: Sequence[str]) -> Cell:
    """The cell, starting from the model that `first` trains: its identity holds that of the first. `placed` fills in where
    the model lies."""
    model = dict((cell.config or {})["model"]) | {"path": f"{MODEL_OF}{first.signature}"}
    config = dict(cell.config or {}) | {"model": model}
    choices = dict(cell.choices) | {"model": f"{cell.choices['model']}+{first.choices['algo']}"}
    signature = identity.signature(config)
    return replace(
        cell,
        name=f"{configs.run_name(cell.root, choices, typed)}-{signature[:6]}",
        choices=choices,
        signature=signature,
        axes={**cell.axes, "model": choices["model"]},
        after=first.name,
        model_from=first.name,
        config=config,
    )


def make_smoke(cell: Cell, bases: dict[tuple[str, ...], Base]) -> Cell:
    """The rehearsal of a cell: two steps, all else as it is."""
    small = make_cell(cell.root, [*cell.overrides, f"steps={SMOKE_STEPS}"], bases)
    return replace(small, name=f"smoke-{small.signature}")


def evaluation_of(cell: Cell, overrides: Sequence[str]) -> Cell:
    """The evaluation that follows a cell once it has really finished. Its folders are filled in by `placed`."""
    text = json.dumps([cell.signature, sorted(overrides)])
    signature = sha256(text.encode()).hexdigest()[:12]
    return Cell(
        name=f"{cell.name}-eval-{signature[:6]}",
        root="evaluate",
        overrides=tuple(overrides),
        choices=cell.choices,
        signature=signature,
        axes={**cell.axes, "root": "evaluate"},
        after=cell.name,
    )


def placed(cell: Cell, folder: Path, tracker: str | None, sweep_id: str = "") -> Cell:
    """The cell as it runs in this sweep: its run_dir, and the tracker that compute nodes may use (None: the journal)."""
    if cell.root != TRAINING:  # of a cell that has trained, or of whatever its overrides name
        where = [f"run={folder / cell.after}"] if cell.after else []
        where += [f"run_dir={folder / cell.name}"]
        return replace(cell, overrides=(*(configs.quoted(text) for text in where), *cell.overrides))
    config = dict(cell.config or {}) | {"run_dir": str(folder / cell.name)}
    if cell.model_from:
        config["model"] = dict(config["model"]) | {"path": str(folder / cell.model_from / "model")}
    lens = {key: config["tracker"][key] for key in configs.LENS}
    names = {"uri": tracker, "sweep": folder.name, "cell": cell_id(sweep_id, cell.name)}
    config["tracker"] = dict(config["tracker"]) | names if tracker else lens
    return replace(cell, config=config)


def resolve(
    root: str, typed: Sequence[str], bases: dict[tuple[str, ...], Base], same: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], dict[str, str]]:
    """The checked, resolved config of one cell and its choices: equal to what Hydra alone would give."""
    group = tuple(text for text in typed if text in same or is_choice(parsed(text)))
    values = [text for text in typed if text not in group]
    if group not in bases:
        bases[group] = make_base(root, group)
    base = bases[group]
    plain = [simple(base, parsed(text)) for text in values]
    if all(path is not None for path in plain):
        config = copy.deepcopy(base.resolved)
        for path, text in zip([p for p in plain if p], values, strict=True):
            *above, last = path
            at = config
            for key in above:
                at = at[key]
            at[last] = parsed(text).value()
    else:
        config = apply(base, values) or configs.check(root, typed)
    if not unobjectionable(config, base.flat, trusted=base.good):
        config = configs.check(root, typed)  # says what is wrong, as for a single run
    return config, base.choices


def make_base(root: str, group: Sequence[str]) -> Base:
    """Compose group choices alone. InputError as for a single run, whose check they pass."""
    try:
        composed, picked = unresolved(root, group)
    except ERRORS:
        configs.check(root, list(group))  # says what is wrong
        raise
    choices = {k: str(v) for k, v in picked.items() if not k.startswith("hydra/")}
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    text = " ".join(str(value) for value in identity.flatten(raw).values() if "${" in str(value))
    read = frozenset(part.partition("}")[0].strip() for part in text.split("${")[1:])
    try:
        resolved: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException:
        resolved = configs.check(root, list(group))
    flat = identity.flatten(resolved)
    return Base(composed, resolved, flat, raw, read, choices, unobjectionable(resolved, flat, trusted=False))


def simple(base: Base, override: Override) -> list[str] | None:
    """The path of a plain setting that can be set in the resolved config at once; None if Hydra has to do it."""
    path = override.key_or_group.split(".")
    value = override.value() if not override.is_delete() else None
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
        return None
    if not isinstance(value, int | float | str | None) or (
        isinstance(value, str) and ("${" in value or "???" in value)
    ):
        return None
    if any(may_read(text, path) for text in base.read):
        return None
    at: Any = base.raw
    for part in path:
        if not isinstance(at, dict) or part not in at:
            return None
        at = at[part]
    return None if isinstance(at, dict | list) or at == "???" else path


def may_read(reference: str, path: Sequence[str]) -> bool:
    """Whether what stands between ${ and } may be the setting at a path, hold it, or lie in it."""
    if not re.fullmatch(r"\w[\w.]*", reference):  # relative, or a resolver's
        return any(part in reference for part in path)
    one, other = f"{reference}.", f"{'.'.join(path)}."
    return one.startswith(other) or other.startswith(one)


def apply(base: Base, values: Sequence[str]) -> dict[str, Any] | None:
    """The base under Hydra's own treatment of the overrides that are no choices; None if Hydra objects."""
    config = copy.deepcopy(base.composed)
    try:
        ConfigLoaderImpl._apply_overrides_to_config([parsed(text) for text in values], config)
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException):
        return None


def unobjectionable(config: Mapping[str, Any], base: Mapping[str, Any], trusted: bool) -> bool:
    """Whether zero.config.check.check would pass the settings. `trusted`: it passed those of the base (flat), so that only what
    differs is looked at. Settings that the base has not are left to it."""
    try:
        flat = identity.flatten(config)
        if base.keys() - flat.keys():  # something was taken away
            return False
        for key, value in flat.items():
            if key not in base:
                return False
            if not trusted or value != base[key] or type(value) is not type(base[key]):
                if value == "???":
                    return False
                settings.check_value(key, value, base[key])
        configs.check_together(config)
    except InputError:
        return False
    return True


def is_choice(override: Override) -> bool:
    """Whether an override chooses the option of a group, and so which files are composed."""
    key = override.key_or_group
    return override.package is not None or (CONF / key).is_dir()

"""From a command line, a grid or experiments to checked cells. Nothing is written and nothing starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from launch.sweep.compose import Bases, is_hydra_override
from launch.sweep.files import MLFLOW, Cell, cell_id, default_name
from launch.sweep.lines import Request, read_requests, shared_overrides, swept_values
from zero.config import check as configs
from zero.config import experiments, identity
from zero.config.check import parsed
from zero.config.experiments import Experiment
from zero.errors import InputError

SINGLE_RUN_KEYS = ("name", "run_dir", "probe", "debug")  # a sweep gives each cell its folder; a probe leaves no result
SMOKE_STEPS = 2
MODEL_OF = "after:"  # in the identity of a cell: the model of the cell with this signature
TRAINING, ROOTS = "train", ("train", "evaluate")  # entry points whose runs can be cells


@dataclass(frozen=True)
class Plan:
    """The cells that a line asks for, by name; the sweep's name, if it is given none; notes for the user. `experiments`: by
    name, what the report needs of those that the line names, with the names of their cells."""

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
    """Every cell of the product of `overrides`, checked; with a grid or experiments, of each of their lines, in which
    `overrides` replace what they set, too.

    `evaluate`: overrides of an evaluation that follows each cell. `smoke`: a cell of two steps goes before all others.
    InputError for the first cell that is wrong.
    """
    if root not in ROOTS or (root != TRAINING and (smoke or evaluate is not None)):
        remedy = "cells of a sweep are zero.train, or zero.evaluate without more"
        raise InputError("hydra/launcher", f"zero.{root}", remedy)
    overrides = configs.tidied([text for text in overrides if not is_hydra_override(text)], several=True)
    evaluate = None if evaluate is None else configs.tidied(evaluate, several=False)
    named = experiments.expand(overrides) if experiments.is_named(overrides) else []
    requests = read_requests(overrides, grid, root, named)
    cells, members, notes = make_cells(requests)
    if not cells:
        raise InputError("--grid", grid, "holds no cell")
    if smoke:
        cells = with_smoke(cells)
    if evaluate is not None:
        configs.check("evaluate", evaluate)
        trained = [cell for cell in cells.values() if cell.root == TRAINING and not cell.name.startswith("smoke-")]
        cells |= {cell.name: cell for cell in (make_evaluation(cell, evaluate) for cell in trained)}
    grid_lines = [" ".join(request.line.overrides) for request in requests] if grid else []
    everything = [*grid_lines, *overrides, *(f"evaluate:{text}" for text in evaluate or ())]
    label = Path(grid).stem if grid else "+".join(experiment.name for experiment in named[:3])
    name = default_name({} if label else swept_values(overrides), everything)
    name = f"{label}-{name.removeprefix('sweep-')}" if label else name
    return Plan(cells, name, (*notes, *change_notes(named)), describe(named, members))


def make_cells(requests: Sequence[Request]) -> tuple[dict[str, Cell], dict[str, list[str]], list[str]]:
    """(cells by name, names of the cells of each experiment, notes). Cells with the same settings are one."""
    cells: dict[str, Cell] = {}
    members: dict[str, list[str]] = {}
    notes: list[str] = []
    names: dict[str, str] = {}  # by signature
    shared = shared_overrides([request.line.overrides for request in requests])
    bases = {request.root: Bases(request.root, shared) for request in requests}
    first_bases = {root: Bases(root) for root in bases}
    for request in requests:
        for typed in configs.cells(request.line.overrides):
            cell = make_cell(bases[request.root], typed)
            if request.line.after:
                first = make_cell(first_bases[request.root], experiments.before(request.line, typed))
                first = cells.setdefault(names.setdefault(first.signature, first.name), first)
                members.setdefault(request.experiment, []).append(first.name)
                cell = with_model_of(first, cell, typed)
            name = names.setdefault(cell.signature, cell.name)
            members.setdefault(request.experiment, []).append(name)
            if name == cell.name and name not in cells:
                cells[name] = cell
            elif not request.experiment:  # that experiments share cells needs no note
                notes.append(f"{' '.join(typed)}: the same settings as {name}; it runs once")
    return cells, members, notes


def change_notes(named: Sequence[Experiment]) -> list[str]:
    """A note if settings of experiments are replaced on the command line: all of them by the same words."""
    changes = experiments.changes(named[0].typed) if named else ()
    if not changes:
        return []
    names = ",".join(experiment.name for experiment in named)
    claims = "; the claims were written for other runs" if any(experiment.claims for experiment in named) else ""
    return [f"{' '.join(changes)} in place of what experiment={names} sets{claims}"]


def describe(named: Iterable[Experiment], members: Mapping[str, Sequence[str]]) -> dict[str, Mapping[str, Any]]:
    """What sweep.json keeps of each experiment, by name: all but its lines, and the names of its cells."""
    records: dict[str, Mapping[str, Any]] = {}
    for experiment in named:
        record = {key: value for key, value in asdict(experiment).items() if key != "lines"}
        records[experiment.name] = record | {"cells": list(dict.fromkeys(members.get(experiment.name, ())))}
    return records


def make_cell(bases: Bases, overrides: Sequence[str]) -> Cell:
    """One cell of python -m zero.ROOT, checked. InputError if it is wrong."""
    overrides = configs.canonical(bases.root, overrides)
    for text in overrides:
        if parsed(text).key_or_group in SINGLE_RUN_KEYS:
            key, value = parsed(text).key_or_group, text.partition("=")[2]
            raise InputError(key, value, "belongs to single runs, not to a sweep")
    config, choices = bases.resolve(overrides)
    configs.check_imitation(config)
    signature = identity.signature(config)
    values = {parsed(text).key_or_group: str(parsed(text).get_value_element_as_str()) for text in overrides}
    axes = {axis: choices[axis] for axis in configs.AXES if axis in choices} | {"seed": str(config["seed"])} | values
    return Cell(
        name=f"{configs.run_name(bases.root, choices, overrides)}-{signature[:6]}",
        root=bases.root,
        overrides=tuple(overrides),
        choices=choices,
        signature=signature,
        axes=axes,
        steps=int(config.get("steps") or 0),
        config=config,
    )


def with_model_of(first: Cell, cell: Cell, overrides: Sequence[str]) -> Cell:
    """The cell, starting from the model that `first` trains, whose signature becomes part of its identity. `with_run_dir` fills
    in the model's path."""
    model = dict((cell.config or {})["model"]) | {"path": f"{MODEL_OF}{first.signature}"}
    config = dict(cell.config or {}) | {"model": model}
    choices = dict(cell.choices) | {"model": f"{cell.choices['model']}+{first.choices['algo']}"}
    signature = identity.signature(config)
    return replace(
        cell,
        name=f"{configs.run_name(cell.root, choices, overrides)}-{signature[:6]}",
        choices=choices,
        signature=signature,
        axes={**cell.axes, "model": choices["model"]},
        after=first.name,
        model_from=first.name,
        config=config,
    )


def with_smoke(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """The cells, those that train held back by a rehearsal: the first of them with two steps."""
    trained = [cell for cell in cells.values() if cell.root == TRAINING]
    if not trained:
        raise InputError("--smoke", "", "rehearses training; none of these cells trains")
    smoke = make_cell(Bases(TRAINING), [*trained[0].overrides, f"steps={SMOKE_STEPS}"])
    smoke = replace(smoke, name=f"smoke-{smoke.signature}")
    return {smoke.name: smoke} | {
        name: replace(cell, after=cell.after or smoke.name) if cell.root == TRAINING else cell
        for name, cell in cells.items()
    }


def make_evaluation(cell: Cell, overrides: Sequence[str]) -> Cell:
    """The evaluation that follows a cell once that has finished. `with_run_dir` fills in its folders."""
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


def with_run_dir(cell: Cell, folder: Path, tracker: str | None, sweep_id: str = "") -> Cell:
    """The cell with its run_dir in the sweep's folder, and the MLflow server that compute nodes may use (None: the journal
    only). A tracker of another kind stays as it was chosen."""
    if cell.root != TRAINING:  # its overrides name the run that it evaluates, unless that is the cell it waits for
        run = [f"run={folder / cell.after}"] if cell.after else []
        settings = [*run, f"run_dir={folder / cell.name}"]
        return replace(cell, overrides=(*(configs.quoted(text) for text in settings), *cell.overrides))
    config = dict(cell.config or {}) | {"run_dir": str(folder / cell.name)}
    if cell.model_from:
        config["model"] = dict(config["model"]) | {"path": str(folder / cell.model_from / "model")}
    if config["tracker"].get("_target_") in (None, MLFLOW):
        names = {"uri": tracker, "sweep": folder.name, "cell": cell_id(sweep_id, cell.name)}
        config["tracker"] = dict(config["tracker"]) | names if tracker else {}
    return replace(cell, config=config)

"""Run folders on disk: where they are, what kind each is, what became of it, and what its axes are called.

Damaged and missing files become notes, never errors.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from zero.files import LARGEST_RECORD, read_json, read_regular
from zero.tracking import provenance
from zero.tracking.journal import FILE as JOURNAL

CONFIG, CELL, SWEEP = "config.yaml", "cell.yaml", "sweep.json"
RESULT, ERROR, CANCELLED = "result.json", "error.json", "cancelled"
TRAIN, EVALUATE = "train", "evaluate"
INSIDE_RUN = {"checkpoints", "completions", "model", "log", ".model_partial"}  # folders of a run that hold no other run
INSIDE_SWEEP = {"code", "local"}
STORES = {"mlartifacts", "mlruns"}  # folders of MLflow: its copies of a run's files are no runs
COMPLETIONS = re.compile(r"^(?:eval_(?P<benchmark>.+)|step)_(?P<step>\d+)\.jsonl?$")  # files of a run's responses
RUN_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
ALIVE_S = 600.0  # a run without a result whose journal is younger counts as running
CLOCKS_S = 5.0  # by which a journal may be younger than the result of the same life
AXES = ("algo", "template", "questions", "model", "reward")
NO_CHOICE = ("", "None")


@dataclass(frozen=True)
class Folder:
    """One run folder. `axes`: the option of each axis; `typed`: what the line of its sweep set for this cell;
    `starts`: zero/tracking/provenance.py."""

    path: Path
    kind: str  # TRAIN or EVALUATE
    config: Mapping[str, Any]
    status: str  # finished, preempted, failed, running, unknown
    axes: Mapping[str, str]
    typed: Mapping[str, str]
    result: Mapping[str, Any]
    starts: tuple[Mapping[str, Any], ...] = ()
    wanted: bool = True  # False: the newest line of its sweep does not ask for it
    notes: tuple[str, ...] = field(default=())


def find(place: Path) -> Iterator[tuple[Path, str]]:
    """(folder, "") for each folder that may be a run's, in order of names; (folder, why) for a cell that has none."""
    if STORES & set(place.resolve().parts):
        return
    for text, folders, files in os.walk(place):
        here = Path(text)
        if here.name == "artifacts" and RUN_ID.fullmatch(here.parent.name):  # wherever a store keeps its copies
            folders.clear()
            continue
        folders.sort()
        is_run = JOURNAL in files or CONFIG in files or CELL in files
        inside = INSIDE_SWEEP if SWEEP in files else set()
        if is_run:
            yield here, ""
            inside = inside | INSIDE_RUN | {name for name in folders if name.startswith("step_")}
        if SWEEP in files:
            cells = read_json(here / SWEEP).get("cells")
            for name, cell in cells.items() if isinstance(cells, dict) else ():
                if not (here / name).is_dir() and not (isinstance(cell, dict) and cell.get("wanted") is False):
                    yield here / name, "is a cell of the sweep that has no folder yet"
        folders[:] = [name for name in folders if not name.startswith(".") and name not in inside | STORES]


def load(path: Path) -> Folder | None:
    """What a folder holds; None if it is no run's."""
    notes: list[str] = []
    cell = read_json(path / CELL) if (path / CELL).exists() else {}
    config = cell.get("config") if isinstance(cell.get("config"), dict) else _read_yaml(path / CONFIG, notes)
    assert isinstance(config, dict)
    if config.get("run") is not None and (path / CONFIG).exists():
        # what a cell planned for a run's checkpoints lacks what the run itself decides: sampling, benchmarks, model
        config = _read_yaml(path / CONFIG, notes) or config
    journal = path / JOURNAL
    if "algo" in config or (journal.exists() and not config):
        kind = TRAIN
    elif "benchmarks" in config and "n" in config:
        kind = EVALUATE
    else:
        return None
    if not config:
        notes.append(f"{CONFIG} is missing: its settings are unknown")
    result = read_json(path / RESULT)
    if (path / RESULT).exists() and not result:
        notes.append(f"{RESULT} is damaged")
    status = _status(path, kind, result, notes)
    starts = tuple(provenance.starts(path))
    choices = chosen(cell, starts)
    typed = cell.get("axes") if isinstance(cell.get("axes"), dict) else {}
    axes = axes_of(config, choices, notes) if config else {}
    wanted = not cell or _wanted(path)
    if not wanted:
        notes.append("is of settings that the newest line of its sweep does not ask for: in no verdict")
    return Folder(
        path,
        kind,
        config,
        status,
        axes,
        {k: str(v) for k, v in (typed or {}).items()},
        result,
        starts,
        wanted,
        tuple(notes),
    )


def _wanted(cell: Path) -> bool:
    """Whether the newest line of its sweep asks for a cell."""
    return cell.name not in _unwanted(cell.parent / SWEEP, _modified(cell.parent / SWEEP))


@lru_cache(maxsize=8)
def _unwanted(sweep: Path, modified: float) -> frozenset[str]:
    """The cells that neither the sweep's newest command line nor an experiment wants. Cached: all cells share one file."""
    record = read_json(sweep)
    cells, experiments = record.get("cells"), record.get("experiments")
    entries = experiments.values() if isinstance(experiments, dict) else ()
    listed = [entry.get("cells") for entry in entries if isinstance(entry, dict)]
    wanted = {name for names in listed if isinstance(names, list) for name in names if isinstance(name, str)}
    items = cells.items() if isinstance(cells, dict) else ()
    return frozenset(n for n, c in items if isinstance(c, dict) and c.get("wanted") is False and n not in wanted)


def chosen(cell: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The option of each group, as the cell of a sweep or the newest start of a run says; {} if neither does."""
    recorded = [cell.get("choices"), *(line.get("choices") for line in reversed(starts))]
    return next((choices for choices in recorded if isinstance(choices, dict) and choices), {})


def _status(path: Path, kind: str, result: Mapping[str, Any], notes: list[str]) -> str:
    """What became of a run, by its result, its error and how old its journal is."""
    ended, error = str(result.get("status", "")), read_json(path / ERROR)
    written = _modified(path / JOURNAL)
    if ended == "finished":
        return ended
    if kind == TRAIN and written and written > _modified(path / RESULT) + CLOCKS_S and time.time() - written < ALIVE_S:
        return "running"
    if error:
        notes.append(f"failed: {str(error.get('line', 'for an unknown reason'))[:200]}")
        return "failed"
    if (path / CANCELLED).exists():
        notes.append("was cancelled")
    if ended in ("preempted", "failed"):
        notes.append(f"ended as {ended}")
        return ended
    return "unknown"


def axes_of(config: Mapping[str, Any], choices: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """The option of each axis as it was chosen, and the seed. Where the choice is not recorded: the name, or the last word of
    the path, that the settings themselves give, else none. An evaluation of a run does not record what it took from that run."""
    axes: dict[str, str] = {}
    for axis in AXES:
        section = config.get(axis)
        if isinstance(section, dict):
            own_name = section.get("name") or str(section.get("path") or "").rstrip("/").rpartition("/")[2]
        else:
            own_name = section
        if str(option := choices.get(axis, "")) not in NO_CHOICE:
            axes[axis] = str(option)
        elif own_name:
            axes[axis] = str(own_name)
    unknown = [axis for axis in AXES if config.get(axis) and axis not in axes]
    if unknown and "algo" in config:
        notes.append(f"{', '.join(unknown)}: which option was chosen is not recorded")
    return axes | {"seed": as_typed(config.get("seed", ""))}


def _read_yaml(path: Path, notes: list[str]) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: 500 runs in a second instead of ten
    try:
        content = yaml.load(read_regular(path, LARGEST_RECORD), Loader=loader)  # a safe loader: plain values only
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        notes.append(f"{path.name} is damaged: its settings are unknown")
        return {}
    return content if isinstance(content, dict) else {}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def as_typed(value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The queue of a sweep: which cells are submitted, and when. Those for which there was no room are in SWEEP/unsubmitted.json.

Cells are chosen and submitted under one lock, so that two commands at once, or a command and a batch script, never submit a
cell twice. A batch script whose cell has ended calls `python -m launch.places.queue SWEEP`, which submits what waits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from launch.places import Backend, backend_of
from launch.sweep import files, states
from launch.sweep.files import Sweep
from launch.sweep.states import Status
from zero.errors import ArgumentParser, InputError, one_line_errors
from zero.files import read_json, write_json
from zero.lock import LockTaken, lock

UNSUBMITTED = "unsubmitted.json"  # a file of the sweep
HALTED = "halted"  # a file of the sweep: why launch/places/guard.sh took it out of the queue
LOCK = ".submitting"
MISSING = (states.PENDING, states.WAITING, states.PREEMPTED, states.LOST)  # what the same line again submits


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Submit what waits. Returns 0, also if another process is doing it, or 2 for bad input."""
    parser = ArgumentParser("python -m launch.places.queue", description="Submit cells that wait for room.")
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    folder = parser.parse_args(arguments).sweep.absolute()
    try:
        with lock(folder / LOCK):
            count = fill(folder, leaving=os.environ.get("ZERO_CELL_JOB", ""))
    except LockTaken:
        return 0
    print(f"{count} cells submitted, {len(read_unsubmitted(folder))} wait for room in the queue")
    return 0


def fill(folder: Path, leaving: str = "") -> int:
    """Submit as many waiting cells as there is room for now; returns their number. `leaving`: the JOB_TASK that is about to
    end."""
    sweep = files.read_sweep(folder)
    backend = backend_of(sweep.settings)
    backend.adopt(folder)
    statuses = poll(folder, sweep, backend)
    waiting = [name for name in read_unsubmitted(folder) if name in statuses and still_wanted(statuses[name])]
    write_unsubmitted(folder, waiting)
    queued = {name: status for name, status in statuses.items() if not (leaving and status.job == leaving)}
    return len(enqueue(folder, sweep, queued, startable(sweep, statuses, waiting), backend))


def still_wanted(status: Status) -> bool:
    """Whether a cell that waits for room should still be submitted: it has no job, and nobody has cancelled it since."""
    return not status.live and status.state not in (states.FINISHED, states.CANCELLED, states.STOPPED)


def poll(folder: Path, sweep: Sweep, backend: Backend, before: Mapping[str, Status] | None = None) -> dict[str, Status]:
    """The status of every cell: from its files, and from one question to the scheduler for those that have not finished.
    `before`: an earlier answer, so that only what may have changed is read."""
    known = before or {}

    def finished(name: str) -> bool:
        return known[name].state == states.FINISHED if name in known else files.finished(folder / name)

    tasks = files.task_ids(files.read_jobs(folder))
    unfinished = [ids[-1] for name, ids in tasks.items() if name in sweep.cells and not finished(name)]
    return states.read_statuses(folder, sweep, backend.poll(unfinished), before=known)


def startable(sweep: Sweep, statuses: Mapping[str, Status], names: Iterable[str]) -> list[str]:
    """Those of the cells that can run some day: what they wait for has finished, lives, or is one of them."""
    candidates = dict.fromkeys(names)

    def can_start(name: str) -> bool:
        first = statuses.get(sweep.cells[name].after or "")
        if first is None or first.state == states.FINISHED or first.live:
            return True
        return first.cell in candidates and can_start(first.cell)

    return [name for name in candidates if can_start(name)]


def enqueue(
    folder: Path, sweep: Sweep, statuses: Mapping[str, Status], names: Sequence[str], backend: Backend
) -> list[str]:
    """Submit as many cells as there is room for, those that others wait for first, and return their names; the others are
    noted for `fill`. The caller holds the sweep's lock."""
    refreeze_deleted(folder, sweep, names)
    if not backend.has_queue:
        return list(backend.submit(folder, sweep.name, names, {})) if names else []
    tasks = {name: status.job for name, status in statuses.items() if status.live and status.job}
    most_queued = backend.limits.most_queued
    room = max(0, most_queued - len(tasks)) if most_queued else len(names)
    submitted: list[str] = []
    remaining = list(names)
    while remaining and room:
        ready = [name for name in remaining if sweep.cells[name].after not in set(remaining)][:room]
        after: dict[str, str] = {}
        for name in ready:
            first = sweep.cells[name].after
            if first and first in tasks and not files.finished(folder / first):
                after[name] = tasks[first]
        taken = backend.submit(folder, sweep.name, ready, after)
        newest = files.task_ids(files.read_jobs(folder))
        tasks |= {name: newest[name][-1] for name in taken if name in newest}
        submitted += taken
        room -= len(taken)
        remaining = [name for name in remaining if name not in set(taken)]
        if len(taken) < len(ready):
            break
    placed = {*submitted, *tasks}
    write_unsubmitted(folder, [name for name in [*read_unsubmitted(folder), *remaining] if name not in placed])
    return submitted


def refreeze_deleted(folder: Path, sweep: Sweep, names: Iterable[str]) -> None:
    """Write the cell.yaml of cells whose folder was deleted, so that they can run again. InputError if their settings would
    now be others."""
    deleted = [name for name in names if not (folder / name / files.CELL).exists()]
    if not deleted:
        return
    from launch.sweep.cells import TRAINING, make_cell, with_model_of, with_run_dir
    from launch.sweep.compose import Bases

    uris = (read_json(folder / name / files.CELL).get("config") for name in sweep.cells if name not in deleted)
    tracker = next((config["tracker"].get("uri") for config in uris if config and "tracker" in config), None)
    for name in deleted:
        cell = sweep.cells[name]
        if cell.root == TRAINING:
            fresh = make_cell(Bases(cell.root), cell.overrides)
            if cell.model_from:
                fresh = with_model_of(sweep.cells[cell.model_from], fresh, cell.overrides)
            if fresh.signature != cell.signature:
                problem = "its folder was deleted, and its settings have changed in conf/ since"
                raise InputError("CELL", name, f"{problem}; submit the sweep's line again")
            cell = replace(cell, config=with_run_dir(replace(fresh, name=name), folder, tracker, sweep.id).config)
        files.freeze_cell(folder, cell)


def read_unsubmitted(folder: Path) -> list[str]:
    """Cells that are to be submitted as soon as there is room."""
    return [str(name) for name in read_json(folder / UNSUBMITTED).get("cells", [])]


def write_unsubmitted(folder: Path, names: Iterable[str]) -> None:
    """Keep which cells wait for room; no file if none does."""
    if waiting := list(dict.fromkeys(names)):
        write_json(folder / UNSUBMITTED, {"cells": waiting})
    else:
        (folder / UNSUBMITTED).unlink(missing_ok=True)


def halt_reason(folder: Path) -> str:
    """Why the sweep was taken out of the queue; "" if it was not."""
    try:
        return (folder / HALTED).read_text(errors="replace").strip()
    except OSError:
        return ""


@contextmanager
def submission_lock(folder: Path) -> Iterator[None]:
    """Only one process submits cells of a sweep at a time: InputError while another one does."""
    try:
        with lock(folder / LOCK):
            yield
    except LockTaken as error:
        raise InputError("SWEEP", folder, f"{error} submits cells of it now; wait for it") from error


if __name__ == "__main__":
    sys.exit(main())

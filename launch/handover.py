"""python -m launch.handover SWEEP: hand over cells that found no room in the queue. Batch scripts call it when a cell has ended.

Which cells go to the place where they run, and when: looked up and done under one lock, so that two lines typed at once, or a
line and a batch script, never submit a cell twice. Cells for which there was no room stand in SWEEP/unsubmitted.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from launch.places.backends import Backend, backend_of
from launch.sweep import files as records
from launch.sweep import lock
from launch.sweep import states as state
from launch.sweep.files import Sweep
from launch.sweep.states import Status
from zero.errors import InputError

UNSUBMITTED, HALTED = (
    "unsubmitted.json",
    "halted",
)  # of a sweep; the second: why launch/places/guard.sh took it out of the queue
MISSING = (state.PENDING, state.WAITING, state.PREEMPTED, state.LOST)  # what the same line again submits


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the queue; 0, also if another process does it now, 2 if it cannot be."""
    parser = argparse.ArgumentParser("python -m launch.handover", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    folder = parser.parse_args(arguments).sweep.absolute()
    try:
        with lock.lock(folder / ".submitting"):
            count = feed(folder, leaving=os.environ.get("ZERO_CELL_JOB", ""))
    except lock.Held:
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT
    print(f"{count} cells handed over, {len(unsubmitted(folder))} wait for room in the queue")
    return 0


def feed(folder: Path, leaving: str = "") -> int:
    """Hand over waiting cells for which there is room now; how many. `leaving`: JOB_TASK that is about to end."""
    sweep = records.read_sweep(folder)
    backend = backend_of(sweep.settings)
    backend.adopt(folder)
    of = look(folder, sweep, backend)
    note_unsubmitted(folder, [name for name in unsubmitted(folder) if name in of and due(of[name])], set())
    queued = {name: status for name, status in of.items() if not (leaving and status.job == leaving)}
    return len(hand_over(folder, sweep, queued, startable(sweep, of, unsubmitted(folder)), backend))


def due(status: Status) -> bool:
    """Whether a cell that was to be submitted still is: nothing of it lives, and nobody has said no since."""
    return not status.live and status.state not in (state.FINISHED, state.CANCELLED, state.STOPPED)


def look(folder: Path, sweep: Sweep, backend: Backend, before: Mapping[str, Status] | None = None) -> dict[str, Status]:
    """The state of every cell: their files, and one question to the scheduler for those that have not finished. `before`:
    what an earlier look found, so that this one reads only what may have changed."""
    known = before or {}

    def over(name: str) -> bool:
        return known[name].state == state.FINISHED if name in known else records.finished(folder / name)

    tasks = records.task_ids(records.read_jobs(folder))
    open_ = [ids[-1] for name, ids in tasks.items() if name in sweep.cells and not over(name)]
    return state.states(folder, sweep, backend.poll(open_), before=known)


def startable(sweep: Sweep, of: Mapping[str, Status], names: Iterable[str]) -> list[str]:
    """Those of the cells whose turn can come: what they wait for has finished, lives, or is among them."""
    chosen = list(names)
    known = set(chosen)

    def may(name: str) -> bool:
        before = sweep.cells[name].after
        if before is None or before not in of or of[before].state == state.FINISHED or of[before].live:
            return True
        return before in known and may(before)

    return [name for name in chosen if may(name)]


def hand_over(
    folder: Path, sweep: Sweep, of: Mapping[str, Status], names: Sequence[str], backend: Backend
) -> list[str]:
    """Give cells to the place where they run, those that others wait for first; as many as there is room for. Returns these;
    the others are noted, for `feed`. The caller holds the sweep's lock."""
    freeze_again(folder, sweep, names)
    if not backend.by_task:
        return list(backend.submit(folder, sweep.name, names, {})) if names else []
    tasks = {name: status.job for name, status in of.items() if status.live and status.job}
    room = max(0, backend.most_queued - len(tasks)) if backend.most_queued else len(names)
    taken: list[str] = []
    left = list(names)
    while left and room:
        known = set(left)
        ready = [name for name in left if sweep.cells[name].after not in known][:room]
        after: dict[str, str] = {}
        for name in ready:
            before = sweep.cells[name].after
            if before and before in tasks and not records.finished(folder / before):
                after[name] = tasks[before]
        done = list(backend.submit(folder, sweep.name, ready, after))
        newest = records.task_ids(records.read_jobs(folder))
        tasks |= {name: newest[name][-1] for name in done if name in newest}
        taken += done
        room -= len(done)
        left = [name for name in left if name not in set(done)]
        if len(done) < len(ready):
            break
    note_unsubmitted(folder, [*unsubmitted(folder), *left], {*taken, *tasks})
    return taken


def freeze_again(folder: Path, sweep: Sweep, names: Iterable[str]) -> None:
    """Write the cell.yaml of cells whose folder somebody has deleted, to run them anew. InputError if they would be others."""
    gone = [name for name in names if not (folder / name / records.CELL).exists()]
    if not gone:
        return
    from launch.sweep.cells import TRAINING, make_cell, placed, starting_from

    uris = (records.read_json(folder / name / records.CELL).get("config") for name in sweep.cells if name not in gone)
    tracker = next((config["tracker"].get("uri") for config in uris if config and "tracker" in config), None)
    for name in gone:
        cell = sweep.cells[name]
        if cell.root == TRAINING:
            fresh = make_cell(cell.root, cell.overrides, {})
            if cell.model_from:
                fresh = starting_from(sweep.cells[cell.model_from], fresh, cell.overrides)
            if fresh.signature != cell.signature:
                remedy = (
                    "its folder is gone, and its settings have changed in conf/ since; submit the sweep's line again"
                )
                raise InputError("CELL", name, remedy)
            cell = replace(cell, config=placed(replace(fresh, name=name), folder, tracker, sweep.id).config)
        records.freeze_cell(folder, cell)


def unsubmitted(folder: Path) -> list[str]:
    """Cells that are to be submitted as soon as there is room."""
    return [str(name) for name in records.read_json(folder / UNSUBMITTED).get("cells", [])]


def note_unsubmitted(folder: Path, names: Iterable[str], without: set[str]) -> None:
    """Keep which cells wait for room; no file if none does."""
    wait = [name for name in dict.fromkeys(names) if name not in without]
    if wait:
        records.write_json(folder / UNSUBMITTED, {"cells": wait})
    else:
        (folder / UNSUBMITTED).unlink(missing_ok=True)


def halted(folder: Path) -> str:
    """Why the sweep was taken out of the queue; "" if it was not."""
    try:
        return (folder / HALTED).read_text(errors="replace").strip()
    except OSError:
        return ""


@contextmanager
def alone(folder: Path, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """Only one process hands over cells of a sweep: InputError while another one does, or with `waits` wait for it."""
    try:
        with lock.lock(folder / ".submitting", waits):
            yield
    except lock.Held as error:
        raise InputError("SWEEP", folder, f"{error} submits cells of it now; wait for it") from error


if __name__ == "__main__":
    sys.exit(main())

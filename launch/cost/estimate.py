"""What a sweep will cost: GPU-hours, disk, when it will be done. From its own finished cells where there are any; before
that only limits are known, and it says so."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.places.backends import Backend
from launch.sweep import files as records
from launch.sweep.files import Sweep
from launch.sweep.states import CANCELLED, FAILED, FINISHED, STOPPED, Status
from zero.config.check import model_folder
from zero.config.recipes import parameters

GIB = 2**30
MASTER, MOMENTS = 4, 8  # bytes of a parameter in a checkpoint: float32 weights, two moments of Adam
KEPT_EXPORT = 4  # at most, of a parameter in model/


# cells that nobody will run unless somebody asks for it
AT_REST = (FINISHED, FAILED, CANCELLED, STOPPED)


@dataclass(frozen=True)
class Estimate:
    """Of the cells that are left. `measured`: cells it is based on; 0: nothing is known but the time limit of an attempt.
    `running`: how many of them have not finished. `attempts`: of the longest cell, if that limit is shorter than the cell."""

    cells: int
    measured: int
    hours: float | None  # of one cell
    gpu_hours: float | None  # of all; of CPUs if cells have no GPU
    finish: float | None  # seconds until all are done, once they run
    disk: float | None  # bytes still to be written, at most
    free: float
    running: int = 0
    attempts: int = 1


def estimate(folder: Path, sweep: Sweep, of: Mapping[str, Status], backend: Backend) -> Estimate:
    """Look at what has finished or runs, and at what is left of the wanted cells: neither failed nor cancelled ones."""
    training = {name: status for name, status in of.items() if sweep.cells[name].root == "train"}
    done = [name for name, status in training.items() if status.state == FINISHED]
    left = [name for name, cell in sweep.cells.items() if cell.wanted and of[name].state not in AT_REST]
    trained = [name for name in left if name in training]
    finished = [of[name].seconds / max(1, sweep.cells[name].steps) for name in done if of[name].seconds]
    under_way = [
        status.seconds / status.step
        for status in training.values()
        if status.state != FINISHED and status.step and status.seconds
    ]
    pace = finished or under_way
    seconds = [statistics.median(pace) * remaining(sweep, of[name]) for name in trained] if pace else []
    attempts = 1
    if seconds and backend.limit:  # each attempt is warned before its limit, saves, and starts again
        attempts = max(1, math.ceil(max(seconds) / max(1.0, backend.limit - backend.warning)))
    hours = statistics.mean(seconds) / 3600 if seconds else None if trained else 0.0
    at_once = backend.at_once or backend.most_queued or len(trained) or 1
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return Estimate(
        cells=len(left),
        measured=len(pace),
        hours=hours,
        gpu_hours=None if hours is None else sum(seconds) / 3600 * max(1, backend.gpus),
        finish=None if hours is None else math.ceil(len(trained) / at_once) * hours * 3600,
        disk=disk(folder, sweep, done, trained),
        free=float(shutil.disk_usage(existing).free),
        running=0 if finished else len(pace),
        attempts=attempts,
    )


def remaining(sweep: Sweep, status: Status) -> int:
    """Steps that a cell still has to do."""
    return max(0, sweep.cells[status.cell].steps - (status.step or 0))


def disk(folder: Path, sweep: Sweep, done: Sequence[str], left: Sequence[str]) -> float | None:
    """Bytes: the largest finished cell for each that is left, else what checkpoints and model need; None if unknown."""
    if done:
        return max(size(folder / name) for name in done[:8]) * len(left)
    known: dict[str, float | None] = {}
    total = 0.0
    for name in left:
        config = sweep.cells[name].config or records.read_json(folder / name / records.CELL).get("config")
        if not config:
            return None
        path = str(config["model"]["path"])
        count = known.setdefault(path, parameters(model_folder(path)))
        if count is None:
            return None
        saves = (
            0 if config["checkpoint"]["every"] == 0 else config["checkpoint"]["keep"] + 1
        )  # one more while it is saved
        total += count * (saves * (MASTER + MOMENTS) + KEPT_EXPORT)
    return total


def size(folder: Path) -> float:
    """Bytes of all files below a folder."""
    total = 0.0
    for above, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(above) / name).stat().st_size
            except OSError:
                continue  # gone meanwhile
    return total


def lines(made: Estimate, backend: Backend) -> list[str]:
    """In words."""
    unit = "GPU-hours" if backend.gpus else "CPU-hours"
    if not made.cells:
        return []
    if made.hours is None:
        told = ["time: unknown until a cell has made steps"]
        if backend.limit:
            told[0] += f"; an attempt has {backend.limit / 3600:.2g} h, then the cell saves and is queued again"
    else:
        basis = f"{made.measured} running cells" if made.running else f"{made.measured} finished cells"
        end = time.strftime("%a %d %b %H:%M", time.localtime(time.time() + (made.finish or 0.0)))
        told = [f"time: {made.hours:.2g} h a cell, {made.gpu_hours:.3g} {unit} (from {basis})"]
        if made.attempts > 1:
            told[0] += f"; {made.attempts} attempts of the longest, each within its time limit"
        if made.attempts > 1 + backend.requeues:
            told[0] += f"   MORE THAN launcher.requeues={backend.requeues}: raise launcher.timeout_min"
        told.append(
            f"finish: {end}, if it starts now" + (f" and {backend.at_once} run at once" if backend.at_once else "")
        )
    if made.disk is None:
        return [*told, f"disk: unknown, the size of the model is not; {made.free / GIB:.0f} GiB are free"]
    short = "   TOO LITTLE: lower checkpoint.keep, or free some" if made.disk > made.free else ""
    return [*told, f"disk: up to {made.disk / GIB:.2g} GiB of {made.free / GIB:.0f} GiB free{short}"]

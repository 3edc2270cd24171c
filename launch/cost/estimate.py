"""What a sweep will cost: GPU-hours, disk, and when it will be done, from its own cells that have finished or run."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launch.places import Limits
from launch.sweep import files
from launch.sweep.files import Sweep
from launch.sweep.states import CANCELLED, FAILED, FINISHED, STOPPED, Status
from zero.config.check import model_folder
from zero.config.recipes import parameters
from zero.files import read_json

GIB = 2**30
MASTER, MOMENTS = 4, 8  # bytes of a parameter in a checkpoint: float32 weights, two moments of Adam
EXPORT = 4  # bytes of a parameter in model/, at most
# of cells that run no more unless the user says so
SETTLED_STATES = (FINISHED, FAILED, CANCELLED, STOPPED)


@dataclass(frozen=True)
class Estimate:
    """For the cells that are left. `measured`: the number of cells it is based on, of which `running` have not finished.
    `attempts`: of the longest cell, within the time limit of an attempt."""

    cells: int
    measured: int
    hours: float | None  # of one cell
    gpu_hours: float | None  # of all; of CPUs if cells have no GPU
    finish: float | None  # seconds until all are done, once they run
    disk: float | None  # bytes still to be written, at most
    free: float  # bytes
    running: int = 0
    attempts: int = 1


def estimate(folder: Path, sweep: Sweep, statuses: Mapping[str, Status], limits: Limits) -> Estimate:
    """The cost of the wanted cells that have not finished, failed, stopped or been cancelled."""
    training = {name: status for name, status in statuses.items() if sweep.cells[name].root == "train"}
    done = [name for name, status in training.items() if status.state == FINISHED]
    left = [name for name, cell in sweep.cells.items() if cell.wanted and statuses[name].state not in SETTLED_STATES]
    trained = [name for name in left if name in training]
    finished = [statuses[name].seconds / max(1, sweep.cells[name].steps) for name in done if statuses[name].seconds]
    unfinished = [status for status in training.values() if status.state != FINISHED]
    running = [status.seconds / status.step for status in unfinished if status.step and status.seconds]
    pace = finished or running  # seconds a step
    seconds = [statistics.median(pace) * remaining_steps(sweep, statuses[name]) for name in trained] if pace else []
    attempts = 1
    if seconds and limits.attempt_s:  # each attempt is warned before its limit, saves, and starts again
        attempts = max(1, math.ceil(max(seconds) / max(1.0, limits.attempt_s - limits.warning_s)))
    hours = statistics.mean(seconds) / 3600 if seconds else None if trained else 0.0
    at_once = limits.at_once or limits.most_queued or len(trained) or 1
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return Estimate(
        cells=len(left),
        measured=len(pace),
        hours=hours,
        gpu_hours=None if hours is None else sum(seconds) / 3600 * max(1, limits.gpus),
        finish=None if hours is None else math.ceil(len(trained) / at_once) * hours * 3600,
        disk=disk_needed(folder, sweep, done, trained),
        free=float(shutil.disk_usage(existing).free),
        running=0 if finished else len(pace),
        attempts=attempts,
    )


def remaining_steps(sweep: Sweep, status: Status) -> int:
    """Steps that a cell still has to do."""
    return max(0, sweep.cells[status.cell].steps - (status.step or 0))


def disk_needed(folder: Path, sweep: Sweep, done: Sequence[str], left: Sequence[str]) -> float | None:
    """Bytes: as much as the largest finished cell for each that is left; without one, the size of checkpoints and exported
    model. None if the model's size is unknown."""
    if done:
        return max(folder_size(folder / name) for name in done[:8]) * len(left)
    known: dict[str, float | None] = {}
    total = 0.0
    for name in left:
        config = sweep.cells[name].config or read_json(folder / name / files.CELL).get("config")
        if not config:
            return None
        path = str(config["model"]["path"])
        count = known.setdefault(path, parameters(model_folder(path)))
        if count is None:
            return None
        # one checkpoint more than are kept, while it is saved
        checkpoints = config["checkpoint"]["keep"] + 1 if config["checkpoint"]["every"] else 0
        total += count * (checkpoints * (MASTER + MOMENTS) + EXPORT)
    return total


def folder_size(folder: Path) -> float:
    """Bytes of all files below a folder."""
    total = 0.0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += (Path(directory) / name).stat().st_size
    return total


def estimate_lines(cost: Estimate, limits: Limits) -> list[str]:
    """The estimate in words."""
    if not cost.cells:
        return []
    return [*time_lines(cost, limits), disk_line(cost)]


def time_lines(cost: Estimate, limits: Limits) -> list[str]:
    """Hours and the time at which all cells are done."""
    if cost.hours is None:
        line = "time: unknown until a cell has made steps"
        if limits.attempt_s:
            line += f"; an attempt has {limits.attempt_s / 3600:.2g} h, then the cell saves and is queued again"
        return [line]
    unit = "GPU-hours" if limits.gpus else "CPU-hours"
    basis = f"{cost.measured} {'running' if cost.running else 'finished'} cells"
    line = f"time: {cost.hours:.2g} h a cell, {cost.gpu_hours:.3g} {unit} (from {basis})"
    if cost.attempts > 1:
        line += f"; {cost.attempts} attempts of the longest, each within its time limit"
    if cost.attempts > 1 + limits.requeues:
        line += f"   MORE THAN launcher.requeues={limits.requeues}: raise launcher.timeout_min"
    end = time.strftime("%a %d %b %H:%M", time.localtime(time.time() + (cost.finish or 0.0)))
    return [line, f"finish: {end}, if it starts now" + (f" and {limits.at_once} run at once" if limits.at_once else "")]


def disk_line(cost: Estimate) -> str:
    """The disk space that the cells still need."""
    if cost.disk is None:
        return f"disk: unknown, the size of the model is not; {cost.free / GIB:.0f} GiB are free"
    short = "   TOO LITTLE: lower checkpoint.keep, or free some" if cost.disk > cost.free else ""
    return f"disk: up to {cost.disk / GIB:.2g} GiB of {cost.free / GIB:.0f} GiB free{short}"

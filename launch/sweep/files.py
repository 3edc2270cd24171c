"""The folder of a sweep: its files, what they hold, and how each is written so that a kill never leaves half of one.

SWEEP/sweep.json           what is wanted: name, launcher settings, code record, and every cell
      code/                frozen copy of the code that every attempt runs
      jobs.jsonl           a line for each submitted array: job, the cells of its tasks in order, time, settings
      CELL/cell.yaml       what the cell is: root config, name, signature, choices, overrides, resolved config (JSON is YAML)
           attempts.jsonl  a line at each start and at each end of an attempt
           lease.json      the copy of the cell that owns the folder
           error.json      why the last attempt failed; gone when another one starts
           stop            asks for a stop at the end of the step
           log/N.out       what attempt N printed
Nothing is started here, and no scheduler is asked.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.files import append_line, read_json, read_json_lines, read_regular, write_atomically, write_json

HOME = Path("runs/sweeps")
SWEEP, CODE, JOBS = "sweep.json", "code", "jobs.jsonl"
CELL, ATTEMPTS, LEASE, ERROR, STOP = "cell.yaml", "attempts.jsonl", "lease.json", "error.json", "stop"
LOG, RESULT = "log", "result.json"
CANCELLED = "cancelled"  # made by `launch.status cancel`, removed by `resume`
BY_SIGNAL = "signal"  # first word of a stop file of the batch script's, which stops one attempt only
EXIT_FINISHED = 0  # the other codes of an attempt: zero/errors.py
MLFLOW = "zero.tracking.mlflow.MlflowTracker"


@dataclass(frozen=True)
class Cell:
    """One run that is wanted.

    `root`: "train" or "evaluate", the config it is composed from and the program that runs it (python -m zero.ROOT). `axes`:
    the values that patterns, tables and tags know it by. `config`: its resolved settings; in cell.yaml only, None elsewhere.
    """

    name: str  # of its folder
    root: str
    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    signature: str
    axes: Mapping[str, str] = field(default_factory=dict)
    after: str | None = None  # the cell that must finish before
    model_from: str | None = None  # the cell whose trained model it starts from
    steps: int = 0  # of training; 0: it does not train
    wanted: bool = True  # by the line that was submitted last
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """The content of sweep.json. `settings`: the launcher's; `code`: commit, digest and time of the frozen copy;
    `experiments`: those that the line named, with their claims, their cells, and the time at which they were registered."""

    name: str
    cells: Mapping[str, Cell]
    settings: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    experiment: str = "zero"
    experiments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""  # a random one: in a shared MLflow two sweeps may have the same name


@dataclass(frozen=True)
class Job:
    """One submitted array (or single job): cell i is its task i."""

    job: str
    cells: tuple[str, ...]
    time: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def default_name(axes: Mapping[str, Sequence[str]], overrides: Iterable[str]) -> str:
    """A sweep's folder name: its swept axes, and 8 digits of the hash of its sorted overrides: same line, same sweep."""
    text = "\n".join(sorted(overrides))
    words = [axis if len(values) > 3 else f"{axis}-{'+'.join(values)}" for axis, values in axes.items()]
    readable = "".join(c if c.isalnum() or c in "._+-" else "_" for c in "-".join(words))[:60].strip("-+")
    return f"{readable or 'sweep'}-{sha256(text.encode()).hexdigest()[:8]}"


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write sweep.json, without the resolved configs: those are in the cells' folders."""
    cells = {name: {k: v for k, v in asdict(cell).items() if k != "config"} for name, cell in sweep.cells.items()}
    record = asdict(replace(sweep, cells={})) | {"cells": cells}
    write_json(folder / SWEEP, record)


def cell_id(sweep_id: str, name: str) -> str:
    """The id by which MLflow knows a cell: the same for all of its attempts, and for no other cell."""
    return sha256(f"{sweep_id}\n{name}".encode()).hexdigest()[:32]


def read_sweep(folder: Path) -> Sweep:
    """Read sweep.json. InputError if the folder is no sweep."""
    try:
        record = json.loads(read_regular(folder / SWEEP))
        cells = {name: _cell(entry) for name, entry in record.pop("cells").items()}
        return Sweep(**(record | {"cells": cells, "overrides": tuple(record["overrides"])}))
    except OSError as error:
        raise InputError("SWEEP", folder, f"is no folder of a sweep (no {SWEEP}); see runs/sweeps") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError("SWEEP", folder, f"its {SWEEP} is damaged ({error}); submit the same line again") from error


def find_sweep(text: str, home: Path = HOME) -> Path:
    """The absolute folder of a sweep that is given as a path, as a name in `home`, or as the beginning or end of only one
    name. An exact name counts even if it is the beginning of others."""
    for exact in (Path(text).expanduser(), home / text):
        if text and (exact / SWEEP).exists():
            return exact.absolute()
    known = known_sweeps(home)
    close = [path for path in known if text and (path.name.startswith(text) or path.name.endswith(text))]
    if len(close) != 1:
        names = ", ".join(path.name for path in (close or known)[:8]) or "none"
        problem = "may be several sweeps" if len(close) > 1 else "is no sweep"
        raise InputError("SWEEP", text, f"{problem}; there are {names} in {home}")
    return close[0].absolute()


def known_sweeps(home: Path = HOME) -> list[Path]:
    """The folders of all sweeps in `home`, by name."""
    return sorted(path.parent for path in home.glob(f"*/{SWEEP}"))


def _cell(entry: Mapping[str, Any]) -> Cell:
    return Cell(**(dict(entry) | {"overrides": tuple(entry["overrides"])}))


def freeze_cell(folder: Path, cell: Cell) -> None:
    """Make the cell's folder and write cell.yaml, if they are not there yet: a cell that exists never changes."""
    path = folder / cell.name / CELL
    if not read_json(path):
        (path.parent / LOG).mkdir(parents=True, exist_ok=True)
        # without fsync, for speed: a cell.yaml that a power cut has damaged is written again by the same line
        write_json(path, asdict(cell), sync=False)


def read_cell(folder: Path, name: str) -> Cell:
    """A cell with its resolved config. InputError if there is none."""
    record = read_json(folder / name / CELL)
    try:
        return _cell(record)
    except (KeyError, TypeError) as error:
        raise InputError("CELL", name, f"is no cell of {folder}; python -m launch.status lists them") from error


def add_job(folder: Path, job: str, cells: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Note a submitted array, right after its submission: its cells would be submitted twice otherwise."""
    append_line(folder / JOBS, {"job": job, "cells": list(cells), "time": time.time(), "settings": dict(settings)})


def read_jobs(folder: Path) -> list[Job]:
    """Every submitted array, oldest first."""
    return [
        Job(str(line["job"]), tuple(line["cells"]), float(line["time"]), line.get("settings", {}))
        for line in read_json_lines(folder / JOBS)
        if {"job", "cells", "time"} <= line.keys()
    ]


def task_ids(jobs: Iterable[Job]) -> dict[str, list[str]]:
    """Every JOB_TASK that was submitted for each cell, oldest first."""
    tasks: dict[str, list[str]] = {}
    for job in jobs:
        for i, cell in enumerate(job.cells):
            tasks.setdefault(cell, []).append(f"{job.job}_{i}")
    return tasks


def begin_attempt(cell_dir: Path, job: str, restart: int) -> int:
    """Note that an attempt starts; returns its number, from 1 on. Two copies never get the same one, even where one does not see
    the other's line yet: the number belongs to the copy that creates its log. `job`: JOB_TASK, "" without a scheduler."""
    number = 1 + max((a["attempt"] for a in read_attempts(cell_dir)), default=0)
    (cell_dir / LOG).mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(log_path(cell_dir, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            break
        except FileExistsError:
            number += 1
    started = {"attempt": number, "job": job, "restart": restart, "time": time.time()}
    append_line(cell_dir / ATTEMPTS, started | {"host": socket.gethostname(), "pid": os.getpid()})
    return number


def end_attempt(cell_dir: Path, attempt: int, exit_code: int) -> None:
    """Note that an attempt ended."""
    append_line(cell_dir / ATTEMPTS, {"attempt": attempt, "end": True, "exit": exit_code, "time": time.time()})


def read_attempts(cell_dir: Path) -> list[dict[str, Any]]:
    """The attempts in order: attempt, job, restart, host, pid, time; and exit and ended of those that noted their end."""
    attempts: dict[int, dict[str, Any]] = {}
    for line in read_json_lines(cell_dir / ATTEMPTS):
        number = line.get("attempt")
        if not isinstance(number, int):
            continue
        if "end" not in line:
            attempts.setdefault(number, {}).update(line)
        elif number in attempts:
            attempts[number] |= {"exit": line.get("exit"), "ended": line.get("time")}
    return [attempts[number] for number in sorted(attempts)]


def log_path(cell_dir: Path, attempt: int) -> Path:
    """The file of an attempt's output."""
    return cell_dir / LOG / f"{attempt}.out"


def holds_lease(cell_dir: Path, token: str) -> bool:
    """Whether no other copy has taken the lease. Without a lease every copy may go on."""
    return read_json(cell_dir / LEASE).get("token", token) == token


def write_error(cell_dir: Path, attempt: int, exit_code: int, line: str, traceback: str) -> None:
    """Keep why an attempt failed."""
    record = {"line": line, "traceback": traceback, "exit": exit_code, "attempt": attempt, "time": time.time()}
    write_json(cell_dir / ERROR, record)


def ask_to_stop(cell_dir: Path, why: str) -> None:
    """Write the stop file: the run saves at the end of its step and exits with 75."""
    write_atomically(cell_dir / STOP, why + "\n")


def clear_stop(cell_dir: Path) -> None:
    """Remove the stop file, so that the next attempt may run."""
    (cell_dir / STOP).unlink(missing_ok=True)


def finished(cell_dir: Path) -> bool:
    """Whether the cell's result says that it has finished."""
    return read_json(cell_dir / RESULT).get("status") == "finished"


def stopped_by_user(cell_dir: Path) -> bool:
    """Whether there is a stop file that the batch script has not written."""
    return (cell_dir / STOP).exists() and not stop_reason(cell_dir).startswith(BY_SIGNAL)


def stop_reason(cell_dir: Path) -> str:
    """The content of the stop file: why, and in one of the batch script's which copy it is for; "" without a file."""
    try:
        return read_regular(cell_dir / STOP).decode(errors="replace")
    except OSError:
        return ""

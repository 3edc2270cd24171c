"""The folder of a sweep: which files it has, what stands in them, and how each is written so that a kill tears none.

SWEEP/sweep.json           what is wanted: name, launcher settings, code record, and every cell
      code/                frozen copy of the code that every attempt runs
      jobs.jsonl           a line for each submitted array: job, the cells of its tasks in order, time, settings
      CELL/cell.yaml       what the cell is: root config, name, signature, choices, overrides, resolved config (JSON is YAML)
           attempts.jsonl  a line at each start and at each end of an attempt
           lease.json      the copy that owns the folder
           error.json      why the last attempt failed; gone when another one starts
           stop            asks for a stop at the end of the step
           log/N.out       what attempt N printed
Records and pure functions: nobody is asked here, nothing is started.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.files import read_regular

HOME = Path("runs/sweeps")
SWEEP, CODE, JOBS = "sweep.json", "code", "jobs.jsonl"
CELL, ATTEMPTS, LEASE, ERROR, STOP, LOG, RESULT = (
    "cell.yaml", "attempts.jsonl", "lease.json", "error.json", "stop", "log", "result.json",
)  # fmt: skip
CANCELLED = (
    "cancelled"  # a file of a cell: it was cancelled by `launch.status cancel`, and only `resume` or `retry` undo it
)
BY_SIGNAL = "signal"  # first word of a stop file that the batch script made: the next attempt may run
EXIT_FINISHED, EXIT_FAILED, EXIT_INPUT, EXIT_PREEMPTED, EXIT_GAVE_WAY = 0, 1, 2, 75, 76


@dataclass(frozen=True)
class Cell:
    """One run that is wanted. `name` is its folder. `after`: a cell that must finish before; None: it may start at once.

    `root`: the config it is composed from, "train" or "evaluate" (python -m zero.ROOT). `axes`: what distinguishes it
    in this sweep, for patterns, tables and tags. `config`: resolved settings, in cell.yaml alone and None elsewhere.
    """

    name: str
    root: str
    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    signature: str
    axes: Mapping[str, str] = field(default_factory=dict)
    after: str | None = None
    model_from: str | None = None  # the cell whose trained model it starts from
    steps: int = 0  # that it will train; 0: none
    wanted: bool = True  # by the line that was submitted last; others stay as they are
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """What stands in sweep.json. `settings`: those of the launcher; `code`: commit, digest and time of the frozen copy;
    `experiments`: those that the line named, with their claims, their cells, and when they were first written down."""

    name: str
    cells: Mapping[str, Cell]
    settings: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    experiment: str = "zero"
    experiments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""  # made at the first submission: two sweeps of one name are two in a shared MLflow


@dataclass(frozen=True)
class Job:
    """One submitted array (or single job): cell i is its task i."""

    job: str
    cells: tuple[str, ...]
    time: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """Replace a file at once: readers and a kill see the old or the new one. OSError passes and leaves the old one.
    `sync`: it is on disk when this returns, also after a power cut."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """One JSON object, whole or not at all."""
    write_whole(path, json.dumps(record, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; {} if there is none, or what is there is no object."""
    try:
        record = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """One line at the end of a file, on disk when this returns; a line torn by a kill before it stays its own. OSError (a full
    disk takes a part of it, and says nothing) passes and leaves the file as it was."""
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        torn = False
        if end:
            file.seek(end - 1)
            torn = file.read(1) != b"\n"
        line = (b"\n" if torn else b"") + json.dumps(record, default=str).encode() + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; torn and damaged lines are left out."""
    try:
        lines = read_regular(path).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def default_name(axes: Mapping[str, Sequence[str]], overrides: Iterable[str]) -> str:
    """A sweep's folder name: its swept axes, and 8 digits of the hash of its sorted overrides: same line, same sweep."""
    text = "\n".join(sorted(overrides))
    words = [axis if len(values) > 3 else f"{axis}-{'+'.join(values)}" for axis, values in axes.items()]
    readable = "".join(c if c.isalnum() or c in "._+-" else "_" for c in "-".join(words))[:60].strip("-+")
    return f"{readable or 'sweep'}-{sha256(text.encode()).hexdigest()[:8]}"


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """sweep.json, whole. The resolved configs are left to the cells."""
    cells = {name: {k: v for k, v in asdict(cell).items() if k != "config"} for name, cell in sweep.cells.items()}
    record = asdict(replace(sweep, cells={})) | {"cells": cells}
    write_whole(folder / SWEEP, json.dumps(record, indent=1, default=str) + "\n")


def cell_id(sweep_id: str, name: str) -> str:
    """What is the same for every life of a cell, and nothing else's: what MLflow knows it by."""
    return hashlib.sha256(f"{sweep_id}\n{name}".encode()).hexdigest()[:32]


def read_sweep(folder: Path) -> Sweep:
    """What is wanted. InputError if the folder is no sweep."""
    try:
        record = json.loads(read_regular(folder / SWEEP))
        cells = {name: _cell(entry) for name, entry in record.pop("cells").items()}
        return Sweep(**(record | {"cells": cells, "overrides": tuple(record["overrides"])}))
    except OSError as error:
        raise InputError("SWEEP", folder, f"is no folder of a sweep (no {SWEEP}); see runs/sweeps") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError("SWEEP", folder, f"its {SWEEP} is damaged ({error}); submit the same line again") from error


def find_sweep(text: str, home: Path = HOME) -> Path:
    """The absolute folder of a sweep given as a path, or as a name or its unique beginning or end in `home`. An exact name
    counts before a beginning of others."""
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
        # not one by one to disk: sweep.json is, after all of them, and a torn one is written again
        write_whole(path, json.dumps(asdict(cell), indent=1, default=str) + "\n", sync=False)


def read_cell(folder: Path, name: str) -> Cell:
    """A cell with its resolved config. InputError if there is none."""
    record = read_json(folder / name / CELL)
    try:
        return _cell(record)
    except (KeyError, TypeError) as error:
        raise InputError("CELL", name, f"is no cell of {folder}; python -m launch.status lists them") from error


def add_job(folder: Path, job: str, cells: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Note a submitted array, at once after its submission: what is not noted would be submitted twice."""
    append_line(folder / JOBS, {"job": job, "cells": list(cells), "time": time.time(), "settings": dict(settings)})


def read_jobs(folder: Path) -> list[Job]:
    """Every submitted array, oldest first."""
    return [
        Job(str(line["job"]), tuple(line["cells"]), float(line["time"]), line.get("settings", {}))
        for line in read_lines(folder / JOBS)
        if {"job", "cells", "time"} <= line.keys()
    ]


def task_ids(jobs: Iterable[Job]) -> dict[str, list[str]]:
    """Every JOB_TASK that was submitted for each cell, oldest first. A job of one cell is an array of one, too."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        for i, cell in enumerate(job.cells):
            found.setdefault(cell, []).append(f"{job.job}_{i}")
    return found


def begin_attempt(cell_dir: Path, job: str, restart: int) -> int:
    """Note that an attempt starts; its number, from 1 on, which no other attempt has: whoever makes the log has it, also
    where a second copy does not see the first one's line yet. `job`: JOB_TASK, or "" without a scheduler."""
    number = 1 + max((a["attempt"] for a in read_attempts(cell_dir)), default=0)
    (cell_dir / LOG).mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(log_path(cell_dir, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            number += 1
    append_line(
        cell_dir / ATTEMPTS,
        {"attempt": number, "job": job, "restart": restart, "host": socket.gethostname(), "pid": os.getpid(),
         "time": time.time()},
    )  # fmt: skip
    return number


def end_attempt(cell_dir: Path, attempt: int, exit_code: int) -> None:
    """Note that an attempt ended."""
    append_line(cell_dir / ATTEMPTS, {"attempt": attempt, "end": True, "exit": exit_code, "time": time.time()})


def read_attempts(cell_dir: Path) -> list[dict[str, Any]]:
    """The attempts in the order of their starts: attempt, job, restart, host, pid, time; and exit and ended once over."""
    found: dict[int, dict[str, Any]] = {}
    for line in read_lines(cell_dir / ATTEMPTS):
        number = line.get("attempt")
        if not isinstance(number, int):
            continue
        if "end" not in line:
            found.setdefault(number, {}).update(line)
        elif number in found:
            found[number] |= {"exit": line.get("exit"), "ended": line.get("time")}
    return [found[number] for number in sorted(found)]


def log_path(cell_dir: Path, attempt: int) -> Path:
    """Where an attempt's output goes."""
    return cell_dir / LOG / f"{attempt}.out"


def holds_lease(cell_dir: Path, token: str) -> bool:
    """Whether the folder is still this copy's. A lease that is not there belongs to whoever asks."""
    return read_json(cell_dir / LEASE).get("token", token) == token


def write_error(cell_dir: Path, attempt: int, exit_code: int, line: str, traceback: str) -> None:
    """Keep why an attempt failed."""
    record = {"line": line, "traceback": traceback, "exit": exit_code, "attempt": attempt, "time": time.time()}
    write_json(cell_dir / ERROR, record)


def clear_error(cell_dir: Path) -> None:
    """Another attempt starts."""
    (cell_dir / ERROR).unlink(missing_ok=True)


def ask_to_stop(cell_dir: Path, why: str) -> None:
    """Make the stop file: the run saves at the end of its step and exits 75."""
    write_whole(cell_dir / STOP, why + "\n")


def clear_stop(cell_dir: Path) -> None:
    """The next attempt may run."""
    (cell_dir / STOP).unlink(missing_ok=True)


def finished(cell_dir: Path) -> bool:
    """Whether the cell's own result says that it reached its end."""
    return read_json(cell_dir / RESULT).get("status") == "finished"


def asked_by_user(folder: Path) -> bool:
    """Whether someone, and not the batch script, made the stop file."""
    return (folder / STOP).exists() and not stop_text(folder).startswith(BY_SIGNAL)


def stop_text(folder: Path) -> str:
    """What stands in the stop file: why, and of a batch script's the copy that is meant; "" without one."""
    try:
        return read_regular(folder / STOP).decode(errors="replace")
    except OSError:
        return ""

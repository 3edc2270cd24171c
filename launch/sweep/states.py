"""The state of every cell: from its own files first, then from what the scheduler says. Reads files only, starts nothing.

What the scheduler says is given as {JOB_TASK: Task}, one answer for all cells; {} where there is none (this machine).
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from launch.sweep import files
from launch.sweep.files import Cell, Sweep
from zero.errors import EXIT_PREEMPTED
from zero.files import json_object, open_regular, read_json

FINISHED, RUNNING, PENDING, PREEMPTED = "finished", "running", "pending", "preempted"
FAILED, CANCELLED, STOPPED, LOST, WAITING = "failed", "cancelled", "stopped", "lost", "waiting"
STATES = (RUNNING, PENDING, PREEMPTED, WAITING, STOPPED, CANCELLED, LOST, FAILED, FINISHED)
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
PATIENCE = 120.0  # seconds for which a task that the scheduler does not know (yet, or any more) may still exist
SILENT = "the scheduler does not answer"
SILENCE = 900.0  # seconds without output after which an attempt on another machine, without a scheduler, is lost
TAIL = 24576  # bytes of a journal's end: some ten lines
RESUMABLE_EXITS = (143, 75, 76)  # exit codes of attempts that may be followed by another one


@dataclass(frozen=True)
class Task:
    """What the scheduler says of one task. `ended`: unix time, None while it lives; `exit`: of its batch script, -1 unknown."""

    state: str  # in Slurm's words: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, PREEMPTED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY
    node: str = ""
    reason: str = ""
    restarts: int = 0
    ended: float | None = None
    exit: int = -1


@dataclass(frozen=True)
class Status:
    """One cell now. `live`: it has a process or a job, and so must not be submitted again. `job`: JOB_TASK of its newest
    task, "" without one. Numbers are None where there are none yet."""

    cell: str
    state: str
    live: bool
    attempts: int
    job: str = ""
    node: str = ""
    line: str = ""  # why it failed, or what it waits for
    step: int | None = None
    reward: float | None = None
    length: float | None = None
    eta: float | None = None  # seconds
    seconds: float = 0.0  # that its attempts have taken together


def read_statuses(
    folder: Path,
    sweep: Sweep,
    scheduler: Mapping[str, Task] | None = None,
    now: float | None = None,
    before: Mapping[str, Status] | None = None,
) -> dict[str, Status]:
    """The status of every cell. `scheduler` None: it could not be asked, and what it alone knows stays as it was. `before`:
    an earlier answer; no file is read again of cells that had finished, or that were and are in the scheduler's queue."""
    now = time.time() if now is None else now
    jobs = files.read_jobs(folder)
    ids = files.task_ids(jobs)
    submitted = {job.job: job.time for job in jobs}
    patience = float(sweep.settings.get("patience_s") or PATIENCE)
    host = socket.gethostname()
    statuses: dict[str, Status] = {}
    for name, cell in sweep.cells.items():
        task_id = (ids.get(name) or [""])[-1]
        task = (scheduler or {}).get(task_id)
        known = (before or {}).get(name)
        if known and unchanged(known, task_id, task):
            statuses[name] = known
            if known.live and task is not None:
                statuses[name] = replace(known, state=PENDING, line=task.reason, node=task.node)
            continue
        age = now - submitted.get(task_id.rpartition("_")[0], 0.0)
        status = read_status(folder / name, cell, task_id, task, scheduler is None or age < patience, host, now)
        unsure = scheduler is None and status.live and not status.line
        statuses[name] = replace(status, line=SILENT) if unsure else status
    statuses = {name: mark_waiting(status, sweep.cells[name], statuses) for name, status in statuses.items()}
    return {name: mark_unqueued(status) if jobs else status for name, status in statuses.items()}


def unchanged(known: Status, task_id: str, task: Task | None) -> bool:
    """Whether a cell's files need not be read again: it has finished, or is still in the queue."""
    queued = known.state in (PENDING, WAITING) and known.live and known.job == task_id and not known.attempts
    return known.state == FINISHED or (queued and task is not None and task.state == "PENDING")


def read_status(
    cell_dir: Path, cell: Cell, task_id: str, task: Task | None, within_patience: bool, host: str, now: float
) -> Status:
    """One cell, apart from the others. `within_patience`: a task that the scheduler does not know may still exist."""
    attempts = files.read_attempts(cell_dir)
    last = attempts[-1] if attempts else {}
    seconds = sum(max(0.0, (a.get("ended") or now) - a["time"]) for a in attempts if a.get("ended") or a is last)
    shared: dict[str, Any] = {"attempts": len(attempts), "job": task_id, "seconds": seconds}
    shared |= read_progress(cell_dir, cell)
    if files.finished(cell_dir):
        return Status(cell.name, FINISHED, False, **shared | {"eta": 0.0, "node": str(last.get("host", ""))})
    state, live, line = infer_state(cell_dir, task_id, task, last, within_patience, host, now)
    if state == CANCELLED and cell.after and not attempts and not (cell_dir / files.CANCELLED).exists():
        state, line = PENDING, ""  # Slurm cancels what waited for a job that did not succeed; the cell is still wanted
    node = (task.node if task and task.node else "") or str(last.get("host", ""))
    if state != RUNNING:
        shared["eta"] = None
    line = line or str(read_json(cell_dir / files.ERROR).get("line", ""))  # as the attempt noted itself
    return Status(cell.name, state, live, line=line, node=node, **shared)


def infer_state(
    cell_dir: Path,
    task_id: str,
    task: Task | None,
    last: Mapping[str, Any],
    within_patience: bool,
    host: str,
    now: float,
) -> tuple[str, bool, str]:
    """(state, live, line) of a cell that has not finished. `last`: its newest attempt."""
    word = task.state.split()[0].rstrip("+") if task and task.state else ""
    if task and word in ACTIVE:
        return RUNNING, True, ""
    if task and word in QUEUED:
        requeued = bool(last) and last.get("job") == task_id
        return (PREEMPTED if requeued else PENDING), True, task.reason
    if not last and (not cell_dir.is_dir() or word == "COMPLETED"):  # its files were deleted, to run it again
        return PENDING, False, ""
    unended = bool(last) and "exit" not in last
    if not word and unended and may_be_alive(last, cell_dir, host, now, within_patience and last.get("job") == task_id):
        return RUNNING, True, ""
    if (cell_dir / files.CANCELLED).exists():  # Slurm forgets a cancelled task that never started at once
        return CANCELLED, False, ""
    if not word and task_id and within_patience and not unended and last.get("job") != task_id:
        return PENDING, True, ""  # just submitted
    if files.stopped_by_user(cell_dir) and last.get("exit") in (None, EXIT_PREEMPTED):
        return STOPPED, False, ""
    if unended or (task_id and last.get("job", "") != task_id):  # its files do not tell: the scheduler alone knows
        return state_of_ended_task(word, bool(last) or bool(task_id), task)
    if not last:
        return PENDING, False, ""
    code = last["exit"]
    if code in RESUMABLE_EXITS:
        ended = float(last.get("ended") or 0)
        return PREEMPTED, not word and bool(task_id) and within_patience and now - ended < PATIENCE, ""
    if code == files.EXIT_FINISHED:
        return FAILED, False, "ended well but left no result"
    return FAILED, False, "" if (cell_dir / files.ERROR).exists() else f"exit {code}"


def state_of_ended_task(word: str, started: bool, task: Task | None) -> tuple[str, bool, str]:
    """(state, live, line) of a cell that did not write how it ended, from the scheduler's last word."""
    plain = word.lower().replace("_", " ")
    if word.startswith("CANCELLED"):
        return CANCELLED, False, "cancelled in the scheduler"
    if word in ("PREEMPTED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"):
        return PREEMPTED, False, plain
    if word == "OUT_OF_MEMORY":
        return FAILED, False, f"Slurm: {plain}; raise launcher.mem_gb"
    if task and word:
        words = [plain, task.reason, f"exit {task.exit}" if task.exit > 0 else ""]
        return FAILED, False, f"Slurm: {', '.join(filter(None, words))}; see `logs`"
    return (LOST, False, "no process, no job and no result") if started else (PENDING, False, "")


def may_be_alive(last: Mapping[str, Any], cell_dir: Path, host: str, now: float, within_patience: bool) -> bool:
    """Whether an attempt that has not noted its end may still run, as far as this machine can tell."""
    if last.get("job"):
        return within_patience
    if last.get("host") == host:
        return is_attempt_process(int(last.get("pid") or 0), cell_dir)
    return now - max(float(last["time"]), last_write_time(cell_dir)) < SILENCE


def is_attempt_process(pid: int, cell_dir: Path) -> bool:
    """Whether a process of this machine is an attempt of this very cell. Its number may belong to another process by now, even
    to an attempt of the cell of the same name in another sweep."""
    try:
        words = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        if "launch.sweep.attempt" not in words or cell_dir.name not in words:
            return False
        directory = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    arguments = filter(None, words[words.index("launch.sweep.attempt") + 1 :])
    sweep = os.path.realpath(cell_dir.parent)
    return any(os.path.realpath(os.path.join(directory, argument)) == sweep for argument in arguments)


def last_write_time(cell_dir: Path) -> float:
    """Unix time of the last write to the cell's journal and logs; 0 without them."""
    newest = 0.0
    for path in (cell_dir / "metrics.jsonl", *(cell_dir / files.LOG).glob("*.out")):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:
            continue
    return newest


def mark_waiting(status: Status, cell: Cell, statuses: Mapping[str, Status]) -> Status:
    """The same, or `waiting` if the cell needs one that has not finished."""
    first = statuses.get(cell.after or "")
    if first is None or first.state == FINISHED or status.state not in (PENDING, PREEMPTED) or status.attempts:
        return status
    problem = {FAILED: " failed", LOST: " is lost", CANCELLED: " was cancelled"}.get(first.state, "")
    return Status(status.cell, WAITING, status.live, 0, job=status.job, line=f"for {first.cell}{problem}")


def mark_unqueued(status: Status) -> Status:
    """The same, or `waiting` if the cell is pending but in no queue (of a sweep that was submitted to a scheduler)."""
    if status.state != PENDING or status.live:
        return status
    return replace(status, state=WAITING, line=status.line or "in no queue yet")


def read_progress(cell_dir: Path, cell: Cell) -> dict[str, Any]:
    """step, reward, length and eta from the end of the journal; {} without one."""
    lines = journal_tail(cell_dir / "metrics.jsonl")
    if not lines:
        return {}
    step = int(lines[-1].get("step", 0))
    newest = {key: value for line in lines for key, value in line.items() if value is not None}
    pace = sorted(float(line["time/step"]) for line in lines if line.get("time/step"))
    eta = max(0, cell.steps - step) * pace[len(pace) // 2] if pace else None
    return {"step": step, "reward": newest.get("train/reward"), "length": newest.get("length/mean"), "eta": eta}


def journal_tail(path: Path) -> list[dict[str, Any]]:
    """The whole lines at the end of a journal; damaged ones are left out."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            raw = file.read().split(b"\n")
    except OSError:
        return []
    whole = raw[1 if size > TAIL else 0 : -1]  # neither the first, cut by us, nor the last, torn by a kill
    objects = (json_object(line) for line in whole)
    return [line for line in objects if line is not None and isinstance(line.get("step"), int)]


def missing_cells(sweep: Sweep, statuses: Mapping[str, Status], states: Sequence[str]) -> list[str]:
    """The wanted cells in one of these states that do not live: what a submission has to start, in order."""
    wanted = {name: statuses[name] for name, cell in sweep.cells.items() if cell.wanted}
    return [name for name, status in wanted.items() if status.state in states and not status.live]


def all_done(sweep: Sweep, statuses: Mapping[str, Status]) -> bool:
    """Whether no wanted cell lives."""
    return not any(statuses[name].live for name, cell in sweep.cells.items() if cell.wanted)


def summarize(statuses: Mapping[str, Status], names: Iterable[str] | None = None) -> str:
    """The number of these cells (None: all) in each state, such as "12 finished, 3 running"."""
    count = Counter(statuses[name].state for name in (statuses if names is None else names))
    return ", ".join(f"{count[state]} {state}" for state in reversed(STATES) if count[state]) or "no cells"


def select_cells(sweep: Sweep, pattern: str | None) -> list[str]:
    """The cells that fit a pattern: words joined by commas, all of which must fit. `axis=value` compares an axis, with |
    between several values. Any other word is a cell's whole name, the whole value of an axis, or some whole words of the name
    (those between dashes); with * or ? it is a shell pattern of the name. None: all cells."""
    if not pattern:
        return list(sweep.cells)
    if pattern in sweep.cells:  # and not its evaluation, too, whose name begins with its own
        return [pattern]
    words = [word.partition("=") for word in pattern.split(",") if word]
    known = {axis for cell in sweep.cells.values() for axis in cell.axes}

    def matches_word(cell: Cell, word: str) -> bool:
        if "*" in word or "?" in word:
            return fnmatchcase(cell.name, word)
        return f"-{word}-" in f"-{cell.name}-" or any(equal_values(value, word) for value in cell.axes.values())

    def matches(cell: Cell) -> bool:
        for key, sign, value in words:
            if sign and key in known:
                if not any(equal_values(cell.axes.get(key, ""), choice) for choice in value.split("|")):
                    return False
            elif not matches_word(cell, f"{key}{sign}{value}"):
                return False
        return True

    return [name for name, cell in sweep.cells.items() if matches(cell)]


def equal_values(one: str, other: str) -> bool:
    """Whether two values of an axis are the same word or the same number: 1e-6 is 1e-06."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False

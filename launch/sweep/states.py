"""What has become of every cell: its own files first, then what the scheduler says. Reads files only, starts nothing.

The scheduler's word comes as {JOB_TASK: TaskState}, one answer for all cells; {} where there is none (this machine).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from launch.sweep import files as records
from launch.sweep.files import Cell, Sweep
from zero.files import open_regular

FINISHED, RUNNING, PENDING, PREEMPTED = "finished", "running", "pending", "preempted"
FAILED, CANCELLED, STOPPED, LOST, WAITING = "failed", "cancelled", "stopped", "lost", "waiting"
STATES = (RUNNING, PENDING, PREEMPTED, WAITING, STOPPED, CANCELLED, LOST, FAILED, FINISHED)
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
PATIENCE = 120.0  # seconds in which a scheduler that does not know a task yet, or not any more, is not believed
SILENT = "the scheduler does not answer"  # what it alone knows is as it was
SILENCE = 900.0  # seconds without a sign of life after which a copy on another machine, without a scheduler, is lost
TAIL = 24576  # bytes of a journal's end: some ten lines
SIGNALS_TO_GO = (143, 75, 76)  # exit codes of attempts that may be followed by another one


class Task(Protocol):
    """What the scheduler says of one task: launch.places.slurm has it."""

    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def node(self) -> str: ...


@dataclass(frozen=True)
class Status:
    """One cell now. `live`: a process or a job of it exists, so that it must not be submitted again. `job`: JOB_TASK of
    its newest task, "" without one. Numbers are None where there are none yet; `eta`, `seconds`: seconds."""

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
    eta: float | None = None
    seconds: float = 0.0  # that its attempts have taken together


def states(
    folder: Path,
    sweep: Sweep,
    scheduler: Mapping[str, Task] | None = None,
    now: float | None = None,
    before: Mapping[str, Status] | None = None,
) -> dict[str, Status]:
    """The state of every cell. `scheduler` None: it could not be asked, and what it alone knows stays as it was. `before`:
    an earlier answer; of cells finished then, and of those in the scheduler's queue then and now, no file is read again."""
    now = time.time() if now is None else now
    submitted = records.read_jobs(folder)
    tasks = records.task_ids(submitted)
    born = {job.job: job.time for job in submitted}
    asked = {} if scheduler is None else scheduler
    host = socket.gethostname()
    found: dict[str, Status] = {}
    for name, cell in sweep.cells.items():
        task = (tasks.get(name) or [""])[-1]
        since = born.get(task.rpartition("_")[0], 0.0)
        patient = scheduler is None or now - since < float(sweep.settings.get("patience_s") or PATIENCE)
        known = (before or {}).get(name)
        if known and unchanged(known, task, asked.get(task)):
            found[name] = known
            if known.live:
                said = asked[task]
                found[name] = replace(known, state=PENDING, line=said.reason, node=said.node)
        else:
            found[name] = of_cell(folder / name, cell, task, asked.get(task), patient, host, now)
            if scheduler is None and found[name].live and not found[name].line:
                found[name] = replace(found[name], line=SILENT)
    found = {name: mark_waiting(status, sweep.cells[name], found) for name, status in found.items()}
    return {name: in_no_queue(status) if submitted else status for name, status in found.items()}


def unchanged(known: Status, task: str, said: Task | None) -> bool:
    """Whether a cell's files still say what they said: it has finished, or never left the queue."""
    queued = known.state in (PENDING, WAITING) and known.live and known.job == task and not known.attempts
    return known.state == FINISHED or (queued and said is not None and said.state == "PENDING")


def of_cell(place: Path, cell: Cell, task: str, said: Task | None, patient: bool, host: str, now: float) -> Status:
    """One cell, not knowing the others. `patient`: whether a task that nobody knows may still be there."""
    attempts = records.read_attempts(place)
    last = attempts[-1] if attempts else {}
    seconds = sum(max(0.0, (a.get("ended") or now) - a["time"]) for a in attempts if a.get("ended") or a is last)
    shared: dict[str, Any] = {"attempts": len(attempts), "job": task, "seconds": seconds}
    shared |= numbers(place, cell)
    if records.finished(place):
        return Status(cell.name, FINISHED, False, **shared | {"eta": 0.0, "node": str(last.get("host", ""))})
    state, live, line = infer_state(place, task, said, last, patient, host, now)
    if state == CANCELLED and cell.after and not attempts and not (place / records.CANCELLED).exists():
        state, line = PENDING, ""  # Slurm cancels what waited for a job that did not succeed; the cell is still wanted
    node = (said.node if said and said.node else "") or str(last.get("host", ""))
    if state != RUNNING:
        shared["eta"] = None
    return Status(cell.name, state, live, line=line or error_line(place), node=node, **shared)


def infer_state(
    place: Path, task: str, said: Task | None, last: Mapping[str, Any], patient: bool, host: str, now: float
) -> tuple[str, bool, str]:
    """(state, live, line) of a cell that has not finished."""
    word = said.state.split()[0].rstrip("+") if said and said.state else ""
    if said and word in ACTIVE | QUEUED:
        if word in ACTIVE:
            return RUNNING, True, ""
        again = bool(last) and last.get("job") == task
        return (PREEMPTED if again else PENDING), True, said.reason
    if not last and (not place.is_dir() or word == "COMPLETED"):  # somebody has deleted what it left, to run it again
        return PENDING, False, ""
    unended = bool(last) and "exit" not in last
    if not word and unended and alive(last, place, host, now, patient and last.get("job") == task):
        return RUNNING, True, ""
    if (place / records.CANCELLED).exists():  # and Slurm forgets a task that never started at once
        return CANCELLED, False, ""
    if not word and task and patient and not unended and last.get("job") != task:
        return PENDING, True, ""  # just submitted
    if records.asked_by_user(place) and last.get("exit") in (None, records.EXIT_PREEMPTED):
        return STOPPED, False, ""
    if unended or (task and last.get("job", "") != task):  # its own files say nothing: the scheduler's word alone
        return ended_as(word, bool(last) or bool(task), said)
    if not last:
        return PENDING, False, ""
    code = last["exit"]
    if code in SIGNALS_TO_GO:
        return PREEMPTED, not word and bool(task) and patient and now - float(last.get("ended") or 0) < PATIENCE, ""
    if code == records.EXIT_FINISHED:
        return FAILED, False, "ended well but left no result"
    return FAILED, False, "" if (place / records.ERROR).exists() else f"exit {code}"


def ended_as(word: str, begun: bool, said: Task | None = None) -> tuple[str, bool, str]:
    """What a scheduler's last word means for a cell that did not write how it ended."""
    plain = word.lower().replace("_", " ")
    if word.startswith("CANCELLED"):
        return CANCELLED, False, "cancelled in the scheduler"
    if word in ("PREEMPTED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"):
        return PREEMPTED, False, plain
    if word == "OUT_OF_MEMORY":
        return FAILED, False, f"Slurm: {plain}; raise launcher.mem_gb"
    if word:
        code, reason = getattr(said, "exit", -1), said.reason if said else ""
        words = [plain, reason, f"exit {code}" if code > 0 else ""]
        return FAILED, False, f"Slurm: {', '.join(filter(None, words))}; see `logs`"
    return (LOST, False, "no process, no job and no result") if begun else (PENDING, False, "")


def alive(last: Mapping[str, Any], place: Path, host: str, now: float, patient: bool) -> bool:
    """Whether an attempt that has not said how it ended may still run, as far as this machine can tell."""
    if last.get("job"):
        return patient
    if last.get("host") == host:
        return is_process(int(last.get("pid") or 0), place)
    return now - max(float(last["time"]), last_sign(place)) < SILENCE


def is_process(pid: int, cell_dir: Path) -> bool:
    """Whether a process of this machine is an attempt of this very cell, and not another one that was given its number later: of
    another cell, or of the cell of the same name in another sweep."""
    try:
        line = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        if "launch.sweep.attempt" not in line or cell_dir.name not in line:
            return False
        here = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    sweep = os.path.realpath(cell_dir.parent)
    return any(
        os.path.realpath(os.path.join(here, word)) == sweep
        for word in line[line.index("launch.sweep.attempt") + 1 :]
        if word
    )


def last_sign(place: Path) -> float:
    """When anything of the cell was written last, seconds since 1970."""
    newest = 0.0
    for path in (place / "metrics.jsonl", *(place / records.LOG).glob("*.out")):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:
            continue
    return newest


def mark_waiting(status: Status, cell: Cell, of: Mapping[str, Status]) -> Status:
    """The same, or waiting: for a cell that has not finished. A dependency that failed is named."""
    before = of.get(cell.after or "")
    if before is None or before.state == FINISHED or status.state not in (PENDING, PREEMPTED) or status.attempts:
        return status
    word = {FAILED: " failed", LOST: " is lost", CANCELLED: " was cancelled"}.get(before.state, "")
    return Status(status.cell, WAITING, status.live, 0, job=status.job, line=f"for {before.cell}{word}")


def in_no_queue(status: Status) -> Status:
    """The same, or waiting: a cell of a cluster that is not in its queue is not pending there."""
    if status.state != PENDING or status.live:
        return status
    return replace(status, state=WAITING, line=status.line or "in no queue yet")


def error_line(place: Path) -> str:
    """Why the last attempt failed, as it said itself."""
    return str(records.read_json(place / records.ERROR).get("line", ""))


def numbers(place: Path, cell: Cell) -> dict[str, Any]:
    """step, reward, length and eta from the end of the journal; nothing where there is none."""
    lines = tail(place / "metrics.jsonl")
    if not lines:
        return {}
    step = int(lines[-1].get("step", 0))
    newest = {key: value for line in lines for key, value in line.items() if value is not None}
    pace = sorted(float(line["time/step"]) for line in lines if line.get("time/step"))
    left = max(0, cell.steps - step)
    eta = left * pace[len(pace) // 2] if pace else None
    return {"step": step, "reward": newest.get("train/reward"), "length": newest.get("length/mean"), "eta": eta}


def tail(path: Path) -> list[dict[str, Any]]:
    """The whole lines at the end of a journal; damaged ones are left out."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            raw = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in raw[1 if size > TAIL else 0 : -1]:  # neither the first, cut by us, nor the last, torn by a kill
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def missing(sweep: Sweep, of: Mapping[str, Status], states: Sequence[str]) -> list[str]:
    """The wanted cells in one of these states of which nothing lives: what a submission has to start, in order."""
    return [n for n, c in sweep.cells.items() if c.wanted and of[n].state in states and not of[n].live]


def counted(of: Mapping[str, Status]) -> str:
    """12 finished, 3 running: in the order of STATES reversed."""
    count = Counter(status.state for status in of.values())
    return ", ".join(f"{count[state]} {state}" for state in reversed(STATES) if count[state]) or "no cells"


def matching(sweep: Sweep, pattern: str | None) -> list[str]:
    """The cells that a pattern means: words joined by commas that all must hold. `axis=value` compares an axis, with | between
    values. Any other word is a cell's whole name, the whole value of an axis, or some whole words of its name (those between
    the dashes); with * or ? it is a shell's pattern of the name. None: all cells."""
    if not pattern:
        return list(sweep.cells)
    if pattern in sweep.cells:  # and not its evaluation, too, whose name begins with its own
        return [pattern]
    words = [word.partition("=") for word in pattern.split(",") if word]
    known = {axis for cell in sweep.cells.values() for axis in cell.axes}

    def named(cell: Cell, word: str) -> bool:
        if "*" in word or "?" in word:
            return fnmatchcase(cell.name, word)
        return f"-{word}-" in f"-{cell.name}-" or any(same(value, word) for value in cell.axes.values())

    def holds(cell: Cell) -> bool:
        for key, sign, value in words:
            if sign and key in known:
                if not any(same(cell.axes.get(key, ""), one) for one in value.split("|")):
                    return False
            elif not named(cell, f"{key}{sign}{value}"):
                return False
        return True

    return [name for name, cell in sweep.cells.items() if holds(cell)]


def same(one: str, other: str) -> bool:
    """Whether two values of an axis are the same word or the same number: 1e-6 is 1e-06."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False

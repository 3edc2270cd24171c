"""All that is said to Slurm: arrays, one question for all cells, cancel, requeue (checks before: launch/places/slurm_checks.py).

Each call is bounded (sbatch by its own patience). sacct is asked only for what squeue has forgotten, and may be missing. What
no one knows is reported as unknown: a job submitted or seen a moment ago may still be on its way, so only the caller, who has a
clock, calls it lost.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from launch.places import executor
from launch.places import slurm_script as batch
from launch.places.slurm_script import Settings
from launch.sweep import files as sweep
from zero.errors import InputError

FOLDER = (
    "slurm"  # of a sweep: ID.names (the cells of a submission), submitit's files, and output before a cell is known
)
MARKED = re.compile("[0-9a-f]{12}")  # a submission's id; other files are those of dry runs
MARK = "zero:"  # begins the comment of our jobs; the submission's id follows
LIMIT = 60.0  # seconds for one call of Slurm's programs
LIMITED = re.compile("SubmitJob|job submit limit|MaxJobCount|temporarily unable", re.IGNORECASE)  # no room in the queue
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED REQUEUED REQUEUE_HOLD REQUEUE_FED RESIZING SIGNALING "
    "STAGE_OUT STOPPED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
PASSING = frozenset("NODE_FAIL PREEMPTED BOOT_FAIL".split())  # Slurm may say so a moment before it requeues the job
SETTLED = 45.0  # seconds after which it will not any more
FIELDS = "ArrayJobID", "ArrayTaskID", "State", "RestartCnt", "EndTime", "exit_code", "NodeList", "Reason"
NO_NODES = ("", "(null)", "None assigned", "n/a", "N/A")


class Unreachable(Exception):
    """Slurm does not answer now. Nothing may be concluded from it."""


@dataclass(frozen=True)
class Task:
    """What Slurm says of one task. `ended`: unix time, None while it lives; `exit`: of its batch script, -1 unknown."""

    state: str  # Slurm's word: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, PREEMPTED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY
    node: str = ""
    reason: str = ""
    restarts: int = 0
    ended: float | None = None
    exit: int = -1


@dataclass(frozen=True)
class Snapshot:
    """All tasks asked for that Slurm knows, by JOB_TASK. `answered`: False if it could not be asked at all."""

    answered: bool
    tasks: Mapping[str, Task] = field(default_factory=dict)
    accounting: bool = False  # sacct was asked and answered: what it does not know it never knew
    time: float = field(default_factory=time.time)


def call(*words: str, limit: float = LIMIT, text: str | None = None) -> str:
    """Output of one of Slurm's programs. Unreachable if it does not answer or says no; its words are kept."""
    ours = executor.users_environment()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, input=text, check=False, env=ours)
    except FileNotFoundError as error:
        raise Unreachable(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{words[0]} did not answer within {limit:.0f} s") from error
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"exit {done.returncode}"]
        raise Unreachable(" ".join(said)[:500])
    return done.stdout


def most_tasks() -> int:
    """Slurm's MaxArraySize: the most tasks of one array. 1 if arrays are turned off."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config", limit=30))
    return max(1, int(found[1])) if found else 1001


def submit(
    folder: Path, name: str, cells: Sequence[str], settings: Settings, after: Sequence[str] | None = None
) -> list[str]:
    """Submit the cells as arrays and note each in jobs.jsonl. Returns those that Slurm took: all, or as many as its limit of
    submitted jobs lets in. InputError if it refuses; what was submitted before stays noted. `after`: for each cell the
    JOB_TASK that must succeed before it starts."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    adopt(folder)
    most = most_tasks()
    chunks: list[tuple[list[str], str | None]] = [(list(cells[i : i + most]), None) for i in range(0, len(cells), most)]
    parts = chunks if after is None else followers(cells, after, most)
    if settings.array_parallelism and len(parts) > 1:  # the throttle is of an array; together they keep to it
        settings = replace(settings, array_parallelism=max(1, settings.array_parallelism // len(parts)))
    taken: list[str] = []
    while parts:
        part, dependency = parts.pop(0)
        mark = uuid.uuid4().hex[:12]
        order = prepare(folder, name, part, settings, mark, dependency)
        try:
            job = executor.submit(order, [(str(folder), cell) for cell in part])
        except executor.HttpError as error:
            (folder / FOLDER / f"{mark}.names").unlink()
            if not LIMITED.search(str(error)):
                done = f"; {len(taken)} of {len(cells)} cells are submitted" if taken else ""
                remedy = f"sbatch failed ({error}){done}; the same line again submits what is missing"
                raise InputError("hydra/launcher", "slurm", remedy) from error
            if len(part) == 1:
                break
            half = len(part) // 2  # of what does not fit either half may; the rest waits for room: launch/handover.py
            parts = [(part[:half], dependency), *([] if bound_one_to_one(dependency) else [(part[half:], dependency)])]
            continue
        sweep.add_job(folder, job, part, asdict(settings) | {"submission": mark})
        taken += part
    return taken


def bound_one_to_one(dependency: str | None) -> bool:
    """Whether task i of an array waits for task i of another one, so that only its beginning may be cut off."""
    return (dependency or "").startswith("aftercorr")


def prepare(
    folder: Path, name: str, cells: Sequence[str], settings: Settings, mark: str, dependency: str | None = None
) -> executor.Order:
    """Write the names of an array, which its tasks read; what is to be asked of sbatch for it."""
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    sweep.write_whole(home / f"{mark}.names", "".join(f"{cell}\n" for cell in cells))
    return order_of(folder, name, len(cells), settings, mark, dependency)


def order_of(
    folder: Path, name: str, count: int, settings: Settings, mark: str, dependency: str | None = None
) -> executor.Order:
    """What is asked of sbatch for an array of `count` cells. Writes nothing."""
    home = folder / FOLDER
    flags: dict[str, str | bool] = {
        "comment": f"{MARK}{mark}",
        "output": f"{str(home).replace('%', '%%')}/%A_%a.out",  # until the cell is known, then CELL/log/slurm.out
    }
    if dependency:
        flags |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    command = batch.command(folder, home / f"{mark}.names")
    return executor.Order(settings, home, short_name(name), batch.lines(settings, folder), command, flags, count)


def short_name(name: str) -> str:
    """A job's name: squeue shows eight letters, and those of a default name, algo-grpo+drgrpo-seed-3fa92c1b, are of many sweeps;
    its last eight are its own."""
    readable, _, own = name.rpartition("-")
    return f"{own}-{readable}" if re.fullmatch("[0-9a-f]{8}", own) and readable else name


def followers(cells: Sequence[str], after: Sequence[str], most: int) -> list[tuple[list[str], str | None]]:
    """Arrays of at most `most` cells that wait: all for one task, or task i for task i of another array, where they agree;
    else one job for each cell."""
    parts: list[tuple[list[str], str | None]] = []
    waiting: dict[str, list[str]] = {}
    for cell, task in zip(cells, after, strict=True):
        waiting.setdefault(task, []).append(cell)
    groups: dict[str, list[tuple[int, str]]] = {}
    for task, names in waiting.items():
        job, _, index = task.rpartition("_")
        if len(names) == 1:
            groups.setdefault(job, []).append((int(index), names[0]))
        else:
            parts += [(names[i : i + most], f"afterok:{task}") for i in range(0, len(names), most)]
    for job, members in groups.items():
        members.sort()
        if [index for index, _ in members] == list(range(len(members))):
            parts.append(([cell for _, cell in members], f"aftercorr:{job}"))
        else:
            parts += [([cell], f"afterok:{job}_{index}") for index, cell in members]
    return parts


def adopt(folder: Path) -> list[str]:
    """Note arrays that a submitting process was killed too early to note: their files lie there, their mark is in Slurm."""
    noted = {str(job.settings.get("submission")) for job in sweep.read_jobs(folder)}
    orphans = {p.stem: p for p in (folder / FOLDER).glob("*.names") if p.stem not in noted and MARKED.fullmatch(p.stem)}
    if not orphans:
        return []
    found: dict[str, str] = {}
    for line in call("squeue", "-h", "-t", "all", "-o", "%F|%k").splitlines():
        job, _, comment = line.partition("|")
        if comment.startswith(MARK) and comment.removeprefix(MARK) in orphans:
            found[comment.removeprefix(MARK)] = job
    for mark, job in found.items():
        sweep.add_job(folder, job, orphans[mark].read_text().splitlines(), {"submission": mark})
    return list(found.values())


def snapshot(tasks: Iterable[str]) -> Snapshot:
    """What Slurm knows of these JOB_TASKs now: one squeue for all, and one sacct if squeue has forgotten some."""
    wanted = set(tasks)
    if not wanted:
        return Snapshot(True)
    try:
        known = queue({task.rpartition("_")[0] for task in wanted})
    except Unreachable:
        return Snapshot(False)
    found = {task: patient(record) for task in wanted if (record := of_task(known, task))}
    missing = wanted - found.keys()
    if not missing:
        return Snapshot(True, found)
    try:
        past = accounts({task.rpartition("_")[0] for task in missing})
    except Unreachable:
        return Snapshot(True, found)
    remembered = {task: patient(record) for task in missing if (record := of_task(past, task))}
    return Snapshot(True, found | remembered, accounting=True)


def of_task(records: Mapping[str, Task], task: str) -> Task | None:
    """What is said of JOB_TASK: its own record, else that of the whole array, JOB_ (an array that was cancelled before it
    started has one record for all of its tasks)."""
    return records.get(task) or records.get(f"{task.rpartition('_')[0]}_")


def patient(task: Task) -> Task:
    """A node's end or a pre-emption of a moment ago counts as queued again: Slurm says so next, unless it never will."""
    fresh = task.ended is None or time.time() - task.ended < SETTLED
    return replace(task, state="REQUEUED", ended=None) if task.state in PASSING and fresh else task


def queue(jobs: Iterable[str]) -> dict[str, Task]:
    """Tasks that the controller still holds, finished ones among them until it forgets them (MinJobAge)."""
    columns = ",".join(f"{name}:{80 if name in ('NodeList', 'Reason') else 24}|" for name in FIELDS)
    try:
        text = call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(sorted(jobs)), "-O", columns)
    except Unreachable as error:
        if "Invalid job id" in str(error):  # all of them forgotten
            return {}
        raise
    found: dict[str, Task] = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) < len(FIELDS):
            continue
        job, index, state, restarts, end, code, node, reason = words[: len(FIELDS)]
        live = state in LIVE
        found[f"{job}_{index if index.isdigit() else ''}"] = Task(
            state, "" if node in NO_NODES else node, "" if reason == "None" else reason, number(restarts),
            None if live else unix(end), exit_of(int(code)) if code.isdigit() else -1,
        )  # fmt: skip
    return found


def accounts(jobs: Iterable[str]) -> dict[str, Task]:
    """What accounting remembers, the last run of each task. Unreachable if there is none."""
    text = call(
        "sacct", "-n", "-P", "-X", "-D", "-j", ",".join(sorted(jobs)), "--format=JobID,State,ExitCode,End,NodeList"
    )
    found: dict[str, Task] = {}
    for line in text.splitlines():
        task, state, code, end, node = [*line.split("|"), "", "", "", ""][:5]
        if not task:
            continue
        word = state.split()[0] if state else ""
        ended = None if word in LIVE and word != "REQUEUED" else unix(end)
        ended_with = number(code) if code else -1
        for name in expanded(task):
            before = found[name].restarts + 1 if name in found else 0
            found[name] = Task(word, "" if node in NO_NODES else node, "", before, ended, ended_with)
    return found


def expanded(task: str) -> list[str]:
    """The tasks of one of Slurm's records: 12_3; 12_[3-4,7%2] -> 12_3, 12_4, 12_7; 12, or a list that Slurm has cut short ->
    12_, the array as a whole."""
    job, sign, index = task.partition("_")
    ranges = re.fullmatch(r"\[([\d,-]+)(?:%\d+)?\]", index)
    if not ranges:
        return [task if sign and index.isdigit() else f"{job}_"]
    found: list[str] = []
    for part in ranges[1].split(","):
        first, _, last = part.partition("-")
        found += [f"{job}_{i}" for i in range(int(first), int(last or first) + 1)]
    return found


def number(text: str) -> int:
    """The first number of a word such as 128+."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def unix(text: str) -> float | None:
    """Slurm's local time as unix time; None for Unknown."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def exit_of(status: int) -> int:
    """An exit code, 128 + signal for a death, from the raw status that squeue prints."""
    return status >> 8 if status >= 256 else 128 + status if status else 0


def cancel(tasks: Iterable[str]) -> None:
    """Cancel running and pending tasks, in as few calls as their number allows. Unreachable if Slurm does not answer."""
    each_job(["scancel"], tasks)


def each_job(words: Sequence[str], tasks: Iterable[str]) -> None:
    """One call for the tasks of every 200 indices of an array, written 12_[0,3]."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        job, _, index = task.rpartition("_")
        groups.setdefault(job, []).append(index)
    for job, indices in groups.items():
        for i in range(math.ceil(len(indices) / 200)):
            try:
                call(*words, f"{job}_[{','.join(indices[i * 200 : (i + 1) * 200])}]")
            except Unreachable as error:
                if "already completing" not in str(error) and "Invalid job id" not in str(error):
                    raise

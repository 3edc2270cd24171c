"""Jobs of Slurm: arrays submitted, the states of all tasks in one question, cancelled, requeued.

Each call has a time limit (sbatch its own). sacct is asked only for tasks that squeue has forgotten, and may be missing. A task
that neither knows is reported as unknown, not as lost: a job that was submitted a moment ago may not be visible yet.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from launch.places import slurm_script, submitit_executor
from launch.places.slurm_script import Settings
from launch.sweep import files
from launch.sweep.states import Task
from zero.errors import InputError
from zero.files import write_atomically

# of a sweep: MARK.names (the cells of a submission), submitit's files, and what a batch script prints before it knows its cell
FOLDER = "slurm"
MARK_PATTERN = re.compile("[0-9a-f]{12}")  # a submission's mark; other files are those of dry runs
COMMENT = "zero:"  # begins the comment of our jobs, and the submission's mark follows
CALL_LIMIT = 60.0  # seconds for one call of Slurm's programs
QUEUE_FULL = re.compile("SubmitJob|job submit limit|MaxJobCount|temporarily unable", re.IGNORECASE)
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED REQUEUED REQUEUE_HOLD REQUEUE_FED RESIZING SIGNALING "
    "STAGE_OUT STOPPED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
TRANSIENT = frozenset("NODE_FAIL PREEMPTED BOOT_FAIL".split())  # Slurm may requeue the job a moment later
REQUEUE_WAIT = 45.0  # seconds within which it does
FIELDS = "ArrayJobID", "ArrayTaskID", "State", "RestartCnt", "EndTime", "exit_code", "NodeList", "Reason"
NO_NODE = ("", "(null)", "None assigned", "n/a", "N/A")

Array = tuple[list[str], str | None]  # cells, and the dependency that all of its tasks have


class Unreachable(Exception):
    """Slurm does not answer now, which says nothing about its jobs."""


def call(*words: str, limit: float = CALL_LIMIT, text: str | None = None) -> str:
    """The output of one of Slurm's programs. Unreachable, with its error message, if it does not answer or fails."""
    environment = submitit_executor.users_environment()
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, input=text, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise Unreachable(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{words[0]} did not answer within {limit:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"exit {done.returncode}"]
        raise Unreachable(" ".join(lines)[:500])
    return done.stdout


def max_array_size() -> int:
    """Slurm's MaxArraySize: the most tasks of one array; 1 if arrays are turned off."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config", limit=30))
    return max(1, int(match[1])) if match else 1001


def submit(
    folder: Path, name: str, cells: Sequence[str], settings: Settings, after: Sequence[str] | None = None
) -> list[str]:
    """Submit the cells as arrays and note each array in jobs.jsonl. Returns the cells that Slurm took: all, or as many as its
    limit of submitted jobs allows. InputError if it refuses an array; those before it stay noted. `after`: for each cell the
    JOB_TASK that must succeed before it starts."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    adopt(folder)
    size = max_array_size()
    if after is None:
        arrays: list[Array] = [(list(cells[i : i + size]), None) for i in range(0, len(cells), size)]
    else:
        arrays = dependent_arrays(cells, after, size)
    if settings.array_parallelism and len(arrays) > 1:  # Slurm throttles each array for itself
        settings = replace(settings, array_parallelism=max(1, settings.array_parallelism // len(arrays)))
    taken: list[str] = []
    while arrays:
        array, dependency = arrays.pop(0)
        mark = uuid.uuid4().hex[:12]
        request = prepare_array(folder, name, array, settings, mark, dependency)
        try:
            job = submitit_executor.submit(request, [(str(folder), cell) for cell in array])
        except submitit_executor.SubmissionRefused as error:
            (folder / FOLDER / f"{mark}.names").unlink()
            if not QUEUE_FULL.search(str(error)):
                done = f"; {len(taken)} of {len(cells)} cells are submitted" if taken else ""
                remedy = f"sbatch failed ({error}){done}; the same line again submits what is missing"
                raise InputError("hydra/launcher", "slurm", remedy) from error
            if len(array) == 1:
                break
            # one of the halves may fit; the cells of others wait for room (launch/places/queue.py)
            half = len(array) // 2
            arrays = [(array[:half], dependency)]
            if not (dependency or "").startswith("aftercorr"):  # each waits for the task of the same number
                arrays.append((array[half:], dependency))
            continue
        files.add_job(folder, job, array, asdict(settings) | {"submission": mark})
        taken += array
    return taken


def prepare_array(
    folder: Path, name: str, cells: Sequence[str], settings: Settings, mark: str, dependency: str | None = None
) -> submitit_executor.JobRequest:
    """Write the names of the cells of an array, which its tasks read, and return the request for it."""
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(home / f"{mark}.names", "".join(f"{cell}\n" for cell in cells))
    return job_request(folder, name, len(cells), settings, mark, dependency)


def job_request(
    folder: Path, name: str, count: int, settings: Settings, mark: str, dependency: str | None = None
) -> submitit_executor.JobRequest:
    """The request for an array of `count` cells. Writes nothing."""
    home = folder / FOLDER
    flags: dict[str, str | bool] = {
        "comment": f"{COMMENT}{mark}",
        # until the batch script knows its cell, then CELL/log/slurm.out
        "output": f"{str(home).replace('%', '%%')}/%A_%a.out",
    }
    if dependency:
        flags |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    command = slurm_script.cell_command(folder, home / f"{mark}.names")
    return submitit_executor.JobRequest(
        settings, home, job_name(name), slurm_script.script_lines(settings, folder), command, flags, count
    )


def job_name(name: str) -> str:
    """The name of a sweep's jobs. squeue shows eight letters, which many default names have in common
    (algo-grpo+drgrpo-seed-3fa92c1b), so that their hash comes first."""
    readable, _, digits = name.rpartition("-")
    return f"{digits}-{readable}" if re.fullmatch("[0-9a-f]{8}", digits) and readable else name


def dependent_arrays(cells: Sequence[str], after: Sequence[str], size: int) -> list[Array]:
    """Arrays of at most `size` cells of which all wait for one task, or task i waits for task i of another array; one array for
    each cell where neither is so."""
    arrays: list[Array] = []
    waiting: dict[str, list[str]] = {}
    for cell, task in zip(cells, after, strict=True):
        waiting.setdefault(task, []).append(cell)
    groups: dict[str, list[tuple[int, str]]] = {}
    for task, names in waiting.items():
        job, _, index = task.rpartition("_")
        if len(names) == 1:
            groups.setdefault(job, []).append((int(index), names[0]))
        else:
            arrays += [(names[i : i + size], f"afterok:{task}") for i in range(0, len(names), size)]
    for job, members in groups.items():
        members.sort()
        if [index for index, _ in members] == list(range(len(members))):
            arrays.append(([cell for _, cell in members], f"aftercorr:{job}"))
        else:
            arrays += [([cell], f"afterok:{job}_{index}") for index, cell in members]
    return arrays


def adopt(folder: Path) -> list[str]:
    """Note arrays that were submitted by a process that was killed before it could note them: their names are in the folder,
    their mark is in Slurm. Returns their job ids."""
    noted = {str(job.settings.get("submission")) for job in files.read_jobs(folder)}
    orphans = {
        p.stem: p for p in (folder / FOLDER).glob("*.names") if p.stem not in noted and MARK_PATTERN.fullmatch(p.stem)
    }
    if not orphans:
        return []
    jobs: dict[str, str] = {}
    for line in call("squeue", "-h", "-t", "all", "-o", "%F|%k").splitlines():
        job, _, comment = line.partition("|")
        if comment.startswith(COMMENT) and comment.removeprefix(COMMENT) in orphans:
            jobs[comment.removeprefix(COMMENT)] = job
    for mark, job in jobs.items():
        files.add_job(folder, job, orphans[mark].read_text().splitlines(), {"submission": mark})
    return list(jobs.values())


def snapshot(tasks: Iterable[str]) -> dict[str, Task] | None:
    """Those of these JOB_TASKs that Slurm knows now: from one squeue for all, and one sacct for those that squeue has forgotten.
    None: it does not answer."""
    wanted = set(tasks)
    if not wanted:
        return {}
    try:
        known = find_tasks(queue({task.rpartition("_")[0] for task in wanted}), wanted)
    except Unreachable:
        return None
    if missing := wanted - known.keys():
        with suppress(Unreachable):
            known |= find_tasks(accounts({task.rpartition("_")[0] for task in missing}), missing)
    return known


def find_tasks(records: Mapping[str, Task], wanted: Iterable[str]) -> dict[str, Task]:
    """The records of these JOB_TASKs, or those of their whole array, JOB_: an array that was cancelled before it started has only
    one."""
    by_task = {task: records.get(task) or records.get(f"{task.rpartition('_')[0]}_") for task in wanted}
    return {task: assume_requeue(record) for task, record in by_task.items() if record}


def assume_requeue(task: Task) -> Task:
    """The task, as requeued if its node failed or it was pre-empted a moment ago: Slurm may be about to requeue it."""
    fresh = task.ended is None or time.time() - task.ended < REQUEUE_WAIT
    return replace(task, state="REQUEUED", ended=None) if task.state in TRANSIENT and fresh else task


def queue(jobs: Iterable[str]) -> dict[str, Task]:
    """The tasks that the controller still knows; it forgets finished ones after MinJobAge."""
    columns = ",".join(f"{name}:{80 if name in ('NodeList', 'Reason') else 24}|" for name in FIELDS)
    try:
        text = call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(sorted(jobs)), "-O", columns)
    except Unreachable as error:
        if "Invalid job id" in str(error):  # it has forgotten all of them
            return {}
        raise
    tasks: dict[str, Task] = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) < len(FIELDS):
            continue
        job, index, state, restarts, end, code, node, reason = words[: len(FIELDS)]
        tasks[f"{job}_{index if index.isdigit() else ''}"] = Task(
            state,
            node="" if node in NO_NODE else node,
            reason="" if reason == "None" else reason,
            restarts=first_number(restarts),
            ended=None if state in LIVE else unix_time(end),
            exit=exit_code(int(code)) if code.isdigit() else -1,
        )
    return tasks


def accounts(jobs: Iterable[str]) -> dict[str, Task]:
    """What accounting remembers: the last run of each task. Unreachable without accounting."""
    columns = "--format=JobID,State,ExitCode,End,NodeList"
    text = call("sacct", "-n", "-P", "-X", "-D", "-j", ",".join(sorted(jobs)), columns)
    tasks: dict[str, Task] = {}
    for line in text.splitlines():
        task, state, code, end, node = [*line.split("|"), "", "", "", ""][:5]
        if not task:
            continue
        word = state.split()[0] if state else ""
        ended = None if word in LIVE and word != "REQUEUED" else unix_time(end)
        ended_with = first_number(code) if code else -1
        for name in expand_tasks(task):
            restarts = tasks[name].restarts + 1 if name in tasks else 0
            tasks[name] = Task(word, "" if node in NO_NODE else node, "", restarts, ended, ended_with)
    return tasks


def expand_tasks(task: str) -> list[str]:
    """The tasks that one of Slurm's records is of: 12_3 -> 12_3; 12_[3-4,7%2] -> 12_3, 12_4, 12_7; 12, or a list that Slurm
    has cut short, -> 12_, the whole array."""
    job, sign, index = task.partition("_")
    ranges = re.fullmatch(r"\[([\d,-]+)(?:%\d+)?\]", index)
    if not ranges:
        return [task if sign and index.isdigit() else f"{job}_"]
    tasks: list[str] = []
    for span in ranges[1].split(","):
        first, _, last = span.partition("-")
        tasks += [f"{job}_{i}" for i in range(int(first), int(last or first) + 1)]
    return tasks


def first_number(text: str) -> int:
    """The first number in a word such as 128+; 0 without one."""
    match = re.search(r"\d+", text)
    return int(match[0]) if match else 0


def unix_time(text: str) -> float | None:
    """Slurm's local time as unix time; None for Unknown."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def exit_code(status: int) -> int:
    """An exit code, 128 + signal for a death, from the raw status that squeue prints."""
    return status >> 8 if status >= 256 else 128 + status if status else 0


def cancel(tasks: Iterable[str]) -> None:
    """Cancel running and pending tasks. Unreachable if Slurm does not answer."""
    call_per_job(["scancel"], tasks)


def call_per_job(words: Sequence[str], tasks: Iterable[str]) -> None:
    """Call a program for each job's tasks, written 12_[0,3], at most 200 at once."""
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

"""submitit takes the cells to Slurm: its executor writes the batch file, its map_array makes one array of them, its parameters
go by its own names. Public classes and parameters only.

What runs on the node is ours. The executor's `python` ("command to launch python ... a valid shell command") is cell.sh, or
the function of a server, and it passes over the words that follow, submitit's own runner (python -m submitit.core._submit).
That runner cannot keep what a sweep promises:

- it reads a pickle that is moved to its place after sbatch has returned: of a submission that is killed in between, every task
  ends after a minute without its function, where cell.sh finds the names that were written before;
- it swallows SIGTERM, so that a cell that is pre-empted before it can listen runs into SIGKILL;
- it would need submitit in the interpreter of the cells, a container's for instance, where srun and scontrol do not exist, so
  that who asks Slurm to queue the cell again must stay outside.
"""

from __future__ import annotations

import math
import os
import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from launch.places.slurm_script import Settings

if TYPE_CHECKING:
    import submitit

# of the environment: which Slurm, and who asks; all else that begins so is of a job that this process may run in
WHICH = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
OTHERS = ("SLURM_", "ZERO_", "SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_")
# sbatch's variables beat the batch file: those of options that the file sets, or that a sweep decides, are left out
NAMED = {
    "time": ("TIMELIMIT",),
    "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),
    "requeue": ("REQUEUE", "NO_REQUEUE"),
}
DECIDED = ("ARRAY_INX", "WAIT", "REQUEUE", "NO_REQUEUE", "ERROR", "INPUT", "TEST_ONLY")
LOCK = threading.Lock()  # submitit calls its programs with the environment of this process
STUB = """#!/bin/sh
case "$1" in "{home}"/*) echo "Submitted batch job 1"; exit ;; esac
PATH=${{PATH#*:}}
exec {name} "$@"
"""


class HttpError(Exception):
    """sbatch's words for why it does not take a job."""


def attempt(sweep: str, cell: str) -> int:
    """What is submitted: one attempt of one cell."""
    from launch.sweep.attempt import main

    return main([sweep, cell])


def nothing() -> None:
    """Stands for a job whose batch file says all."""


@dataclass(frozen=True)
class Order:
    """What sbatch is asked for. `home`: where submitit keeps its files. `lines`: of the shell, before `command`, which is what
    submitit takes for the program that starts Python. `flags`: of sbatch, that nobody may change. `count`: tasks."""

    settings: Settings
    home: Path
    name: str
    lines: Sequence[str]
    command: str
    flags: Mapping[str, Any]
    count: int = 1


def submit(order: Order, cells: Sequence[tuple[str, str]] = ()) -> str:
    """Submit an array of these cells (sweep, name), or a job that is none; its id. Refused if Slurm does not take it."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with LOCK, clean_environment(decided(order)):
        try:
            with redirect_stderr(StringIO()):  # it prints what it raises, too
                ours = executor(order)
                jobs = ours.map_array(attempt, *zip(*cells, strict=True)) if cells else [ours.submit(nothing)]
        except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
            raise HttpError(" ".join(str(error).split())[:500]) from error
        except FileNotFoundError as error:
            raise HttpError(f"{error.filename or 'sbatch'} is not installed") from error
    return str(jobs[0].job_id).partition("_")[0]


def text(order: Order) -> str:
    """The batch file that `submit` would make. Submits nothing and needs no Slurm: submitit is given programs that take its
    files and nothing else."""
    with LOCK, TemporaryDirectory(prefix="zero-sbatch-") as folder:
        for name in ("sbatch", "srun"):
            (Path(folder) / name).write_text(STUB.format(home=folder, name=name))
            (Path(folder) / name).chmod(0o755)
        with clean_environment(set(), PATH=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"):
            job = executor(replace(order, home=Path(folder))).submit(nothing)
        return job.paths.submission_file.read_text().replace(folder, shlex.quote(str(order.home)))


def executor(order: Order) -> submitit.AutoExecutor:
    """submitit's own, with the parameters of the order."""
    import submitit

    settings = order.settings
    ours = submitit.AutoExecutor(order.home, cluster="slurm", slurm_python=order.command)
    ours.update_parameters(
        name=order.name,
        timeout_min=math.ceil(settings.timeout_min),
        nodes=settings.nodes,
        tasks_per_node=settings.ranks_per_node,
        cpus_per_task=settings.cpus_per_task,
        gpus_per_node=settings.gpus_per_node or None,
        mem_gb=settings.mem_gb,
        stderr_to_stdout=True,
        slurm_partition=settings.partition,
        slurm_account=settings.account,
        slurm_qos=settings.qos,
        slurm_constraint=settings.constraint,
        slurm_nodelist=settings.nodelist,
        slurm_exclude=settings.exclude,
        slurm_array_parallelism=settings.array_parallelism or order.count,
        slurm_signal_delay_s=settings.signal_delay_s,
        slurm_setup=list(order.lines),
        slurm_use_srun=False,  # cell.sh has its own, and outlives it
        slurm_wckey="",  # its default names itself
        slurm_additional_parameters=flags_of(order),
    )
    return ours


def flags_of(order: Order) -> dict[str, Any]:
    """What submitit has no parameter for, or another value: ours, then what the user asks for, then what must be so."""
    settings = order.settings
    throttle = f"%{min(settings.array_parallelism, order.count)}" if settings.array_parallelism else ""
    given: dict[str, Any] = {
        "array": f"0-{order.count - 1}{throttle}",  # of one, too: its task has a name
        "signal": f"B:USR2@{settings.signal_delay_s}",  # to the batch shell alone: USR2 kills torchrun and setup programs
        "requeue": True,
    }
    given |= {key.replace("_", "-"): value for key, value in (settings.additional_parameters or {}).items()}
    given |= order.flags
    return {key: value for key, value in given.items() if value is not False and value is not None}


def decided(order: Order) -> set[str]:
    """The options of sbatch that the batch file settles."""
    settings = order.settings
    own = {"partition", "account", "qos", "constraint", "gpus_per_node"}
    chosen = {name for name in own if getattr(settings, name)} | ({"mem"} if settings.mem_gb else set())
    return {"time", "job-name", "open-mode", *chosen, *flags_of(order)}


@contextmanager
def clean_environment(flags: Iterable[str], **more: str) -> Iterator[None]:
    """Programs that are called meanwhile see the user's own variables of sbatch, not those of another job."""
    before = dict(os.environ)
    wanted = users_environment(flags) | more
    try:
        for name in before.keys() - wanted.keys():
            del os.environ[name]
        os.environ.update(more)
        yield
    finally:
        os.environ.update(before)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def users_environment(flags: Iterable[str] = ()) -> dict[str, str]:
    """This process's variables without those of another job's, and without sbatch's own for what the file decides."""
    names = [NAMED.get(flag, (flag.upper().replace("-", "_"),)) for flag in flags]
    settled = {f"SBATCH_{name}" for each in (*names, DECIDED) for name in each}
    return {
        key: value
        for key, value in os.environ.items()
        if key in WHICH or not (key.startswith(OTHERS) or key in settled)
    }

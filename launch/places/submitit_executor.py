"""Jobs are submitted by submitit: its executor writes the batch file, and its map_array submits an array. Only its public
classes and parameters are used.

On the node, cell.sh (or a server's shell function) runs in place of submitit's runner: it is given as the executor's `python`
("command to launch python ... a valid shell command") and ignores the words that follow, python -m submitit.core._submit.
That runner would not do for a sweep:

- it reads a pickle that is moved to its place only after sbatch has returned: if the submission is killed in between, every
  task ends after a minute; cell.sh reads names that were written before;
- it ignores SIGTERM, so that a cell that is pre-empted early is killed by SIGKILL;
- it needs submitit in the interpreter of the cells, a container's for instance, where srun and scontrol do not exist: what asks
  Slurm to requeue the cell must run outside.
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

# Environment variables passed on to Slurm's programs: its configuration and the user's token. The others with these prefixes
# describe the job that this process may run in
KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
DROPPED_PREFIXES = ("SLURM_", "ZERO_", "SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_")
# sbatch's variables take precedence over the batch file, so that those of options that the file sets, or that are the sweep's,
# must not be passed on
OPTION_VARIABLES = {
    "time": ("TIMELIMIT",),
    "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),
    "requeue": ("REQUEUE", "NO_REQUEUE"),
}
SWEEP_VARIABLES = ("ARRAY_INX", "WAIT", "REQUEUE", "NO_REQUEUE", "ERROR", "INPUT", "TEST_ONLY")
LOCK = threading.Lock()  # submitit calls its programs with the environment of this process
STUB = """#!/bin/sh
case "$1" in "{home}"/*) echo "Submitted batch job 1"; exit ;; esac
PATH=${{PATH#*:}}
exec {name} "$@"
"""


class SubmissionRefused(Exception):
    """sbatch does not take a job; the text is its error message."""


def run_attempt(sweep: str, cell: str) -> int:
    """The function that submitit is given: one attempt of one cell. cell.sh runs in its place."""
    from launch.sweep.attempt import main

    return main([sweep, cell])


def placeholder() -> int:
    """The function that submitit is given for a job whose batch file does everything."""
    return 0


@dataclass(frozen=True)
class JobRequest:
    """What sbatch is asked for. `home`: where submitit keeps its files. `lines`: of the shell, before `command`, which submitit
    takes for the command that starts Python. `flags`: sbatch's, which users cannot change. `count`: tasks."""

    settings: Settings
    home: Path
    name: str
    lines: Sequence[str]
    command: str
    flags: Mapping[str, Any]
    count: int = 1


def submit(request: JobRequest, cells: Sequence[tuple[str, str]] = ()) -> str:
    """Submit an array of these cells (sweep, name), or without cells a single job; returns its id. SubmissionRefused if Slurm
    does not take it."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with LOCK, clean_environment(settled_options(request)):
        try:
            with redirect_stderr(StringIO()):  # submitit also prints what it raises
                executor = make_executor(request)
                columns = zip(*cells, strict=True)
                jobs = executor.map_array(run_attempt, *columns) if cells else [executor.submit(placeholder)]
        except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
            raise SubmissionRefused(" ".join(str(error).split())[:500]) from error
        except FileNotFoundError as error:
            raise SubmissionRefused(f"{error.filename or 'sbatch'} is not installed") from error
    return str(jobs[0].job_id).partition("_")[0]


def batch_file(request: JobRequest) -> str:
    """The batch file that `submit` would write. Nothing is submitted and no Slurm is needed: submitit finds stubs of Slurm's
    programs in PATH."""
    with LOCK, TemporaryDirectory(prefix="zero-sbatch-") as folder:
        for name in ("sbatch", "srun"):
            (Path(folder) / name).write_text(STUB.format(home=folder, name=name))
            (Path(folder) / name).chmod(0o755)
        with clean_environment(set(), PATH=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"):
            job = make_executor(replace(request, home=Path(folder))).submit(placeholder)
        return job.paths.submission_file.read_text().replace(folder, shlex.quote(str(request.home)))


def make_executor(request: JobRequest) -> submitit.AutoExecutor:
    """submitit's executor with the parameters of the request."""
    import submitit

    settings = request.settings
    executor = submitit.AutoExecutor(request.home, cluster="slurm", slurm_python=request.command)
    executor.update_parameters(
        name=request.name,
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
        slurm_array_parallelism=settings.array_parallelism or request.count,
        slurm_signal_delay_s=settings.signal_delay_s,
        slurm_setup=list(request.lines),
        slurm_use_srun=False,  # cell.sh calls srun, and outlives it
        slurm_wckey="",  # submitit's default is its own name
        slurm_additional_parameters=sbatch_flags(request),
    )
    return executor


def sbatch_flags(request: JobRequest) -> dict[str, Any]:
    """Flags that submitit has no parameter for, or gives another value: our defaults, then the user's, then those that must be
    so."""
    settings = request.settings
    throttle = f"%{min(settings.array_parallelism, request.count)}" if settings.array_parallelism else ""
    flags: dict[str, Any] = {
        "array": f"0-{request.count - 1}{throttle}",  # also for one task: so that it has an index
        "signal": f"B:USR2@{settings.signal_delay_s}",  # to the batch shell only: USR2 would kill torchrun
        "requeue": True,
    }
    flags |= {key.replace("_", "-"): value for key, value in (settings.additional_parameters or {}).items()}
    flags |= request.flags
    return {key: value for key, value in flags.items() if value is not False and value is not None}


def settled_options(request: JobRequest) -> set[str]:
    """The options of sbatch that the batch file sets."""
    settings = request.settings
    optional = {"partition", "account", "qos", "constraint", "gpus_per_node"}
    given = {name for name in optional if getattr(settings, name)} | ({"mem"} if settings.mem_gb else set())
    return {"time", "job-name", "open-mode", *given, *sbatch_flags(request)}


@contextmanager
def clean_environment(flags: Iterable[str], **more: str) -> Iterator[None]:
    """Inside, this process and those that it starts have the environment of `users_environment`, and `more`."""
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
    """This process's variables without those of a job that it may run in, and without those of sbatch that would override
    these options of the batch file."""
    names = [OPTION_VARIABLES.get(flag, (flag.upper().replace("-", "_"),)) for flag in flags]
    settled = {f"SBATCH_{name}" for each in (*names, SWEEP_VARIABLES) for name in each}
    return {
        key: value
        for key, value in os.environ.items()
        if key in KEPT_VARIABLES or not (key.startswith(DROPPED_PREFIXES) or key in settled)
    }

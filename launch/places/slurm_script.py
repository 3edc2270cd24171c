"""What a sweep asks of Slurm: the settings, checked, and the lines that a batch file runs (launch/places/guard.sh, the setup lines,
launch/places/cell.sh). submitit writes the file around them: launch/places/executor.py.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zero.config.suggest import near
from zero.errors import InputError

GUARD = Path(__file__).resolve().parent / "guard.sh"
LISTS = ("setup", "teardown", "srun_args")
LEAST = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "timeout_min": 1, "signal_delay_s": 0, "requeues": 0,
         "gpus_per_node": 0, "array_parallelism": 0, "mem_gb": 0, "poll_s": 0.1, "patience_s": 1, "most_queued": 0,
         "quick_failures": 0}  # fmt: skip
WHOLE = LEAST.keys() - {"timeout_min", "mem_gb", "poll_s", "patience_s"}
IGNORED = ("_target_", "defaults")
# What sbatch, submitit and others call our settings
FOREIGN = {
    word: target
    for target, words in {
        "timeout_min": "time t time_min time_limit timelimit timeout walltime max_time hours minutes",
        "mem_gb": "mem memory ram mem_per_node mem_per_cpu mem_per_gpu memory_gb gb",
        "cpus_per_task": "cpus c cpu ncpus num_cpus cpus_per_gpu cores threads cpus_per_node",
        "gpus_per_node": "gpus g gpu ngpus num_gpus gres gpus_per_task n_gpus gpus_per_job devices",
        "tasks_per_node": "ntasks n tasks ntasks_per_node num_tasks ntasks_per_gpu ranks world_size",
        "nodes": "nnodes num_nodes n_nodes min_nodes nodes_per_job",
        "partition": "p queue partitions",
        "account": "a project bank allocation",
        "qos": "q priority quality_of_service",
        "constraint": "constraints features feature prefer",
        "nodelist": "w hosts hostlist node",
        "exclude": "x bad_nodes",
        "array_parallelism": "array at_once max_parallel max_concurrent n_jobs jobs max_jobs max_workers parallel concurrency",
        "most_queued": "max_queued max_submit queue_size",
        "signal_delay_s": "signal signal_delay grace grace_time",
        "setup": "modules module conda env_setup init prolog pre_run setup_commands env",
        "srun_args": "container container_image srun",
        "requeues": "requeue retries max_requeue max_num_timeout max_requeues restarts",
        "additional_parameters": "sbatch sbatch_args extra extra_args slurm_additional_parameters",
        "folder": "submitit_folder output log_dir chdir",
        "name": "job_name j",
        "python": "interpreter executable slurm_python",
    }.items()
    for word in words.split()
}  # fmt: skip
FLAGS = ("shared", "fail_fast")


@dataclass(frozen=True)
class Settings:
    """conf/hydra/launcher/slurm.yaml. Names are those of hydra-submitit-launcher, where it has them; None: Slurm's default."""

    partition: str | None = None
    timeout_min: int = 60
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None  # ranks; None: one for each GPU, at least one
    cpus_per_task: int = 1
    mem_gb: float | None = None  # of a node; None: the cluster's default, if that is enough for a small cell
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    array_parallelism: int = 0  # cells of one submission at once; 0: no limit
    most_queued: int = 0  # cells in the queue at once; 0: as many as Slurm takes
    signal_delay_s: int = 120  # warned so long before the time limit: one step and a checkpoint must fit
    setup: tuple[str, ...] = ()  # shell lines before the cell: module load, conda activate, export
    teardown: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()  # --container-image=... and the like
    additional_parameters: Mapping[str, Any] | None = None  # any other flag of sbatch; true: a flag without a value
    python: str | None = None  # shell words that start Python, in a container if need be; None: this interpreter
    requeues: int = 50  # restarts of a cell before it is given up
    quick_failures: int = (
        3  # within a minute, on one node, before that is left out (twice as many: the sweep); 0: never
    )
    fail_fast: bool = False  # the first cell that fails takes the others out of the queue
    shared: bool = False  # the folder is on every node, though it does not look like it
    poll_s: float = 10.0  # seconds between two questions to the scheduler
    patience_s: float = 120.0  # seconds that a job may be unknown to all before it counts as lost

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From plain containers. InputError names an unknown key with the nearest one, or a value that cannot be."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key in IGNORED:
                continue
            if key not in known:
                hint = meant(key, (*known, "folder", "name"))
                remedy = f"no such setting{hint} (any flag of sbatch: hydra.launcher.additional_parameters.FLAG)"
                raise InputError(f"hydra.launcher.{key}", value, remedy)
            values[key] = checked(key, value)
        settings = cls(**{key: value for key, value in values.items() if value is not None})
        if settings.signal_delay_s >= 60 * settings.timeout_min:
            remedy = (
                f"must be less than the time limit, launcher.timeout_min={settings.timeout_min}: no step would be made"
            )
            raise InputError("hydra.launcher.signal_delay_s", settings.signal_delay_s, remedy)
        return settings

    @property
    def ranks_per_node(self) -> int:
        """Tasks of a node: as many as GPUs, unless said otherwise."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of a cell."""
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        """GPUs that a cell holds."""
        return self.nodes * self.gpus_per_node


def meant(key: str, known: Iterable[str]) -> str:
    """'; did you mean ...' for a name that is no setting of a launcher: what others call one of `known`, or a close spelling."""
    word = key.lower().replace("-", "_").removeprefix("slurm_")
    names = [name for name in (word, FOREIGN.get(word, "")) if name in known] or near(word, list(known))
    return f"; did you mean {' or '.join(names)}?" if names else ""


def checked(key: str, value: Any) -> Any:
    """A setting in its own type."""
    if value is None:
        return None
    if key in LISTS:
        if isinstance(value, str) or not all(isinstance(line, str) for line in value):
            raise InputError(
                f"hydra.launcher.{key}", value, f"must be a list of lines: 'hydra.launcher.{key}=[\"...\"]'"
            )
        return tuple(value)
    if key in LEAST:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            example = {
                "timeout_min": " of minutes, such as 90 for 1:30:00",
                "mem_gb": " of gigabytes, such as 16 for 16G",
            }
            raise InputError(f"hydra.launcher.{key}", value, f"must be a number{example.get(key, '')}")
        if key in WHOLE and value != int(value):
            raise InputError(f"hydra.launcher.{key}", value, "must be a whole number")
        value = int(value) if key in WHOLE else value
        if value < LEAST[key]:
            raise InputError(f"hydra.launcher.{key}", value, f"must be at least {LEAST[key]}")
    elif key in FLAGS and not isinstance(value, bool):
        raise InputError(f"hydra.launcher.{key}", value, "must be true or false")
    elif key not in (*FLAGS, "additional_parameters") and ("\n" in str(value) or not str(value).strip()):
        raise InputError(f"hydra.launcher.{key}", value, "must be one line of text, or null")
    elif key == "additional_parameters":
        if not isinstance(value, Mapping):
            raise InputError(f"hydra.launcher.{key}", value, "must be FLAG: VALUE pairs")
        return dict(value)
    return value if isinstance(value, bool | int | float) else str(value)


def lines(settings: Settings, sweep: Path) -> list[str]:
    """What the batch file of an array does before cell.sh: the guard, the user's setup, and cell.sh's settings as variables of
    the shell."""
    python = settings.python or shlex.quote(sys.executable)
    srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus_per_task}", *settings.srun_args]
    guard = f"guard_sweep={shlex.quote(str(sweep))} guard_quick={int(settings.quick_failures)} guard_fast={int(settings.fail_fast)}"
    teardown = ["teardown() {", *settings.teardown, "}"] if settings.teardown else []
    return [
        guard,
        GUARD.read_text().rstrip(),
        *settings.setup,
        f"export ZERO_CELL_REQUEUES={settings.requeues}",
        f"python=({python})",
        f"srun_args=({shlex.join(srun)})",
        *teardown,
    ]


def command(sweep: Path, names: Path) -> str:
    """Hands over to cell.sh of the frozen code. `names`: a file with the array's cells, one a line."""
    return (
        f". {shlex.quote(str(sweep / 'code' / 'launch' / 'places' / 'cell.sh'))} {shlex.join([str(sweep), str(names)])}"
    )

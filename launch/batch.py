"""What a sweep asks of Slurm, and the batch script that asks it. submitit converts the parameters and builds the script;
the command in it is ours (launch/cell.sh): submitit's own calls a cell that raised COMPLETED, and needs sacct.
"""

from __future__ import annotations

import difflib
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zero.errors import InputError

LISTS = ("setup", "teardown", "srun_args")
LEAST = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "timeout_min": 1, "signal_delay_s": 0, "requeues": 0,
         "gpus_per_node": 0, "array_parallelism": 0, "mem_gb": 0, "poll_s": 0.1, "patience_s": 1}  # fmt: skip
IGNORED = ("_target_", "defaults")


@dataclass(frozen=True)
class Settings:
    """conf/hydra/launcher/slurm.yaml. Names are those of hydra-submitit-launcher, where it has them; None: Slurm's default."""

    partition: str | None = None
    timeout_min: int = 60
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None  # ranks; None: one for each GPU, at least one
    cpus_per_task: int = 1
    mem_gb: float | None = None  # of a node
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    array_parallelism: int = 0  # cells at once; 0: no limit
    signal_delay_s: int = 120  # warned so long before the time limit: one step and a checkpoint must fit
    setup: tuple[str, ...] = ()  # shell lines before the cell: module load, conda activate, export
    teardown: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()  # --container-image=... and the like
    additional_parameters: Mapping[str, Any] | None = None  # any other flag of sbatch; true: a flag without a value
    python: str | None = None  # shell words that start Python, in a container if need be; None: this interpreter
    requeues: int = 50  # restarts of a cell before it is given up
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
                close = difflib.get_close_matches(key, known, n=2)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                remedy = f"no such setting{hint} (any flag of sbatch: hydra.launcher.additional_parameters.FLAG)"
                raise InputError(f"hydra.launcher.{key}", value, remedy)
            values[key] = checked(key, value)
        return cls(**{key: value for key, value in values.items() if value is not None})

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
            raise InputError(f"hydra.launcher.{key}", value, "must be a number")
        if value < LEAST[key]:
            raise InputError(f"hydra.launcher.{key}", value, f"must be at least {LEAST[key]}")
    elif key not in ("shared", "additional_parameters") and ("\n" in str(value) or not str(value).strip()):
        raise InputError(f"hydra.launcher.{key}", value, "must be one line of text, or null")
    elif key == "additional_parameters":
        if not isinstance(value, Mapping):
            raise InputError(f"hydra.launcher.{key}", value, "must be FLAG: VALUE pairs")
        return dict(value)
    return value if isinstance(value, bool | int | float) else str(value)


def script(
    settings: Settings, sweep: Path, names: Path, count: int, job_name: str, dependency: str | None = None
) -> str:
    """The sbatch file of an array of `count` cells whose folder names stand in `names`, one a line. Writes nothing."""
    text = command(settings, sweep, names)
    output = str(sweep / "slurm" / "%A_%a.out")  # until the cell is known, then CELL/log/slurm.out
    return array(settings, text, output, count, job_name, dependency)


def array(
    settings: Settings, command: str, output: str, count: int, job_name: str, dependency: str | None = None
) -> str:
    """The sbatch file of an array of `count` tasks that each run the shell lines `command`, by no means through srun."""
    from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

    convert: Mapping[Any, Any] = SlurmExecutor._equivalence_dict() or {}
    ours = {"timeout_min": settings.timeout_min, "nodes": settings.nodes, "tasks_per_node": settings.ranks_per_node,
            "cpus_per_task": settings.cpus_per_task, "partition": settings.partition, "account": settings.account,
            "qos": settings.qos, "constraint": settings.constraint, "nodelist": settings.nodelist,
            "exclude": settings.exclude, "dependency": dependency, "mem_gb": settings.mem_gb,
            "gpus_per_node": settings.gpus_per_node or None}  # fmt: skip
    params: dict[str, Any] = {convert.get(key, key): value for key, value in ours.items() if value is not None}
    params["wckey"] = None  # submitit's default names itself
    if "mem" in params:
        params["mem"] = f"{math.ceil(params['mem'] * 1024)}M"  # submitit's own wants whole GiB
    flags: dict[str, Any] = {
        "array": f"0-{count - 1}" + (f"%{settings.array_parallelism}" if settings.array_parallelism else ""),
        "signal": f"B:USR2@{settings.signal_delay_s}",  # to the batch shell alone: USR2 kills torchrun and setup programs
        "requeue": True,
        "output": output,
    }
    flags |= {key.replace("_", "-"): value for key, value in (settings.additional_parameters or {}).items()}
    flags = {key: value for key, value in flags.items() if value is not False and value is not None}
    return _make_sbatch_string(
        command=command,
        folder=Path(output).parent,
        job_name=job_name,
        stderr_to_stdout=True,
        use_srun=False,  # cell.sh has its own, and outlives it
        map_count=count,
        additional_parameters=flags,
        setup=list(settings.setup) or None,
        **params,
    )


def command(settings: Settings, sweep: Path, names: Path) -> str:
    """The lines that hand over to cell.sh: its settings as shell variables, then the script, read from the frozen code."""
    python = settings.python or shlex.quote(sys.executable)
    srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus_per_task}", *settings.srun_args]
    lines = [f"export ZERO_CELL_REQUEUES={settings.requeues}", f"python=({python})", f"srun_args=({shlex.join(srun)})"]
    if settings.teardown:
        lines += ["teardown() {", *settings.teardown, "}"]
    return "\n".join(
        [*lines, f". {shlex.quote(str(sweep / 'code' / 'launch' / 'cell.sh'))} {shlex.join([str(sweep), str(names)])}"]
    )

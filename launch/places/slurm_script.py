"""The settings of Slurm's launcher, checked, and the lines of a batch file: guard.sh, the user's setup, and the call of cell.sh.
submitit writes the file around them: launch/places/submitit_executor.py.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zero.config.aliases import LAUNCHER
from zero.config.suggest import nearest_names
from zero.errors import InputError

GUARD = Path(__file__).resolve().parent / "guard.sh"
LISTS = ("setup", "teardown", "srun_args")
MINIMUM: dict[str, float] = {
    **dict.fromkeys(("nodes", "tasks_per_node", "cpus_per_task", "timeout_min", "patience_s"), 1),
    **dict.fromkeys(("gpus_per_node", "mem_gb", "array_parallelism", "most_queued", "signal_delay_s"), 0),
    **dict.fromkeys(("requeues", "quick_failures"), 0),
    "poll_s": 0.1,
}
INTEGERS = MINIMUM.keys() - {"timeout_min", "mem_gb", "poll_s", "patience_s"}
UNITS = {"timeout_min": " of minutes, such as 90 for 1:30:00", "mem_gb": " of gigabytes, such as 16 for 16G"}
IGNORED = ("_target_", "defaults")
FLAGS = ("shared", "fail_fast")


@dataclass(frozen=True)
class Settings:
    """The settings of conf/hydra/launcher/slurm.yaml. Their names are those of hydra-submitit-launcher, where it has them. None:
    Slurm's default."""

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
    signal_delay_s: int = 120  # from the warning to the time limit: one step and a checkpoint must fit
    setup: tuple[str, ...] = ()  # shell lines before the cell: module load, conda activate, export
    teardown: tuple[str, ...] = ()
    srun_args: tuple[str, ...] = ()  # --container-image=... and the like
    additional_parameters: Mapping[str, Any] | None = None  # any other flag of sbatch; true: a flag without a value
    python: str | None = None  # shell words that start Python, in a container if need be; None: this interpreter
    requeues: int = 50  # restarts of a cell before it is given up
    quick_failures: int = 3  # within a minute on one node, before it is left out; on all, twice as many: halt; 0: never
    fail_fast: bool = False  # the first cell that fails takes the others out of the queue
    shared: bool = False  # every node sees the folder, though its path does not look like it
    poll_s: float = 10.0  # seconds between two questions to the scheduler
    patience_s: float = 120.0  # seconds that a job may be unknown to all before it counts as lost

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Settings:
        """From plain containers. InputError for an unknown key, with the nearest known one, or a wrong value."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in settings.items():
            if key in IGNORED:
                continue
            if key not in known:
                hint = suggestion(key, (*known, "folder", "name"))
                remedy = f"no such setting{hint} (any flag of sbatch: hydra.launcher.additional_parameters.FLAG)"
                raise InputError(f"hydra.launcher.{key}", value, remedy)
            values[key] = check_value(key, value)
        checked = cls(**{key: value for key, value in values.items() if value is not None})
        if checked.signal_delay_s >= 60 * checked.timeout_min:
            limit = f"launcher.timeout_min={checked.timeout_min}"
            remedy = f"must be less than the time limit, {limit}: no step would be made"
            raise InputError("hydra.launcher.signal_delay_s", checked.signal_delay_s, remedy)
        return checked

    @property
    def ranks_per_node(self) -> int:
        """Processes of a cell on each node: `tasks_per_node`, or as many as GPUs."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of a cell."""
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of a cell."""
        return self.nodes * self.gpus_per_node


def suggestion(key: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the known setting that others call `key`, or that is spelled like it; "" without one."""
    word = key.lower().replace("-", "_").removeprefix("slurm_")
    names = [name for name in (word, *LAUNCHER.get(word, ())) if name in known] or nearest_names(word, list(known))
    return f"; did you mean {' or '.join(names)}?" if names else ""


def check_value(key: str, value: Any) -> Any:
    """The value of a setting in the setting's type. InputError if it is wrong."""
    name = f"hydra.launcher.{key}"
    if value is None:
        return None
    if key in LISTS:
        if isinstance(value, str) or not all(isinstance(line, str) for line in value):
            raise InputError(name, value, f"must be a list of lines: '{name}=[\"...\"]'")
        return tuple(value)
    if key in MINIMUM:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(name, value, f"must be a number{UNITS.get(key, '')}")
        if key in INTEGERS and value != int(value):
            raise InputError(name, value, "must be a whole number")
        value = int(value) if key in INTEGERS else value
        if value < MINIMUM[key]:
            raise InputError(name, value, f"must be at least {MINIMUM[key]}")
    elif key in FLAGS and not isinstance(value, bool):
        raise InputError(name, value, "must be true or false")
    elif key not in (*FLAGS, "additional_parameters") and ("\n" in str(value) or not str(value).strip()):
        raise InputError(name, value, "must be one line of text, or null")
    elif key == "additional_parameters":
        if not isinstance(value, Mapping):
            raise InputError(name, value, "must be FLAG: VALUE pairs")
        return dict(value)
    return value if isinstance(value, bool | int | float) else str(value)


def script_lines(settings: Settings, sweep: Path) -> list[str]:
    """The lines of an array's batch file before it calls cell.sh: guard.sh, the user's setup, and the shell variables that
    cell.sh reads."""
    python = settings.python or shlex.quote(sys.executable)
    srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus_per_task}", *settings.srun_args]
    guard = f"guard_sweep={shlex.quote(str(sweep))}"
    guard += f" guard_quick={settings.quick_failures} guard_fast={int(settings.fail_fast)}"
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


def cell_command(sweep: Path, names: Path) -> str:
    """The line that runs cell.sh of the frozen code. `names`: a file with the array's cells, one a line."""
    script = sweep / "code" / "launch" / "places" / "cell.sh"
    return f". {shlex.join([str(script), str(sweep), str(names)])}"

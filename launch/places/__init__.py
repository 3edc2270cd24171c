"""Where the cells of a sweep run: on Slurm, or on this machine. What the commands of a sweep ask of either."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from launch.sweep.states import Task
from zero.errors import InputError

# settings of conf/hydra/launcher that belong to the sweep, not to the place where it runs
SWEEP_KEYS = ("_target_", "_partial_", "backend", "name", "folder", "evaluate", "smoke", "store")


@dataclass(frozen=True)
class Limits:
    """What a place gives its cells. Numbers of cells are 0 where there is no limit."""

    at_once: int = 0  # cells of one submission that run at the same time
    most_queued: int = 0  # cells of the sweep that wait or run there at the same time
    gpus: int = 0  # of a cell
    attempt_s: float | None = None  # seconds of one attempt; None: no limit
    warning_s: float = 0.0  # how long before that limit a cell is asked to save
    requeues: int = 5
    poll_s: float = 5.0


class Backend(Protocol):
    """One place to run."""

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Backend:
        """The place with these settings of the launcher. InputError if they are not its own."""

    @property
    def limits(self) -> Limits: ...

    @property
    def available(self) -> bool:
        """Whether this machine can ask the place anything: a dry run goes on without."""

    @property
    def has_queue(self) -> bool:
        """Whether each cell is a task with an id, JOB_TASK, which a cell that waits for it must name."""

    # path of the function that runs a model server there as a job, as launch.serving.job.run does; None: there are no such jobs
    server: ClassVar[str | None]

    def check(self, folder: Path, count: int) -> None:
        """InputError if so many cells cannot run there; changes nothing."""

    def adopt(self, folder: Path) -> None:
        """Note the tasks of a submission that was killed before it could."""

    def submit(self, folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> Sequence[str]:
        """The cells that were taken: all, or as many as there is room for. `after`: for some cells, the JOB_TASK that must
        succeed before."""

    def write_scripts(self, folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        """Write what a submission would hand over, for a dry run."""

    def poll(self, tasks: Iterable[str]) -> Mapping[str, Task] | None:
        """What the scheduler says of these tasks, {} where there is none; None: it does not answer."""

    def cancel(self, folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
        """End these cells, of which `tasks` are in the queue."""


def backend_class(settings: Mapping[str, Any]) -> type[Backend]:
    """The class of the place that the launcher's settings name. InputError if there is none."""
    path = str(settings.get("backend") or "launch.places.local.Local")
    module, _, name = path.rpartition(".")
    try:
        named: type[Backend] = getattr(importlib.import_module(module), name)
        _ = named.parse
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError("hydra.launcher.backend", path, "must be the path of a launch.places.Backend") from error
    return named


def backend_of(settings: Mapping[str, Any]) -> Backend:
    """The place that the launcher's settings name. InputError if they are not its own."""
    return backend_class(settings).parse({key: value for key, value in settings.items() if key not in SWEEP_KEYS})

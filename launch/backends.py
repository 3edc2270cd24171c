"""Where the cells of a sweep run: on Slurm, or on this machine. What the commands of a sweep ask of either."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.states import Task
from zero.errors import InputError

# settings of conf/hydra/launcher that are the sweep's, not those of the place where it runs
OURS = ("_target_", "_partial_", "backend", "name", "folder", "evaluate", "smoke", "store")


@dataclass(frozen=True)
class Backend:
    """One place to run. `at_once`: cells, 0: no limit. `limit`: seconds of one attempt, None without a limit.

    check(folder, count)           InputError if it cannot run there; changes nothing
    adopt(folder)                  note what a submission that was killed did not
    submit(folder, name, cells, after)   `after`: for some cells, the JOB_TASK that must succeed before
    files(folder, name, cells)     write what a submission would hand over (a dry run); their paths
    poll(tasks)                    what the scheduler says, {} where there is none; None: it does not answer
    cancel(folder, cells, tasks)   end what lives of these cells
    """

    check: Callable[[Path, int], None]
    adopt: Callable[[Path], None]
    submit: Callable[[Path, str, Sequence[str], Mapping[str, str]], None]
    files: Callable[[Path, str, Sequence[str]], list[Path]]
    poll: Callable[[Iterable[str]], Mapping[str, Task] | None]
    cancel: Callable[[Path, Sequence[str], Iterable[str]], None]
    at_once: int = 0
    gpus: int = 0  # of a cell
    limit: float | None = None
    poll_s: float = 5.0
    requeues: int = 5
    by_task: bool = False  # a cell that waits needs the JOB_TASK of the other one: what it waits for is submitted first


def backend_of(settings: Mapping[str, Any]) -> Backend:
    """The place that the settings name. InputError if they are not its own."""
    path = str(settings.get("backend") or "launch.local.backend")
    module, _, name = path.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "must be the path of a function that gives a launch.backends.Backend"
        raise InputError("hydra.launcher.backend", path, remedy) from error
    made: Backend = make({key: value for key, value in settings.items() if key not in OURS})
    return made


def slurm(given: Mapping[str, Any]) -> Backend:
    """Arrays of Slurm. InputError for a setting that it does not have."""
    from launch import cluster
    from launch import slurm as scheduler
    from launch.batch import Settings

    settings = Settings.of(given)

    def submit(folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> None:
        free = [cell for cell in cells if cell not in after]
        bound = [cell for cell in cells if cell in after]
        if free:
            scheduler.submit(folder, name, free, settings)
        if bound:
            scheduler.submit(folder, name, bound, settings, [after[cell] for cell in bound])

    def files(folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        if not cells:
            return []
        most = scheduler.most_tasks()
        parts = [cells[i : i + most] for i in range(0, len(cells), most)]
        for i, part in enumerate(parts):
            scheduler.prepare(folder, name, part, settings, f"dry-run-{i}")
        return [folder / scheduler.FOLDER / f"dry-run-{i}.sbatch" for i in range(len(parts))]

    def adopt(folder: Path) -> None:
        try:
            scheduler.adopt(folder)
        except scheduler.Unreachable as error:
            raise InputError(
                "launcher", "slurm", f"the controller does not answer ({error}); try again later"
            ) from error

    def poll(tasks: Iterable[str]) -> Mapping[str, Task] | None:
        said = scheduler.snapshot(tasks)
        return said.tasks if said.answered else None

    def cancel(folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
        try:
            scheduler.cancel(tasks)
        except scheduler.Unreachable as error:
            raise InputError("launcher", "slurm", f"the controller does not answer ({error}); cancel again") from error

    return Backend(
        check=lambda folder, count: cluster.check(settings, folder, count),
        adopt=adopt,
        submit=submit,
        files=files,
        poll=poll,
        cancel=cancel,
        at_once=settings.array_parallelism,
        gpus=settings.gpus,
        limit=60.0 * settings.timeout_min,
        poll_s=settings.poll_s,
        requeues=settings.requeues,
        by_task=True,
    )

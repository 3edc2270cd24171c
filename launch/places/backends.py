"""Where the cells of a sweep run: on Slurm, or on this machine. What the commands of a sweep ask of either."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.states import Task
from zero.errors import InputError

# settings of conf/hydra/launcher that are the sweep's, not those of the place where it runs
OURS = ("_target_", "_partial_", "backend", "name", "folder", "evaluate", "smoke", "store")


@dataclass(frozen=True)
class Backend:
    """One place to run. `at_once`: cells, 0: no limit. `limit`: seconds of one attempt, None without a limit;
    `warning`: how long before it a cell is asked to save.

    check(folder, count)           InputError if it cannot run there; changes nothing
    adopt(folder)                  note what a submission that was killed did not
    submit(folder, name, cells, after)   those that were taken: all, or as many as there is room for. `after`: for some
                                   cells, the JOB_TASK that must succeed before
    files(folder, name, cells)     write what a submission would hand over (a dry run); their paths
    poll(tasks)                    what the scheduler says, {} where there is none; None: it does not answer
    cancel(folder, cells, tasks)   end what lives of these cells
    """

    check: Callable[[Path, int], None]
    adopt: Callable[[Path], None]
    submit: Callable[[Path, str, Sequence[str], Mapping[str, str]], Sequence[str]]
    files: Callable[[Path, str, Sequence[str]], list[Path]]
    poll: Callable[[Iterable[str]], Mapping[str, Task] | None]
    cancel: Callable[[Path, Sequence[str], Iterable[str]], None]
    at_once: int = 0
    gpus: int = 0  # of a cell
    limit: float | None = None
    warning: float = 0.0
    poll_s: float = 5.0
    requeues: int = 5
    most_queued: int = 0  # cells that may wait and run there at once, 0: no limit of ours
    here: bool = True  # whether this machine can ask the place: a dry run says so and goes on without
    by_task: bool = False  # a cell that waits needs the JOB_TASK of the other one: what it waits for is submitted first


def backend_of(settings: Mapping[str, Any]) -> Backend:
    """The place that the settings name. InputError if they are not its own."""
    path = str(settings.get("backend") or "launch.places.local.backend")
    module, _, name = path.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "must be the path of a function that gives a launch.places.backends.Backend"
        raise InputError("hydra.launcher.backend", path, remedy) from error
    made: Backend = make({key: value for key, value in settings.items() if key not in OURS})
    return made


def slurm(given: Mapping[str, Any]) -> Backend:
    """Arrays of Slurm. InputError for a setting that it does not have."""
    from launch.places import executor, nodes
    from launch.places import slurm as scheduler
    from launch.places import slurm_checks as cluster
    from launch.places.slurm_script import Settings
    from launch.sweep import files as records

    settings = Settings.of(given)

    def submit(folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> list[str]:
        free = [cell for cell in cells if cell not in after]
        bound = [cell for cell in cells if cell in after]
        try:
            asked = nodes.without_bad_nodes(folder, nodes.enough_memory(settings))
            taken = scheduler.submit(folder, name, free, asked) if free else []
            if bound and len(taken) == len(free):
                taken += scheduler.submit(folder, name, bound, asked, [after[cell] for cell in bound])
        except scheduler.Unreachable as error:
            raise unanswered(error, "try again later") from error
        return taken

    def files(folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        home, asked = folder / scheduler.FOLDER, settings
        most = max(1, len(cells))
        if cluster.installed():
            with suppress(scheduler.Unreachable):
                most, asked = scheduler.most_tasks(), nodes.enough_memory(settings)
        paths = []
        for i in range(0, len(cells), most):
            order = scheduler.prepare(folder, name, cells[i : i + most], asked, f"dry-run-{i // most}")
            paths.append(home / f"dry-run-{i // most}.sbatch")
            records.write_whole(paths[-1], executor.text(order))
        return paths

    def adopt(folder: Path) -> None:
        try:
            scheduler.adopt(folder)
        except scheduler.Unreachable as error:
            raise unanswered(error, "try again later") from error

    def poll(tasks: Iterable[str]) -> Mapping[str, Task] | None:
        said = scheduler.snapshot(tasks)
        return said.tasks if said.answered else None

    def cancel(folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
        try:
            scheduler.cancel(tasks)
        except scheduler.Unreachable as error:
            raise unanswered(error, "cancel again") from error

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
        warning=float(settings.signal_delay_s),
        poll_s=settings.poll_s,
        requeues=settings.requeues,
        most_queued=int(settings.most_queued),
        here=cluster.installed(),
        by_task=True,
    )


def unanswered(error: Exception, remedy: str) -> InputError:
    """A line for a controller that is away."""
    return InputError("launcher", "slurm", f"the controller does not answer ({error}); {remedy}")

"""Slurm as a place to run: a sweep's cells are the tasks of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from launch.places import Limits, slurm_checks, slurm_jobs, slurm_nodes, submitit_executor
from launch.places.slurm_jobs import Unreachable
from launch.places.slurm_script import Settings
from launch.sweep.states import Task
from zero.errors import InputError
from zero.files import write_atomically


@dataclass(frozen=True)
class Slurm:
    """A launch.places.Backend."""

    settings: Settings
    has_queue: bool = True
    server: ClassVar[str | None] = "launch.serving.job.run"

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Slurm:
        """InputError for a setting that Slurm's launcher does not have."""
        return cls(Settings.parse(settings))

    @property
    def limits(self) -> Limits:
        settings = self.settings
        return Limits(
            at_once=settings.array_parallelism,
            most_queued=settings.most_queued,
            gpus=settings.gpus,
            attempt_s=60.0 * settings.timeout_min,
            warning_s=float(settings.signal_delay_s),
            requeues=settings.requeues,
            poll_s=settings.poll_s,
        )

    @property
    def available(self) -> bool:
        return slurm_checks.installed()

    def check(self, folder: Path, count: int) -> None:
        slurm_checks.check(self.settings, folder, count)

    def adopt(self, folder: Path) -> None:
        with needs_answer("try again later"):
            slurm_jobs.adopt(folder)

    def submit(self, folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> list[str]:
        free = [cell for cell in cells if cell not in after]
        bound = [cell for cell in cells if cell in after]
        with needs_answer("try again later"):
            settings = slurm_nodes.exclude_bad_nodes(folder, slurm_nodes.with_enough_memory(self.settings))
            taken = slurm_jobs.submit(folder, name, free, settings) if free else []
            if bound and len(taken) == len(free):
                taken += slurm_jobs.submit(folder, name, bound, settings, [after[cell] for cell in bound])
        return taken

    def write_scripts(self, folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        """One file for each array; without a Slurm here, as if one array took all cells."""
        settings, size = self.settings, max(1, len(cells))
        if self.available:
            with suppress(Unreachable):
                size, settings = slurm_jobs.max_array_size(), slurm_nodes.with_enough_memory(settings)
        paths = []
        for number, first in enumerate(range(0, len(cells), size)):
            mark = f"dry-run-{number}"
            request = slurm_jobs.prepare_array(folder, name, cells[first : first + size], settings, mark)
            paths.append(folder / slurm_jobs.FOLDER / f"{mark}.sbatch")
            write_atomically(paths[-1], submitit_executor.batch_file(request))
        return paths

    def poll(self, tasks: Iterable[str]) -> Mapping[str, Task] | None:
        return slurm_jobs.snapshot(tasks)

    def cancel(self, folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
        with needs_answer("cancel again"):
            slurm_jobs.cancel(tasks)


@contextmanager
def needs_answer(remedy: str) -> Iterator[None]:
    """InputError if the controller does not answer inside."""
    try:
        yield
    except Unreachable as error:
        raise InputError("launcher", "slurm", f"the controller does not answer ({error}); {remedy}") from error

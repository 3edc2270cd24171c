"""Sweeps of tiny cells for the test cluster: made, submitted and awaited through the suite's own functions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.places import slurm_jobs
from launch.places.slurm_script import Settings
from launch.sweep import cells, files
from launch.sweep.compose import Bases
from tests.conftest import ROOT
from tests.integration.runs import SMALL

TINY = {"timeout_min": 10, "mem_gb": 1.5, "shared": True, "signal_delay_s": 20, "requeues": 8}
LAST = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "DEADLINE")
LONG = ["steps=60", "checkpoint.every=5", "evaluation.every=0", "benchmarks.limit=4"]


def settings(**more: Any) -> Settings:
    return Settings.parse({**TINY, **more})


def make(folder: Path, lines: Sequence[Sequence[str]]) -> list[str]:
    """A sweep of these cells, frozen as a submission would freeze it; its cells' names in order."""
    planned = [cells.make_cell(Bases("train"), [*SMALL, *line]) for line in lines]
    named = [cells.with_run_dir(replace(cell, name=f"c{i}"), folder, None) for i, cell in enumerate(planned)]
    folder.mkdir(parents=True, exist_ok=True)
    for top in ("zero", "conf", "launch"):
        shutil.copytree(
            ROOT / top, folder / files.CODE / top, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for cell in named:
        files.freeze_cell(folder, cell)
    files.write_sweep(folder, files.Sweep(folder.name, {cell.name: cell for cell in named}))
    return [cell.name for cell in named]


def submit(folder: Path, names: Sequence[str], **more: Any) -> list[str]:
    """One array; the JOB_TASK of each cell."""
    assert slurm_jobs.submit(folder, "test", names, settings(**more)) == list(names)
    tasks = files.task_ids(files.read_jobs(folder))
    return [tasks[name][-1] for name in names]


def until(
    fact: Callable[[], Any], limit: float = 480.0, every: float = 0.5, what: Callable[[], Any] = lambda: ""
) -> Any:
    """The first true value of `fact`."""
    end = time.monotonic() + limit
    while not (value := fact()):
        assert time.monotonic() < end, what()
        time.sleep(every)
    return value


def state(task: str) -> str:
    found_task = (slurm_jobs.snapshot([task]) or {}).get(task)
    return found_task.state if found_task else ""


def ended(task: str, folder: Path, limit: float = 480.0) -> str:
    """Slurm's last state of a task."""
    return str(until(lambda: (s := state(task)) in LAST and s, limit, what=lambda: all_logs(folder)))


def step(place: Path) -> int:
    """Steps in the journal; -1 before the first line."""
    try:
        return int(json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return -1


def reached(place: Path, number: int, limit: float = 360.0) -> None:
    until(lambda: step(place) >= number, limit, 0.2, lambda: all_logs(place))


def all_logs(place: Path) -> str:
    """All logs below a folder, for the message of an assertion."""
    paths = sorted([*place.rglob("*.out"), *place.rglob("attempts.jsonl"), *place.rglob("error.json")])
    queue = subprocess.run(["squeue", "-t", "all"], capture_output=True, text=True).stdout
    return "\n".join(f"--- {p}\n{p.read_text(errors='replace')[-2500:]}" for p in paths) + queue


def attempts(place: Path) -> list[Mapping[str, Any]]:
    return files.read_attempts(place)


def cluster(name: str, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [str(ROOT / "tests" / "slurm" / "cluster" / name), *words],
        text=True,
        capture_output=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def straight(folder: Path, line: Sequence[str]) -> Path:
    """The undisturbed run of a cell, in a process of its own and without Slurm."""
    names = make(folder, [line])
    done = subprocess.run(
        [sys.executable, "-m", "launch.sweep.attempt", str(folder), names[0]],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr + all_logs(folder)
    return folder / names[0]

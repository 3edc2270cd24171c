"""Queues that are full, nodes that are bad and a controller that is down, on a real Slurm. The cells are a line of shell."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from launch.places import queue, slurm_jobs, slurm_nodes
from launch.sweep import files
from tests.slurm.sweeps import all_logs, settings, state, until
from tests.slurm.users import STATUS, SUBMIT, cell, jobs, launcher_settings, queued, typed
from zero.paths import ROOT

pytestmark = pytest.mark.slurm
CLUSTER = {"ACCT": "none", "NODES": "3", "CPUS": "4", "MEM": "8192"}
Happened = dict[str, Future[Any]]
OVER = "RUNNING,PENDING,COMPLETING"


def toy(folder: Path, lines: str) -> str:
    """An interpreter that runs cells as these lines of shell, and everything else as usual."""
    program = folder.with_name(f"{folder.name}-python")
    cell = "launch.sweep.attempt"
    dispatch = f'case "$*" in *{cell}*--ended*) exit 0 ;; *{cell}*) ;; *) exec {sys.executable} "$@" ;; esac'
    program.write_text(f"#!/bin/bash\n{dispatch}\n{lines}\n")
    program.chmod(0o755)
    return str(program)


def submitted(folder: Path, count: int, **settings: object) -> list[str]:
    """A sweep of so many toy cells, followed until none is in the queue; the states of its tasks."""
    line = [*cell(f"seed=range(0,{count})"), *launcher_settings(folder, **{"mem_gb": 0.2} | settings)]
    done = typed(*SUBMIT, *line)
    assert done.code == 0, done
    until(lambda: not queued(folder.name, OVER), 120, what=lambda: all_logs(folder))
    return sorted(line.split()[1] for line in queued(folder.name))


def bad_node(folder: Path) -> list[str]:
    """Setup lines that fail at once on one of three nodes. Cells that fail side by side do not count each other."""
    setup = "['test $SLURMD_NODENAME != n1 || exit 3']"
    return submitted(folder, 24, python=toy(folder, "sleep 2"), setup=setup, array_parallelism=6)


def bad_everywhere(folder: Path) -> list[str]:
    return submitted(folder, 16, python=toy(folder, "exit 1"), array_parallelism=2)


def failing_fast(folder: Path) -> list[str]:
    return submitted(folder, 6, python=toy(folder, "exit 2"), array_parallelism=1, fail_fast="true")


def little_room(folder: Path) -> list[str]:
    return submitted(folder, 7, python=toy(folder, "sleep 1"), most_queued=2)


def controller_away(folder: Path) -> tuple[str, int]:
    """A cell saves and is to be queued again while squeue does not answer at first."""
    (folder / "c0").mkdir(parents=True)
    (folder / files.CODE).symlink_to(ROOT)
    away = folder / "squeue"
    away.write_text(f'#!/bin/sh\nmkdir {folder}/asked 2>/dev/null && exit 1\nexec {which("squeue")} "$@"\n')
    away.chmod(0o755)
    python = toy(folder, f"mkdir {folder}/saved 2>/dev/null && exit 75; exit 0")
    slurm_jobs.submit(folder, "away", ["c0"], settings(python=python, setup=(f"PATH={folder}:$PATH",), mem_gb=0.2))
    (task,) = (tasks[-1] for tasks in files.task_ids(files.read_jobs(folder)).values())
    until(lambda: state(task) == "COMPLETED", 150, what=lambda: all_logs(folder))
    return (folder / "c0" / "log" / "slurm.out").read_text(), slurm_jobs.snapshot([task])[task].restarts


def which(name: str) -> str:
    return subprocess.run(["which", name], check=True, capture_output=True, text=True).stdout.strip()


SCENARIOS = [bad_node, bad_everywhere, failing_fast, little_room, controller_away]


@pytest.fixture(scope="module")
def undisturbed() -> None:
    """There is no run to compare with: the cells are toys."""


def test_a_bad_node_is_left_out_and_fails_no_sweep(lab: Path, happened: Happened) -> None:
    words, folder = happened["bad_node"].result(), lab / "bad_node"
    assert 3 <= words.count("FAILED") <= 12 and words.count("COMPLETED") == 24 - words.count("FAILED"), all_logs(folder)
    assert list(slurm_nodes.bad_nodes(folder)) == ["n1"]
    table = typed(*STATUS, folder)
    assert table.code == 1 and "node n1 is left out" in table.out, table
    assert "Slurm: failed, NonZeroExitCode, exit 3" in table.out and " n1 " in table.out, table
    failed = next(
        task for task in slurm_jobs.queue({files.read_jobs(folder)[0].job}).items() if task[1].state == "FAILED"
    )[0]
    name = next(name for name, tasks in files.task_ids(files.read_jobs(folder)).items() if failed in tasks)
    logs = typed(*STATUS, folder, "logs", name)
    assert "exit 3 on n1 before the cell began" in logs.out, f"{logs}{all_logs(folder)}"
    assert slurm_nodes.exclude_bad_nodes(folder, settings(exclude="n9")).exclude == "n9,n1", "a retry goes elsewhere"


def test_a_sweep_that_fails_everywhere_is_halted(lab: Path, happened: Happened) -> None:
    words, folder = happened["bad_everywhere"].result(), lab / "bad_everywhere"
    assert 6 <= words.count("FAILED") <= 10 and "COMPLETED" not in words, all_logs(folder)
    assert "failed within a minute" in queue.halt_reason(folder) and slurm_nodes.bad_nodes(folder) == {}
    table = typed(*STATUS, folder)
    assert "halted: " in table.out and "cancelled in the scheduler" in table.out, table


def test_the_first_failure_halts_if_the_user_wants_that(lab: Path, happened: Happened) -> None:
    words, folder = happened["failing_fast"].result(), lab / "failing_fast"
    assert words.count("FAILED") == 1, all_logs(folder)
    assert "launcher.fail_fast" in queue.halt_reason(folder)


def test_cells_that_end_submit_those_that_had_no_room(lab: Path, happened: Happened) -> None:
    words, folder = happened["little_room"].result(), lab / "little_room"
    assert words == ["COMPLETED"] * 7 and not queue.read_unsubmitted(folder), all_logs(folder)
    assert next(len(names) for names in jobs(folder)) == 2 and sum(len(names) for names in jobs(folder)) == 7


def test_a_controller_that_is_down_for_a_while_strands_no_cell(happened: Happened) -> None:
    log, restarts = happened["controller_away"].result()
    assert restarts == 1 and "asks to be queued again" in log, log

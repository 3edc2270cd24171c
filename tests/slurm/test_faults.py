"""Faults of a cluster during a sweep, on a real Slurm without accounting. After each: the bits of an undisturbed run.

The scenarios (tests/slurm/faults.py) run side by side, each on nodes of its own where it would disturb others.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from launch.places import slurm_jobs
from launch.sweep import files
from tests.integration.runs import journal, reproducible, texts, weights
from tests.slurm.faults import NODES, SCENARIOS, restarts
from tests.slurm.sweeps import all_logs, attempts, settings
from zero.errors import EXIT_LEASE_LOST, EXIT_PREEMPTED
from zero.files import read_json

pytestmark = pytest.mark.slurm
CLUSTER = {"ACCT": "none", "NET": "netns", "NODES": str(NODES), "CPUS": "16", "MEM": "16384", "GRACE": "30"}
Happened = dict[str, Future[Any]]


def same(cell: Path, other: Path) -> None:
    assert reproducible(cell) == reproducible(other), all_logs(cell)
    assert weights(cell) == weights(other)
    assert texts(cell) == texts(other)


@pytest.mark.parametrize(
    "name", ["warned_by_the_user_signal", "preempted_without_grace", "preempted_by_cancel", "requeued_by_hand"]
)
def test_a_cell_that_loses_its_node_goes_on_to_the_same_bits(name: str, happened: Happened, undisturbed: Path) -> None:
    cell, word = happened[name].result()
    assert word == "COMPLETED", all_logs(cell)
    assert len(attempts(cell)) >= 2 and attempts(cell)[-1]["exit"] == 0
    if name in ("warned_by_the_user_signal", "preempted_by_cancel"):
        assert attempts(cell)[0]["exit"] == EXIT_PREEMPTED, all_logs(cell)
    same(cell, undisturbed)


def test_a_cell_goes_on_after_its_time_limit(happened: Happened, undisturbed: Path) -> None:
    cell, word = happened["time_limit"].result()
    assert word == "COMPLETED" and attempts(cell)[0]["exit"] == EXIT_PREEMPTED, all_logs(cell)
    same(cell, undisturbed)


@pytest.mark.parametrize("name", ["power_cut", "network_cut", "slurmd_dies"])
def test_of_two_copies_the_older_gives_way(name: str, happened: Happened, undisturbed: Path) -> None:
    cell, word = happened[name].result()
    assert word == "COMPLETED", all_logs(cell)
    first, *_, last = attempts(cell)
    assert first["host"] != last["host"] and last["exit"] == 0
    assert first.get("exit") == (None if name == "power_cut" else EXIT_LEASE_LOST), all_logs(cell)
    same(cell, undisturbed)


def test_a_cancelled_cell_stays_cancelled(happened: Happened) -> None:
    cell, word = happened["cancelled_while_running"].result()
    assert word == "CANCELLED" and len(attempts(cell)) == 1, all_logs(cell)
    cell, snapshot = happened["cancelled_while_pending"].result()
    assert snapshot is not None and not attempts(cell) and not any(t.state == "PENDING" for t in snapshot.values())


def test_a_failure_is_one_in_slurm_too_with_its_reason(happened: Happened) -> None:
    cell, word = happened["raises"].result()
    error = read_json(cell / files.ERROR)
    assert word == "FAILED" and error["exit"] == 1, all_logs(cell)
    assert "FileExistsError" in error["line"] and "Traceback" in error["traceback"]
    assert "FileExistsError" in files.log_path(cell, 1).read_text() and attempts(cell)[0]["exit"] == 1
    cell, word = happened["bad_input"].result()
    error = read_json(cell / files.ERROR)
    assert word == "FAILED" and error["exit"] == 2 and "model" in error["line"] and not error["traceback"], all_logs(
        cell
    )


def test_a_cell_killed_for_memory_finishes_with_more_of_it(happened: Happened, undisturbed: Path) -> None:
    cell, (killed, with_more) = happened["out_of_memory"].result()
    assert killed in ("FAILED", "OUT_OF_MEMORY", "CANCELLED") and with_more == "COMPLETED", all_logs(cell)
    same(cell, undisturbed)


def test_a_full_disk_costs_only_a_restart(happened: Happened, undisturbed: Path) -> None:
    cell, words, line = happened["full_disk"].result()
    assert words == "FAILED, then COMPLETED" and "no space left" in line, all_logs(cell)
    same(cell, undisturbed)


def test_a_stop_file_stops_until_it_is_gone(happened: Happened, undisturbed: Path) -> None:
    cell, (first, second, third, at) = happened["stopped_by_the_user"].result()
    assert (first, second, third) == ("FAILED", "FAILED", "COMPLETED"), all_logs(cell)  # 75 does not count as a success
    assert int(at) < journal(cell)[-1]["step"] and [a["exit"] for a in attempts(cell)] == [75, 0]
    same(cell, undisturbed)


def test_restarts_are_bounded(happened: Happened) -> None:
    cell, word = happened["too_many_restarts"].result()
    assert word == "FAILED" and "restarted 2 times" in read_json(cell / files.ERROR)["line"], all_logs(cell)


def test_every_attempt_runs_the_frozen_code(happened: Happened, undisturbed: Path) -> None:
    cell, word = happened["frozen_code"].result()
    assert word == "COMPLETED" and "the frozen copy runs" in files.log_path(cell, 1).read_text(), all_logs(cell)


def test_training_does_not_wait_for_mlflow(happened: Happened, undisturbed: Path) -> None:
    cell, word = happened["mlflow_is_down"].result()
    assert word == "COMPLETED", all_logs(cell)
    same(cell, undisturbed)


def test_two_nodes_of_two_ranks_each(happened: Happened) -> None:
    left_alone, requeued, words = happened["two_nodes"].result()
    assert words == ["COMPLETED", "COMPLETED"], all_logs(left_alone.parent)
    assert "rank 3 of 4" in (left_alone / "log" / "slurm.out").read_text()
    assert (
        len(attempts(requeued)) == 2
        and restarts(files.task_ids(files.read_jobs(requeued.parent))[requeued.name][-1]) == 1
    )
    same(requeued, left_alone)


def test_a_thousand_cells_are_submitted_and_asked_for_at_once(lab: Path, happened: Happened) -> None:
    folder = lab / "thousand"
    for name in SCENARIOS:
        happened[name.__name__].exception()  # a thousand jobs would slow the scheduler for the others
    names = [f"cell{i}" for i in range(1000)]
    began = time.monotonic()
    slurm_jobs.submit(folder, "thousand", names, settings(additional_parameters={"hold": True}, array_parallelism=60))
    jobs = files.read_jobs(folder)
    submitted = time.monotonic() - began
    tasks = files.task_ids(files.read_jobs(folder))
    began = time.monotonic()
    snapshot = slurm_jobs.snapshot(task for each in tasks.values() for task in each)
    seconds = time.monotonic() - began
    slurm_jobs.cancel(task for each in tasks.values() for task in each)
    assert len(jobs) == 3 and len(tasks) == 1000  # arrays of at most 401 tasks
    assert snapshot is not None and len(snapshot) == 1000
    print(f"1,000 cells submitted in {submitted:.2f} s, asked for in {seconds:.2f} s")

"""The state of a cell, from its files and the scheduler's answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.sweep import files, states
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Task
from zero.files import append_line

OLD, NEW = 100_000.0, 100_500.0  # before and after the scheduler's patience has run out
JOB = "7_0"


def task(state: str, reason: str = "") -> Task:
    return Task(state, "n1", reason)


def write_attempt(place: Path, job: str = JOB, exit_code: int | None = None, **more: Any) -> None:
    record = {"attempt": 1, "job": job, "restart": 0, "host": "n1", "pid": 1, "time": OLD} | more
    append_line(place / files.ATTEMPTS, record)
    if exit_code is not None:
        append_line(place / files.ATTEMPTS, {"attempt": 1, "end": True, "exit": exit_code, "time": OLD + 60})


def result(place: Path) -> None:
    (place / files.RESULT).write_text('{"status": "finished"}')


CASES: dict[str, tuple[Any, Task | None, float, str, bool]] = {
    # the cell's files, Slurm's answer, the time, state, alive
    "in the queue": (lambda p: None, task("PENDING", "Priority"), NEW, "pending", True),
    "starts": (lambda p: None, task("RUNNING"), NEW, "running", True),
    "runs": (lambda p: write_attempt(p), task("RUNNING"), NEW, "running", True),
    "queued again": (lambda p: write_attempt(p, exit_code=75), task("PENDING", "BeginTime"), NEW, "preempted", True),
    "queued again, killed": (lambda p: write_attempt(p), task("REQUEUED"), NEW, "preempted", True),
    "failed": (lambda p: write_attempt(p, exit_code=1), task("FAILED"), NEW, "failed", False),
    "failed, no accounting": (lambda p: write_attempt(p, exit_code=1), None, NEW, "failed", False),
    "bad input": (lambda p: write_attempt(p, exit_code=2), None, NEW, "failed", False),
    "finished, Slurm says failed": (lambda p: (write_attempt(p), result(p)), task("FAILED"), NEW, "finished", False),
    "finished while Slurm still knows it": (lambda p: (write_attempt(p), result(p)), task("COMPLETING"), NEW, "finished", False),
    "killed for memory": (lambda p: write_attempt(p), task("OUT_OF_MEMORY"), NEW, "failed", False),
    "its time ran out": (lambda p: write_attempt(p), task("TIMEOUT"), NEW, "preempted", False),
    "pre-empted for good": (lambda p: write_attempt(p), task("PREEMPTED"), NEW, "preempted", False),
    "node gone for good": (lambda p: write_attempt(p), task("NODE_FAIL"), NEW, "preempted", False),
    "scancel, running": (lambda p: write_attempt(p), task("CANCELLED by 0"), NEW, "cancelled", False),
    "scancel, pending, accounting": (lambda p: None, task("CANCELLED"), NEW, "cancelled", False),
    "scancel, pending, no record": (lambda p: None, None, NEW, "lost", False),
    "just submitted": (lambda p: None, None, OLD + 5, "pending", True),
    "runs, the queue is slow": (lambda p: write_attempt(p), None, OLD + 5, "running", True),
    "gone without a word": (lambda p: write_attempt(p), None, NEW, "lost", False),
    "saved, never queued again": (lambda p: write_attempt(p, exit_code=75), None, NEW, "preempted", False),
    "lease lost to another copy": (lambda p: write_attempt(p, exit_code=76), task("RUNNING"), NEW, "running", True),
    "stopped by its user": (
        lambda p: (write_attempt(p, exit_code=75), files.ask_to_stop(p, "asked")), None, NEW, "stopped", False,
    ),
    "cancelled by its user": (
        lambda p: (write_attempt(p, exit_code=75), (p / files.CANCELLED).touch()), None, NEW, "cancelled", False,
    ),
    "cancelled by its user, still dying": (
        lambda p: (write_attempt(p), (p / files.CANCELLED).touch()), task("COMPLETING"), NEW, "running", True,
    ),
    "its folder was deleted": (lambda p: p.rmdir(), task("COMPLETED"), NEW, "waiting", False),
    "its files were deleted": (lambda p: None, task("COMPLETED"), NEW, "waiting", False),
    "ended well, no result": (lambda p: write_attempt(p, exit_code=0), None, NEW, "failed", False),
    "an older job's end, a new one waits": (
        lambda p: write_attempt(p, job="6_0", exit_code=1), task("PENDING"), NEW, "pending", True,
    ),
    "an older job's end, a new one just submitted": (
        lambda p: write_attempt(p, job="6_0", exit_code=1), None, OLD + 5, "pending", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("write", "word", "now", "state", "live"), CASES.values(), ids=CASES)
def test_the_state_of_a_cell(tmp_path: Path, write: Any, word: Task | None, now: float, state: str, live: bool) -> None:
    place = tmp_path / "c"
    place.mkdir()
    write(place)
    append_line(tmp_path / files.JOBS, {"job": "7", "cells": ["c"], "time": OLD})
    status = states.read_statuses(tmp_path, sweep_of(Cell("c", "train", (), {}, "")), {JOB: word} if word else {}, now)[
        "c"
    ]
    assert (status.state, status.live) == (state, live)


def sweep_of(*cells: Cell) -> Sweep:
    return Sweep("s", {cell.name: cell for cell in cells})


def test_a_scheduler_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    write_attempt(tmp_path / "c")
    append_line(tmp_path / files.JOBS, {"job": "7", "cells": ["c"], "time": OLD})
    sweep = sweep_of(Cell("c", "train", (), {}, ""))
    assert states.read_statuses(tmp_path, sweep, None, NEW * 2)["c"].state == "running"
    assert states.read_statuses(tmp_path, sweep, {}, NEW * 2)["c"].state == "lost"


def test_without_a_scheduler_the_process_decides(tmp_path: Path) -> None:
    place = tmp_path / "my-cell"
    place.mkdir()
    cell = Cell("my-cell", "train", (), {}, "")
    assert states.read_statuses(tmp_path, sweep_of(cell), {})["my-cell"].state == "pending"
    words = [sys.executable, "-c", "import time; time.sleep(60)", "launch.sweep.attempt", str(tmp_path), "my-cell"]
    sleeper = subprocess.Popen(words)
    try:
        write_attempt(place, job="", host=socket.gethostname(), pid=sleeper.pid)
        assert states.read_statuses(tmp_path, sweep_of(cell), {})["my-cell"].live
        # another path to the sweep; another sweep with a cell of that name
        linked, other = tmp_path / "linked", tmp_path / "other"
        linked.symlink_to(tmp_path)
        assert states.read_statuses(linked, sweep_of(cell), {})["my-cell"].live
        (other / "my-cell").mkdir(parents=True)
        write_attempt(other / "my-cell", job="", host=socket.gethostname(), pid=sleeper.pid)
        assert states.read_statuses(other, sweep_of(cell), {})["my-cell"].state == "lost"
    finally:
        sleeper.kill()
        sleeper.wait()
    status = states.read_statuses(tmp_path, sweep_of(cell), {})["my-cell"]
    assert (status.state, status.live) == ("lost", False)
    (place / files.ATTEMPTS).unlink()
    # its number belongs to another process now
    write_attempt(place, job="", host=socket.gethostname(), pid=os.getpid())
    assert states.read_statuses(tmp_path, sweep_of(cell), {})["my-cell"].state == "lost"


def test_a_pipe_in_a_cell_is_not_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "my-cell"
    place.mkdir()
    for name in ("metrics.jsonl", files.ATTEMPTS, files.RESULT):
        os.mkfifo(place / name)
    cell = Cell("my-cell", "train", (), {}, "")
    assert states.read_statuses(tmp_path, sweep_of(cell), {})["my-cell"].state == "pending"


def test_a_waiting_cell_names_the_cell_it_waits_for(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = Cell("a", "train", (), {}, ""), Cell("b", "evaluate", (), {}, "", after="a")
    sweep = sweep_of(first, second)
    assert states.read_statuses(tmp_path, sweep, {})["b"].state == "waiting"
    write_attempt(tmp_path / "a", job="", exit_code=1)
    assert states.read_statuses(tmp_path, sweep, {})["b"].line == "for a failed"
    result(tmp_path / "a")
    assert states.read_statuses(tmp_path, sweep, {})["b"].state == "pending"
    # Slurm cancels a job whose dependency can no longer be met; no user cancelled it
    append_line(tmp_path / files.JOBS, {"job": "7", "cells": ["b"], "time": OLD})
    status = states.read_statuses(tmp_path, sweep, {JOB: task("CANCELLED")}, NEW)["b"]
    assert (status.state, status.line, status.live) == ("waiting", "in no queue yet", False)


def test_numbers_come_from_the_end_of_the_journal(tmp_path: Path) -> None:
    place = tmp_path / "c"
    place.mkdir()
    write_attempt(place, job="", host="elsewhere", time=NEW)
    lines = [
        {"step": i, "train/reward": i / 10, "length/mean": 50.0 + i, "time/step": 2.0, "x": "y" * 900}
        for i in range(100)
    ]
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    (place / "metrics.jsonl").write_text(journal + '{"step": 100, "train/rew')  # torn by a kill
    os.utime(place / "metrics.jsonl", (NEW, NEW))
    status = states.read_statuses(tmp_path, sweep_of(Cell("c", "train", (), {}, "", steps=110)), {}, NEW)["c"]
    assert (status.state, status.step, status.reward, status.length, status.eta) == ("running", 99, 9.9, 149.0, 22.0)
    assert status.node == "elsewhere"


def test_a_cell_that_never_began_has_slurms_node_and_reason(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    append_line(tmp_path / files.JOBS, {"job": "7", "cells": ["c"], "time": OLD})
    sweep = sweep_of(Cell("c", "train", (), {}, ""))
    status = states.read_statuses(tmp_path, sweep, {JOB: task("FAILED", "NonZeroExitCode")}, NEW)["c"]
    assert (status.node, status.line) == ("n1", "Slurm: failed, NonZeroExitCode; see `logs`")
    status = states.read_statuses(tmp_path, sweep, {JOB: task("OUT_OF_MEMORY", "OutOfMemory")}, NEW)["c"]
    assert "raise launcher.mem_gb" in status.line
    assert states.read_statuses(tmp_path, sweep, None, NEW)["c"].line == "the scheduler does not answer"


def test_the_reason_of_a_failure_is_its_own(tmp_path: Path) -> None:
    place = tmp_path / "c"
    place.mkdir()
    write_attempt(place, exit_code=1)
    files.write_error(place, 1, 1, "ValueError: no", "Traceback ...")
    assert states.read_statuses(tmp_path, sweep_of(Cell("c", "train", (), {}, "")), {})["c"].line == "ValueError: no"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (None, ["a-s0", "a-s1", "b-s0"]), ("algo=a", ["a-s0", "a-s1"]), ("algo=a|b,seed=0", ["a-s0", "b-s0"]),
        ("a", ["a-s0", "a-s1"]), ("a-s", []), ("*a-s*", ["a-s0", "a-s1"]),
        ("s0", ["a-s0", "b-s0"]), ("b-s0", ["b-s0"]), ("algo=c", []), ("lr=1e-6", ["b-s0"]), ("nothing=1", []),
    ],
)  # fmt: skip
def test_patterns_are_on_axes_and_names(pattern: str | None, names: list[str]) -> None:
    values = [("a", "0", "1"), ("a", "1", "1"), ("b", "0", "1e-06")]
    cells = [Cell(f"{a}-s{s}", "train", (), {}, "", {"algo": a, "seed": s, "lr": lr}) for a, s, lr in values]
    assert states.select_cells(sweep_of(*cells), pattern) == names


def test_missing_cells_are_the_wanted_ones_that_are_not_alive() -> None:
    cells = [Cell(n, "train", (), {}, "", wanted=n != "d") for n in "abcd"]
    statuses = {
        n: states.Status(n, s, live, 0)
        for n, s, live in [
            ("a", "pending", False),
            ("b", "pending", True),
            ("c", "failed", False),
            ("d", "pending", False),
        ]
    }
    assert states.missing_cells(sweep_of(*cells), statuses, ["pending"]) == ["a"]
    assert states.missing_cells(sweep_of(*cells), statuses, ["pending", "failed"]) == ["a", "c"]


def test_a_thousand_cells_are_read_in_three_seconds(tmp_path: Path) -> None:
    cells = [Cell(f"c{i}", "train", (), {}, "", steps=100) for i in range(1000)]
    lines = "".join(
        json.dumps({"step": i, "train/reward": 0.5, "time/step": 1.0} | {f"m/{k}": 0.1 for k in range(40)}) + "\n"
        for i in range(30)
    )
    for i, cell in enumerate(cells):
        place = tmp_path / cell.name
        place.mkdir()
        (place / files.ATTEMPTS).write_text(
            json.dumps({"attempt": 1, "job": f"7_{i}", "restart": 0, "host": "n", "pid": 1, "time": OLD}) + "\n"
        )
        (place / "metrics.jsonl").write_text(lines)
    append_line(tmp_path / files.JOBS, {"job": "7", "cells": [cell.name for cell in cells], "time": OLD})
    tasks = {f"7_{i}": task("RUNNING") for i in range(1000)}
    began = time.process_time()  # of this process alone: the machine may be busy
    statuses = states.read_statuses(tmp_path, sweep_of(*cells), tasks, NEW)
    assert time.process_time() - began < 3
    assert {status.step for status in statuses.values()} == {29} and len(statuses) == 1000


def test_polling_again_reads_only_what_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["done", "runs", "queued", "starts", "cancelled", "waits"]
    cells = {name: Cell(name, "train", (), {}, "", after="runs" if name == "waits" else None) for name in names}
    sweep, tasks = Sweep("s", cells), {f"7_{i}": task("PENDING", "Priority") for i in range(6)}
    for name in names:
        (tmp_path / name).mkdir()
    files.add_job(tmp_path, "7", names, {})
    write_attempt(tmp_path / "runs", "7_1")
    result(tmp_path / "done")
    first = states.read_statuses(tmp_path, sweep, tasks | {"7_1": task("RUNNING")}, NEW)
    assert [status.state for status in first.values()] == ["finished", "running", *["pending"] * 3, "waiting"]
    later_tasks = tasks | {
        "7_1": task("COMPLETED"),
        "7_3": task("RUNNING"),
        "7_4": task("CANCELLED"),
        "7_2": task("PENDING", "x"),
    }
    result(tmp_path / "runs")
    write_attempt(tmp_path / "starts", "7_3")
    fresh, read, whole = states.read_statuses(tmp_path, sweep, later_tasks, NEW + 9), list[str](), files.read_attempts
    monkeypatch.setattr(files, "read_attempts", lambda place: read.append(place.name) or whole(place))
    assert states.read_statuses(tmp_path, sweep, later_tasks, NEW + 9, before=first) == fresh
    assert read == ["runs", "starts", "cancelled"] and fresh["queued"].line == "x" and fresh["waits"].state == "pending"

"""Faults of cells on the test cluster: one function each, which returns what it saw of its cell. All run side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from launch.places import slurm_jobs
from launch.sweep import files
from launch.sweep.states import Task
from tests.slurm.sweeps import LAST, LONG, all_logs, attempts, ended, make, reached, state, step, submit, until
from zero.files import read_json

NODES = 12
TWO = ["steps=4", "checkpoint.every=1", "evaluation.every=2", "optimizer.warmup=1"]  # 4 ranks on 2 cores: few steps


def only(*nodes: int) -> dict[str, str]:
    """Settings that keep a cell on one of these nodes: with nodelist it would get all of them."""
    return {"exclude": ",".join(f"n{i}" for i in range(1, NODES + 1) if i not in nodes)}


def one(folder: Path, *line: str, **more: Any) -> tuple[Path, str]:
    """A sweep of one cell, submitted: the cell's folder and its JOB_TASK."""
    (name,) = make(folder, [[*LONG, *line]])
    (task,) = submit(folder, [name], **({} if {"exclude", "nodelist"} & more.keys() else only(1)) | more)
    return folder / name, task


def restarts(task: str) -> int:
    return slurm_jobs.snapshot([task])[task].restarts


def preempted(folder: Path, partition: str, node: int) -> tuple[Path, str]:
    """A job of a higher tier wants the whole node while the cell runs."""
    cell, task = one(folder, partition=partition, nodelist=f"n{node}")
    reached(cell, 3)
    with slowed(cell, task):
        subprocess.run(
            ["sbatch", "-p", "gpu", "-w", f"n{node}", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5"], check=True
        )
    return cell, ended(task, folder)


def warned_by_the_user_signal(folder: Path) -> tuple[Path, str]:
    return preempted(folder, "preempt", 2)


def preempted_without_grace(folder: Path) -> tuple[Path, str]:
    return preempted(folder, "sudden", 3)


def preempted_by_cancel(folder: Path) -> tuple[Path, str]:
    return preempted(folder, "cancel", 4)


def time_limit(folder: Path) -> tuple[Path, str]:
    """Warned when Slurm first checks the time limit, every 30 s; the second attempt has enough time.

    A minute and more lies between the warning and the limit: beside all other cells the evaluation before step 0 takes long.
    """
    cell, task = one(folder, timeout_min=2, signal_delay_s=100)
    reached(cell, 3)
    with slowed(cell, task):
        pass  # Slurm warns it
    subprocess.run(["scontrol", "update", f"JobId={task}", "TimeLimit=30"], check=True)
    return cell, ended(task, folder)


def requeued_by_hand(folder: Path) -> tuple[Path, str]:
    cell, task = one(folder)
    reached(cell, 3)
    with slowed(cell, task):
        slurm_jobs.call_per_job(["scontrol", "requeue"], [task])
    return cell, ended(task, folder)


def cancelled_while_running(folder: Path) -> tuple[Path, str]:
    cell, task = one(folder)
    reached(cell, 3)
    with slowed(cell, task):
        slurm_jobs.cancel([task])
    word = ended(task, folder)
    time.sleep(8)  # a batch script that requeued it would have by now
    return cell, word if state(task) == word else f"{word}, then {state(task)}"


def cancelled_while_pending(folder: Path) -> tuple[Path, dict[str, Task] | None]:
    cell, task = one(folder, additional_parameters={"hold": True})
    assert slurm_jobs.snapshot([task])[task].state == "PENDING"
    slurm_jobs.cancel([task])
    return cell, slurm_jobs.snapshot([task])


def raises(folder: Path) -> tuple[Path, str]:
    (name,) = make(folder, [LONG])
    (folder / name / "completions").write_text("no folder")
    (task,) = submit(folder, [name], **only(1))
    return folder / name, ended(task, folder)


def bad_input(folder: Path) -> tuple[Path, str]:
    (name,) = make(folder, [[*LONG, "prompts=4"]])
    frozen = json.loads((folder / name / files.CELL).read_text())
    frozen["config"]["model"]["path"] = str(folder / "gone")
    (folder / name / files.CELL).write_text(json.dumps(frozen))
    (task,) = submit(folder, [name], **only(1))
    return folder / name, ended(task, folder)


def out_of_memory(folder: Path) -> tuple[Path, list[str]]:
    cell, task = one(folder, mem_gb=0.2)
    words = [ended(task, folder)]
    if files.finished(cell):
        words.append("finished all the same")
    (task,) = submit(folder, [cell.name], **only(1))
    return cell, [*words, ended(task, folder)]


def full_disk(folder: Path) -> tuple[Path, str, str]:
    (name,) = make(folder, [LONG])
    small = folder / name / "checkpoints"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "full", str(small)], check=True)
    try:
        (task,) = submit(folder, [name], **only(1))
        first = ended(task, folder)
        line = str(read_json(folder / name / files.ERROR).get("line"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        (task,) = submit(folder, [name], **only(1))
        return folder / name, f"{first}, then {ended(task, folder)}", line
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def stopped_by_the_user(folder: Path) -> tuple[Path, list[str]]:
    cell, task = one(folder)
    reached(cell, 3)
    with slowed(cell, task):
        files.ask_to_stop(cell, "by hand")
    words = [ended(task, folder)]
    (task,) = submit(folder, [cell.name], **only(1))
    words.append(ended(task, folder))
    at = step(cell)
    files.clear_stop(cell)
    (task,) = submit(folder, [cell.name], **only(1))
    return cell, [*words, ended(task, folder), str(at)]


def too_many_restarts(folder: Path) -> tuple[Path, str]:
    cell, task = one(folder, requeues=1)
    for i in (1, 2):
        until(lambda i=i: len(attempts(cell)) == i, what=lambda: all_logs(folder))
        time.sleep(2)
        slurm_jobs.call_per_job(["scontrol", "requeue"], [task])
    return cell, ended(task, folder)


def frozen_code(folder: Path) -> tuple[Path, str]:
    (name,) = make(folder, [LONG])
    with (folder / files.CODE / "zero" / "train.py").open("a") as file:
        file.write('\nprint("the frozen copy runs")\n')
    (task,) = submit(folder, [name], **only(1))
    return folder / name, ended(task, folder)


def mlflow_is_down(folder: Path) -> tuple[Path, str]:
    (name,) = make(folder, [LONG])
    frozen = json.loads((folder / name / files.CELL).read_text())
    tracker = {"_target_": "zero.tracking.mlflow.MlflowTracker", "_partial_": True, "uri": "http://127.0.0.1:9"}
    frozen["config"]["tracker"] |= tracker
    (folder / name / files.CELL).write_text(json.dumps(frozen))
    (task,) = submit(folder, [name], **only(1))
    return folder / name, ended(task, folder)


def power_cut(folder: Path) -> tuple[Path, str]:
    return node_fault(folder, (5, 6), lambda node: node_sh("kill", node), lambda node: None)


def network_cut(folder: Path) -> tuple[Path, str]:
    def link(node: str, how: str) -> None:
        subprocess.run(["ip", "link", "set", f"slab{node[1:]}", how], check=True)

    return node_fault(folder, (7, 8), lambda node: link(node, "down"), lambda node: link(node, "up"))


def slurmd_dies(folder: Path) -> tuple[Path, str]:
    return node_fault(folder, (9, 10), lambda node: node_sh("stop", node), lambda node: None)


def node_sh(how: str, node: str) -> None:
    subprocess.run([f"{os.environ['LAB']}/node.sh", how, node], check=True)


def node_fault(
    folder: Path, nodes: Sequence[int], fault: Callable[[str], None], mend: Callable[[str], None]
) -> tuple[Path, str]:
    """The node that the cell runs on fails in some way; another node is free."""
    cell, task = one(folder, **only(*nodes))
    reached(cell, 3)
    node = slurm_jobs.snapshot([task])[task].node
    with slowed(cell, task):
        fault(node)
    word = ended(task, folder, 600)
    if len(open_ends(cell)) > 1:
        until(lambda: len(open_ends(cell)) <= 1, 60, what=lambda: all_logs(folder))
    mend(node)
    return cell, word


@contextmanager
def slowed(cell: Path, task: str) -> Iterator[None]:
    """Until the cell has been started again, or has ended, its process runs a twentieth of the time: else it would be done before
    Slurm does anything on a fast machine."""
    pid, over = attempts(cell)[-1]["pid"], threading.Event()

    def hold_back() -> None:
        with suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(1.9)
                os.kill(pid, signal.SIGCONT)
                over.wait(0.1)

    thread = threading.Thread(target=hold_back)
    thread.start()
    try:
        yield
        until(lambda: len(attempts(cell)) > 1 or state(task) in LAST, 600, what=lambda: all_logs(cell))
    finally:
        over.set()
        thread.join()


def open_ends(cell: Path) -> list[Any]:
    return [a for a in attempts(cell) if "exit" not in a]


def two_nodes(folder: Path) -> tuple[Path, Path, list[str]]:
    names = make(folder, [[*LONG, *TWO], [*LONG, *TWO, "checkpoint.keep=3"]])
    # one after the other: eight processes at once on two cores would run into each other's timeouts
    placement = {"nodes": 2, "tasks_per_node": 2, "mem_gb": 3, **only(11, 12)}
    (first,) = submit(folder, names[:1], **placement)
    words = [ended(first, folder, 600)]
    (second,) = submit(folder, names[1:], **placement)
    reached(folder / names[1], 1, 300)
    slurm_jobs.call_per_job(["scontrol", "requeue"], [second])
    return folder / names[0], folder / names[1], [*words, ended(second, folder, 600)]


SCENARIOS = [
    time_limit,
    power_cut,
    network_cut,
    slurmd_dies,
    warned_by_the_user_signal,
    preempted_without_grace,
    preempted_by_cancel,
    requeued_by_hand,
    cancelled_while_running,
    cancelled_while_pending,
    raises,
    bad_input,
    out_of_memory,
    stopped_by_the_user,
    too_many_restarts,
    frozen_code,
    mlflow_is_down,
    full_disk,
    two_nodes,
]

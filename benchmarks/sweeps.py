"""make benchmark-sweep: what a sweep of 1,000 and of 10,000 cells asks of the machine that submits and watches it.

A folder as it stands in the middle of such a sweep is written: a third of the cells finished, a third running with a
journal of 200 steps, a third in the queue; the scheduler's answer is given. Each figure comes from a process of its own, so
that the peak of memory is its own too. `opens` counts files opened, the cost on a shared file system.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from launch.sweep import files, states
from launch.sweep.cells import plan, with_run_dir
from launch.sweep.states import Task
from launch.sync import sync

SIZES = (100, 1000, 10000)
JOURNAL = 200  # lines of some 1,100 bytes each, as a run of 200 steps leaves them
LINE = {f"metric/{i}": 0.123456789 for i in range(40)} | {"train/reward": 0.5, "length/mean": 40.0, "time/step": 1.0}


def plan_sweep(size: int) -> files.Sweep:
    cells = plan(
        [
            "algo=grpo,drgrpo",
            "template=none,qwen_math",
            "questions=nano_math,nano_gsm",
            f"seed=range(0,{size // 8 + 1})",
        ],
        grid=None,
        evaluate=None,
        smoke=False,
        root="train",
    ).cells
    return files.Sweep("big", dict(list(cells.items())[:size]), id="big")


def write_sweep_folder(folder: Path, size: int) -> None:
    """The files of a submission, and what the first two thirds of the cells have written since."""
    wanted = plan_sweep(size)
    cells = {name: with_run_dir(cell, folder, None) for name, cell in wanted.cells.items()}
    began = time.perf_counter()
    for cell in cells.values():
        files.freeze_cell(folder, cell)
    files.write_sweep(folder, replace(wanted, cells=cells))
    print(f"{size:6} cells written  {time.perf_counter() - began:7.2f} s")
    journal = "".join(json.dumps({"step": i, **LINE}) + "\n" for i in range(1, JOURNAL + 1))
    names = list(cells)
    files.add_job(folder, "7", names, {})
    for name in names[: 2 * size // 3]:
        place = folder / name
        attempt = files.begin_attempt(place, "7_0", 0)
        (place / "metrics.jsonl").write_text(journal)
        if name in set(names[: size // 3]):
            files.end_attempt(place, attempt, 0)
            (place / "result.json").write_text(json.dumps({"status": "finished"}))


def measure(kind: str, size: int, folder: Path) -> None:
    """One line: the time of one kind of work, the memory of this process, the files that it opened. `again`: a second look."""
    opened: list[object] = []
    sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
    if kind == "plan":
        began, cpu, planned_ = time.perf_counter(), time.process_time(), plan_sweep(size)
        assert len(planned_.cells) == size
        opens = ""
    else:
        read = files.read_sweep(folder)
        pending = Task("PENDING", reason="Resources")
        queue = {f"7_{i}": Task("RUNNING") if i < 2 * size // 3 else pending for i in range(size // 3, size)}
        first = states.read_statuses(folder, read, queue) if kind == "again" else None
        before, began, cpu = len(opened), time.perf_counter(), time.process_time()
        statuses = states.read_statuses(folder, read, queue, before=first)
        assert (
            sum(status.state == states.FINISHED for status in statuses.values()) == size // 3 and len(statuses) == size
        )
        opens = f"{(len(opened) - before) / size:5.1f} opens a cell"
    if kind == "sync":
        began, cpu = time.perf_counter(), time.process_time()
        sent, failed = sync(folder, read, statuses, f"sqlite:///{folder / 'mlflow.db'}")
        assert sent == 2 * size // 3 and not failed
        opens = f"{sent} cells of {JOURNAL} steps sent to MLflow"
    spent, busy = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size:6} cells {kind:7} {spent:8.2f} s  {busy:7.2f} CPU-s  {peak:5.0f} MiB  {opens}")


def main() -> None:
    """Everything; with arguments, one measurement, in this process."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        return
    for size in SIZES:
        with TemporaryDirectory() as home:
            folder = Path(home) / "big"
            write_sweep_folder(folder, size)
            for kind in ("plan", "states", "again", *(["sync"] if size == SIZES[0] else [])):
                line = [sys.executable, "-m", "benchmarks.sweeps", kind, str(size), str(folder)]
                print(subprocess.run(line, text=True, capture_output=True, check=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()

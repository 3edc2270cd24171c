"""python -m benchmarks.sandbox: short foreign programs judged per second, and where their time goes.

`--programs`, `--workers`, `--level`. CPU seconds are those of everything: this process, the fork server, every program.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from zero.errors import ArgumentParser
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Execution, Level, Task

SUM = "n = int(input())\nprint(sum(i * i for i in range(n)))"
SORT = "def f(a):\n    return sorted(a)"
WORKLOADS = {
    "script, one input": Task("script", SUM, stdin=b"100\n"),
    "solution, three tests": Task(
        "solution",
        SORT,
        names=("f",),
        tests=("assert f([3, 1]) == [1, 3]", "assert f([]) == []", "assert f([2]) == [2]"),
    ),
}


def _right(execution: Execution) -> bool:
    return execution.ending is Ending.FINISHED and (
        execution.output == b"328350\n" or all(execution.passed or (False,))
    )


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(name: str, task: Task, programs: int, workers: int, level: Level) -> str:
    """One row: throughput with several at once, then the latency of one after another."""
    one_by_one = max(20, programs // 5)
    sandbox = Sandbox(level, workers)
    sandbox.run([task])
    cpu, began = _cpu_s(), time.perf_counter()
    executions = sandbox.run([task] * programs)
    wall = time.perf_counter() - began
    assert all(map(_right, executions)), executions[0]
    latencies = []
    for _ in range(one_by_one):
        began = time.perf_counter()
        sandbox.run([task])
        latencies.append(1000 * (time.perf_counter() - began))
    sandbox.close()  # its server's seconds, and those of its programs, count from now on
    each = 1000 * (_cpu_s() - cpu) / (programs + one_by_one)
    inside = 1000 * statistics.mean(execution.cpu_s for execution in executions)
    p95 = statistics.quantiles(latencies, n=20)[-1]
    return (
        f"| {name} | {programs / wall:.0f} | {1000 / each:.0f} | {each:.1f} | {inside:.1f} | "
        f"{statistics.median(latencies):.1f} | {p95:.1f} |"
    )


def cold(programs: int) -> str:
    """What a fresh interpreter costs, without any sandbox: what the warm one is to be compared with."""
    interpreter = os.path.realpath(sys.executable)
    cpu, began = _cpu_s(), time.perf_counter()
    latencies = []
    for _ in range(programs):
        start = time.perf_counter()
        subprocess.run([interpreter, "-I", "-S", "-c", SUM], input=b"100\n", capture_output=True, check=True)
        latencies.append(1000 * (time.perf_counter() - start))
    wall, each = time.perf_counter() - began, 1000 * (_cpu_s() - cpu) / programs
    p95 = statistics.quantiles(latencies, n=20)[-1]
    return (
        f"| a fresh interpreter, no sandbox, one at a time | {programs / wall:.0f} | {1000 / each:.0f} | {each:.1f} | | "
        f"{statistics.median(latencies):.1f} | {p95:.1f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table."""
    parser = ArgumentParser(prog="python -m benchmarks.sandbox", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--programs", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--level", type=Level, default=Level.FULL, choices=list(Level))
    options = parser.parse_args(arguments)
    print(
        f"{options.programs} programs, {options.workers} at once, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print("| workload | per second | per CPU second | CPU ms each | of which inside | ms one alone, median | p95 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, task in WORKLOADS.items():
        print(measure(name, task, options.programs, options.workers, options.level))
    print(cold(min(options.programs, 100)))


if __name__ == "__main__":
    main()

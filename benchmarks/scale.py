"""make benchmark-scale: our step on W2's shape as the step grows from 1,000 to 256,000 tokens, and on one and two processes.

    python -m benchmarks.scale [--tokens 1024,4096,16384] [--processes 1,2]

Each line is a run of its own. The step is linear if CPU seconds for a thousand tokens stay the same. Efficiency: the clock's
seconds of one process over those of n processes, over n; it holds on a machine that has n idle cores, and nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.workloads import WORKLOADS, Workload, make
from zero.errors import ArgumentParser

TOKENS = (1024, 4096, 16384, 65536, 262144)  # generated in a step; the update has the prompts' too
ALIKE = 16384  # tokens of the step that several processes share


def workload_of(tokens: int) -> Workload:
    """W2 with so many tokens a step."""
    workload = WORKLOADS["W2"]
    return replace(
        workload,
        name=f"W2-{tokens}",
        prompts=max(1, tokens // (workload.group * workload.tokens)),
        steps=2 if tokens <= ALIKE else 1,
    )


def measure(workload: Workload, processes: int = 1) -> dict[str, float]:
    """What side.py reports of ours."""
    with tempfile.TemporaryDirectory() as home:
        make(workload, Path(home) / "w")
        start = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        )
        line = [sys.executable, *start, "-m", "benchmarks.side", "ours", str(Path(home) / "w")]
        done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between."""
    each = tuple(map(int, text.split(",")))
    if min(each) < 1:
        raise argparse.ArgumentTypeError("counts begin at 1")
    return each


def main(arguments: Sequence[str]) -> None:
    """Print both tables."""
    parser = ArgumentParser("python -m benchmarks.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=counts, default=TOKENS, help="of a step, such as 1024,4096")
    parser.add_argument("--processes", type=counts, default=(1, 2), help="to share a step, such as 1,2")
    options = parser.parse_args(arguments)
    print(f"{'tokens a step':>14}{'CPU-s a step':>14}{'per 1,000':>11}{'generation':>12}{'training':>10}{'peak GB':>9}")
    for tokens in options.tokens:
        workload = workload_of(tokens)
        result = measure(workload)
        each = {key: result[key] / result["tokens"] * 1000 for key in ("cpu", "generation", "training")}
        print(
            f"{result['tokens'] / workload.steps:14,.0f}{result['cpu'] / workload.steps:14.2f}{each['cpu']:11.3f}"
            f"{each['generation']:12.3f}{each['training']:10.3f}{result['memory'] / 1e9:9.2f}",
            flush=True,
        )
    alone = 0.0
    print(f"\n{'processes':>14}{'seconds a step':>16}{'efficiency':>12}")
    for processes in options.processes:
        workload = workload_of(ALIKE)
        wall = measure(workload, processes)["wall"] / workload.steps
        alone = alone or wall * processes
        print(f"{processes:14}{wall:16.2f}{alone / wall / processes:12.0%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

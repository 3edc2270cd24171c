"""python -m benchmarks.runs: how long the reader takes for 500 runs x 1,000 steps x 40 metrics, and how much memory.

Writes some 600 MB to a temporary folder and removes them. `--runs`, `--steps` and `--slow` (every tenth journal damaged).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.synthetic import metrics
from zero.config.check import check
from zero.errors import ArgumentParser

METRICS = 40
READ = """
import resource, sys, time
began = time.perf_counter()
from analysis.reader.runs import read
runs = read([sys.argv[1]])
took = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
values = int(runs.steps[runs.metrics].notna().to_numpy().sum())
print(f"{took:.1f} s, {peak:.2f} GB at most, {len(runs.runs)} runs, {len(runs.steps)} rows, {len(runs.metrics)} metrics, "
      f"{values} values, {len(runs.notes)} notes, axes {', '.join(runs.varying())}")
"""


def write(home: Path, runs: int, steps: int, slow: bool) -> int:
    """The folders; returns the bytes of their journals. Every run has its own seed and axes, all the same numbers."""
    lines = []
    for step in range(1, steps + 1):
        values = metrics("grpo", 0, step, steps)
        values |= {f"reward/part{i}": values["train/reward"] / (i + 1) for i in range(METRICS - len(values))}
        lines.append(json.dumps({"step": step, **dict(list(values.items())[:METRICS])}))
    text, size = "\n".join(lines) + "\n", 0
    configs = {algo: check("train", [f"algo={algo}", f"steps={steps}"]) for algo in ("grpo", "drgrpo", "dapo", "rloo")}
    for i in range(runs):
        algo = list(configs)[i % len(configs)]
        folder = home / f"{algo}-none-nano_math-nano-s{i}"
        folder.mkdir()
        config = configs[algo] | {
            "seed": i // 4,
            "optimizer": configs[algo]["optimizer"] | {"lr": [1e-6, 2e-6][i % 8 // 4]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "starts.jsonl").write_text(json.dumps({"choices": {"algo": algo, "reward": "accuracy"}}) + "\n")
        (folder / "result.json").write_text(json.dumps({"status": "finished", "steps": steps}))
        (folder / "metrics.jsonl").write_text('{"st\n' + text if slow and i % 10 == 0 else text)
        size += len(text)
    return size


def main() -> None:
    """Prints one line for a cold process, one for the same again."""
    parser = ArgumentParser(prog="python -m benchmarks.runs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--slow", action="store_true", help="every tenth journal is damaged, and read line by line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-runs-") as text:
        began = time.perf_counter()
        size = write(Path(text), options.runs, options.steps, options.slow)
        print(f"{size / 2**20:.0f} MB of journals written in {time.perf_counter() - began:.1f} s", flush=True)
        for _ in range(2):
            subprocess.run([sys.executable, "-c", READ, text], check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU of both: {spent.ru_utime + spent.ru_stime:.1f} s")


if __name__ == "__main__":
    main()

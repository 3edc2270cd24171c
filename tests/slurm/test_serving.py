"""vLLM and DeepSpeed on two nodes: as a server used by an evaluation, and as a cell; in the environment of make test-engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.sweep import files
from tests.conftest import ROOT
from tests.integration.runs import SMALL
from tests.slurm.sweeps import all_logs, state, until
from zero.rollout.http import address

pytestmark = pytest.mark.slurm
CLUSTER = {"ACCT": "none", "NET": "netns", "NODES": "2", "CPUS": "8", "MEM": "16384"}
VLLM = ROOT / ".venv-engines" / "bin" / "python"
SERVE = [
    "launch.serve",
    "model=nano",
    "launcher=slurm",
    "launcher.nodes=2",
    "launcher.cpus_per_task=2",
    "launcher.shared=true",
    "launcher.poll_s=1",
    "launcher.mem_gb=5",
    f"launcher.python='{VLLM}'",
    "--context=256",
    "--cache-gib=0.1",
    "--max-rows=32",
    "--batched-tokens=1024",
]
ASK = ["zero.evaluate", "model=nano", "model.context=256", "benchmarks=nano", "benchmarks.limit=12", "k=[1]", "n=1"]


def run(home: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """python -m LINE in its own folder, as a user of the cluster types it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(home)}
    return subprocess.run(
        [sys.executable, "-m", *line], cwd=home, text=True, capture_output=True, env=environment, timeout=560
    )


def answers(run_dir: Path) -> list[str]:
    paths = sorted(run_dir.glob("completions_*.jsonl"))
    return [json.loads(line)["response"] for path in paths for line in path.read_text().splitlines()]


def test_a_server_of_two_nodes_answers_an_evaluation_and_ends(lab: Path) -> None:
    assert VLLM.exists(), "make test-slurm sets it up"
    home = lab / "serving"
    home.mkdir()
    began = time.monotonic()
    done = run(home, *SERVE)
    folder = home / "runs" / "servers" / "zero-nano-base"
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "server.out").read_text()[-3000:]
    print(f"a job of two nodes serves after {time.monotonic() - began:.0f} s")
    endpoint = json.loads((folder / "endpoint.json").read_text())
    assert endpoint["model"] == "zero/nano/base" and endpoint["url"].startswith("http://n")
    assert endpoint["url"] in done.stdout and "rollout.url=runs/servers/zero-nano-base/endpoint.json" in done.stdout

    began = time.monotonic()
    again = run(home, *SERVE)
    assert again.returncode == 0 and endpoint["url"] in again.stdout and time.monotonic() - began < 30
    other = run(home, *SERVE, "--max-rows=16")
    assert other.returncode == 2 and "serves it with other settings; --stop ends that one" in other.stderr

    remote = run(home, *ASK, "rollout=openai", f"rollout.url={folder / 'endpoint.json'}", "run_dir=remote")
    assert remote.returncode == 0, remote.stdout + remote.stderr
    native = run(home, *ASK, "run_dir=native")
    assert native.returncode == 0, native.stdout + native.stderr
    theirs, ours = (answers(home / name) for name in ("remote", "native"))
    # greedy: two nodes with gloo give the tokens of one process, except where rounding decides between two
    assert len(theirs) >= 12 and sum(a == b for a, b in zip(theirs, ours, strict=True)) >= 0.9 * len(ours)

    stopped = run(home, "launch.serve", "model=nano", "launcher=slurm", "--stop")
    assert stopped.returncode == 0, stopped.stderr
    until(lambda: not (folder / "endpoint.json").exists() and state(endpoint["job"]) != "RUNNING", 60)
    late = run(home, *ASK, "rollout=openai", f"rollout.url={folder / 'endpoint.json'}", "run_dir=late")
    assert late.returncode == 2 and "no such file: the server is not up yet, or has ended" in late.stderr
    assert run(home, "launch.serve", "model=nano", "launcher=slurm", "--stop").returncode == 2


def test_a_server_that_cannot_start_says_why(lab: Path) -> None:
    home = lab / "refused"
    (home / "empty").mkdir(parents=True)
    line = [SERVE[0], f"{home / 'empty'}", *SERVE[2:], "launcher.nodes=1", "--name=bad"]
    done = run(home, *line)
    assert done.returncode == 1 and "holds no *.safetensors" in done.stderr.splitlines()[-1], done.stdout + done.stderr
    wrong = run(home, *line, "launcher.partition=gpus")
    assert wrong.returncode == 2 and "no such partition; did you mean gpu?" in wrong.stderr
    assert address("http://n1:7") == "http://n1:7"


def test_a_cell_of_two_nodes_samples_with_vllm_and_learns_with_deepspeed(lab: Path) -> None:
    """One process for each of two nodes, which find each other by Slurm's variables alone."""
    home = lab / "engines"
    home.mkdir()
    cell = [*SMALL, "steps=2", "rollout=vllm", "rollout.cache_gib=0.1", "learner=deepspeed", "sync_check.every=1"]
    place = [*SERVE[2:6], "launcher.mem_gb=6", f"launcher.python='{VLLM}'", f"launcher.folder={home / 'sweep'}"]
    done = run(home, "launch.submit", *cell, *place, "launcher.timeout_min=20")
    assert done.returncode == 0, done.stdout + done.stderr
    (place_of_cell,) = (path.parent for path in (home / "sweep").glob("*/cell.yaml"))
    until(
        lambda: (
            files.finished(place_of_cell)
            or (files.read_attempts(place_of_cell)[-1:] and "exit" in files.read_attempts(place_of_cell)[-1])
        ),
        400,
        what=lambda: all_logs(home),
    )
    assert files.finished(place_of_cell), all_logs(home)
    lines = [json.loads(line) for line in (place_of_cell / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(line["mismatch/canary"] < 1e-4 for line in lines[1:])
    assert "rank 1 of 2" in (place_of_cell / "log" / "slurm.out").read_text()

"""A whole run on the real engines: two processes, vLLM samples, DeepSpeed learns, and the curve is the native run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest

from tests.conftest import BASE, ROOT
from tests.engines.test_server import serving
from tests.integration.runs import journal, reproducible, start, weights

pytestmark = pytest.mark.engines

RUN = [
    "steps=12",
    "optimizer.lr=6e-4",  # three times the usual: it learns within these steps
    "evaluation.every=12",
    "checkpoint.every=12",
    "samples.every=12",
    "benchmarks.limit=16",
    "tracker=jsonl",
    "curves=false",
]
REAL = ["rollout=vllm", "learner=deepspeed", "learner.stage=2", "debug=sync"]
SEEDS = (0, 1)


def train(run_dir: Path, *overrides: str, processes: int = 1) -> list[dict[str, float]]:
    """The journal of a run, started as a user starts it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "zero.train", *RUN, f"run_dir={run_dir}", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return journal(run_dir)


def test_two_processes_of_vllm_and_deepspeed_learn_what_the_native_run_learns(tmp_path: Path) -> None:
    real = train(tmp_path / "real", *REAL, processes=2)
    native = [train(tmp_path / f"native_{seed}", f"seed={seed}") for seed in SEEDS]

    def late(lines: list[dict[str, float]]) -> float:
        return fmean(line["train/reward"] for line in lines[-6:])

    curves, ours = [late(lines) for lines in native], late(real)
    # two seeds tell little about their spread: 0.31 and 0.37 were seen, after 0.12 and 0.13 at the first step
    assert abs(ours - fmean(curves)) < 0.12, (ours, curves)
    assert ours > real[1]["train/reward"] + 0.1, "it did not learn"
    for line in real[1:]:
        assert line["mismatch/canary"] < 1e-4 and line["mismatch/logprob_gap_max"] < 1e-3, line["step"]
        assert line["mismatch/k3"] < 1e-6 and line["mismatch/beyond_2x"] == 0 and line["mismatch/staleness"] == 0
    assert {*real[1]} == {*native[0][1]} | {"mismatch/canary"}
    print("reward of steps 7 to 12: native", [round(c, 3) for c in curves], "vLLM and DeepSpeed", round(ours, 3))


def test_a_run_whose_server_dies_stops_at_once_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Sampled one step ahead: the samples waiting when the server dies come from weights that no longer exist."""
    options = [
        "rollout=vllm_server",
        "rollout.staleness=1",
        "rollout.transport=group",
        "rollout.timeout=60",
        "checkpoint.every=1",
    ]

    def started(run_dir: Path, url: str) -> subprocess.Popen[str]:
        return start(run_dir, *options, f"rollout.url={url}")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with serving(BASE, 512, tmp_path / "a") as (endpoint, launcher):
        whole = started(tmp_path / "whole", endpoint["url"])
        output = whole.communicate(timeout=300)[0]
        assert whole.returncode == 0, output
        cut = started(tmp_path / "cut", endpoint["url"])
        until = time.monotonic() + 300
        while not (tmp_path / "cut" / "checkpoints" / "step_000003").exists():
            assert cut.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        os.kill(endpoint["pid"], signal.SIGKILL)
        output = cut.communicate(timeout=90)[0]
        assert cut.returncode == 1 and endpoint["url"] in output and "Traceback" not in output, output
        assert launcher.wait(timeout=60) != 0
    with serving(BASE, 512, tmp_path / "b") as (endpoint, _):
        again = started(tmp_path / "cut", endpoint["url"])
        output = again.communicate(timeout=300)[0]
        assert again.returncode == 0, output
    assert [line["mismatch/staleness"] for line in journal(tmp_path / "whole")[1:]] == [0, 1, 1, 1, 1, 1]
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")

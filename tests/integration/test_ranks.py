"""A run of two processes is the run of one: the same samples, gradients and files; killed or stopped it goes on to the bit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.integration.runs import command, journal, reproducible, texts, train_here, weights
from tests.integration.runs import start as start_run
from tests.warm import Process

OPTIONS = ["steps=4", "checkpoint.every=1", "evaluation.every=2", "sampling.max_tokens=32", "optimizer.warmup=1"]
ALGOS = {
    "drgrpo": ["algo=drgrpo", "curriculum=band"],
    "ppo": ["algo=ppo", "updates=2"],
    "vineppo": ["algo=vineppo", "prompts=1"],
}
FEW = ["steps=2", "evaluation.every=1"]  # after some steps another order of sums gives another sample


def start(run_dir: Path, *overrides: str) -> list[Process]:
    """Two ranks on this machine, as torchrun or Slurm would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start_run(run_dir, *OPTIONS, *overrides, RANK=str(rank), **rendezvous) for rank in (0, 1)]


def end(ranks: list[Process]) -> list[int]:
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    codes = [rank.returncode for rank in ranks]
    assert set(codes) <= {0, 75}, outputs
    return codes


def reached(run_dir: Path, step: int, ranks: list[Process]) -> None:
    while not (run_dir / "checkpoints" / f"step_{step:06d}").exists():
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["drgrpo", "ppo", pytest.param("vineppo", marks=pytest.mark.slow)])
def test_two_ranks_are_one(name: str, tmp_path: Path) -> None:
    assert end(start(tmp_path / "two", *ALGOS[name], *FEW)) == [0, 0]
    train_here(tmp_path / "one", *OPTIONS, *ALGOS[name], *FEW)
    one, two = reproducible(tmp_path / "one"), reproducible(tmp_path / "two")
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            summed = key.startswith(("loss/", "critic/"))
            if not key.startswith("mismatch/"):
                assert b[key] == (pytest.approx(value, rel=1e-3, abs=1e-6) if summed else value), (a["step"], key)
    assert texts(tmp_path / "one") == texts(tmp_path / "two")
    first, second = (load_file(tmp_path / k / "model" / "model.safetensors") for k in ("one", "two"))
    assert all((first[key] - second[key]).abs().max() < 1e-4 for key in first)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ranks_that_are_killed_or_stopped_go_on_to_the_same_bits(how: signal.Signals, tmp_path: Path) -> None:
    assert end(start(tmp_path / "straight")) == [0, 0]
    ranks = start(tmp_path / "cut")
    reached(tmp_path / "cut", 2, ranks)
    if how is signal.SIGKILL:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    else:
        ranks[1].send_signal(how)  # only one gets the signal; all must stop after the same step
        assert end(ranks) == [75, 75]
        assert journal(tmp_path / "cut")[-1]["step"] < 4
    assert end(start(tmp_path / "cut")) == [0, 0]
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "straight")
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


@pytest.mark.slow
def test_torchrun_starts_the_same(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    torchrun = [*launcher, *command(tmp_path / "run", *OPTIONS, "steps=1")[1:]]
    done = subprocess.run(torchrun, cwd=ROOT, text=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: ") == 1 and [line["step"] for line in journal(tmp_path / "run")] == [0, 1]

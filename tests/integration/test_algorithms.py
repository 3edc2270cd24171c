"""Every algorithm of conf/algo trains the shipped model, several updates on one rollout included."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.conftest import BASE
from tests.integration.runs import journal, reproducible, start, train_here, weights
from tests.test_algo import NAMES

TINY = [
    "steps=2",
    "updates=2",
    "epochs=2",
    "optim.warmup=1",
    "sampling.max_tokens=64",
    "evaluation.every=2",
    "benchmarks.limit=4",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_learns_something_finite(name: str, tmp_path: Path) -> None:
    train_here(tmp_path / "run", f"algo={name}", *TINY)
    lines = journal(tmp_path / "run")[1:]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss/policy"]) for line in lines)
    assert any(line["loss/grad_norm"] > 0 for line in lines)
    assert weights(tmp_path / "run") != (BASE / "model.safetensors").read_bytes()


def test_dynamic_sampling_replaces_groups_that_teach_nothing_and_survives_a_kill(tmp_path: Path) -> None:
    options = ["algo=dapo", "group_size=2", "prompts=6", "steps=4", "checkpoint.every=1", "sampling.max_tokens=32"]
    train_here(tmp_path / "straight", *options)
    lines = reproducible(tmp_path / "straight")
    prompts = [line["tokens/prompt"] for line in lines[1:]]
    train_here(tmp_path / "plain", *options, "algo.refills=0")
    plain = [line["tokens/prompt"] for line in reproducible(tmp_path / "plain")[1:]]
    assert all(line["groups/zero_advantage"] > 0.5 for line in lines[1:])  # two siblings of a weak model mostly agree
    assert all(2 * few < many <= 5 * few for many, few in zip(prompts, plain, strict=True))
    child = start(tmp_path / "cut", *options)
    while not (tmp_path / "cut" / "checkpoints" / "step_000002").exists():
        assert child.poll() is None
    child.kill()
    child.wait()
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == lines
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


def test_supervised_learning_on_the_solutions_goes_through_the_same_loop(tmp_path: Path) -> None:
    options = [
        "algo=sft",
        "rollout=gold",
        "group_size=1",
        "prompts=16",
        "steps=4",
        "sampling.max_tokens=64",
        "optim.warmup=1",
    ]
    train_here(tmp_path / "run", *options, "evaluation.every=4", "benchmarks.limit=8")
    lines = journal(tmp_path / "run")
    assert all(line["train/accuracy"] == 1 and line["length/truncated"] == 0 for line in lines[1:])
    assert lines[4]["loss/policy"] < lines[1]["loss/policy"]
    assert not [name for line in lines for name in line if name.startswith("mismatch/")]  # nobody sampled
    assert lines[4]["eval/nano_math/length"] != lines[0]["eval/nano_math/length"]  # evaluation does sample
    before = journal(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    train_here(tmp_path / "run", *options, "evaluation.every=4", "benchmarks.limit=8")
    assert journal(tmp_path / "run") == before

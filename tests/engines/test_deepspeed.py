"""ZeRO at every stage, on one rank and two, does what the torch learner does alone; checkpoints go from each to each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.engines.zero_ranks import LORA, PLAYED, TrainingRecord, make, on, save_and_export, train, weights
from tests.learner.ranks import Ended, cases, play
from zero.distributed import World
from zero.learner.torch import TorchLearner

pytestmark = pytest.mark.engines

LIMIT = 600  # seconds
CASES = cases()
SAVED = ("stage 2", "stage 3", "bfloat16", "lora", "lora 3", "offloaded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and models of all processes; the torch learner's is there first."""
    folder = tmp_path_factory.mktemp("deepspeed")
    learner = make(TorchLearner, World())
    on(learner, 2)
    save_and_export(World(), folder, "torch, 1 ranks", learner)
    return folder


def processes(folder: Path, size: int) -> list[dict[str, Any]]:
    """What each of `size` real ranks saved, and its output."""
    local = {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in (name for _, name in socket.if_nameindex()) else {}
    bare = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engines.zero_ranks", str(rank), str(size), str(folder)],
            cwd=ROOT,
            text=True,
            env=bare | {"OMP_NUM_THREADS": "1"} | local,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    try:
        results = []
        for rank, child in enumerate(children):
            output, errors = child.communicate(timeout=LIMIT)
            assert child.returncode == 0, errors[-5000:]
            results.append(torch.load(folder / f"rank_{rank}_of_{size}.pt") | {"output": output, "errors": errors})
        return results
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return processes(folder, 2)


@pytest.fixture(scope="module")
def one(folder: Path, two: list[dict[str, Any]]) -> dict[str, Any]:
    """One rank, after the two ranks whose checkpoints it resumes."""
    return processes(folder, 1)[0]


@pytest.fixture(scope="module")
def alone() -> dict[str, TrainingRecord]:
    """The torch learner in this process."""
    return {
        "usual": train(make(TorchLearner, World())),
        "untied": train(make(TorchLearner, World(), family="llama")),
        "bfloat16": train(make(TorchLearner, World(), autocast=True)),
    }


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any parameter."""
    assert a.keys() == b.keys()
    return max(float((w.detach().float() - b[k].detach().float()).abs().max()) for k, w in a.items())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(w, b[k]) for k, w in a.items())


def test_five_updates_are_those_of_the_torch_learner(
    one: dict[str, Any], two: list[dict[str, Any]], alone: dict[str, TrainingRecord]
) -> None:
    """Gradients, parameters and metrics; with a KL, a clip that binds and weight decay; cut into rows or not, offloaded,
    checkpointed, with the head in chunks of which the ranks need different numbers."""
    seen = 0
    for rank in (one, *two):
        for name, values in rank["trained"].items():
            if name.startswith("bfloat16"):
                continue
            trained, expected = TrainingRecord(**values), alone["untied" if name == "untied" else "usual"]
            largest = max(float(g.abs().max()) for g in expected.gradient.values())
            assert largest_difference(trained.gradient, expected.gradient) <= 1e-5 * largest, name
            assert largest_difference(trained.weights, expected.weights) <= 1e-5, name
            for measured, theirs in zip(trained.metrics, expected.metrics, strict=True):
                assert measured == pytest.approx(theirs, rel=1e-3, abs=1e-5), name
            assert all(m["loss/grad_norm"] > 0.05 for m in expected.metrics)  # the clip binds
            seen += 1
    assert seen == 6 + 2 * 11


def test_bfloat16_stays_within_what_its_digits_allow(
    two: list[dict[str, Any]], alone: dict[str, TrainingRecord]
) -> None:
    """8 bits of mantissa: 2^-8 of a weight, and five steps of 1e-3 whose direction rounding may turn."""
    for rank in two:
        for stage in ("1", "2", "3", "3, checkpointing"):
            trained = TrainingRecord(**rank["trained"][f"bfloat16 {stage}"])
            assert all(w.dtype == torch.bfloat16 for w in trained.weights.values())
            for theirs in (alone["bfloat16"], alone["usual"]):
                for name, weight in theirs.weights.items():
                    difference = (trained.weights[name].float() - weight).abs()
                    assert bool((difference <= 2**-8 * weight.abs() + 1e-2).all()), (stage, name)
                    assert float(difference.mean()) <= 2**-8 * float(weight.abs().mean()) + 1e-3, (stage, name)
                gap = abs(trained.metrics[0]["loss/entropy"] - theirs.metrics[0]["loss/entropy"])
                assert gap < 0.02 * theirs.metrics[0]["loss/entropy"]


@pytest.mark.parametrize(
    ("size", "name", "stage"),
    [(s, name, stage) for s, names in PLAYED.items() for name in names for stage in names[name]],
)
def test_a_run_is_that_of_one_process(
    size: int, name: str, stage: int, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    """Uneven rows, ranks with nothing to learn from or no row at all, nobody who learns, adapters, entropy bonus."""
    alone = play(CASES[name], World())
    ranks = [Ended(**rank["played"][f"{name}, stage {stage}"]) for rank in ([one] if size == 1 else two)]
    assert all(same(rank.weights, ranks[0].weights) for rank in ranks)
    assert all(rank.metrics == ranks[0].metrics for rank in ranks)
    for a, b in zip(alone.logprobs, ranks[0].logprobs, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert len(alone.metrics) == len(ranks[0].metrics)
    for metrics, expected in zip(ranks[0].metrics, alone.metrics, strict=True):
        assert metrics.keys() == expected.keys()
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert largest_difference(ranks[0].weights, alone.weights) < 1e-5 < largest_difference(alone.start, alone.weights)


def test_a_resumed_run_goes_on_to_the_same_bits(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for rank, names in ((one, ("stage 1",)), *((rank, SAVED) for rank in two)):
        for name in names:
            assert same(rank["resumed"][f"{name}: straight"], rank["resumed"][f"{name}: resumed"]), name


def test_checkpoints_go_on_under_another_stage_another_number_of_ranks_and_in_torch(
    folder: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    straight, adapted = on(make(TorchLearner, World()), 4), on(make(TorchLearner, World(), lora=LORA), 4)
    gone_on = [(k, w) for rank in (one, *two) for k, w in rank["resumed"].items() if "->" in k]
    for saved in ("stage 2, 2 ranks", "stage 3, 2 ranks", "torch, 1 ranks", "offloaded, 2 ranks", "lora, 2 ranks"):
        assert any(k.startswith(saved) for k, _ in gone_on), saved
    for name, tensors in gone_on:
        assert largest_difference(tensors, adapted if name.startswith("lora") else straight) < 1e-5, name
    for name in ("stage 2, 2 ranks", "stage 3, 2 ranks", "stage 1, 1 ranks", "lora 3, 2 ranks"):
        adapters = {"lora": LORA} if name.startswith("lora") else {}
        learner = make(TorchLearner, World(), **adapters)
        learner.load(folder / f"{name} checkpoint")
        assert learner.trained.updates == 2
        assert largest_difference(on(learner, 2), adapted if adapters else straight) < 1e-5, name


def test_the_files_are_those_of_the_torch_learner(folder: Path, one: dict[str, Any]) -> None:
    theirs = {path.name: path for path in (folder / "torch, 1 ranks checkpoint").iterdir()}
    assert set(theirs) == {"policy.safetensors", "policy_optimizer.safetensors", "policy.json"}
    for name in ("stage 1, 1 ranks", "stage 3, 2 ranks", "bfloat16, 2 ranks"):
        ours = folder / f"{name} checkpoint"
        assert {path.name for path in ours.iterdir()} == set(theirs)
        for file in ("policy.safetensors", "policy_optimizer.safetensors"):
            stored, expected = load_file(ours / file), load_file(theirs[file])
            assert {k: (v.shape, v.dtype) for k, v in stored.items()} == {
                k: (v.shape, v.dtype) for k, v in expected.items()
            }, (name, file)


def test_exported_models_load_in_transformers_as_what_they_are(folder: Path, two: list[dict[str, Any]]) -> None:
    for name in SAVED:
        path = folder / f"{name}, 2 ranks model"
        loaded = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
        learner = make(TorchLearner, World(), **({"lora": LORA} if name.startswith("lora") else {}))
        learner.load(folder / f"{name}, 2 ranks checkpoint")
        expected = weights(learner)
        if name == "bfloat16":
            assert all(w.dtype == torch.bfloat16 for w in loaded.values())
            expected = {k: w.bfloat16() for k, w in expected.items()}
        assert largest_difference(dict(loaded), expected) <= (1e-6 if name.startswith("lora") else 0.0), name
        assert (path / "adapter" / "adapter_model.safetensors").exists() == name.startswith("lora")


def test_it_disturbs_nothing_and_is_quiet(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert one["disturbed"] == []
    for rank in (one, *two):
        assert rank["output"] == ""
        assert not any(word in rank["errors"] for word in ("DeepSpeed", "deepspeed", "Warning", "torch_extensions"))


def test_a_gradient_that_is_no_number_ends_the_run_before_anything_moves(one: dict[str, Any]) -> None:
    assert one["exploded"] == {"1": True, "2": True, "3": True, "2 bfloat16": True}


def test_the_lens_works_where_weights_are_whole(one: dict[str, Any]) -> None:
    probed = one["probed"]
    torch.testing.assert_close(probed["stage 2"], probed["torch"], rtol=1e-5, atol=1e-6)
    assert probed["torch"].abs().max() > 0
    assert probed["stage 3"].startswith(
        "learner.stage=3: the algorithm lens needs whole weights on every rank; set learner.stage=2"
    )

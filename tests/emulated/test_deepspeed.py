"""learner=deepspeed on a device that is not the CPU, as far as that can be had without DeepSpeed, which knows no such device.

What matters is the order: the learner builds its policy around the model as it was loaded, on the CPU, and the
engine moves both to the device afterwards.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.emulated.accelerator import DeviceTensor
from tests.learner.test_torch import batch_of
from zero import build
from zero.config.check import check, instantiate
from zero.distributed import World
from zero.learner import deepspeed as learners
from zero.learner.optimizer import Optimizer
from zero.learner.policy import Policy
from zero.models.load import load_model


class Engine:
    """What DeepSpeedLearner uses of DeepSpeed's engine, for one rank in float32 at stage 2."""

    def __init__(self, policy: Policy, optimizer: Optimizer, config: Any, device: torch.device, world: World) -> None:
        self.module = policy.to(device)
        parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(parameters, betas=optimizer.betas, weight_decay=optimizer.weight_decay)
        self.optimizer.overflow = False
        self.clip, self.norm = config["gradient_clipping"], torch.tensor(0.0)

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        pass

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_global_grad_norm(self) -> Tensor:
        return self.norm


def learner_of(name: str, folder: Path, device: torch.device) -> Any:
    config = check(
        "train",
        [
            f"learner={name}",
            "learner.micro_tokens=40",
            "optimizer.lr=1e-4",
            "optimizer.warmup=0",
            "algo.beta=0.1",
            "learner.reference_offload=true",
        ],
    )
    model, tokenizer, _ = load_model({"path": str(folder), "revision": None, "context": None})
    assert model.device.type == "cpu"
    algo, optimizer = instantiate(config["algo"]), instantiate(config["optimizer"])
    return build.make_learner(config, model, tokenizer, algo, optimizer, device, World()), algo


@pytest.mark.parametrize("name", ["deepspeed", "deepspeed_lora"])
def test_a_learner_whose_engine_moves_the_model_learns_what_torch_learns(
    name: str, device: torch.device, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learners, "start", Engine)
    monkeypatch.setattr(learners, "check", lambda *_: None)  # as if it were installed
    ended = []
    for learner_name in (name, {"deepspeed": "torch", "deepspeed_lora": "lora"}[name]):
        learner, algo = learner_of(learner_name, models["qwen2"], device)
        batch = batch_of(algo)
        assert learner.model.device == device
        reference = learner.logprobs(batch, reference=True)
        batch = replace(batch, reference_NT=reference)
        first, second = (learner.update(batch, algo) for _ in range(2))
        assert first["loss/grad_norm"] > 0 and torch.equal(learner.logprobs(batch, reference=True), reference)
        learner.export(tmp_path / learner_name)
        ended.append((reference, learner.logprobs(batch), torch.tensor([m["loss/grad_norm"] for m in (first, second)])))
        assert all(isinstance(weight, DeviceTensor) for _, weight in learner.weights())
    for ours, expected in zip(*ended, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_where_the_tokens_are_decides_which_pass_computes(device: torch.device, models: dict[str, Path]) -> None:
    model, tokenizer, _ = load_model({"path": str(models["qwen2"]), "revision": None, "context": None})
    policy = Policy(model, 1.0, len(tokenizer), autocast=False)
    ids_NT = torch.randint(8, 400, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_NT = torch.ones(3, 9).tril(-3)
    assert policy.packs(ids_NT.device) and not policy.packs(device)
    with torch.no_grad():
        exact = policy(ids_NT, mask_NT)
        moved = policy.to(device)(ids_NT.to(device), mask_NT.to(device))
    for ours, expected in zip(moved, exact, strict=True):
        assert isinstance(ours, DeviceTensor)
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-4, atol=1e-5)

"""On a device that is not the CPU, engine and learner give what they give on the CPU. `make test-gpu` runs these on CUDA; on
the emulated accelerator they run everywhere, which at least shows that they can be run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BASE
from tests.emulated.accelerator import installed
from tests.integration.runs import journal, train_here
from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM, batch_of, gradient
from tests.rollout.test_native import prompts_of, scored
from tests.test_algorithm import load as load_algo
from zero.learner.torch import TorchLearner
from zero.models.load import load_model
from zero.records import Sampling
from zero.rollout import ModelSpec
from zero.rollout.native import NativeEngine

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device as a run chooses it."""
    if request.param == "cuda":
        yield torch.device("cuda", torch.cuda.current_device())
    else:
        with installed() as emulated:
            yield emulated


def loaded() -> tuple[Any, Any]:
    """Model and tokenizer as a run loads them: on the CPU."""
    model, tokenizer, _ = load_model({"path": str(BASE), "revision": None, "context": None})
    return model, tokenizer


def test_sampled_log_probabilities_are_those_of_the_model_on_the_cpu(device: torch.device) -> None:
    model, tokenizer = loaded()
    engine = NativeEngine(ModelSpec(model.config, tokenizer, 256, torch.float32, device), 64)
    engine.sync(model.named_parameters(), version=0)
    prompts = prompts_of(tokenizer)
    for prompt, group in zip(prompts, engine.generate(prompts, 4, Sampling(20, stop_ids=(0,))), strict=True):
        for completion in group:
            expected = scored(model.eval(), prompt, completion, 1.0, len(tokenizer))
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)


def test_a_turn_that_goes_on_from_the_cache_is_that_of_the_cpu(device: torch.device) -> None:
    """Rows that ended early and late, beside one that reads its prompt whole."""
    model, tokenizer = loaded()
    engine = NativeEngine(ModelSpec(model.config, tokenizer, 256, torch.float32, device), 64)
    engine.sync(model.named_parameters(), version=0)
    prompts, sampling = prompts_of(tokenizer), Sampling(20, 1.5, stop_ids=tuple(range(0, len(tokenizer), 9)))
    groups = engine.generate([replace(prompt, seen=0) for prompt in prompts], 4, sampling)
    turns = [
        replace(p, ids=p.ids + c.ids + (20, 21), key=(*p.key, g, 1), seen=len(p.ids + c.ids))
        for p, group in zip(prompts, groups, strict=True)
        for g, c in enumerate(group)
    ]
    for turn, [completion] in zip(turns, engine.generate([*turns, prompts[0]], 1, sampling)[:-1], strict=True):
        assert completion.cached == (turn.seen or 0) - 1
        expected = scored(model.eval(), turn, completion, 1.5, len(tokenizer))
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_cpu(device: torch.device) -> None:
    algo = load_algo("drgrpo")

    def on(place: torch.device, autocast: bool) -> torch.Tensor:
        learner = TorchLearner(
            setup_of(loaded()[0], OPTIM, temperature=1.0, total_updates=1, autocast=autocast, device=place),
            micro_tokens=100,
            gradient_checkpointing=False,
        )
        return gradient(learner, batch_of(algo), algo).cpu()

    exact = on(torch.device("cpu"), False)
    for autocast, bound in ((False, 1e-4), (True, 0.05)):
        assert float((on(device, autocast) - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize("learner", ["torch", pytest.param("deepspeed", marks=[*CUDA, pytest.mark.engines])])
def test_a_whole_run(device: torch.device, learner: str, tmp_path: Path) -> None:
    """As users start it; on CUDA with DeepSpeed, too, which knows no emulated device."""
    if learner == "deepspeed":
        pytest.importorskip("deepspeed")
        if device.type != "cuda":
            pytest.skip("DeepSpeed knows no such device")
    small = [
        "steps=2",
        "prompts=2",
        "sampling.max_tokens=24",
        "benchmarks.limit=4",
        "debug=sync",
        "algo=grpo",
        "algo.beta=0.05",
    ]
    train_here(tmp_path / "run", *small, f"learner={learner}", "learner.precision=bfloat16", "rollout=native")
    assert [line["step"] for line in journal(tmp_path / "run")] == [0, 1, 2]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()

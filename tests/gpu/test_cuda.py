"""On a CUDA device: engine and learner give what they give on the CPU. `make test-gpu` runs these."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import BASE
from tests.learner.test_torch import OPTIM, batch_of, gradient
from tests.rollout.test_native import prompts_of, scored
from tests.test_algo import load as load_algo
from zero.learner.torch import TorchLearner
from zero.records import Sampling
from zero.rollout.native import NativeEngine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_sampled_log_probabilities_are_those_of_the_model_on_the_cpu() -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    engine = NativeEngine(model.config, tokenizer, 256, 64, torch.float32, torch.device("cuda"))
    engine.sync(model.named_parameters(), version=0)
    prompts = prompts_of(tokenizer)
    for prompt, group in zip(prompts, engine.generate(prompts, 8, Sampling(60, stop_ids=(0,))), strict=True):
        for completion in group:
            expected = scored(model, prompt, completion, 1.0, len(tokenizer))
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_is_that_of_the_cpu(autocast: bool) -> None:
    algo = load_algo("drgrpo")

    def on(device: str, autocast: bool) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        learner = TorchLearner(
            model, OPTIM, temperature=1.0, total_updates=1, vocabulary=500, micro_tokens=100, autocast=autocast,
            gradient_checkpointing=False, keep_reference=False, device=torch.device(device),
        )  # fmt: skip
        return gradient(learner, batch_of(algo), algo).cpu()

    exact, ours = on("cpu", False), on("cuda", autocast)
    error = float((ours - exact).norm() / exact.norm())
    assert error < (0.05 if autocast else 1e-4)

"""The canary hears a sync that failed, and says what is likely wrong; engines that fail are made to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import BASE
from tests.learner.test_torch import OPTIM
from tests.rollout.test_native import engine_of, prompts_of
from tests.test_algo import load as load_algo
from zero.canary import Canary, Disagreement
from zero.learner.torch import TorchLearner
from zero.records import Completion, Prompt, Sampling
from zero.rollout.native import NativeEngine
from zero.runtime import World

VERSION = 5


def moved(seed: int) -> Any:
    """The shipped model, every weight a little elsewhere."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def learner_of(model: Any) -> TorchLearner:
    return TorchLearner(
        model, OPTIM, temperature=0.8, total_updates=1, vocabulary=596, micro_tokens=1000, autocast=False,
        gradient_checkpointing=False, keep_reference=False, device=torch.device("cpu"),
    )  # fmt: skip


def listen(engine: NativeEngine, learner: TorchLearner, tokenizer: Any) -> float:
    sampling = Sampling(40, 0.8, top_p=0.5, stop_ids=(0,))  # what a truncation leaves out must not count
    canary = Canary(1)
    return canary.check(engine, learner, load_algo("drgrpo"), prompts_of(tokenizer), sampling, 7, World(), VERSION)


def test_it_is_silent_where_all_is_well(tokenizer: Any) -> None:
    learner = learner_of(moved(0))
    engine = engine_of(learner.model, tokenizer)
    engine.sync(learner.weights(), VERSION)
    assert 0 < listen(engine, learner, tokenizer) < 1e-5


def without(weights: Iterable[tuple[str, Tensor]], lost: str) -> Iterator[tuple[str, Tensor]]:
    """What a sync delivers that forgets a tensor: its former value stays."""
    before = dict(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).named_parameters())
    return ((name, before[name] if lost in name else tensor) for name, tensor in weights)


@pytest.mark.parametrize("lost", ["embed_tokens", "layers.0.mlp.down_proj", "norm.weight"])
def test_a_tensor_that_stayed_behind(tokenizer: Any, lost: str) -> None:
    learner = learner_of(moved(1))
    engine = engine_of(learner.model, tokenizer)
    engine.sync(without(learner.weights(), lost), VERSION)
    with pytest.raises(Disagreement, match=r"after 5 steps .* nats a token .*other weights than it was sent"):
        listen(engine, learner, tokenizer)


def test_a_sync_that_never_came(tokenizer: Any) -> None:
    learner = learner_of(moved(2))
    engine = engine_of(learner.model, tokenizer)  # has seen version 0
    with pytest.raises(Disagreement, match="still has the weights of step 0"):
        listen(engine, learner, tokenizer)


def test_weights_that_are_not_numbers(tokenizer: Any) -> None:
    learner = learner_of(moved(3))
    engine = engine_of(learner.model, tokenizer)
    engine.sync([(name, weight.clone()) for name, weight in learner.weights()], VERSION)  # it may keep what it is given
    with torch.no_grad():
        next(learner.model.parameters()).fill_(float("nan"))
    with pytest.raises(Disagreement):
        listen(engine, learner, tokenizer)


class Remembering(NativeEngine):
    """Answers the prompts that it knows with the weights of the time."""

    def remember(self, tokenizer: Any, known: Sequence[Prompt]) -> None:
        self.old = engine_of(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), tokenizer)
        self.old.version = VERSION
        self.known = {prompt.ids for prompt in known}

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        return [
            (self.old if prompt.ids in self.known else super(Remembering, self)).generate([prompt], n, sampling)[0]
            for prompt in prompts
        ]


def test_a_cache_that_outlived_the_sync(tokenizer: Any) -> None:
    learner = learner_of(moved(4))
    engine = Remembering(learner.model.config, tokenizer, 256, 64, torch.float32, torch.device("cpu"))
    engine.remember(tokenizer, prompts_of(tokenizer))
    engine.sync(learner.weights(), VERSION)
    with pytest.raises(Disagreement, match="its prefix cache outlived the sync"):
        listen(engine, learner, tokenizer)

"""The sync check detects a failed sync and names the likely cause; engines here fail on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import BASE
from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM
from tests.rollout.test_native import engine_of, prompts_of
from tests.test_algorithm import load as load_algo
from zero.distributed import World
from zero.errors import InputError
from zero.learner.torch import TorchLearner
from zero.loop import refuse_coarser_dtype
from zero.monitoring.sync_check import SyncCheck, SyncMismatch
from zero.records import Completion, Prompt, Sampling
from zero.rollout import ModelSpec
from zero.rollout.native import NativeEngine

VERSION = 5


def moved(seed: int) -> Any:
    """The shipped model with every weight changed a little."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def learner_of(model: Any, mixed: bool = False) -> TorchLearner:
    return TorchLearner(
        setup_of(model, OPTIM, total_updates=1, vocabulary=596, autocast=mixed),
        micro_tokens=1000,
        gradient_checkpointing=False,
    )


def check_sync(
    engine: NativeEngine, learner: TorchLearner, tokenizer: Any, sync_check: SyncCheck | None = None
) -> float:
    sampling = Sampling(40, 0.8, top_p=0.5, stop_ids=(0,))  # tokens left out by the truncation must not count
    sync_check = sync_check or SyncCheck(1)
    return sync_check.check(engine, learner, load_algo("drgrpo"), prompts_of(tokenizer), sampling, 7, World(), VERSION)


def test_it_is_silent_after_a_sound_sync(tokenizer: Any) -> None:
    learner = learner_of(moved(0))
    engine = engine_of(learner.model, tokenizer)
    engine.sync(learner.weights(), VERSION)
    assert 0 < check_sync(engine, learner, tokenizer) < 1e-5


def without(weights: Iterable[tuple[str, Tensor]], lost: str) -> Iterator[tuple[str, Tensor]]:
    """The weights after a sync that forgets a tensor: its old value stays."""
    before = dict(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).named_parameters())
    return ((name, before[name] if lost in name else tensor) for name, tensor in weights)


@pytest.mark.parametrize("lost", ["embed_tokens", "layers.0.mlp.down_proj", "norm.weight"])
def test_a_tensor_that_stayed_behind(tokenizer: Any, lost: str) -> None:
    learner = learner_of(moved(1))
    engine = engine_of(learner.model, tokenizer)
    engine.sync(without(learner.weights(), lost), VERSION)
    with pytest.raises(SyncMismatch, match=r"after 5 steps .* nats a token .*other weights than it was sent"):
        check_sync(engine, learner, tokenizer)


def test_a_sync_that_never_came(tokenizer: Any) -> None:
    learner = learner_of(moved(2))
    engine = engine_of(learner.model, tokenizer)  # has seen version 0
    with pytest.raises(SyncMismatch, match="still has the weights of step 0"):
        check_sync(engine, learner, tokenizer)


def test_weights_that_are_not_numbers(tokenizer: Any) -> None:
    learner = learner_of(moved(3))
    engine = engine_of(learner.model, tokenizer)
    # clones: an engine may keep the tensors that it is given
    engine.sync([(name, weight.clone()) for name, weight in learner.weights()], VERSION)
    with torch.no_grad():
        next(learner.model.parameters()).fill_(float("nan"))
    with pytest.raises(SyncMismatch):
        check_sync(engine, learner, tokenizer)


class Remembering(NativeEngine):
    """Answers prompts that it has seen with the weights it had then."""

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
    spec = ModelSpec(learner.model.config, tokenizer, 256, torch.float32, torch.device("cpu"))
    engine = Remembering(spec, 64)
    engine.remember(tokenizer, prompts_of(tokenizer))
    engine.sync(learner.weights(), VERSION)
    with pytest.raises(SyncMismatch, match="its prefix cache outlived the sync"):
        check_sync(engine, learner, tokenizer)


@pytest.mark.parametrize("share", [1.0, 0.07])
def test_a_sync_that_changes_too_little(tokenizer: Any, share: float) -> None:
    """Too small a gap to stand out of bfloat16's usual one; the change since the first check shows it."""
    learner, sync_check = learner_of(moved(5)), SyncCheck(1, mixed=True)
    engine = engine_of(learner.model, tokenizer)
    engine.sync(learner.weights(), VERSION)
    check_sync(engine, learner, tokenizer, sync_check)
    before = {name: weight.clone() for name, weight in learner.weights()}
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter += 0.001 * torch.randn(parameter.shape, generator=generator)
    engine.sync(((name, before[name] + share * (new - before[name])) for name, new in learner.weights()), VERSION)
    if share == 1:
        assert check_sync(engine, learner, tokenizer, sync_check) < 1e-4
        return
    assert check_sync(engine, learner, tokenizer, SyncCheck(1, mixed=True)) < 0.1, "by itself it is within what may be"
    with pytest.raises(
        SyncMismatch, match=r"between step 5 and 5 .* moved by .* nats, the engine's by \d% of that: .*rounded"
    ):
        check_sync(engine, learner, tokenizer, sync_check)


def test_rounding_is_not_called_a_cache(tokenizer: Any) -> None:
    learner = learner_of(moved(7), mixed=True)
    engine = engine_of(learner.model, tokenizer)
    engine.sync(learner.weights(), VERSION)
    usual = check_sync(engine, learner, tokenizer, SyncCheck(1, mixed=True))
    with pytest.raises(SyncMismatch, match=r"the two sides round differently; compare learner\.precision"):
        check_sync(engine, learner, tokenizer, SyncCheck(1, tolerance=usual / 2, mixed=True))


def test_an_engine_that_must_round_what_the_learner_has_is_refused() -> None:
    engine, learner = SimpleNamespace(dtype=torch.bfloat16), SimpleNamespace(dtype=torch.float32)
    with pytest.raises(InputError, match=r"learner\.precision=float32: the engine holds weights in bfloat16"):
        refuse_coarser_dtype(engine, learner)  # type: ignore[arg-type]
    for theirs, ours in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (None, torch.float32)):
        refuse_coarser_dtype(SimpleNamespace(dtype=theirs), SimpleNamespace(dtype=ours))  # type: ignore[arg-type]

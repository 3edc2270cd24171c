"""The policy's chunked output head: the same numbers, and no tensor as large as all logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Gemma2Config

from tests.conftest import tiny_config
from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM, batch_of, groups_of
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch
from zero.cpu import layers as compiled
from zero.learner.policy import Policy
from zero.learner.torch import TorchLearner
from zero.records import Batch

VOCABULARY = 4000  # so large that a hidden size of 32 does not matter


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operation, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


def batch() -> Batch:
    return make_batch(groups_of(), load_algo("drgrpo"), pad_id=7)


def outputs_and_gradients(policy: Policy, rows: Batch, entropy: bool, chunks: int | None = None) -> list[Tensor]:
    """Log-probabilities, entropies and the gradients of a sum in which every token has its own weight."""
    policy.zero_grad()
    logprob_NT, entropy_NT = policy(rows.ids_NT, rows.mask_NT, entropy, chunks)
    weight_NT = torch.rand(rows.mask_NT.shape, generator=torch.Generator().manual_seed(1))
    (weight_NT * (logprob_NT + (entropy_NT if entropy else 0))).sum().backward()
    return [logprob_NT.detach(), entropy_NT.detach(), *(p.grad for p in policy.parameters() if p.grad is not None)]


@pytest.mark.parametrize("entropy", [False, True])
def test_chunks_change_no_value_and_no_gradient(tiny_folder: Path, entropy: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    rows = model.get_output_embeddings().weight.shape[0]
    whole = outputs_and_gradients(Policy(model, 0.8, 500, autocast=False), batch(), entropy)
    tokens = int(batch().mask_NT.sum())
    for numbers, count in ((rows, tokens), (7 * rows, -(-tokens // 7)), (tokens * rows, 1)):
        policy = Policy(model, 0.8, 500, autocast=False, head_numbers=numbers)
        assert policy.plain_head and policy.chunks(tokens) == count
        for ours, expected in zip(outputs_and_gradients(policy, batch(), entropy), whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    # more chunks than tokens: some hold none
    more = outputs_and_gradients(Policy(model, 0.8, 500, autocast=False), batch(), entropy, chunks=tokens + 3)
    for ours, expected in zip(more, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_cap_on_logits_is_seen_before_any_logit_is_near_it() -> None:
    capped = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    for config, plain in ((capped, False), (tiny_config("llama", 64), True)):
        torch.manual_seed(0)
        assert Policy(AutoModelForCausalLM.from_config(config).eval(), 1.0, 64, autocast=False).plain_head is plain


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_all_logits_never_exist(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' head takes the same chunks; its working memory is larger than these."""
    monkeypatch.setattr(compiled, "can_compile", lambda _: False)
    model = AutoModelForCausalLM.from_config(tiny_config(family, VOCABULARY)).eval()
    tokens, largest_weight = int(batch().mask_NT.sum()), max(p.numel() for p in model.parameters())
    assert tokens * VOCABULARY > 2 * largest_weight
    for numbers, expected in ((10 * VOCABULARY, largest_weight), (tokens * VOCABULARY, tokens * VOCABULARY)):
        policy = Policy(model, 0.8, VOCABULARY, autocast=False, head_numbers=numbers)
        with Largest() as seen:
            outputs_and_gradients(policy, batch(), True)
        assert seen.numbers == expected, (seen.numbers, expected)


def test_the_largest_tensor_does_not_grow_with_the_group() -> None:
    """Rows are cut into micro-batches, so more responses are more passes: no activation is larger than a weight."""

    def largest(copies: int, micro_tokens: int) -> int:
        learner = TorchLearner(
            setup_of(
                AutoModelForCausalLM.from_config(tiny_config("qwen2", 500)), OPTIM, temperature=1.0, total_updates=1
            ),
            micro_tokens=micro_tokens,
            gradient_checkpointing=False,
        )
        learner.policy.head_tokens = 10
        algo = load_algo("drgrpo")
        batch = batch_of(algo, groups_of() * copies)
        with Largest() as seen:
            learner.logprobs(batch)
            learner.update(batch, algo)
        return seen.numbers

    assert largest(1, 60) == largest(16, 60) == 500 * 32 < largest(16, 10_000)

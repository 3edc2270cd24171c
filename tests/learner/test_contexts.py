"""Episodes of several contexts: the learner and the critic see each context alone, with every forward pass that they have."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.test_turns import algorithm, episodes
from zero.batching import make_batch
from zero.learner.contexts import by_context
from zero.learner.policy import Policy, prepared
from zero.records import Batch


@pytest.fixture(scope="module")
def batch() -> Batch:
    batch = make_batch(episodes(4), algorithm(), 0)
    assert batch.fresh_NT is not None and batch.fresh_NT.sum() > 5
    return batch


def test_each_context_is_scored_alone(tiny_folder: Path, batch: Batch) -> None:
    """Against the model itself, context by context; and the gradient of the sum."""
    model: Any = prepared(AutoModelForCausalLM.from_pretrained(tiny_folder), False)
    policy = Policy(model, 1.0, 600, False)
    logprob_NT, entropy_NT = by_context(lambda ids, mask: policy(ids, mask), batch)
    assert logprob_NT.shape == entropy_NT.shape == batch.ids_NT.shape
    (logprob_NT * batch.mask_NT).sum().backward()
    gradient = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    total = torch.zeros(())
    assert batch.fresh_NT is not None
    for n, length in enumerate(batch.length_N.tolist()):
        starts = [0, *batch.fresh_NT[n].nonzero()[:, 0].tolist(), length]
        for start, end in pairwise(starts):
            ids = batch.ids_NT[n, start:end]
            logp = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1, :600].float(), dim=-1)
            expected = logp.gather(1, ids[1:, None])[:, 0] * batch.mask_NT[n, start + 1 : end]
            torch.testing.assert_close(logprob_NT[n, start + 1 : end], expected, atol=2e-5, rtol=1e-4)
            total = total + expected.sum()
    total.backward()
    for ours, plain in zip(gradient, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-4, rtol=1e-3)


def test_without_fresh_contexts_nothing_changes(batch: Batch) -> None:
    """The forward pass gets the very tensors of the batch."""
    seen = []
    plain = replace(batch, fresh_NT=None)
    by_context(lambda ids, mask: (seen.append((ids, mask)), mask)[1:], plain)
    assert seen[0][0] is plain.ids_NT and seen[0][1] is plain.mask_NT

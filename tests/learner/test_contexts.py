"""Episodes of several contexts: the learner and the critic see each context alone, with every forward pass that they have."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.test_torch import learner_of
from tests.test_turns import algorithm, episodes
from zero.batching import make_batch, micro_batches, rewards
from zero.learner.contexts import by_context, context_rows
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
    logprob_NT, entropy_NT = by_context(lambda ids, mask, images: policy(ids, mask), batch)
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


@pytest.mark.parametrize("tokens", [60, 120])
def test_a_micro_batch_forwards_no_more_tokens_than_it_may(tokens: int, batch: Batch) -> None:
    """Counted as rows of contexts, padded to the longest: an episode of many contexts is many rows."""
    parts = micro_batches(batch, torch.arange(len(batch.length_N)), tokens)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(batch.length_N)))
    forwarded = [context_rows(batch.rows(rows))[0].numel() for rows in parts]
    assert all(size <= tokens for size, rows in zip(forwarded, parts, strict=True) if len(rows) > 1)
    assert max(forwarded) > tokens / 2 and len(parts) > 1, "nor far fewer"
    widths = [context_rows(batch.rows(rows))[0].shape[1] for rows in parts]
    assert widths == sorted(widths, reverse=True), "the longest first"


def test_the_cut_into_micro_batches_changes_no_result(tiny_folder: Path) -> None:
    """Of the learner and of the lens' probe, with the padded forward pass and with the packed one."""
    groups = episodes(4)
    algo = algorithm()
    batch = algo.with_advantages(make_batch(groups, algo, 7), rewards(groups))
    whole, cut = (learner_of(tiny_folder, micro_tokens) for micro_tokens in (10_000, 60))
    torch.testing.assert_close(cut.logprobs(batch), whole.logprobs(batch), atol=2e-5, rtol=1e-4)
    slopes = batch.mask_NT[None] * torch.tensor([1.0, -0.5])[:, None, None]
    probed = [
        learner.probe(batch, lambda rows, logp, h: (slopes[:, rows, : logp.shape[1]], None), 2, entropy=False)
        for learner in (whole, cut)
    ]
    torch.testing.assert_close(probed[0].gradient_AHH, probed[1].gradient_AHH, atol=1e-4, rtol=1e-4)
    metrics = [learner.update(batch, algo) for learner in (whole, cut)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-6)


def test_the_probe_sees_each_context_alone(tiny_folder: Path) -> None:
    """As if every context were a response of its own."""
    batch = make_batch(episodes(4), algorithm(), 7)
    learner = learner_of(tiny_folder)
    ids_RL, mask_RL, _ = context_rows(batch)
    length_R = (ids_RL != 0).sum(dim=1)
    alone = Batch(ids_RL, mask_RL, mask_RL, length_R)
    ones = lambda rows, logp, h: ((logp != 0).float()[None], None)  # noqa: E731
    together, apart = (learner.probe(each, ones, 1, entropy=False) for each in (batch, alone))
    torch.testing.assert_close(together.gradient_AHH, apart.gradient_AHH, atol=1e-4, rtol=1e-4)
    assert float(together.push_AN.sum()) == float(apart.push_AN.sum()) == float(batch.mask_NT.sum())


def test_without_fresh_contexts_nothing_changes(batch: Batch) -> None:
    """The forward pass gets the very tensors of the batch."""
    seen = []
    plain = replace(batch, fresh_NT=None)
    by_context(lambda ids, mask, images: (seen.append((ids, mask)), mask)[1:], plain)
    assert seen[0][0] is plain.ids_NT and seen[0][1] is plain.mask_NT

"""The probe is the gradient of a matrix in front of the output head, and leaves the learner unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.learner.test_torch import batch_of, groups_of, learner_of
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch
from zero.distributed import World
from zero.learner.gradient_probe import Probed, probe
from zero.learner.torch import TorchLearner
from zero.records import Batch

A = 3
CPU = torch.device("cpu")


def probe_of(learner: TorchLearner, batch: Batch, slopes: Any, entropy: bool = False, **changes: Any) -> Probed:
    settings = dict(
        temperature=learner.setup.temperature,
        vocabulary=learner.setup.vocabulary,
        micro_tokens=learner.micro_tokens,
        autocast=False,
        device=CPU,
    )
    return probe(learner.model, batch, slopes, A, entropy=entropy, **(settings | changes))


def random_slopes(batch: Batch, seed: int) -> Tensor:
    random_ANT = torch.randn(A, *batch.mask_NT.shape, generator=torch.Generator().manual_seed(seed))
    return random_ANT * batch.mask_NT


def cut(slope_ANT: Tensor, rows: Tensor, like_NT: Tensor) -> Tensor:
    return slope_ANT[:, rows, : like_NT.shape[1]]


@pytest.fixture
def batch() -> Batch:
    return make_batch(groups_of(), load_algo("drgrpo"), pad_id=7)


@pytest.mark.parametrize("entropy", [False, True])
def test_it_is_the_gradient_of_a_matrix_in_front_of_the_head(tiny_folder: Path, batch: Batch, entropy: bool) -> None:
    """Against autograd through an inserted matrix, every row by itself, in float64."""
    slope_ANT, bonus_ANT = random_slopes(batch, 1), random_slopes(batch, 2) * entropy
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64).eval()
    inserted = torch.zeros(
        A, *(2 * [model.config.get_text_config().hidden_size]), dtype=torch.float64, requires_grad=True
    )
    total = torch.zeros((), dtype=torch.float64)
    for a in range(A):
        for n, length in enumerate(batch.length_N.tolist()):
            ids = batch.ids_NT[n, :length]
            hidden = model.base_model(ids[None, :-1]).last_hidden_state[0]
            logits = model.get_output_embeddings()(hidden + hidden @ inserted[a].T)[:, :500]
            logp = (logits / 0.8).log_softmax(-1)
            total = total + (slope_ANT[a, n, 1:length] * logp.gather(1, ids[1:, None])[:, 0]).sum()
            total = total - (bonus_ANT[a, n, 1:length] * (logp.exp() * logp).sum(dim=-1)).sum()
    (expected,) = torch.autograd.grad(total, inserted)
    for micro_tokens in (1, 40, 10_000):
        probed = probe_of(
            learner_of(tiny_folder, micro_tokens),
            batch,
            lambda rows, logp, h: (cut(slope_ANT, rows, logp), cut(bonus_ANT, rows, logp) if entropy else None),
            entropy,
        )
        scale = float(expected.abs().max())
        torch.testing.assert_close(probed.gradient_AHH.double(), expected, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(probed.push_AN, slope_ANT.abs().sum(dim=2))


def test_slopes_get_the_learners_own_log_probabilities(tiny_folder: Path, batch: Batch) -> None:
    learner = learner_of(tiny_folder, micro_tokens=40)
    logprobs_NT = torch.zeros_like(batch.mask_NT)
    entropies = torch.zeros_like(batch.mask_NT)

    def slopes(rows: Tensor, logprob_NT: Tensor, entropy_NT: Tensor) -> tuple[Tensor, None]:
        assert not logprob_NT.requires_grad and not entropy_NT.requires_grad
        logprobs_NT[rows, : logprob_NT.shape[1]] = logprob_NT
        entropies[rows, : logprob_NT.shape[1]] = entropy_NT
        return torch.zeros(A, *logprob_NT.shape), None

    probe_of(learner, batch, slopes)
    torch.testing.assert_close(logprobs_NT, learner.logprobs(batch), rtol=1e-5, atol=1e-6)
    assert (entropies[batch.mask_NT.bool()] > 0).all() and not entropies[~batch.mask_NT.bool()].any()


def test_ranks_add_up_to_the_whole(tiny_folder: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    slope_ANT = random_slopes(batch, 3)
    learner = learner_of(tiny_folder, micro_tokens=40)

    monkeypatch.setattr(World, "all_reduce_", lambda self, tensors: None)  # the shard of a rank
    slopes = lambda rows, logp, h: (cut(slope_ANT, rows, logp), None)  # noqa: E731
    whole = probe_of(learner, batch, slopes)
    parts = [probe_of(learner, batch, slopes, world=World(rank, 2)) for rank in (0, 1)]
    torch.testing.assert_close(parts[0].gradient_AHH + parts[1].gradient_AHH, whole.gradient_AHH, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts[0].push_AN + parts[1].push_AN, whole.push_AN)
    assert parts[0].push_AN.any() and parts[1].push_AN.any()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_learner_goes_on_to_the_same_bits(tiny_folder: Path, checkpointing: bool) -> None:
    algo = load_algo("drgrpo")
    with_advantages = batch_of(algo)
    learners = [learner_of(tiny_folder, gradient_checkpointing=checkpointing) for _ in range(2)]
    slope_ANT = random_slopes(with_advantages, 4)
    for learner in learners:
        learner.update(with_advantages, algo)
    mode, random_state = learners[0].model.training, torch.random.get_rng_state()
    probe_of(learners[0], with_advantages, lambda rows, logp, h: (cut(slope_ANT, rows, logp), None))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert learners[0].model.training == mode and torch.is_grad_enabled()
    assert all(p.grad is None for p in learners[0].model.parameters())
    metrics = [learner.update(with_advantages, algo) for learner in learners]
    assert metrics[0] == metrics[1]
    for (name, a), (_, b) in zip(*(learner.weights() for learner in learners), strict=True):
        assert torch.equal(a, b), name

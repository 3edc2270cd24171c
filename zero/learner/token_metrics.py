"""The metrics of an optimizer step, from sums over response tokens, over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zero.distributed import World
from zero.records import Batch, Metrics

LARGEST = "mismatch/logprob_gap_max"


def mismatch(learner_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor) -> dict[str, Tensor]:
    """How far the learner's log-probabilities [N, T] of the sampled tokens are from the sampler's, as sums over tokens.

    With d = learner - sampler: |d|; exp(d) - 1 - d, whose mean estimates KL(sampler || learner) without bias and is never
    negative (k3 of Schulman 2020, Approximating KL Divergence; d clamped to +-40 so that it stays finite); and the number of
    tokens that one of the two finds more than twice as likely as the other.
    """
    d_NT = torch.where(mask_NT.bool(), learner_NT - sampler_NT, 0.0)
    clamped_NT = d_NT.clamp(-40.0, 40.0)
    return {
        "mismatch/logprob_gap": d_NT.abs().sum(),
        "mismatch/k3": (clamped_NT.expm1() - clamped_NT).sum(),
        "mismatch/beyond_2x": (d_NT.abs() > math.log(2)).sum(),
    }


class MetricSums:
    """Sums of one step on this rank; `tokens` are the response tokens of the whole step, on all ranks."""

    def __init__(self, batch: Batch) -> None:
        # At least 1: mask_truncated may have masked every response
        self.tokens = float(batch.mask_NT.sum().clamp(min=1))
        self.sampled = batch.sampler_NT is not None
        self.sums: dict[str, float] = {}
        self.gap_max = 0.0

    def add(
        self, micro_batch: Batch, logprob_NT: Tensor, entropy_NT: Tensor, loss: Tensor, algo_sums: Mapping[str, Tensor]
    ) -> None:
        """Add a micro-batch with the policy's outputs, its loss and the loss's diagnostics."""
        learner_NT = logprob_NT.detach() if micro_batch.old_NT is None else micro_batch.old_NT
        sums = dict(algo_sums) | {"loss/entropy": entropy_NT.detach().sum()}
        if micro_batch.sampler_NT is not None:
            gap_NT = (learner_NT - micro_batch.sampler_NT).abs() * micro_batch.mask_NT
            self.gap_max = max(self.gap_max, float(gap_NT.max()))
            sums |= mismatch(learner_NT, micro_batch.sampler_NT, micro_batch.mask_NT)
        sums["loss/policy"] = loss.detach() * self.tokens
        self.sums = {name: self.sums.get(name, 0.0) + float(value) for name, value in sums.items()}

    def metrics(self, world: World) -> Metrics:
        """Averages over all response tokens of the step. Collective."""
        sums_of_ranks = world.gather_dicts(self.sums | {LARGEST: self.gap_max})
        metrics = {
            name: sum(sums.get(name, 0.0) for sums in sums_of_ranks) / self.tokens
            for name in max(sums_of_ranks, key=len)
        }
        metrics[LARGEST] = max(sums[LARGEST] for sums in sums_of_ranks)
        if not self.sampled:
            del metrics[LARGEST]
        return metrics

"""The floating-point operations of a training step, counted from its tokens: by them runs compare that spend them differently, as
supervised learning, which trains on what it is given, and reinforcement learning, which samples it first (arXiv 2501.17161).

With N parameters in matrix products a token costs 2 N forward and 4 N backward (Kaplan et al. 2020, arXiv 2001.08361, section
2.1), in the policy as in a learned critic with its own N:

    sampling           2 N  a token, sampled or read: a prompt once for its group, all else once in its context
    policy update      6 N  a token of a response with its prompt, in every epoch; 2 N in rows without a gradient
    log-probabilities  2 N  a token, of the reference, and of the old policy where they take a pass of their own
    critic             6 N  a token in every epoch, and 2 N for its values; one that samples costs what it samples

An image costs, in each pass of its row, 2 V for each of its patches, with V parameters in matrix products of the vision tower, and
2 for each of its connector's and each feature: in an update too if these are frozen, since what learns comes after them, else three
times as much. In sampling an image of a prompt counts once for its group.

These are a model's operations, not an implementation's. Not counted: what gradient checkpointing computes again, padding, and
contexts that an engine without a cache reads again in each turn. A prompt counts in each of its responses, even where these share
one pass. With LoRA frozen matrices have no gradient: 4 N in place of 6 N; its own matrices are left out. Solutions cost no
sampling. Evaluation, the lens and the sync check are no part of an algorithm.

Left out is attention's quadratic term: for a context of T tokens L w T / N of what is counted, with L layers and attention of
width w. That is 3 % for Qwen2.5-1.5B at 1,000 tokens and 8 % at 3,000, and 6 % for the nano models at 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zero.algorithm import Algorithm
from zero.critic import Critic
from zero.records import Batch, Group, Metrics


class Sight(NamedTuple):
    """What an image token costs beside those of a text."""

    token_id: int
    flops: int  # of the forward pass that makes its feature
    learns: bool = False


@dataclass(frozen=True)
class FlopCounter:
    """Counts a step. `parameters`: the policy's in matrix products, without those that turn pixels into features; `frozen`: only
    adapters of it are trained."""

    parameters: int
    frozen: bool = False
    sight: Sight | None = None

    def metrics(
        self,
        sampled: Sequence[Group],
        batch: Batch,
        mini_batches: Sequence[Batch],
        algo: Algorithm,
        critic: Critic | None,
    ) -> Metrics:
        """The cost of a whole step, on all ranks: of everything that was `sampled`, of the `batch` that was learned from, and of
        its mini-batches as they were updated from."""
        forward, update = 2 * self.parameters, (4 if self.frozen else 6) * self.parameters
        tokens_sampled = sum(
            len(group.prompt.ids) + sum(len(completion.ids) for completion in group.completions)
            for group in sampled
            if group.completions[0].version >= 0
        )
        tokens_updated = sum(_tokens(mini_batch) for mini_batch in mini_batches)
        tokens_trained = sum(int(b.length_N[algo.trained_rows(b)].sum()) for b in mini_batches)
        # An update whose log-probabilities are its own old ones has none given
        passes = [b for b in (batch, *mini_batches) if b.old_NT is not None]
        passes += [batch] if batch.reference_NT is not None else []
        only_forward = tokens_updated - tokens_trained + sum(map(_tokens, passes))
        flops = update * tokens_trained + forward * only_forward
        if self.sight is not None:
            flops += self._seen(self.sight, sampled, [*mini_batches, *passes], mini_batches, algo)
        if critic is not None:
            tokens_sampled += critic.tokens
            flops += critic.parameters * (6 * tokens_updated + 2 * _tokens(batch))
        return {
            "cost/flops": float(flops + forward * tokens_sampled),
            "cost/tokens_trained": float(tokens_trained),
            "cost/tokens_sampled": float(tokens_sampled),
        }

    def _seen(
        self,
        sight: Sight,
        sampled: Sequence[Group],
        passes: Sequence[Batch],
        mini_batches: Sequence[Batch],
        algo: Algorithm,
    ) -> int:
        """The operations that turn pixels into features: in sampling, in all passes, and backward where that learns."""
        count = sum(
            group.prompt.image_tokens + sum(each.ids.count(sight.token_id) for each in group.completions)
            for group in sampled
            if group.completions[0].version >= 0
        )
        count += sum(int((batch.ids_NT == sight.token_id).sum()) for batch in passes)
        if sight.learns:
            count += sum(2 * int((b.ids_NT[algo.trained_rows(b)] == sight.token_id).sum()) for b in mini_batches)
        return sight.flops * count


def _tokens(batch: Batch) -> int:
    """Of its rows, prompts and responses with the environment's tokens: each is forwarded once, in its own context."""
    return int(batch.length_N.sum())

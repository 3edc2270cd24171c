"""An algorithm is a frozen record of functions from zero/objective.py. The learner never sees its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from zero.records import Batch

Sums = dict[str, Tensor]  # diagnostics summed over response tokens; the learner divides by the tokens of the whole step


@dataclass(frozen=True)
class Algorithm:
    """One choice of each term of the loss; conf/algo holds one yaml per algorithm."""

    advantage: Callable[[Tensor], Tensor]  # rewards [P, G] -> [P, G]
    weight: Callable[[Tensor], Tensor]  # response mask [N, T] -> [N, T], over one whole optimizer step
    surrogate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # new, old, advantage [N, 1], mask -> loss [N, T]
    binds: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # same arguments -> bool [N, T]: where it is clipped
    kl: Callable[[Tensor, Tensor], Tensor]  # policy, reference [N, T] -> [N, T]
    beta: float = 0.0  # coefficient of the KL to the initial policy in the loss
    measure_kl: bool = False  # track the KL even if beta is 0 (costs one forward pass of the initial policy)
    entropy: float = 0.0  # coefficient of an entropy bonus
    correction: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # old, sampler, mask [N, T] -> factor [N, T]
    mask_truncated: bool = False  # responses cut by the token budget are no part of the batch
    largest_advantage: float | None = None  # advantages are clipped to +- this
    min_group: int = 1  # fewest siblings the advantage can compare
    refills: int = (
        0  # times a step may sample further questions in place of groups with equal rewards (dynamic sampling)
    )

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry the initial policy's log-probabilities."""
        return self.beta != 0 or self.measure_kl

    def learns_from(self, batch: Batch) -> Tensor:
        """Bool [N]: the responses whose loss has a gradient at all."""
        has_advantage_N = batch.advantage_N != 0
        alone = self.beta == 0 and self.entropy == 0
        return has_advantage_N if alone else has_advantage_N.new_ones(has_advantage_N.shape)

    def advantages(self, rewards_PG: Tensor) -> Tensor:
        """[P, G] -> [P, G], within the largest allowed."""
        advantage_PG, most = self.advantage(rewards_PG), self.largest_advantage
        return advantage_PG if most is None else advantage_PG.clamp(-most, most)

    def loss(self, logprob_NT: Tensor, batch: Batch, entropy_NT: Tensor | None = None) -> tuple[Tensor, Sums]:
        """The loss of some rows of a step (a plain sum: parts of a step add up) and diagnostics summed over their tokens.

        logprob_NT [N, T] is the learner's, with gradient; so is entropy_NT, needed if there is a bonus. Without `old_NT`
        the ratio is 1 by definition: the first update of a step differentiates at the policy that made the samples.
        """
        old_NT = logprob_NT.detach() if batch.old_NT is None else batch.old_NT
        advantage_N1 = batch.advantage_N[:, None]
        per_token_NT = self.surrogate(logprob_NT, old_NT, advantage_N1, batch.mask_NT)
        bound_NT = self.binds(logprob_NT.detach(), old_NT, advantage_N1, batch.mask_NT)
        sums = {"loss/clip_fraction": (bound_NT * batch.mask_NT).sum()}
        if self.correction is not None and batch.sampler_NT is not None:
            factor_NT = self.correction(old_NT, batch.sampler_NT, batch.mask_NT)
            per_token_NT = per_token_NT * factor_NT
            sums["mismatch/correction"] = (factor_NT * batch.mask_NT).sum()
        if self.entropy != 0:
            assert entropy_NT is not None, "an entropy bonus needs the entropies"
            per_token_NT = per_token_NT - self.entropy * entropy_NT
        if batch.reference_NT is not None:
            kl_NT = self.kl(logprob_NT, batch.reference_NT)
            per_token_NT = per_token_NT + self.beta * kl_NT
            sums["loss/kl"] = (kl_NT.detach() * batch.mask_NT).sum()
        return (batch.weight_NT * per_token_NT).sum(), sums

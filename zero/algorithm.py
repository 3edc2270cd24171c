"""An algorithm is a frozen record of functions from zero/objective.py. The learner never sees its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from zero.objective import whitened
from zero.records import Batch

Sums = dict[str, Tensor]  # diagnostics summed over response tokens; the learner divides by the tokens of the whole step
LOSS, REWARD = "loss", "reward"


@dataclass(frozen=True)
class Algorithm:
    """One choice of each term of the loss; conf/algo holds one yaml per algorithm."""

    advantage: Callable[[Tensor], Tensor]  # rewards [P, G] -> [P, G]
    weight: Callable[[Tensor], Tensor]  # response mask [N, T] -> [N, T], over one whole optimizer step
    # new, old, advantage, mask -> loss, and where it is clipped: all [N, T]
    surrogate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    kl: Callable[[Tensor, Tensor], Tensor]  # policy, reference [N, T] -> [N, T]
    beta: float = 0.0  # coefficient of the KL to the initial policy
    kl_in: str = LOSS  # where beta x KL goes: into the "loss", or off the "reward" of the token
    measure_kl: bool = False  # track the KL even if beta is 0 (costs one forward pass of the initial policy)
    entropy: float = 0.0  # coefficient of an entropy bonus
    correction: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # old, sampler, mask [N, T] -> factor [N, T]
    # Advantages of single tokens (see with_advantages); None: one advantage for all tokens of a response
    estimator: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    # Advantages of an episode's turns, from their rewards [P, G, K] and which were taken; None: a turn has its episode's
    turn_advantage: Callable[[Tensor, Tensor], Tensor] | None = None
    critic: Callable[..., Any] | None = None  # makes the zero.critic.Critic that the estimator asks for
    whiten: bool = False  # scale advantages to mean 0 and variance 1 over the step's response tokens
    advantage_clip: float | None = None  # clip advantages to +- this
    mask_truncated: bool = False  # leave responses cut by the token budget out of the loss
    min_group: int = 1  # smallest group size that the advantage is defined for
    # How often a step may sample more questions in place of groups with equal rewards (dynamic sampling)
    resample_rounds: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            # A plain partial in place of Hydra's subclass, whose call takes 0.8 ms
            if isinstance(bound := getattr(self, f.name), partial):
                object.__setattr__(self, f.name, partial(bound.func, *bound.args, **bound.keywords))

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry the initial policy's log-probabilities."""
        return self.beta != 0 or self.measure_kl

    @property
    def needs_old(self) -> bool:
        """Whether batches must carry the learner's log-probabilities even for a first update."""
        return self.beta != 0 and self.kl_in == REWARD

    def with_advantages(
        self,
        batch: Batch,
        rewards_PG: Tensor,
        values: tuple[Tensor, Tensor] | None = None,
        turns: tuple[Tensor, Tensor] | None = None,
    ) -> Batch:
        """The batch with the advantage of every response token, from a whole step's P x G rewards.

        Without an `estimator`, all tokens of a response have the response's advantage; with `turn_advantage` those of a turn
        have the turn's, from `turns` = (rewards_PGK, taken_PGK) of episodes. With an estimator, that advantage is the reward
        of the response's last token, in episodes each turn's reward that of its last token, and the estimator turns token
        rewards and a critic's `values` = (value_NT, step_start_NT) into token advantages. A KL in the reward is subtracted
        from the response's reward, or with an estimator from each token's, with `turn_advantage` from each turn's.
        """
        mask_NT = batch.mask_NT
        penalty_NT = mask_NT * 0
        if self.needs_old:
            assert batch.old_NT is not None and batch.reference_NT is not None
            penalty_NT = self.beta * self.kl(batch.old_NT, batch.reference_NT) * mask_NT
        return_NT = value_NT = None
        if self.estimator is not None:
            assert values is not None, "this algorithm needs a critic"
            value_NT, step_start_NT = values
            reward_NT = self._token_rewards(batch, rewards_PG, turns) - penalty_NT
            advantage_NT = self.estimator(reward_NT, value_NT, step_start_NT, mask_NT)
            return_NT = (advantage_NT + value_NT) * mask_NT
        elif self.turn_advantage is not None and turns is not None:
            advantage_NT = self._turn_advantages(batch, *turns, penalty_NT)
        else:
            rewards_PG = rewards_PG - penalty_NT.sum(dim=1).reshape(rewards_PG.shape)
            advantage_NT = self.advantage(rewards_PG).flatten().to(mask_NT.dtype)[:, None] * mask_NT
        if self.whiten:
            advantage_NT = whitened(advantage_NT, mask_NT)
        if self.advantage_clip is not None:
            advantage_NT = advantage_NT.clamp(-self.advantage_clip, self.advantage_clip)
        return replace(batch, advantage_NT=advantage_NT, value_NT=value_NT, return_NT=return_NT)

    def _token_rewards(self, batch: Batch, rewards_PG: Tensor, turns: tuple[Tensor, Tensor] | None) -> Tensor:
        """The advantage of a response at its last token; of an episode what its turns earned, at their last tokens, and at the
        last of all how its advantage differs from its reward. [N, T]"""
        advantage_PG = self.advantage(rewards_PG)
        reward_NT, last_N1 = batch.mask_NT * 0, batch.length_N[:, None] - 1
        if turns is not None:
            assert batch.turn_NT is not None
            next_turn_NT = pad(batch.turn_NT[:, 1:], (0, 1), value=-1)
            ends_NT = (batch.turn_NT >= 0) & (batch.turn_NT != next_turn_NT)
            reward_NT = _by_turn(turns[0].to(reward_NT.dtype), batch.turn_NT) * ends_NT
            advantage_PG = advantage_PG - rewards_PG
        return reward_NT.scatter_add(1, last_N1, advantage_PG.to(reward_NT.dtype).reshape(-1, 1))

    def _turn_advantages(self, batch: Batch, rewards_PGK: Tensor, taken_PGK: Tensor, penalty_NT: Tensor) -> Tensor:
        """Every token has the advantage of its turn. [N, T]"""
        assert self.turn_advantage is not None and batch.turn_NT is not None
        penalty_NK = rewards_PGK.new_zeros(rewards_PGK.flatten(0, 1).shape)
        penalty_NK.scatter_add_(1, batch.turn_NT.clamp(min=0), penalty_NT.to(penalty_NK.dtype))
        advantage_PGK = self.turn_advantage(rewards_PGK - penalty_NK.view_as(rewards_PGK), taken_PGK)
        return _by_turn(advantage_PGK.to(batch.mask_NT.dtype), batch.turn_NT) * batch.mask_NT

    def trained_rows(self, batch: Batch) -> Tensor:
        """Bool [N]: the responses whose loss has a gradient at all."""
        assert batch.advantage_NT is not None
        has_advantage_N = (batch.advantage_NT != 0).any(dim=1)
        advantage_only = (self.beta == 0 or self.kl_in == REWARD) and self.entropy == 0
        return has_advantage_N if advantage_only else has_advantage_N.new_ones(has_advantage_N.shape)

    def loss(self, logprob_NT: Tensor, batch: Batch, entropy_NT: Tensor | None = None) -> tuple[Tensor, Sums]:
        """The loss of some rows of a step (a sum: micro-batches add up) and diagnostics summed over their tokens.

        logprob_NT [N, T] is the learner's, with gradient; so is entropy_NT, needed if there is a bonus. Without `old_NT`
        the ratio is 1: the first update of a step starts from the policy that made the samples.
        """
        assert batch.advantage_NT is not None
        old_NT = logprob_NT.detach() if batch.old_NT is None else batch.old_NT
        per_token_NT, clipped_NT = self.surrogate(logprob_NT, old_NT, batch.advantage_NT, batch.mask_NT)
        sums = {"loss/clip_fraction": (clipped_NT * batch.mask_NT).sum()}
        if self.correction is not None and batch.sampler_NT is not None:
            factor_NT = self.correction(old_NT, batch.sampler_NT, batch.mask_NT)
            per_token_NT = per_token_NT * factor_NT
            sums["mismatch/correction"] = (factor_NT * batch.mask_NT).sum()
        if self.entropy != 0:
            assert entropy_NT is not None, "an entropy bonus needs the entropies"
            per_token_NT = per_token_NT - self.entropy * entropy_NT
        if batch.reference_NT is not None:
            kl_NT = self.kl(logprob_NT, batch.reference_NT)
            if self.kl_in == LOSS:
                per_token_NT = per_token_NT + self.beta * kl_NT
            sums["loss/kl"] = (kl_NT.detach() * batch.mask_NT).sum()
        return (batch.weight_NT * per_token_NT).sum(), sums


def _by_turn(values_PGK: Tensor, turn_NT: Tensor) -> Tensor:
    """Values of turns at the tokens of each, [N, T]; anything at other tokens."""
    return values_PGK.flatten(0, 1).gather(1, turn_NT.clamp(min=0))

"""After a weight sync, do engine and learner give the same tokens the same log-probability?

A sync that fails does so in silence: samples stay fluent, the loss stays finite, and the policy that samples is not the
one that learns. So a few tokens are sampled, and scored by both.

In bfloat16 the two always differ by some hundredths of a nat, which can hide a sync that changes too little (weights
rounded, or some left out). So the check also scores the tokens of its first check again, and compares how far the
log-probabilities of each side have moved since: once that is more than noise, both must have moved by as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.batching import make_batch
from zero.distributed import World
from zero.errors import Broken
from zero.learner import Learner
from zero.records import SYNC_CHECK, Completion, Group, Prompt, Sampling
from zero.rollout import RolloutEngine

PROMPTS, TOKENS = 2, 16
EVERY = 4  # every how many of these tokens one is scored again in later checks
FOLLOWED = 0.5  # least share of the learner's change that the engine must have made
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # mean |gap| in nats; measured: 5e-6, and 0.02 to 0.05


class SyncMismatch(Broken):
    """Engine and learner do not hold the same policy."""


@dataclass
class FirstCheck:
    """Some tokens of the first check with both sides' log-probabilities then; each token is the next one of its prompt."""

    version: int = -1
    prompts: Sequence[Prompt] = ()  # this rank's
    tokens: Sequence[int] = ()
    sampler: Tensor = field(default_factory=lambda: torch.zeros(0))  # log-probabilities, over all ranks
    learner: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass(frozen=True)
class SyncCheck:
    """Compares after every `every` steps (0: never).

    `tolerance` is the largest mean |gap| in nats that passes; None: the one for the engine's dtype, or for bfloat16 if the
    learner is `mixed`, with products in bfloat16.
    """

    every: int
    tolerance: float | None = None
    mixed: bool = False
    image_token_id: int = -1  # of a model that sees
    first_check: FirstCheck = field(default_factory=FirstCheck)

    def check(
        self,
        engine: RolloutEngine,
        learner: Learner,
        algo: Algorithm,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        pad_id: int,
        world: World,
        version: int,
    ) -> float:
        """The mean |gap| over all ranks, each with its own engine. SyncMismatch names the likely cause.

        The step's `prompts` were sampled from before the sync and may be in a prefix cache; their reversed text is not.
        """
        # Without top-p and top-k, whose renormalization would count as a gap
        untruncated = replace(sampling, max_tokens=min(TOKENS, sampling.max_tokens), top_p=1.0, top_k=0)
        shard = (world.shard(prompts) or prompts)[:PROMPTS]
        before = [replace(p, key=(SYNC_CHECK, version, world.rank, i, 0)) for i, p in enumerate(shard)]
        new = [self._new(p) for p in before]
        probes = [*before, *new]
        with engine.awake():
            completions_PG = engine.generate(probes, 1, untruncated)
        groups = world.all_gather([Group(p, tuple(c_G), ()) for p, c_G in zip(probes, completions_PG, strict=True)])
        batch = make_batch(groups, replace(algo, mask_truncated=False), pad_id)
        if batch.sampler_NT is None:
            return 0.0  # the engine reports no log-probabilities
        gap_NT = (learner.logprobs(batch) - batch.sampler_NT).abs() * batch.mask_NT
        gap_N = gap_NT.double().sum(1) / batch.mask_NT.sum(1).clamp(min=1)
        new_N = torch.tensor([group.prompt.key[-1] == 1 for group in groups])
        gap, new_gap = float(gap_N.mean()), float(gap_N[new_N].mean())
        outdated = [c.version for g in groups for c in g.completions if c.version != version]
        known_gap = float(gap_N[~new_N].mean())
        coarse = self.mixed or engine.dtype not in (torch.float32, None)
        default = TOLERANCE[torch.bfloat16 if coarse else torch.float32]
        limit = self.tolerance or max(world.all_gather([default]))  # a server's dtype is known to rank 0 alone
        if gap > limit or outdated or not gap < float("inf"):
            raise SyncMismatch(
                f"after {version} steps engine and learner disagree by {gap:.2g} nats a token (sync_check.tolerance "
                f"{limit:g}): {_cause(outdated, known_gap, new_gap, limit, coarse)}; nothing was learned from it, "
                "the last checkpoint is intact"
            )
        answers = list(zip(probes, completions_PG, strict=True))
        self._check_movement(engine, learner, algo, answers, untruncated, pad_id, world, version)
        return gap

    def _new(self, prompt: Prompt) -> Prompt:
        """The prompt with its text reversed, without images."""
        ids = tuple(token for token in reversed(prompt.ids) if token != self.image_token_id) or prompt.ids[-1:]
        return replace(prompt, ids=ids, images=(), image_tokens=0, key=(*prompt.key[:-1], 1))

    def _check_movement(
        self,
        engine: RolloutEngine,
        learner: Learner,
        algo: Algorithm,
        answers: Sequence[tuple[Prompt, Sequence[Completion]]],
        sampling: Sampling,
        pad_id: int,
        world: World,
        version: int,
    ) -> None:
        """SyncMismatch if the engine has made less than FOLLOWED of the learner's change since the first check. The first call
        of a process only records."""
        first_check, first = self.first_check, self.first_check.version < 0
        if first:
            first_check.version = version
            first_check.prompts = [
                replace(prompt, ids=prompt.ids + c.ids[:t], key=(*prompt.key, t))
                for prompt, [c] in answers
                for t in range(0, len(c.ids), EVERY)
            ]
        with engine.awake():
            sampled_PG = engine.generate(first_check.prompts, 1, replace(sampling, max_tokens=1))
        if first:
            first_check.tokens = [c.ids[0] for [c] in sampled_PG]
        same = [c.ids[0] == token for [c], token in zip(sampled_PG, first_check.tokens, strict=True)]
        scored_P = [
            replace(c, ids=(token,), logprobs=c.logprobs if is_same else (0.0,), log_normalizers=())
            for [c], token, is_same in zip(sampled_PG, first_check.tokens, same, strict=True)
        ]
        groups = [Group(p, (c,), ()) for p, c in zip(first_check.prompts, scored_P, strict=True)]
        batch = make_batch(world.all_gather(groups), replace(algo, mask_truncated=False), pad_id)
        usable = torch.tensor(world.all_gather(same))  # the engine reports only the token that it sampled
        if batch.sampler_NT is None:
            return
        sampler = batch.sampler_NT.double().sum(1)
        learned = (learner.logprobs(batch) * batch.mask_NT).double().sum(1)
        if first:
            first_check.sampler, first_check.learner = sampler, learned
            return
        engine_change, learner_change = (sampler - first_check.sampler)[usable], (learned - first_check.learner)[usable]
        noise = math.sqrt(2) * float((first_check.sampler - first_check.learner).square().mean().sqrt())
        length = float(learner_change.norm())
        share = float(learner_change @ engine_change) / length**2 if length else 1.0
        if length and share + 4 * noise / length < FOLLOWED:
            raise SyncMismatch(
                f"between step {first_check.version} and {version} the learner's log-probabilities of the same tokens moved by "
                f"{length / math.sqrt(len(learner_change)):.2g} nats, the engine's by {share:.0%} of that: what it is sent "
                "is rounded away, or some of it is left out (rollout.precision, learner.precision); the last checkpoint is intact"
            )


def _cause(outdated: Sequence[int], known: float, new: float, limit: float, coarse: bool) -> str:
    """The likely cause, from the mean gaps of prompts that were sampled from before and of new ones."""
    if outdated:
        return f"the engine still has the weights of step {outdated[0]}, so its sync did not take place"
    if new <= limit and new < known / 5:
        return "only prompts that it had answered before are wrong, so its prefix cache outlived the sync"
    if coarse and max(known, new) < 5 * limit:
        return (
            "all prompts alike, and by little more than bfloat16 rounds: the two sides round differently; compare "
            "learner.precision with rollout.precision, or if this model's numbers are that coarse raise sync_check.tolerance"
        )
    return (
        "it holds other weights than it was sent (often an output embedding that is tied to the input's and was packed "
        "before), or its log-probabilities leave out the temperature"
    )

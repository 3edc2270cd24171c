"""After a weight sync, do engine and learner give the same tokens the same log-probability?

A sync that fails does so in silence: samples stay fluent, the loss stays finite, and the policy that samples is not the
one that learns. So a few tokens are sampled and scored by both.

In bfloat16 the two differ by some hundredths of a nat whatever happens, and a sync that changes too little (weights rounded, or
some left out) hides in that. So the check also remembers the tokens of its first check, asks for the same ones again, and
compares how far each side has moved since: once that is more than noise, both must have moved alike.
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
EVERY = 4  # of these tokens one in so many is asked for again
FOLLOWED = 0.5  # the least share of the learner's change that the engine must have made
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # mean |gap| in nats; measured: 5e-6, and 0.02 to 0.05


class SyncMismatch(Broken):
    """Engine and learner do not hold the same policy."""


@dataclass
class Since:
    """What both sides said of some tokens when they were first checked. Each is what its prompt goes on with."""

    version: int = -1
    prompts: Sequence[Prompt] = ()  # this rank's
    tokens: Sequence[int] = ()
    sampler: Tensor = field(default_factory=lambda: torch.zeros(0))  # log-probabilities, over all ranks
    learner: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass(frozen=True)
class SyncCheck:
    """Compares after every `every` steps (0: never).

    `tolerance` is the largest mean |gap| in nats that passes; None: that of the engine's dtype, or of bfloat16 if the learner
    is `mixed`, with products in bfloat16.
    """

    every: int
    tolerance: float | None = None
    mixed: bool = False
    since: Since = field(default_factory=Since)

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
        """The mean |gap| over all ranks, each of which asks its own engine. SyncMismatch names the likely cause.

        `prompts` of the whole step were answered before the sync; the same ids backwards were not: no cache knows them.
        """
        # of the whole distribution, or a truncation (top-p, top-k) would count as a gap
        drawn = replace(sampling, max_tokens=min(TOKENS, sampling.max_tokens), top_p=1.0, top_k=0)
        shard = (world.shard(prompts) or prompts)[:PROMPTS]
        before = [replace(p, key=(SYNC_CHECK, version, world.rank, i, 0)) for i, p in enumerate(shard)]
        new = [replace(p, ids=p.ids[::-1], key=(*p.key[:-1], 1)) for p in before]
        probes = [*before, *new]
        with engine.awake():
            completions_PG = engine.generate(probes, 1, drawn)
        groups = world.all_gather([Group(p, tuple(c_G), ()) for p, c_G in zip(probes, completions_PG, strict=True)])
        batch = make_batch(groups, replace(algo, mask_truncated=False), pad_id)
        if batch.sampler_NT is None:
            return 0.0  # an engine that says nothing about its distribution
        gap_NT = (learner.logprobs(batch) - batch.sampler_NT).abs() * batch.mask_NT
        gap_N = gap_NT.double().sum(1) / batch.mask_NT.sum(1).clamp(min=1)
        new_N = torch.tensor([group.prompt.key[-1] == 1 for group in groups])
        whole, unseen = float(gap_N.mean()), float(gap_N[new_N].mean())
        behind = [c.version for g in groups for c in g.completions if c.version != version]
        known = float(gap_N[~new_N].mean())
        coarse = self.mixed or engine.dtype not in (torch.float32, None)
        usual = TOLERANCE[torch.bfloat16 if coarse else torch.float32]
        limit = self.tolerance or max(world.all_gather([usual]))  # one rank may know more of a server than the others
        if whole > limit or behind or not whole < float("inf"):
            raise SyncMismatch(
                f"after {version} steps engine and learner disagree by {whole:.2g} nats a token (sync_check.tolerance "
                f"{limit:g}): {_cause(behind, version, known, unseen, limit, coarse)}; nothing was learned from it, "
                "the last checkpoint is intact"
            )
        self._moved_alike(
            engine, learner, algo, list(zip(probes, completions_PG, strict=True)), drawn, pad_id, world, version
        )
        return whole

    def _moved_alike(
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
        """SyncMismatch if the engine made less than half of the learner's change since the first check. The first call of a
        process only remembers."""
        since, first = self.since, self.since.version < 0
        if first:
            since.version = version
            since.prompts = [
                replace(prompt, ids=prompt.ids + c.ids[:t], key=(*prompt.key, t))
                for prompt, [c] in answers
                for t in range(0, len(c.ids), EVERY)
            ]
        with engine.awake():
            again_PG = engine.generate(since.prompts, 1, replace(sampling, max_tokens=1))
        if first:
            since.tokens = [c.ids[0] for [c] in again_PG]
        same = [c.ids[0] == token for [c], token in zip(again_PG, since.tokens, strict=True)]
        sampler_PG = [
            replace(c, ids=(token,), logprobs=c.logprobs if alike else (0.0,), log_normalizers=())
            for [c], token, alike in zip(again_PG, since.tokens, same, strict=True)
        ]
        groups = [Group(p, (c,), ()) for p, c in zip(since.prompts, sampler_PG, strict=True)]
        batch, alike = (
            make_batch(world.all_gather(groups), replace(algo, mask_truncated=False), pad_id),
            world.all_gather(same),
        )
        if batch.sampler_NT is None:
            return
        sampler, own = batch.sampler_NT.double().sum(1), (learner.logprobs(batch) * batch.mask_NT).double().sum(1)
        if first:
            since.sampler, since.learner = sampler, own
            return
        chosen = torch.tensor(alike)
        followed, moved = (sampler - since.sampler)[chosen], (own - since.learner)[chosen]
        noise = math.sqrt(2) * float((since.sampler - since.learner).square().mean().sqrt())
        length = float(moved.norm())
        share = float(moved @ followed) / length**2 if length else 1.0
        if length and share + 4 * noise / length < FOLLOWED:
            raise SyncMismatch(
                f"between step {since.version} and {version} the learner's log-probabilities of the same tokens moved by "
                f"{length / math.sqrt(len(moved)):.2g} nats, the engine's by {share:.0%} of that: what it is sent is rounded away, "
                "or some of it is left out (rollout.precision, learner.precision); the last checkpoint is intact"
            )


def _cause(behind: Sequence[int], version: int, known: float, unseen: float, limit: float, coarse: bool) -> str:
    if behind:
        return f"the engine still has the weights of step {behind[0]}, so its sync did not take place"
    if unseen <= limit and unseen < known / 5:
        return "only prompts that it had answered before are wrong, so its prefix cache outlived the sync"
    if coarse and max(known, unseen) < 5 * limit:
        return (
            "all prompts alike, and by little more than bfloat16 rounds: the two sides round differently; compare "
            "learner.precision with rollout.precision, or if this model's numbers are that coarse raise sync_check.tolerance"
        )
    return (
        "it holds other weights than it was sent (often an output embedding that is tied to the input's and was packed "
        "before), or its log-probabilities leave out the temperature"
    )

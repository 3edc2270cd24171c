"""A canary in the run: after a weight sync, do engine and learner give the same tokens the same log-probability?

A sync that fails does so in silence: samples stay fluent, the loss stays finite, and the policy that samples is not the
one that learns. So a few tokens are sampled and scored by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from zero.algo import Algorithm
from zero.batching import make_batch
from zero.errors import Broken
from zero.learner import Learner
from zero.records import CANARY, Group, Prompt, Sampling
from zero.rollout import RolloutEngine
from zero.runtime import World

PROMPTS, TOKENS = 2, 16
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # mean |gap| in nats; measured: 5e-6, and 0.02 to 0.05


class Disagreement(Broken):
    """Engine and learner do not hold the same policy."""


@dataclass(frozen=True)
class Canary:
    """Compares after every `every` steps (0: never).

    `tolerance` is the largest mean |gap| in nats that passes; None: that of the engine's dtype, or of bfloat16 if the learner
    is `mixed`, with products in bfloat16.
    """

    every: int
    tolerance: float | None = None
    mixed: bool = False

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
        """The mean |gap| over all ranks, each of which asks its own engine. Disagreement names the likely cause.

        `prompts` of the whole step were answered before the sync; the same ids backwards were not: no cache knows them.
        """
        # of the whole distribution, or a truncation (top-p, top-k) would count as a gap
        drawn = replace(sampling, max_tokens=min(TOKENS, sampling.max_tokens), top_p=1.0, top_k=0)
        mine = (world.part(prompts) or prompts)[:PROMPTS]
        known = [replace(p, key=(CANARY, version, world.rank, i, 0)) for i, p in enumerate(mine)]
        new = [replace(p, ids=p.ids[::-1], key=(*p.key[:-1], 1)) for p in known]
        asked = [*known, *new]
        with engine.awake():
            completions_PG = engine.generate(asked, 1, drawn)
        groups = world.gather([Group(p, tuple(c_G), ()) for p, c_G in zip(asked, completions_PG, strict=True)])
        batch = make_batch(groups, replace(algo, mask_truncated=False), pad_id)
        if batch.sampler_NT is None:
            return 0.0  # an engine that says nothing about its distribution
        gap_NT = (learner.logprobs(batch) - batch.sampler_NT).abs() * batch.mask_NT
        gap_N = gap_NT.double().sum(1) / batch.mask_NT.sum(1).clamp(min=1)
        new_N = torch.tensor([group.prompt.key[-1] == 1 for group in groups])
        whole, unseen = float(gap_N.mean()), float(gap_N[new_N].mean())
        behind = [c.version for g in groups for c in g.completions if c.version != version]
        coarse = self.mixed or engine.dtype not in (torch.float32, None)
        usual = TOLERANCE[torch.bfloat16 if coarse else torch.float32]
        limit = self.tolerance or max(world.gather([usual]))  # one rank may know more of a server than the others
        if whole > limit or behind or not whole < float("inf"):
            raise Disagreement(
                f"after {version} steps engine and learner disagree by {whole:.2g} nats a token (canary.tolerance "
                f"{limit:g}): {_cause(behind, version, unseen <= limit)}; nothing was learned from it, "
                "the last checkpoint is intact"
            )
        return whole


def _cause(behind: Sequence[int], version: int, only_known: bool) -> str:
    if behind:
        return f"the engine still has the weights of step {behind[0]}, so its sync did not take place"
    if only_known:
        return "only prompts that it had answered before are wrong, so its prefix cache outlived the sync"
    return (
        "it holds other weights than it was sent (often an output embedding that is tied to the input's and was packed "
        "before), or its log-probabilities leave out the temperature"
    )

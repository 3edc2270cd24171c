"""A critic that does not learn: values are mean rewards of responses sampled anew from the middle of a response. VinePPO,
arXiv 2410.01679.

Departures: the paper's steps are lines of a solution, each sampled from 9 times; how long a step is at least, and whether
lines matter, is a setting here, as in nano-aha-moment (every 100 tokens, 3 samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from zero.critic import CriticContext
from zero.records import VALUE, Batch, Completion, Group, Metrics, Prompt

Place = tuple[int, int, int]  # group, sibling, tokens of the response so far


class MonteCarloCritic:
    """A Critic. A step of a response has at least `every` tokens and, unless `separator` is null, ends with a token that
    holds it; the state before each step is worth the mean reward of `samples` responses that go on from there.

    A stop string that began before such a state is not seen by its samples.
    """

    def __init__(self, parts: CriticContext, samples: int, every: int, separator: str | None) -> None:
        self.context, self.samples, self.every, self.separator = parts, samples, every, separator
        self.ending: dict[int, bool] = {}  # token -> whether a step may end with it
        self.tokens = 0  # sampled for the newest values

    def values(self, groups: Sequence[Group], batch: Batch) -> tuple[Tensor, Tensor]:
        starts = {
            (p, g): self.step_starts(completion.ids, completion.action_mask)
            for p, group in enumerate(groups)
            for g, completion in enumerate(group.completions)
        }
        places = {(p, g if b else 0, b) for (p, g), bs in starts.items() for b in bs}  # siblings share their prompt's
        world = self.context.world
        depths = sorted({b for _, _, b in places})
        parts = world.all_gather([self._worth(groups, world.shard(sorted(places)), depths)])
        worth = {place: value for by_place in parts for place, value in by_place.items()}
        value_NT, step_start_NT = torch.zeros_like(batch.mask_NT), torch.zeros(batch.mask_NT.shape, dtype=torch.bool)
        for n, ((p, g), bs) in enumerate(starts.items()):
            for b in bs:
                t = len(groups[p].prompt.ids) + b
                value_NT[n, t], step_start_NT[n, t] = worth[p, g if b else 0, b], True
        return value_NT, step_start_NT

    def step_starts(self, ids: Sequence[int], own: Sequence[bool] = ()) -> list[int]:
        """Where the steps of a response start, in tokens; every try does."""
        starts = [0]
        for b in range(1, len(ids)):
            if own and not own[b]:
                continue  # the environment takes no step
            new_try = bool(own) and not own[b - 1]
            if new_try or (b - starts[-1] >= self.every and self._ends_a_step(ids[b - 1])):
                starts.append(b)
        return starts

    def _ends_a_step(self, token: int) -> bool:
        if self.separator is None:
            return True
        if token not in self.ending:
            self.ending[token] = self.separator in self.context.tokenizer.decode([token])
        return self.ending[token]

    def _worth(self, groups: Sequence[Group], places: Sequence[Place], depths: Sequence[int]) -> dict[Place, float]:
        """Mean reward from each place on. Places of one depth have one budget left, so they are sampled together; every rank
        asks its engine at every depth, as engines that span ranks need it."""
        engine, sampling, worth = self.context.engine, self.context.sampling, dict[Place, float]()
        self.tokens = 0
        for depth in depths:
            here = [place for place in places if place[2] == depth]
            prompts = [self._prompt(groups[p], g, b) for p, g, b in here]
            with engine.awake():
                sampled = engine.generate(
                    prompts, self.samples, replace(sampling, max_tokens=sampling.max_tokens - depth)
                )
            self.tokens += sum(len(c.ids) for c_K in sampled for c in c_K)
            whole = [
                [self._joined(prompt.prefix, c) for c in c_K] for prompt, c_K in zip(prompts, sampled, strict=True)
            ]
            group_prompts = [groups[p].prompt for p, _, _ in here]
            for place, group in zip(
                here, self.context.grader.grade(group_prompts, whole, sampling.max_tokens), strict=True
            ):
                worth[place] = fmean(verdict.reward for verdict in group.verdicts)
        return worth

    def _prompt(self, group: Group, g: int, b: int) -> Prompt:
        """The prompt and the first b tokens of response g, with random numbers of its own."""
        prompt, whole = group.prompt, group.completions[g]
        own = whole.action_mask[:b]
        turns = sum(now < before for before, now in pairwise(own))  # messages that have come, each behind a try
        attempts = (*whole.attempts[:turns], "") if whole.attempts else ()  # the last is still to be said
        prefix = Completion(whole.ids[:b], (), "", False, own, attempts)
        return replace(prompt, ids=prompt.ids + prefix.ids, key=(VALUE, *prompt.key[1:], g, b), prefix=prefix)

    def _joined(self, before: Completion | None, after: Completion) -> Completion:
        assert before is not None
        ids = before.ids + after.ids
        spoken = ids[:-1] if ids[-1] in self.context.sampling.stop_ids else ids
        text = self.context.tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        parts = (before, after)
        own = (
            tuple(o for c in parts for o in c.action_mask or (True,) * len(c.ids))
            if before.action_mask or after.action_mask
            else ()
        )
        return Completion(ids, (), text, after.finished, own, after.attempts)

    def update(self, batch: Batch) -> Metrics:
        """Nothing to learn."""
        return {
            "critic/tokens": sum(
                counts["tokens"] for counts in self.context.world.gather_dicts({"tokens": float(self.tokens)})
            )
        }

    def save(self, path: Path) -> None:
        """Nothing to keep."""

    def load(self, path: Path) -> None:
        """Nothing was kept."""

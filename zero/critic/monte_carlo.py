"""A critic that does not learn: a value is the mean reward of several completions of a partial response. VinePPO, arXiv
2410.01679.

Departures: the paper's steps are the lines of a solution, with 9 samples from each; here the least length of a step, and
whether lines matter, are settings, as in nano-aha-moment (every 100 tokens, 3 samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from zero.distributed import World
from zero.grading import Grader
from zero.records import VALUE, Batch, Completion, Group, Metrics, Prompt, Sampling
from zero.rollout import RolloutEngine

State = tuple[int, int, int]  # group, sibling, tokens of the response so far


class MonteCarloCritic:
    """A Critic. A step of a response has at least `every` tokens and, unless `separator` is null, ends with a token that
    contains it. The value before a step is the mean reward of `samples` completions from there.

    The samples do not notice a stop string that began before such a state.
    """

    def __init__(
        self,
        tokenizer: Any,
        engine: RolloutEngine,
        grader: Grader,
        sampling: Sampling,
        world: World,
        samples: int,
        every: int,
        separator: str | None,
    ) -> None:
        self.tokenizer, self.engine, self.grader, self.sampling, self.world = tokenizer, engine, grader, sampling, world
        self.samples, self.every, self.separator = samples, every, separator
        self.ends_step: dict[int, bool] = {}  # token -> whether a step may end with it
        self.parameters, self.tokens = 0, 0
        self.sampled = 0  # tokens of the policy for the last call of `values`, on all ranks: without those that it read

    def values(self, groups: Sequence[Group], batch: Batch) -> tuple[Tensor, Tensor]:
        starts = {
            (p, g): self.step_starts(completion.ids, completion.action_mask)
            for p, group in enumerate(groups)
            for g, completion in enumerate(group.completions)
        }
        states = {(p, g if b else 0, b) for (p, g), bs in starts.items() for b in bs}  # siblings share the state at 0
        world = self.world
        depths = sorted({b for _, _, b in states})
        of_ranks = world.all_gather([self._state_values(groups, world.shard(sorted(states)), depths)])
        value_of = {state: value for values, _, _ in of_ranks for state, value in values.items()}
        self.sampled, self.tokens = (sum(counts) for counts in zip(*(counts for _, *counts in of_ranks), strict=True))
        value_NT, step_start_NT = torch.zeros_like(batch.mask_NT), torch.zeros(batch.mask_NT.shape, dtype=torch.bool)
        for n, ((p, g), bs) in enumerate(starts.items()):
            for b in bs:
                t = len(groups[p].prompt.ids) + b
                value_NT[n, t], step_start_NT[n, t] = value_of[p, g if b else 0, b], True
        return value_NT, step_start_NT

    def step_starts(self, ids: Sequence[int], action_mask: Sequence[bool] = ()) -> list[int]:
        """The first tokens of a response's steps; every turn begins one."""
        starts = [0]
        for b in range(1, len(ids)):
            if action_mask and not action_mask[b]:
                continue  # a token of the environment
            new_turn = bool(action_mask) and not action_mask[b - 1]
            if new_turn or (b - starts[-1] >= self.every and self._may_end_step(ids[b - 1])):
                starts.append(b)
        return starts

    def _may_end_step(self, token: int) -> bool:
        if self.separator is None:
            return True
        if token not in self.ends_step:
            self.ends_step[token] = self.separator in self.tokenizer.decode([token])
        return self.ends_step[token]

    def _state_values(
        self, groups: Sequence[Group], states: Sequence[State], depths: Sequence[int]
    ) -> tuple[dict[State, float], int, int]:
        """(mean reward from each state on, tokens sampled for it, tokens sampled or read). States of equal depth have the same
        token budget and are sampled together. Every rank calls its engine at every depth, for engines that span ranks."""
        engine, sampling, values = self.engine, self.sampling, dict[State, float]()
        tokens_sampled = tokens_read = 0
        for depth in depths:
            at_depth = [state for state in states if state[2] == depth]
            prompts = [self._prompt(groups[p], g, b) for p, g, b in at_depth]
            with engine.awake():
                sampled = engine.generate(prompts, self.samples, sampling)
            tokens_sampled += sum(c.length for c_K in sampled for c in c_K)
            tokens_read += sum(len(p.ids) for p in prompts) + sum(len(c.ids) - c.length for c_K in sampled for c in c_K)
            whole = [[self._joined(p.prefix, c) for c in c_K] for p, c_K in zip(prompts, sampled, strict=True)]
            group_prompts = [groups[p].prompt for p, _, _ in at_depth]
            graded = self.grader.grade(group_prompts, whole, sampling.max_tokens)
            for state, prompt, group in zip(at_depth, prompts, graded, strict=True):
                over = (
                    len(prompt.prefix.turns[:-1]) if prompt.prefix else 0
                )  # turns whose rewards are no part of the value
                values[state] = fmean(v.reward - sum(v.turn_rewards[:over]) for v in group.verdicts)
        return values, tokens_sampled, tokens_sampled + tokens_read

    def _prompt(self, group: Group, g: int, b: int) -> Prompt:
        """The prompt continued by the first b tokens of response g, with random numbers of its own."""
        prompt, whole = group.prompt, group.completions[g]
        turns = tuple(turn for turn in whole.turns if turn.start <= b)  # the last one is unfinished
        prefix = Completion(whole.ids[:b], (), "", False, whole.action_mask[:b], turns)
        left = min(self.sampling.max_tokens, prompt.max_tokens or self.sampling.max_tokens) - prefix.length
        start = max((first for first in whole.context_starts if first <= b), default=None)
        ids = (*prompt.ids, *prefix.ids) if start is None else prefix.ids[start:]
        shown = tuple(digest for turn in turns if turn.start >= (start or 0) for digest in turn.images)
        images = (*prompt.images, *shown) if start is None else shown
        return replace(
            prompt, ids=ids, images=images, key=(VALUE, *prompt.key[1:], g, b), prefix=prefix, max_tokens=left
        )

    def _joined(self, before: Completion | None, after: Completion) -> Completion:
        assert before is not None
        ids = before.ids + after.ids
        without_stop = ids[:-1] if ids[-1] in self.sampling.stop_ids else ids
        text = self.tokenizer.decode(without_stop, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        action_mask: tuple[bool, ...] = ()
        if before.action_mask or after.action_mask:
            action_mask = tuple(flag for c in (before, after) for flag in c.action_mask or (True,) * len(c.ids))
        return replace(after, ids=ids, logprobs=(), text=text, action_mask=action_mask, log_normalizers=())

    def update(self, batch: Batch) -> Metrics:
        """Learns nothing; reports the tokens sampled for the values."""
        return {"critic/tokens": float(self.sampled)}

    def save(self, path: Path) -> None:
        """There is no state."""

    def load(self, path: Path) -> None:
        """There is no state."""

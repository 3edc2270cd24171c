"""Graded groups become one padded batch; a batch becomes mini-batches (optimizer steps) and micro-batches (memory)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.records import Batch, Completion, Group, Prompt


def make_batch(groups: Sequence[Group], algo: Algorithm, pad_id: int) -> Batch:
    """One step's P groups of G responses as [N, T] tensors, with weights over all of them. The environment's tokens are
    context: not in the mask."""
    prompts_N = [group.prompt for group in groups for _ in group.completions]
    completions_N = [completion for group in groups for completion in group.completions]
    length_N = torch.tensor([len(p.ids) + len(c.ids) for p, c in zip(prompts_N, completions_N, strict=True)])
    ids_NT = torch.full((len(completions_N), int(length_N.max())), pad_id)
    mask_NT = torch.zeros(ids_NT.shape)
    sampler_NT = torch.zeros(ids_NT.shape)
    for n, (prompt, completion) in enumerate(zip(prompts_N, completions_N, strict=True)):
        start, end = len(prompt.ids), int(length_N[n])
        ids_NT[n, :end] = torch.tensor(prompt.ids + completion.ids)
        action_mask = torch.tensor(completion.action_mask or (True,) * len(completion.ids))
        mask_NT[n, start:end] = action_mask * float(completion.finished or not algo.mask_truncated)
        # Undo top-p and top-k: the learner's log-probabilities are those of the full distribution too.
        sampler_NT[n, start:end] = torch.tensor(completion.logprobs or (0.0,)) + torch.tensor(
            completion.log_normalizers or (0.0,)
        )
    batch = Batch(
        ids_NT=ids_NT,
        mask_NT=mask_NT,
        weight_NT=algo.weight(mask_NT),
        sampler_NT=sampler_NT if all(c.logprobs for c in completions_N) else None,
        length_N=length_N,
        images_N=_images(prompts_N, completions_N),
    )
    return _with_turns(batch, groups) if any(c.turns for c in completions_N) else batch


def _images(
    prompts_N: Sequence[Prompt], completions_N: Sequence[Completion]
) -> tuple[tuple[tuple[int, str], ...], ...] | None:
    """The images of each row with a token of their context: the first one, or the first one of the turn before which the
    environment showed them."""
    images_N = tuple(
        tuple((0, digest) for digest in prompt.images)
        + tuple((len(prompt.ids) + turn.start, digest) for turn in completion.turns for digest in turn.images)
        for prompt, completion in zip(prompts_N, completions_N, strict=True)
    )
    return images_N if any(images_N) else None


def _with_turns(batch: Batch, groups: Sequence[Group]) -> Batch:
    """The batch with the turn of each token, and where contexts begin."""
    turn_NT = torch.full(batch.ids_NT.shape, -1)
    fresh_NT = torch.zeros(batch.ids_NT.shape, dtype=torch.bool)
    pairs_N = ((len(group.prompt.ids), completion) for group in groups for completion in group.completions)
    for n, (start, completion) in enumerate(pairs_N):
        for k, turn in enumerate(completion.turns):
            turn_NT[n, start + turn.start : start + turn.end] = k
        for first in completion.context_starts:
            fresh_NT[n, start + first] = True
    return replace(batch, turn_NT=turn_NT, fresh_NT=fresh_NT if fresh_NT.any() else None)


def rewards(groups: Sequence[Group]) -> Tensor:
    """[P, G], float64."""
    return torch.tensor([[v.reward for v in group.verdicts] for group in groups], dtype=torch.float64)


def turn_rewards(groups: Sequence[Group]) -> tuple[Tensor, Tensor] | None:
    """(rewards_PGK, taken_PGK): the reward of each turn of each episode, float64, and whether there was that turn. None outside
    environments."""
    most = max(len(verdict.turn_rewards) for group in groups for verdict in group.verdicts)
    if not most:
        return None
    shape = (len(groups), len(groups[0].verdicts), most)
    rewards_PGK, taken_PGK = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    for p, group in enumerate(groups):
        for g, verdict in enumerate(group.verdicts):
            taken = len(verdict.turn_rewards)
            rewards_PGK[p, g, :taken] = torch.tensor(verdict.turn_rewards, dtype=torch.float64)
            taken_PGK[p, g, :taken] = True
    return rewards_PGK, taken_PGK


def has_signal(group: Group, algo: Algorithm) -> bool:
    """Whether the group teaches anything: its rewards differ, or with `turn_advantage` an advantage of a turn is not zero."""
    turns = turn_rewards([group])
    if algo.turn_advantage is None or turns is None:
        return group.rewards_differ
    return bool((algo.turn_advantage(*turns) != 0).any())


def mini_batches(batch: Batch, algo: Algorithm, updates: int, epochs: int, key: tuple[int, ...]) -> Iterator[Batch]:
    """One batch for each optimizer step of a training step: `updates` equal parts of the rows, `epochs` times, each with
    weights of its own.

    A single update takes the batch as it is. For several the rows are shuffled in an order that depends on `key` =
    (seed, step) alone; from the second update on they need the old log-probabilities.
    """
    if updates * epochs == 1:
        yield batch
        return
    rows = list(range(len(batch.length_N)))
    for epoch in range(epochs):
        random.Random(f"mini_batches/{key}/{epoch}").shuffle(rows)
        for index in torch.tensor(rows).chunk(updates):
            chosen = batch.rows(index)
            yield replace(chosen, weight_NT=algo.weight(chosen.mask_NT))


def contexts(batch: Batch) -> list[list[int]]:
    """For each row where its contexts begin, and after them its end: [0, length] of a row that is one context."""
    ends = [[length] for length in batch.length_N.tolist()]
    if batch.fresh_NT is None:
        return [[0, *end] for end in ends]
    return [[0, *row.nonzero()[:, 0].tolist(), *end] for row, end in zip(batch.fresh_NT.cpu(), ends, strict=True)]


def micro_batches(batch: Batch, rows: Tensor, tokens: int) -> list[Tensor]:
    """Split `rows` into micro-batches of at most `tokens` padded tokens (at least one row each), those with the longest
    contexts first: each context of a row is a row of the forward pass (zero.learner.contexts).

    Rows of similar length are together, so there is little padding; the longest come first, so running out of memory
    shows at once.
    """
    bounds_N = contexts(batch)
    width_N = torch.tensor([max(end - start for start, end in pairwise(bounds)) for bounds in bounds_N])
    batches: list[list[Tensor]] = []
    width = count = 0  # of the contexts of the last micro-batch
    for row in rows[torch.sort(width_N[rows], descending=True, stable=True).indices]:
        own = len(bounds_N[int(row)]) - 1
        if not batches or (count + own) * width > tokens:
            batches.append([])
            width, count = int(width_N[row]), 0
        batches[-1].append(row)
        count += own
    return [torch.stack(chosen) for chosen in batches]

"""Graded groups become one padded batch; a batch becomes mini-batches (optimizer steps) and micro-batches (memory)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.records import Batch, Group


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
    )
    return _with_turns(batch, groups) if any(c.turns for c in completions_N) else batch


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


def micro_batches(length_N: Tensor, rows: Tensor, tokens: int) -> list[Tensor]:
    """Split `rows` into micro-batches of at most `tokens` padded tokens (at least one row each), longest rows first.

    Rows of similar length are together, so there is little padding; the longest come first, so running out of memory
    shows at once.
    """
    order = rows[torch.sort(length_N[rows], descending=True, stable=True).indices]
    batches: list[Tensor] = []
    start = 0
    while start < len(order):
        count = max(1, tokens // int(length_N[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches

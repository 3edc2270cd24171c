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
    """One step's P groups of G responses as [N, T] tensors, with weights over all of them. Tokens of the environment are
    in the context and not in the mask."""
    prompts_N = [group.prompt for group in groups for _ in group.completions]
    completions_N = [completion for group in groups for completion in group.completions]
    length_N = torch.tensor([len(p.ids) + len(c.ids) for p, c in zip(prompts_N, completions_N, strict=True)])
    ids_NT = torch.full((len(completions_N), int(length_N.max())), pad_id)
    mask_NT = torch.zeros(ids_NT.shape)
    sampler_NT = torch.zeros(ids_NT.shape)
    for n, (prompt, completion) in enumerate(zip(prompts_N, completions_N, strict=True)):
        start, end = len(prompt.ids), int(length_N[n])
        ids_NT[n, :end] = torch.tensor(prompt.ids + completion.ids)
        own = torch.tensor(completion.action_mask or (True,) * len(completion.ids))
        mask_NT[n, start:end] = own * float(completion.finished or not algo.mask_truncated)
        # Before a truncation, as the learner's are: cut alike, both would be divided by the same share.
        sampler_NT[n, start:end] = torch.tensor(completion.logprobs or (0.0,)) + torch.tensor(
            completion.log_normalizers or (0.0,)
        )
    return Batch(
        ids_NT=ids_NT,
        mask_NT=mask_NT,
        weight_NT=algo.weight(mask_NT),
        sampler_NT=sampler_NT if all(c.logprobs for c in completions_N) else None,
        length_N=length_N,
    )


def rewards(groups: Sequence[Group]) -> Tensor:
    """[P, G], float64."""
    return torch.tensor([[v.reward for v in group.verdicts] for group in groups], dtype=torch.float64)


def mini_batches(batch: Batch, algo: Algorithm, updates: int, epochs: int, key: tuple[int, ...]) -> Iterator[Batch]:
    """The batches of a step's optimizer steps: `updates` equal parts, `epochs` times, weighted anew over each part.

    One update takes the batch as it is. Several draw their rows in an order that depends on `key` = (seed, step) alone, and from
    the second on need the old log-probabilities.
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
    """Cut `rows` into parts of at most `tokens` padded tokens (at least one row each), longest first.

    Rows of like length share a part, so little is padded; the longest part comes first, so a memory limit shows at once.
    """
    order = rows[torch.sort(length_N[rows], descending=True, stable=True).indices]
    parts: list[Tensor] = []
    start = 0
    while start < len(order):
        fit = max(1, tokens // int(length_N[order[start]]))
        parts.append(order[start : start + fit])
        start += fit
    return parts

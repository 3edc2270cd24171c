"""Rows of several contexts: an episode whose environment begins each turn with a whole new prompt is one row of a batch, and
several rows of a forward pass, none of which sees another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zero.records import Batch

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # ids, mask [R, L] -> numbers of the tokens, each [R, L]


def by_context(forward: Forward, batch: Batch) -> tuple[Tensor, ...]:
    """`forward` of a batch, each context a row of its own: numbers of the tokens, each [N, T], with gradient."""
    if batch.fresh_NT is None or not batch.fresh_NT.any():
        return forward(batch.ids_NT, batch.mask_NT)
    place_NT, contexts, width = _places(batch)
    outputs = forward(*(_spread(x_NT, place_NT, contexts, width) for x_NT in (batch.ids_NT, batch.mask_NT)))
    return tuple(_collected(x_RL, place_NT) for x_RL in outputs)


def _places(batch: Batch) -> tuple[Tensor, int, int]:
    """(place_NT, R, L): where in R x L flattened numbers each token goes, -1 for padding."""
    assert batch.fresh_NT is not None
    length_N = batch.length_N.tolist()
    starts_N = [[0, *row.nonzero()[:, 0].tolist()] for row in batch.fresh_NT.cpu()]
    spans = [
        (n, start, end)
        for n, starts in enumerate(starts_N)
        for start, end in zip(starts, [*starts[1:], length_N[n]], strict=True)
    ]
    width = max(end - start for _, start, end in spans)
    place_NT = torch.full(batch.ids_NT.shape, -1)
    for r, (n, start, end) in enumerate(spans):
        place_NT[n, start:end] = torch.arange(r * width, r * width + end - start)
    return place_NT.to(batch.ids_NT.device), len(spans), width


def _spread(values_NT: Tensor, place_NT: Tensor, rows: int, width: int) -> Tensor:
    """The tokens in their places, [R, L]; 0 elsewhere."""
    real_NT = place_NT >= 0
    flat = values_NT.new_zeros(rows * width)
    flat[place_NT[real_NT]] = values_NT[real_NT]
    return flat.view(rows, width)


def _collected(values_RL: Tensor, place_NT: Tensor) -> Tensor:
    """The inverse of `_spread`, [N, T], with gradient."""
    return values_RL.flatten()[place_NT.clamp(min=0)] * (place_NT >= 0)

"""Rows of several contexts: an episode whose environment begins each turn with a whole new prompt is one row of a batch, and
several rows of a forward pass, none of which sees another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from zero.batching import contexts
from zero.records import Batch
from zero.vision import Images

# ids, mask [R, L], images of the rows or None -> numbers of the tokens, each [R, L]
Forward = Callable[[Tensor, Tensor, Sequence[Images] | None], tuple[Tensor, ...]]


def by_context(forward: Forward, batch: Batch) -> tuple[Tensor, ...]:
    """`forward` of a batch, each context a row of its own: numbers of the tokens, each [N, T], with gradient."""
    outputs = forward(*context_rows(batch))
    if not _several(batch):
        return outputs
    place_NT = _places(batch)[0]
    return tuple(_collected(x_RL, place_NT) for x_RL in outputs)


def context_rows(batch: Batch) -> tuple[Tensor, Tensor, list[Images] | None]:
    """ids and mask with each context as a row of its own, each [R, L], and its images; the tokens of the mask keep their order."""
    if not _several(batch):
        return batch.ids_NT, batch.mask_NT, _images(batch)
    place_NT, rows, width = _places(batch)
    return (
        _spread(batch.ids_NT, place_NT, rows, width),
        _spread(batch.mask_NT, place_NT, rows, width),
        _images(batch),
    )


def _images(batch: Batch) -> list[Images] | None:
    """The images of each context."""
    if batch.images_N is None:
        return None
    return [[digest for token, digest in batch.images_N[n] if start <= token < end] for n, start, end in _spans(batch)]


def _spans(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, first token, end) of each context."""
    return [(n, start, end) for n, bounds in enumerate(contexts(batch)) for start, end in pairwise(bounds)]


def _several(batch: Batch) -> bool:
    """Whether any row has more than one context."""
    return batch.fresh_NT is not None and bool(batch.fresh_NT.any())


def _places(batch: Batch) -> tuple[Tensor, int, int]:
    """(place_NT, R, L): where in R x L flattened numbers each token goes, -1 for padding."""
    spans = _spans(batch)
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

"""The seam between the loop and whatever turns a batch into new weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch import dtype as Dtype  # `import torch` here would stand where the module zero.learner.torch is looked for

from zero.algorithm import Algorithm
from zero.records import Batch, Metrics


class Learner(Protocol):
    """Contract: the gradient applied is that of `algo.loss` summed over all rows of the batch (and over all ranks), however
    the learner cuts them. Averages that a backend takes on its own are undone inside the learner and nowhere else.

    The weights that it computes with are, to the last bit, those that `weights` gives to the engines and `export` writes: where
    passes are in bfloat16, weights rounded to it. Finer ones, which the updates need, stay inside.

    Every method is called on every rank, in the same order, and iterated to its end: weights may lie in pieces on all."""

    dtype: Dtype  # of those weights

    def logprobs(self, batch: Batch, *, reference: bool = False, as_updated: Algorithm | None = None) -> Tensor:
        """Log-probabilities [N, T] of the response tokens at the sampling temperature, without gradient, 0 elsewhere;
        under the initial policy if `reference`. With `as_updated` in the very micro-batches in which `update` will compute
        them for this algorithm: in bfloat16 a number depends on what is computed beside it."""
        ...

    def update(self, batch: Batch, algo: Algorithm) -> Metrics:
        """One optimizer step. Metrics are averages over all response tokens of the batch."""
        ...

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """The current weights under their Hugging Face names, whole and in turn, on every rank; tied weights once."""
        ...

    def save(self, path: Path) -> None:
        """Write everything `load` needs into the existing folder `path`; the first rank writes, in a format that does not
        depend on the learner, its settings or the number of ranks."""
        ...

    def load(self, path: Path) -> None:
        """Continue exactly where `save` was called."""
        ...

    def export(self, path: Path) -> None:
        """Write a Hugging Face folder (safetensors, config) that transformers and vLLM load as it is; the first rank writes."""
        ...

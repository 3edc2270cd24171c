"""The interface between the training loop and the learners, which turn a batch into new weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch import device as Device  # `import torch` would hide the module zero.learner.torch
from torch import dtype as Dtype

from zero.algorithm import Algorithm
from zero.distributed import World
from zero.learner.optimizer import Optimizer
from zero.records import Batch, Metrics
from zero.vision import Vision


@dataclass(frozen=True)
class LearnerSetup:
    """What a learner is given of a run, whatever its own settings are."""

    model: Any  # a causal language model of transformers, in float32
    optimizer: Optimizer
    temperature: float  # of sampling: log-probabilities are those at it
    total_updates: int
    vocabulary: int
    autocast: bool  # passes in bfloat16, with weights rounded to it
    keep_reference: bool  # the algorithm needs the initial policy
    device: Device
    world: World = field(default_factory=World)
    seed: int = 0
    vision: Vision | None = None  # of a model that sees


class Learner(Protocol):
    """Contract: the gradient applied is that of `algo.loss` summed over all rows of the batch (and over all ranks), however
    the learner splits them. If a backend averages over ranks, the learner undoes that.

    The forward pass uses, to the bit, the weights that `weights` gives to the engines and `export` writes: rounded to
    bfloat16 where it runs in bfloat16. The float32 masters that updates need stay inside.

    Every method is called on every rank, in the same order, and its iterator is exhausted: weights may be sharded. For the
    lens a learner also has `plain_head` and `probe`, as TorchLearner; without them the lens refuses to be chosen."""

    dtype: Dtype  # of the forward pass's weights

    def logprobs(self, batch: Batch, *, reference: bool = False, as_updated: Algorithm | None = None) -> Tensor:
        """Log-probabilities [N, T] of the response tokens at the sampling temperature, without gradient, 0 elsewhere;
        under the initial policy if `reference`. With `as_updated` on the same micro-batches as `update` for this algorithm:
        in bfloat16 a result depends on the rest of its micro-batch."""
        ...

    def update(self, batch: Batch, algo: Algorithm) -> Metrics:
        """One optimizer step. Metrics are averages over all response tokens of the batch."""
        ...

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """The current weights under their Hugging Face names, one whole tensor after another, on every rank; tied ones once."""
        ...

    def save(self, path: Path) -> None:
        """Write everything `load` needs into the existing folder `path`; rank 0 writes, in a format that does not depend on
        the learner, its settings or the number of ranks."""
        ...

    def load(self, path: Path) -> None:
        """Continue exactly where `save` was called."""
        ...

    def export(self, path: Path) -> None:
        """Write a Hugging Face folder (safetensors, config) that transformers and vLLM can load; rank 0 writes."""
        ...

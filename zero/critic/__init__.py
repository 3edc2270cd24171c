"""The interface between the training loop and critics, which estimate the value of unfinished responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from zero.records import Batch, Group, Metrics


class Critic(Protocol):
    """Contract: a value is the expected reward from a state on, under the policy that sampled the responses, without the KL.

    A critic gets what its constructor names of: model (the initial policy), tokenizer, engine (samples from the current
    policy), grader, sampling, total_updates, seed, autocast, device, world. See `make_critic` in zero/build.py."""

    parameters: int  # in the matrix products of a model of its own, for zero.flops; 0: it has none
    tokens: int  # that the policy has sampled or read for the last `values`, on all ranks

    def values(self, groups: Sequence[Group], batch: Batch) -> tuple[Tensor, Tensor]:
        """(value_NT, step_start_NT) of a training step's responses. step_start_NT (bool) marks the first token of each step of a
        response, value_NT is the value of the state before that token, undefined elsewhere. Called before the first update."""
        ...

    def update(self, batch: Batch) -> Metrics:
        """Learn from `batch.return_NT`, one optimizer step, with the averaging of the policy's loss; {} if it does not
        learn."""
        ...

    def save(self, path: Path) -> None:
        """Write everything `load` needs into the existing folder `path`, beside the learner's files."""
        ...

    def load(self, path: Path) -> None:
        """Continue exactly where `save` was called."""
        ...

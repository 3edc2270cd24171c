"""The interface between the training loop and critics, which estimate the value of unfinished responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zero.distributed import World
from zero.grading import Grader
from zero.records import Batch, Group, Metrics, Sampling
from zero.rollout import RolloutEngine


@dataclass(frozen=True)
class CriticContext:
    """The components of a run that a critic may need."""

    model: Any  # the initial policy, a causal language model of transformers
    tokenizer: Any
    engine: RolloutEngine  # samples from the current policy
    grader: Grader
    sampling: Sampling
    total_updates: int
    seed: int
    autocast: bool
    device: torch.device
    world: World


class Critic(Protocol):
    """Contract: a value is the expected reward from a state on, under the policy that sampled the responses, without the KL."""

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

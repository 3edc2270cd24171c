"""What the tests' learners are given of a run."""

from __future__ import annotations

from typing import Any

import torch

from zero.learner import LearnerSetup
from zero.learner.optimizer import Optimizer


def setup_of(model: Any, optimizer: Optimizer, **changes: Any) -> LearnerSetup:
    """Of a small random model on the CPU: one process, float32, no reference, a temperature that is not 1."""
    usual: dict[str, Any] = dict(
        temperature=0.8, total_updates=10, vocabulary=500, autocast=False, keep_reference=False
    )
    return LearnerSetup(model, optimizer, **usual | {"device": torch.device("cpu")} | changes)

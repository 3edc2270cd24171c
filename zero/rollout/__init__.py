"""The seam between the loop and whatever draws completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from zero.errors import Broken
from zero.records import Completion, Prompt, Sampling


class NotFinite(Broken):
    """The sampler's distribution is none: NaN or infinity among the logits."""

    def __init__(self, version: int) -> None:
        self.version = version
        cause = "a weight of the model, or what becomes of it in this precision, is no number; check model.path"
        if version > 0:
            cause = "an update drove the weights away: lower optim.lr, and continue from a checkpoint before it"
        super().__init__(f"the model's logits are not finite after {max(version, 0)} steps: {cause}")


def refuse_infinite(logprobs: Sequence[float], version: int) -> None:
    """NotFinite if a log-probability is none."""
    if not all(map(isfinite, logprobs)):
        raise NotFinite(version)


class RolloutEngine(Protocol):
    """Contract: ids decode to the text; log-probabilities are those of the distribution drawn from; `finished` is False
    exactly on truncation; the same (prompt.key, sample) under the same weights gives the same completion; `version` is
    that of the last `sync`, for all tokens of a completion."""

    dtype: torch.dtype | None  # of its weights, once that is known
    staleness: int  # 1: a step's training samples are drawn before the update ahead of it; 0: after it
    apart: bool  # has devices of its own: may generate in another thread while the learner updates

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions for each prompt, in order. Where the model's context leaves less than sampling.max_tokens, a
        completion ends there, unfinished. InputError for a prompt that leaves nothing."""
        ...

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the learner's weights. Called before the first `generate` and after every step."""
        ...

    def awake(self, last: bool = False) -> AbstractContextManager[None]:
        """Held while generating; an engine that shares memory with the learner frees it outside. `last`: nothing is
        generated again before the next `sync`, so that its weights need not be kept."""
        ...

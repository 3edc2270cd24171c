"""The seam between the loop and whatever draws completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from zero.records import Completion, Prompt, Sampling


class RolloutEngine(Protocol):
    """Contract: ids decode to the text; log-probabilities are those of the distribution drawn from; `finished` is False
    exactly on truncation; the same (prompt.key, sample) under the same weights gives the same completion."""

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions for each prompt, in order. Where the model's context leaves less than sampling.max_tokens, a
        completion ends there, unfinished. InputError for a prompt that leaves nothing."""
        ...

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the learner's weights. Called before the first `generate` and after every step."""
        ...

    def awake(self) -> AbstractContextManager[None]:
        """Held while generating; an engine that shares memory with the learner frees it outside."""
        ...

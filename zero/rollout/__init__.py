"""The interface between the training loop and the engines that sample completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from zero.errors import Broken
from zero.records import Completion, Prompt, Sampling
from zero.vision import Vision


class NotFinite(Broken):
    """NaN or infinity among the logits: there is no distribution to sample from."""

    def __init__(self, version: int) -> None:
        self.version = version
        cause = "a weight of the model, or what becomes of it in this precision, is no number; check model.path"
        if version > 0:
            cause = "an update drove the weights away: lower optimizer.lr, and continue from a checkpoint before it"
        super().__init__(f"the model's logits are not finite after {max(version, 0)} steps: {cause}")


def refuse_infinite(logprobs: Sequence[float], version: int) -> None:
    """NotFinite if a log-probability is NaN or infinite."""
    if not all(map(isfinite, logprobs)):
        raise NotFinite(version)


@dataclass(frozen=True)
class ModelSpec:
    """The model that an engine samples from, as zero/build.py knows it: the first argument of every engine, before the
    engine's own settings. The weights come by `sync`."""

    config: Any  # a PretrainedConfig of transformers
    tokenizer: Any
    context: int  # tokens of a prompt and its response together
    dtype: torch.dtype
    device: torch.device
    vision: Vision | None = None  # of a model that sees


class RolloutEngine(Protocol):
    """Contract: ids decode to the text; log-probabilities are those of the distribution sampled from; `finished` is False
    exactly on truncation; the same (prompt.key, sample) under the same weights gives the same completion; `version` is
    that of the last `sync`, for all tokens of a completion."""

    staleness: int  # 1: a step's samples are generated before the previous step's update; 0: after it
    own_devices: bool  # not the learner's: may generate in another thread while the learner updates
    sees: bool  # whether it takes prompts with images, of a model that sees

    @property
    def dtype(self) -> torch.dtype | None:
        """Of its weights; None: not known yet."""
        ...

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions for each prompt, in order. A completion that reaches the end of the model's context is cut there,
        unfinished. InputError for a prompt that fills the context."""
        ...

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the learner's weights. Called before the first `generate` and after every step."""
        ...

    def awake(self, last: bool = False) -> AbstractContextManager[None]:
        """Held while generating; an engine that shares memory with the learner frees it outside. `last`: nothing more is
        generated before the next `sync`, so that the weights need not be kept."""
        ...

"""The nouns of one training step: immutable records that travel from question to gradient.

Letters for axes, here and everywhere: P prompts of a step, G completions of a prompt, N = P x G responses, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # graders and question sets use these records without loading torch
    from torch import Tensor

Metrics = dict[str, float]  # glossary name -> value; the glossary stands in zero/tracking.py


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a question set. `answer` holds every accepted reference (at least one)."""

    text: str
    answer: tuple[str, ...]
    id: str  # unique within its set, and the same in every run
    solution: str = ""
    meta: Mapping[str, Any] = field(
        default_factory=dict
    )  # what this set's checker or an analysis needs: level, numbers


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question in its template. `ids` is what the model sees; `key` seeds its samples and is unique in a run."""

    question: Question
    text: str
    ids: tuple[int, ...]
    key: tuple[int, ...]  # (seed, step, position in the step)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Stop strings stay in the text; stop ids count as tokens of the response."""

    max_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response. `logprobs` are the sampler's own, of the distribution it drew from (natural log)."""

    ids: tuple[int, ...]  # a final stop id included
    logprobs: tuple[float, ...]
    text: str  # the ids decoded, without a final stop id
    finished: bool  # False exactly when the token budget cut it off


@dataclass(frozen=True, slots=True)
class Verdict:
    """What grading says of one completion. `answer` is what the template extracted, None if it found nothing."""

    reward: float
    correct: bool
    formatted: bool
    answer: str | None
    reason: str  # one word or short phrase for a person: "correct", "wrong", "no answer", "truncated", ...


@dataclass(frozen=True, slots=True)
class Group:
    """The G siblings of one prompt with their verdicts."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N responses as right-padded tensors. Entry t of a `_NT` tensor speaks of token t given the tokens before it.

    `weight_NT` is the averaging of the loss over one whole optimizer step: it is zero outside the response, is made
    before any micro-batch is cut, and is only ever summed.
    """

    ids_NT: Tensor  # int64, prompt then response
    mask_NT: Tensor  # float32, 1 on response tokens
    advantage_N: Tensor
    weight_NT: Tensor
    sampler_NT: Tensor  # the engine's log-probabilities, 0 outside the response
    length_N: Tensor  # int64, prompt + response tokens
    old_NT: Tensor | None = (
        None  # learner's log-probabilities before the step's first update; None: this update is the first
    )
    reference_NT: Tensor | None = None  # the initial policy's log-probabilities, if the loss or a metric asks for them

    def rows(self, index: Tensor) -> Batch:
        """The given rows, cut to their longest response."""
        width = int(self.length_N[index].max())
        return Batch(
            ids_NT=self.ids_NT[index, :width],
            mask_NT=self.mask_NT[index, :width],
            advantage_N=self.advantage_N[index],
            weight_NT=self.weight_NT[index, :width],
            sampler_NT=self.sampler_NT[index, :width],
            length_N=self.length_N[index],
            old_NT=None if self.old_NT is None else self.old_NT[index, :width],
            reference_NT=None if self.reference_NT is None else self.reference_NT[index, :width],
        )

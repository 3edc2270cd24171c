"""The nouns of one training step: immutable records that travel from question to gradient.

Letters for axes, here and everywhere: P prompts of a step, G completions of a prompt, N = P x G responses, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # graders and question sets use these records without loading torch
    import torch
    from torch import Tensor

# The first number of a prompt's key: they never share random numbers
TRAINING, EVALUATION, VALUE, SYNC_CHECK = 0, 1, 2, 3
Metrics = dict[str, float]  # glossary name -> value; the glossary stands in zero/tracking/glossary.py


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a question set. `answer` holds every accepted reference (at least one)."""

    text: str
    answer: tuple[str, ...]
    id: str  # unique within its set, and the same in every run
    solution: str = ""
    # What this set's checker or an analysis needs: level, numbers
    meta: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()  # further solutions, such as responses of a stronger model


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
    """One sampled response. `logprobs` are the sampler's own, of the distribution it drew from (natural log).

    Where a verifier gives feedback it is a whole episode: several tries, and the environment's tokens between them.
    """

    ids: tuple[int, ...]  # a final stop id included
    logprobs: tuple[float, ...]  # 0 where the environment spoke; none at all if nobody sampled: a reference solution
    text: str  # the ids decoded, without a final stop id
    finished: bool  # False exactly when the token budget cut it off
    action_mask: tuple[bool, ...] = ()  # for each id whether the policy chose it; empty: all of them
    attempts: tuple[
        str, ...
    ] = ()  # the text of each try, without a final stop id; empty: this rollout gives no feedback
    version: int = -1  # of the weights that made all of its tokens: the updates they had seen; -1: nobody sampled
    # Logarithm of the share of the distribution that top-p and top-k kept at each token; empty: all of it, or nobody knows
    log_normalizers: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.action_mask) if self.action_mask else len(self.ids)

    @property
    def final_text(self) -> str:
        """What is judged: the last try, without what the environment or an earlier try said."""
        return self.attempts[-1] if self.attempts else self.text


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question in its template. `ids` is what the model sees; `key` seeds its samples and is unique in a run."""

    question: Question
    text: str
    ids: tuple[int, ...]
    key: tuple[int, ...]  # (what for, seed, step, position in the step)
    prefix: Completion | None = None  # what of a response the ids hold already, if it is to be gone on with


class Outcome(StrEnum):
    """What checking says of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no answer"  # nothing of the form that was looked for
    UNPARSED = "unparsed"  # an answer that the checker cannot read: words where a formula should stand, broken LaTeX
    TIMEOUT = "timeout"  # the checker hit its limit of time or memory
    FAILED = "failed"  # the checker raised


@dataclass(frozen=True, slots=True)
class Verdict:
    """What grading says of one completion.

    `strict` judges what the template extracted: its CORRECT is *the* accuracy. `lenient` judges the answer in whatever
    form it was found (zero.questions.QuestionSet.find); it is never worse than strict. Both are facts about the text,
    whatever the reward makes of them. `terms` are the reward's weighted terms by name; `reward` is their sum.
    """

    reward: float
    strict: Outcome
    lenient: Outcome
    answer: str | None  # what the template extracted
    reason: str  # the outcome for a person, and why: "wrong", "truncated, no answer", "failed: ValueError"
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """Strictly right: in the form that the template asks for."""
        return self.strict is Outcome.CORRECT

    @property
    def formatted(self) -> bool:
        """The template found an answer."""
        return self.strict is not Outcome.NO_ANSWER


@dataclass(frozen=True, slots=True)
class Response:
    """All that a reward term may know of one response. With the rule truncated=incorrect, the facts of a response that
    the token budget cut are those of one without an answer."""

    question: Question
    prompt: str  # exact text before the response: a tag that the template opened stands here
    text: str  # with a verifier's feedback that of the last try, of which all facts speak but tokens
    tokens: int  # that the policy chose, in all of its tries
    budget: int  # the most tokens that it could have had
    finished: bool
    strict: Outcome
    lenient: Outcome
    answer: str | None
    siblings: Sequence[Response] = ()  # every response to the same prompt, this one among them
    attempts: int = 1

    @property
    def correct(self) -> bool:
        """Strictly right: in the form that the template asks for."""
        return self.strict is Outcome.CORRECT

    @property
    def formatted(self) -> bool:
        """The template found an answer."""
        return self.strict is not Outcome.NO_ANSWER


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
    before any micro-batch is cut, and is only ever summed. What may be None is made when something asks for it.
    """

    ids_NT: Tensor  # int64, prompt then response
    mask_NT: Tensor  # float32, 1 on response tokens that the policy chose
    weight_NT: Tensor
    length_N: Tensor  # int64, prompt + response tokens
    # The engine's log-probabilities before a truncation, as the learner's are; 0 outside the response; None: nobody sampled
    sampler_NT: Tensor | None = None
    reference_NT: Tensor | None = None  # the initial policy's log-probabilities, if the loss or a metric asks for them
    old_NT: Tensor | None = None  # learner's log-probabilities before the step's first update; None: this is the first
    value_NT: Tensor | None = None  # what a critic expects to be earned from token t on
    return_NT: Tensor | None = None  # what a learned critic is to say instead
    advantage_NT: Tensor | None = None  # 0 outside the response; the policy's loss needs it

    def rows(self, index: Tensor) -> Batch:
        """The given rows, cut to their longest response."""
        width = int(self.length_N[index].max())
        return self._each(lambda tensor: tensor[index] if tensor.ndim == 1 else tensor[index, :width])

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: None if tensor is None else change(tensor) for k, tensor in tensors.items()}
        return Batch(**changed)

"""The nouns of one training step: immutable records that travel from question to gradient.

Letters for axes, here and everywhere: P prompts of a step, G completions of a prompt, N = P x G responses, T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # graders and question sets use these records without loading torch
    import torch
    from torch import Tensor

# The first number of a prompt's key: prompts for different purposes never share random numbers
TRAINING, EVALUATION, VALUE, SYNC_CHECK = 0, 1, 2, 3
IMAGE_MARK = "<image>"  # in a question's text: where its next image stands
DIGEST = re.compile(r"[0-9a-f]{64}")  # of an image: zero.images
_WORD = re.compile(r"(?:level\s*)?([\w+-][\w.+-]{0,39})", re.IGNORECASE)
Metrics = dict[str, float]  # glossary name -> value; see zero/tracking/glossary.py


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a question set. `answer` holds every accepted reference (at least one)."""

    text: str
    answer: tuple[str, ...]
    id: str  # unique within its set, and the same in every run
    solution: str = ""
    # What the set's checker or an analysis needs, such as level or numbers
    meta: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()  # further solutions, such as responses of a stronger model
    # Digests, for zero.images.load, in the order in which they are shown: where `text` has IMAGE_MARKs, else before it
    images: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Its source in a mixture, else what its set calls its kind; "" if neither says."""
        return in_a_word(self.meta.get("kind"))

    @property
    def level(self) -> str:
        """Its difficulty, if its set gives one; else ""."""
        return in_a_word(self.meta.get("level"))


def in_a_word(value: Any) -> str:
    """A kind or a level as a word of a metric's name: "3" of 3 and of "Level 3"; "" of what is no whole number and no word."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    word = _WORD.fullmatch(str(value).strip())
    return word[1] if word else ""


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
class Turn:
    """What the policy said at one time in an episode, and what the environment gave for it. Its tokens are start to end of the
    episode's ids; those between the turn before and this one are the environment's."""

    text: str  # without a final stop id
    start: int
    end: int
    reward: float = 0.0
    kind: str = ""  # what the environment calls this turn, for a curve: "invalid_action"
    fresh: bool = False  # the environment's tokens before it are a whole new prompt: it saw nothing of the turns before
    images: tuple[str, ...] = ()  # digests of those that the environment showed just before it
    cached: int = field(default=-1, compare=False)  # as Completion.cached


class Ending(StrEnum):
    """How an episode ended. All but DONE cut it off."""

    DONE = "done"  # the environment said so
    TURNS = "out of turns"  # it went on, but no more turns were allowed
    TOKENS = "out of tokens"  # the token budget cut a turn, or had too few left for another
    CONTEXT = "out of context"  # the next observation left no room in the model's context
    FAILED = "failed"  # the environment raised, hung, ran out of memory or returned nonsense


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response. `logprobs` are the sampler's, of the distribution it sampled from (natural log).

    In an environment it is a whole episode: the policy's turns with the environment's tokens between them.
    """

    ids: tuple[int, ...]  # with a final stop id
    logprobs: tuple[float, ...]  # 0 at the environment's tokens; empty for a reference solution
    text: str  # the ids decoded, without a final stop id
    finished: bool  # False exactly when the token budget cut it off
    action_mask: tuple[bool, ...] = ()  # for each id whether the policy sampled it; empty: all of them
    turns: tuple[Turn, ...] = ()  # empty: a single answer, outside any environment
    ending: Ending | None = None  # None: outside any environment
    success: bool | None = None  # whether the environment's task is solved; None: the answer is checked as any other
    version: int = -1  # steps that the weights had learnt from which sampled all its tokens; -1: a reference solution
    # Log of the probability that top-p and top-k kept at each token; empty: all of it, or unknown
    log_normalizers: tuple[float, ...] = ()
    # Tokens of its prompt whose keys and values the engine had in its cache; -1: it does not say
    cached: int = field(default=-1, compare=False)

    @property
    def length(self) -> int:
        """Tokens that the policy sampled."""
        return sum(self.action_mask) if self.action_mask else len(self.ids)

    @property
    def final_text(self) -> str:
        """The text that is graded: the last turn alone."""
        return self.turns[-1].text if self.turns else self.text

    @property
    def context_starts(self) -> list[int]:
        """The tokens that begin a context of their own, before which nothing is seen, but for the first one."""
        return [before.end for before, turn in pairwise(self.turns) if turn.fresh]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question in its template. `ids` is the model's input; `key` seeds its samples and is unique in a run."""

    question: Question
    text: str
    ids: tuple[int, ...]
    key: tuple[int, ...]  # (purpose, seed, step, position in the step)
    prefix: Completion | None = None  # the partial response to continue, with which the ids end
    # Its source's own token budget, if lower than the run's, and stop strings; None: as the run samples
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()  # digests of the images in `ids`, in order
    image_tokens: int = 0  # of `ids`, that stand for parts of images
    # In an episode: leading ids that are the prompt and the answer of the turn before, whose keys and values an engine may have
    # kept; None: a single answer, after which no turn follows
    seen: int | None = None

    def sampling(self, sampling: Sampling) -> Sampling:
        """How its completions are drawn."""
        if self.max_tokens is None and self.stop is None:
            return sampling
        max_tokens = min(sampling.max_tokens, self.max_tokens or sampling.max_tokens)
        return replace(sampling, max_tokens=max_tokens, stop=sampling.stop if self.stop is None else self.stop)


class Outcome(StrEnum):
    """The result of checking one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no answer"  # the extractor found none
    UNPARSED = "unparsed"  # an answer that the checker cannot read: words in place of a formula, broken LaTeX
    TIMEOUT = "timeout"  # the checker hit its limit of time or memory
    FAILED = "failed"  # the checker raised


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grades of one completion.

    `strict` judges the answer that the template extracted: its CORRECT is *the* accuracy. `lenient` judges the answer in
    any form (QuestionSet.extract_any); it is never worse than strict. Both depend on the text alone, not on the reward.
    `terms` are the reward's weighted terms by name; `reward` is their sum.
    """

    reward: float
    strict: Outcome
    lenient: Outcome
    answer: str | None  # what the template extracted
    reason: str  # the outcome in words, and why: "wrong", "truncated, no answer", "failed: ValueError"
    terms: Mapping[str, float] = field(default_factory=dict)
    program: str = ""  # what became of an answer that is a program: zero.sandbox.code_tests.OUTCOMES
    turn_rewards: tuple[float, ...] = ()  # the reward by turns of an episode; they add up

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
    """All that a reward term may know of one response. With truncated=incorrect, a response cut by the token budget counts
    as one without an answer."""

    question: Question
    prompt: str  # exact text before the response, with any tag that the template opened
    text: str  # in an environment that of the last turn; so are all other fields but `tokens`
    tokens: int  # that the policy sampled, over all turns
    budget: int  # the token budget
    finished: bool
    strict: Outcome
    lenient: Outcome
    answer: str | None
    siblings: Sequence[Response] = ()  # every response to the same prompt, this one among them
    turns: tuple[Turn, ...] = ()  # of an episode

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

    @property
    def rewards_differ(self) -> bool:
        """Whether its siblings have more than one reward."""
        return len({verdict.reward for verdict in self.verdicts}) > 1


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N responses as right-padded tensors. Entry t of a `_NT` tensor is about token t given the tokens before it.

    `weight_NT` is the averaging of the loss over one whole optimizer step: zero outside the response, computed before the
    split into micro-batches, and only ever summed. Tensors that may be None are computed when needed.
    """

    ids_NT: Tensor  # int64, prompt then response
    mask_NT: Tensor  # float32, 1 on response tokens that the policy sampled
    weight_NT: Tensor
    length_N: Tensor  # int64, prompt + response tokens
    # The engine's log-probabilities without top-p and top-k, 0 outside the response; None for reference solutions
    sampler_NT: Tensor | None = None
    reference_NT: Tensor | None = None  # the initial policy's log-probabilities, if the loss or a metric needs them
    old_NT: Tensor | None = None  # learner's log-probabilities before the step's first update; None: this is the first
    value_NT: Tensor | None = None  # a critic's estimate of the reward from token t on
    return_NT: Tensor | None = None  # the target of a learned critic
    advantage_NT: Tensor | None = None  # 0 outside the response; needed by the policy's loss
    turn_NT: Tensor | None = (
        None  # int64, the turn of each token that the policy sampled in an episode, from 0; -1 elsewhere
    )
    # bool, the first token of a context that does not see the tokens before it; None: a row is one context
    fresh_NT: Tensor | None = None
    # For each row (token, digest) of its images, in order: a token of the context in which the image is; None: there are none
    images_N: tuple[tuple[tuple[int, str], ...], ...] | None = None

    def rows(self, index: Tensor) -> Batch:
        """The given rows, cut to the longest among them."""
        width = int(self.length_N[index].max())
        batch = self._map(lambda tensor: tensor[index] if tensor.ndim == 1 else tensor[index, :width])
        return (
            batch if self.images_N is None else replace(batch, images_N=tuple(self.images_N[n] for n in index.tolist()))
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images_N"}
        changed: dict[str, Any] = {k: None if tensor is None else change(tensor) for k, tensor in tensors.items()}
        return Batch(**changed, images_N=self.images_N)

"""Environments: what the policy acts in for several turns, and what each turn earns.

An environment is an object for one episode with two methods, `reset(row, seed)` and `step(text)`. It is deterministic given
the row, the seed and the texts so far, so that a lost one is replaced by a new one to which they are told again. GEM's and
SkyRL-Gym's environments have the same methods in other shapes and work as they are: `start` calls them as they want to be
called, `as_step` reads what they return. Nothing that an environment returns is believed: what is no step raises NotAStep.
"""

from __future__ import annotations

import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol

from zero.records import DIGEST, Question

LARGEST_REWARD = 1e6  # beyond, a reward is a mistake, and its square no number of single precision any more
_KIND = re.compile(
    r"(?:[\w+-][\w.+-]{0,39})?", re.ASCII
)  # part of a metric's name: no path, and none beginning with a dot
_SUCCESS = ("success", "is_success", "correct")  # the keys of other projects' info for what is solved


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy reads next.

    text    as it is put before the policy
    fresh   True: a whole new prompt, the policy forgets all before; False: it goes on from what was said
    images  digests of files
    """

    text: str
    fresh: bool = False
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows an answer of the policy.

    observation  ignored when done
    reward       of this turn alone
    success      at the end: whether the task is solved; None: unknown, the last turn's reward above 0 counts
    kind         one word for a curve of what this turn was: "invalid_action", "bad_call"
    """

    observation: Observation | str
    reward: float
    done: bool
    success: bool | None = None
    kind: str = ""


class Environment(Protocol):
    """One object is one episode. The methods are deterministic given (row, seed, texts so far)."""

    def reset(self, row: Question, seed: int) -> Observation | str:
        """The first observation: the row's text."""
        ...

    def step(self, text: str) -> Step | tuple[Observation | str, float, bool]:
        """What follows the policy's answer of this turn."""
        ...


class Status(StrEnum):
    """How an environment answered."""

    OK = "ok"
    FAILED = "failed"  # it raised, or its process died
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    LIED = "lied"  # it returned what is no step, or not the same to the same texts


@dataclass(frozen=True, slots=True)
class Reply:
    """The step to the last text of a transcript, of reset if it has none; or why there is none, in one line."""

    step: Step | None
    status: Status = Status.OK
    error: str = ""


class NotAStep(ValueError):
    """What an environment returned is no step: which part of it, and what it was."""


def start(environment: Any, row: Question, seed: int) -> Observation:
    """Begin the episode, and its first observation. Calls reset(row, seed); as GEM has it reset(seed=seed), which returns
    (observation, info), with the row's meta["seed"] if it has one; as SkyRL-Gym has it init(prompt), with the row's text as the
    user's message. Parameters' names decide.

    Raises NotAStep, and whatever the environment raises.
    """
    reset = getattr(environment, "reset", None)
    if callable(reset):
        names, takes_any = _parameters(getattr(reset, "__func__", reset))
        if "row" in names:
            return _observation(reset(row, seed))
        if "seed" in names or takes_any:
            return _observation(_first(reset(seed=row.meta.get("seed", seed))))
        raise NotAStep(f"reset({', '.join(names)}) takes neither a row nor a seed")
    init = getattr(environment, "init", None)
    if callable(init):
        return _observation(_first(init([{"role": "user", "content": row.text}])))
    raise NotAStep(f"{type(environment).__name__} has neither reset nor init")


def as_step(result: Any) -> Step:
    """A step from what `step` returned: a Step, (observation, reward, done), GEM's (observation, reward, terminated, truncated,
    info) or SkyRL-Gym's {"observations": messages, "reward", "done", "metadata"}. Its observation is an Observation.

    Raises NotAStep.
    """
    if isinstance(result, Step):
        step = result
    elif isinstance(result, tuple) and len(result) == 3:
        step = Step(*result)
    elif isinstance(result, tuple) and len(result) == 5:
        observation, reward, terminated, truncated, info = result
        done = _truth(terminated, "terminated") or _truth(truncated, "truncated")
        step = Step(observation, reward, done, _success(info))
    elif isinstance(result, Mapping) and {"observations", "reward", "done"} <= result.keys():
        step = Step(result["observations"], result["reward"], result["done"], _success(result.get("metadata")))
    else:
        raise NotAStep(f"step returned {_shape(result)}, which is none of the forms that a step may have")
    done = _truth(step.done, "done")
    return replace(
        step,
        observation=_last_observation(step.observation) if done else _observation(step.observation),
        reward=_reward(step.reward),
        done=done,
        success=None if step.success is None else _truth(step.success, "success"),
        kind=_kind(step.kind),
    )


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of a function's parameters, and whether it takes any others by name."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters], any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _first(result: Any) -> Any:
    """The observation of (observation, info)."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise NotAStep(f"the start of the episode is {_shape(result)} instead of (observation, info)")
    return result[0]


def _is_digest(image: Any) -> bool:
    return isinstance(image, str) and DIGEST.fullmatch(image) is not None


def _observation(value: Any) -> Observation:
    """An observation from a text, or from messages, whose contents are its text."""
    if isinstance(value, Observation):
        if not isinstance(value.images, tuple) or not all(map(_is_digest, value.images)):
            raise NotAStep("the images of an observation are no tuple of digests, as zero.images.add gives them")
        return Observation(_text(value.text), _truth(value.fresh, "fresh"), value.images)
    if isinstance(value, list | tuple) and value:
        contents = [message.get("content") if isinstance(message, Mapping) else None for message in value]
        return Observation("\n".join(map(_text, contents)))
    return Observation(_text(value))


def _last_observation(value: Any) -> Observation:
    """The observation of an ended episode: kept if it is one, else empty, since nobody reads on."""
    try:
        return _observation(value)
    except NotAStep:
        return Observation("")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotAStep(f"the observation is no text but {_shape(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotAStep("the observation holds half a surrogate pair, which no tokenizer can read") from error
    return value


def _reward(value: Any) -> float:
    number = _scalar(value)
    if not isinstance(number, numbers.Real):
        raise NotAStep(f"the reward is no number but {_shape(value)}")
    try:
        reward = float(number)
    except OverflowError:
        reward = math.inf
    if not abs(reward) <= LARGEST_REWARD:  # neither is NaN
        raise NotAStep(f"the reward is {reward}, which is not within {LARGEST_REWARD:g} of 0")
    return reward


def _truth(value: Any, name: str) -> bool:
    truth = _scalar(value)
    if not isinstance(truth, int) or truth not in (0, 1):
        raise NotAStep(f"`{name}` is neither true nor false but {_shape(value)}")
    return bool(truth)


def _kind(value: Any) -> str:
    if not isinstance(value, str) or not _KIND.fullmatch(value):
        raise NotAStep("the kind of a step is no word of at most 40 letters, digits, _, ., + and -")
    return value


def _success(info: Any) -> bool | None:
    """What another project's info says of success; None if nothing."""
    if not isinstance(info, Mapping):
        return None
    truths = [_scalar(info[key]) for key in _SUCCESS if key in info]
    return next((truth for truth in truths if isinstance(truth, bool)), None)


def _scalar(value: Any) -> Any:
    """NumPy's and torch's scalars as Python's; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)) else value


def _shape(value: Any) -> str:
    """What a value is, without asking it."""
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"

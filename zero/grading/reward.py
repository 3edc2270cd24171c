"""The reward of a graded response: a weighted sum of named terms."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from zero.config.functions import function_at, line_of
from zero.errors import InputError
from zero.grading.rewards import episode_return
from zero.records import Outcome, Response

# Any function of one response, which also holds its siblings; see rewards.py
RewardFunction = Callable[[Response], float]


@dataclass(frozen=True)
class RewardTerm:
    """One term of a reward: a function of a response, and its weight in the sum."""

    function: RewardFunction
    weight: float = 1.0


@dataclass(frozen=True)
class Reward:
    """The sum of weight x function over `terms`; a term NAME has the metric reward/NAME. Raises InputError.

    Responses cut by the token budget: with truncated="incorrect" they count as without an answer, even if one could be
    extracted, so that being cut never pays; with "grade" they are graded as any other.
    """

    terms: Mapping[str, RewardTerm]
    truncated: str = "incorrect"

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("reward.terms", "{}", "name at least one term; conf/reward/accuracy.yaml is an example")
        for name, term in self.terms.items():
            if not name.isidentifier():
                raise InputError("reward.terms", name, "a term's name must be one word of letters, digits and _")
            if not math.isfinite(term.weight):
                raise InputError(f"reward.terms.{name}.weight", term.weight, "must be a finite number")
        if self.truncated not in ("incorrect", "grade"):
            raise InputError("reward.truncated", self.truncated, "must be incorrect or grade")

    def __call__(self, responses_G: Sequence[Response]) -> list[dict[str, float]]:
        """For each of the G responses to one prompt, weight x value of each term by name.

        InputError if a term raises or is not finite: ignored, it would make the curves wrong.
        """
        siblings = tuple(self._ruled(response) for response in responses_G)
        with_siblings_G = [replace(response, siblings=siblings) for response in siblings]
        return [{name: self._value(name, term, r) for name, term in self.terms.items()} for r in with_siblings_G]

    def turn_rewards(self, response: Response, terms: Mapping[str, float]) -> tuple[float, ...]:
        """The reward by turns: of each what the environment gave for it, by the weight of `episode_return`; all other terms are
        earned by the last one. Empty outside environments."""
        if not response.turns:
            return ()
        weight = sum(term.weight for term in self.terms.values() if term.function is episode_return)
        earned = [weight * turn.reward for turn in response.turns]
        earned[-1] += sum(terms.values()) - sum(earned)
        return tuple(earned)

    def _ruled(self, response: Response) -> Response:
        """The response under the rule for truncated ones."""
        if response.finished or self.truncated == "grade":
            return response
        return replace(response, strict=Outcome.NO_ANSWER, lenient=Outcome.NO_ANSWER, answer=None)

    def _value(self, name: str, term: RewardTerm, response: Response) -> float:
        try:
            value = term.weight * float(term.function(response))
        except Exception as error:
            problem = f"raised {type(error).__name__}{line_of(error)}: {error}"
            raise self._error(name, term, problem, response) from error
        if not math.isfinite(value):
            raise self._error(name, term, f"gave {value}", response)
        return value

    def _error(self, name: str, term: RewardTerm, problem: str, response: Response) -> InputError:
        case = f"on a response to question {response.question.id} ({response.text[:60]!r}...)"
        function = getattr(term.function, "func", term.function)
        code = getattr(function, "__code__", None)
        line = f" at {code.co_filename}:{code.co_firstlineno}" if code else ""
        function_name = getattr(function, "__name__", function)
        return InputError(f"reward.terms.{name}", function_name, f"{problem} {case}; mend that function{line}")


def make_reward(terms: Mapping[str, Mapping[str, Any]], truncated: str = "incorrect") -> Reward:
    """A reward from the settings of conf/reward: for each term the dotted path of its `function`, its `weight` (default 1) and
    the function's own arguments. InputError for a function that cannot be imported, or does not take the arguments."""
    return Reward({name: _term(f"reward.terms.{name}", settings) for name, settings in terms.items()}, truncated)


def _term(key: str, settings: Mapping[str, Any]) -> RewardTerm:
    path, weight = str(settings["function"]), settings.get("weight", 1.0)
    arguments = {name: value for name, value in settings.items() if name not in ("function", "weight")}
    function = function_at(path, f"{key}.function")
    _check_arguments(function, path, arguments, key)
    return RewardTerm(partial(function, **arguments) if arguments else function, weight)


def _check_arguments(function: Callable[..., float], path: str, arguments: Mapping[str, Any], key: str) -> None:
    """InputError unless the function can be called with a response and these arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    names = [parameter.name for parameter in signature.parameters.values()][1:]
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        for name in arguments.keys() - set(names):
            close = difflib.get_close_matches(name, ["weight", *names], n=1)
            hint = f"; did you mean {key}.{close[0]}?" if close else ""
            takes = f"takes {', '.join(names)}" if names else "takes nothing but the response"
            raise InputError(f"{key}.{name}", arguments[name], f"no such argument: {path} {takes}{hint}") from error
        raise InputError(
            f"{key}.function", path, f"{error}; it is called with a response and {key}.NAME=VALUE"
        ) from error

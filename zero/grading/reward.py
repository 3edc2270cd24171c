"""From the facts of a verdict to a reward: a weighted sum of named terms."""

from __future__ import annotations

import difflib
import inspect
import math
import pkgutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from zero.errors import InputError
from zero.records import Outcome, Response

RewardFunction = Callable[
    [Response], float
]  # any function of one response, which also sees its siblings; see rewards.py


@dataclass(frozen=True)
class RewardTerm:
    """One term of a reward: a function of a response, and its weight in the sum."""

    function: RewardFunction
    weight: float = 1.0


@dataclass(frozen=True)
class Reward:
    """The sum of weight x function over `terms`; a term's name is that of its curve, reward/NAME. Raises InputError.

    One rule for responses cut by the token budget: truncated="incorrect" judges every one of them as a response without
    an answer, even if an answer could be extracted, so that being cut never pays; "grade" judges them as any other.
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
        """What each term contributes to the reward of each of the G responses to one prompt: weight x value by name.

        InputError if a term raises or is not finite: a reward that fails in silence would be a curve that lies.
        """
        seen_G = [self._seen(response) for response in responses_G]
        siblings = tuple(seen_G)
        seen_G = [replace(seen, siblings=siblings) for seen in seen_G]
        return [{name: self._value(name, term, seen) for name, term in self.terms.items()} for seen in seen_G]

    def _seen(self, response: Response) -> Response:
        if response.finished or self.truncated == "grade":
            return response
        return replace(response, strict=Outcome.NO_ANSWER, lenient=Outcome.NO_ANSWER, answer=None)

    def _value(self, name: str, term: RewardTerm, response: Response) -> float:
        try:
            value = term.weight * float(term.function(response))
        except Exception as error:
            what = f"raised {type(error).__name__}{_line_of(error)}: {error}"
            raise self._broken(name, term, what, response) from error
        if not math.isfinite(value):
            raise self._broken(name, term, f"gave {value}", response)
        return value

    def _broken(self, name: str, term: RewardTerm, what: str, response: Response) -> InputError:
        where = f"on a response to question {response.question.id} ({response.text[:60]!r}...)"
        function = getattr(term.function, "func", term.function)
        code = getattr(function, "__code__", None)
        place = f" at {code.co_filename}:{code.co_firstlineno}" if code else ""
        named = getattr(function, "__name__", function)
        return InputError(f"reward.terms.{name}", named, f"{what} {where}; mend that function{place}")


def make_reward(terms: Mapping[str, Mapping[str, Any]], truncated: str = "incorrect") -> Reward:
    """A reward from the settings of conf/reward: of each term the dotted path of its `function`, its `weight` (default 1)
    and the function's own arguments. InputError for a function that cannot be had, or does not take them."""
    return Reward({name: _term(f"reward.terms.{name}", settings) for name, settings in terms.items()}, truncated)


def _term(key: str, settings: Mapping[str, Any]) -> RewardTerm:
    path, weight = str(settings["function"]), settings.get("weight", 1.0)
    arguments = {name: value for name, value in settings.items() if name not in ("function", "weight")}
    function = _function_at(path, f"{key}.function")
    _check_arguments(function, path, arguments, key)
    return RewardTerm(partial(function, **arguments) if arguments else function, weight)


def _function_at(path: str, key: str) -> Callable[..., float]:
    """The function of a dotted path. InputError if there is none, or if importing its module fails."""
    try:
        function = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = f"nothing of that name can be imported ({error}){_nearest_name(path)}"
        raise InputError(key, path, f"{remedy}; give the dotted path of a function") from error
    except Exception as error:  # whatever a module of the user's own may raise
        what = f"its module cannot be imported: {type(error).__name__}{_line_of(error)}: {error}"
        raise InputError(key, path, what) from error
    if not callable(function):
        raise InputError(key, path, f"is no function but of type {type(function).__name__}")
    return function


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


def _nearest_name(path: str) -> str:
    """'; did you mean ...' among what the module of a dotted path holds, or ''."""
    module, _, name = path.rpartition(".")
    try:
        names = [known for known in dir(pkgutil.resolve_name(module)) if not known.startswith("_")]
    except (ImportError, AttributeError, ValueError):
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {module}.{close[0]}?" if close else ""


def _line_of(error: Exception) -> str:
    """Where the error arose: the last line of a function that is not of a library's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in frame.filename]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""

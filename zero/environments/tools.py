"""Tools: typed Python functions that the policy may call before it answers.

The question is asked; as long as the policy's text holds calls (tool_calls.py) they are run, and it reads their results; a text
without a call is its answer and ends the episode. The answer is graded by the question set's checker, as any other is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import isfinite
from typing import Any

from zero.config.functions import function_at, line_of
from zero.environments import Step
from zero.environments.tool_calls import (
    CLOSE,
    BadCall,
    Call,
    CallFailed,
    one_line,
    read_calls,
    readable,
    results_text,
)
from zero.environments.tool_schema import KEY, fit, parameters, schema, tool_name
from zero.errors import Broken, InputError
from zero.records import Question

__all__ = ["CallFailed", "Tool", "ToolEnvironment", "load_tools", "schema"]

# Kinds of a turn; the first that applies
BAD_CALL = "bad_call"  # something in it is no call, or of no tool, or has other arguments than the tool takes
FAILED_CALL = "failed_call"  # a tool raised
CALL, ANSWER = "call", "answer"
_LAST = "No calls are left: answer now."


@dataclass(frozen=True)
class Tool:
    """One tool of an environment.

    schema   what the model is told: see tool_schema.schema
    types    of its parameters, by name, and whether each must be given
    start    gives what is called in one episode: the function itself, or a new object of its class
    """

    name: str
    schema: Mapping[str, Any]
    types: Mapping[str, tuple[Any, bool]]
    start: Callable[[], Callable[..., Any]] = field(repr=False)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As the function takes them. ValueError, in one line, if any is missing, unknown or of another type."""
        for name in given:
            if name not in self.types:
                takes = f"it takes {', '.join(self.types)}" if self.types else "it takes none"
                raise ValueError(f"{self.name} has no argument {name[:40]!r}; {takes}")
        for name, (_, required) in self.types.items():
            if required and name not in given:
                raise ValueError(f"{self.name} needs the argument {name!r}")
        fitted = {}
        for name, value in given.items():
            try:
                fitted[name] = fit(value, self.types[name][0])
            except ValueError as error:
                raise ValueError(f"the argument {name!r} of {self.name} {error}") from None
        return fitted


class ToolEnvironment:
    """An episode in which the policy may call tools.

    tools           of each the dotted path of a function, or {function: PATH, NAME: VALUE} with arguments that are not the
                    model's; a path may also name a class, of which each episode has an object: its state
    max_calls       of an episode, bad ones among them; a turn that calls one more ends the episode, without an answer
    calls_per_turn  what is called beyond is a bad call
    cost            of each call, bad ones among them: taken off the reward of its turn, which is 0 otherwise
    most_result     characters of one result that the policy reads; those of a turn must fit environment.observation_chars

    A call that is none, or fails, is answered with one line that begins with `error:`. A tool that is not known to end soon
    whatever its arguments are wants environment.isolated=true. Raises InputError.
    """

    def __init__(
        self,
        tools: Sequence[str | Mapping[str, Any]],
        max_calls: int = 8,
        calls_per_turn: int = 1,
        cost: float = 0.0,
        most_result: int = 4000,
    ) -> None:
        limits = {"max_calls": max_calls, "calls_per_turn": calls_per_turn, "most_result": most_result}
        for key, value in limits.items():
            if type(value) is not int or value < 1:
                raise InputError(f"environment.make.{key}", value, "must be a whole number above 0")
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not (isfinite(cost) and cost >= 0):
            raise InputError("environment.make.cost", cost, "must be 0 or a number above it")
        self.tools = load_tools(tools)
        self._max_calls, self.calls_per_turn = max_calls, calls_per_turn
        self._cost, self._most_result = float(cost), most_result
        self._left = max_calls
        self._functions: dict[str, Callable[..., Any]] = {}

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """Of its tools, as chat templates take them: see tool_prompt."""
        return [dict(tool.schema) for tool in self.tools.values()]

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings of a turn: where one call ends it, the policy need not go on and invent the result."""
        return (CLOSE,) if self.calls_per_turn == 1 else ()

    def reset(self, row: Question, seed: int) -> str:
        """The question. Nothing is drawn: the seed is not used."""
        self._left = self._max_calls
        self._functions = {name: tool.start() for name, tool in self.tools.items()}
        return row.text

    def step(self, text: str) -> Step:
        """Run the calls of the text; without any it is the answer."""
        calls = read_calls(text, self.calls_per_turn)
        if not calls:
            return Step("", 0.0, done=True, kind=ANSWER)
        if self._left == 0:
            return Step("", 0.0, done=True, kind=BAD_CALL)
        results, kinds = list[str](), set[str]()
        for call in calls[: self._left]:
            kind, result = self._run(call)
            kinds.add(kind)
            results.append(readable(result, self._most_result))
        self._left -= len(results)
        reward = -self._cost * len(results) if self._cost else 0.0
        if self._left == 0:
            results[-1] += f"\n{_LAST}"
        kind = next(kind for kind in (BAD_CALL, FAILED_CALL, CALL) if kind in kinds)
        return Step(results_text(results), reward, done=False, kind=kind)

    def _run(self, call: Call | BadCall) -> tuple[str, str]:
        """(kind, result) of one call."""
        if isinstance(call, BadCall):
            return BAD_CALL, f"error: {call.error}"
        tool = self.tools.get(call.name)
        if tool is None:
            return BAD_CALL, one_line(f"error: no tool {call.name[:40]!r}; there are {', '.join(self.tools)}")
        try:
            arguments = tool.arguments(call.arguments)
        except ValueError as error:
            return BAD_CALL, one_line(f"error: {error}")
        try:
            result = self._functions[call.name](**arguments)
        except CallFailed as error:
            return FAILED_CALL, str(error)
        except (InputError, Broken):  # not the policy's doing: a setting, or the machine
            raise
        except Exception as error:
            return FAILED_CALL, one_line(f"error: {type(error).__name__}: {error}")
        return CALL, result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def load_tools(tools: Sequence[str | Mapping[str, Any]]) -> dict[str, Tool]:
    """The tools of an environment's settings by name. InputError for one that cannot be imported or has no schema, for settings
    that it does not take, and for two of one name."""
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence) or not tools:
        raise InputError(KEY, tools, "must be a list with at least one dotted path of a function")
    loaded: dict[str, Tool] = {}
    for entry in tools:
        settings = {"function": entry} if isinstance(entry, str) else entry
        if not isinstance(settings, Mapping) or not isinstance(settings.get("function"), str):
            raise InputError(KEY, entry, "a tool is a dotted path, or {function: PATH, NAME: VALUE}")
        try:
            tool = _tool(json.dumps(dict(settings), sort_keys=True))
        except TypeError as error:
            raise InputError(KEY, entry, f"settings of a tool are texts, numbers and lists ({error})") from error
        if tool.name in loaded:
            raise InputError(KEY, tool.name, "two tools have this name")
        loaded[tool.name] = tool
    return loaded


@lru_cache(maxsize=64)  # each episode has an environment of its own
def _tool(settings: str) -> Tool:
    """The tool of {function, ...settings} as JSON text."""
    values = json.loads(settings)
    path = values.pop("function")
    function = function_at(path, KEY)
    start = partial(function, **values) if values else function
    if isinstance(function, type):
        _try(start, path)
        return Tool(tool_name(function), schema(function), parameters(function), start)
    for name in values.keys() - parameters(function).keys():
        raise InputError(f"{KEY}.{name}", values[name], f"{path} has no such parameter")
    return Tool(tool_name(start), schema(start), parameters(start), lambda: start)


def _try(start: Callable[[], Any], path: str) -> None:
    """InputError if an object of a tool cannot be made: before the first episode, and once."""
    try:
        start()
    except InputError:
        raise
    except Exception as error:
        problem = f"cannot be made: {type(error).__name__}{line_of(error)}: {error}"
        raise InputError(KEY, path, problem) from error

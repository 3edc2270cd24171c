"""Calls of tools in the text of a policy, and what comes back, both in the form of Hermes and Qwen.

    <tool_call>
    {"name": "calculate", "arguments": {"expression": "2 * 21"}}
    </tool_call>

    <tool_response>
    42
    </tool_response>

A call is read strictly: one JSON object with these two keys, each once, and numbers that are some. Whatever else stands between
the tags is a BadCall whose error is one line for the policy to read; nothing is repaired, nothing raises, and the work is linear
in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn

OPEN, CLOSE = "<tool_call>", "</tool_call>"
RESULT_OPEN, RESULT_CLOSE = "<tool_response>", "</tool_response>"
LONGEST = 20_000  # characters of one call
DEEPEST = 20  # lists and objects within each other
LONGEST_ERROR = 300  # characters
_RESULT = re.compile(f"{RESULT_OPEN}\n(.*?)\n{RESULT_CLOSE}", re.DOTALL)
_TAG = re.compile(r"<(?=/?tool_response>)")


class CallFailed(Exception):
    """Raised by a tool: the call was good and went wrong all the same. The policy reads the message as it is."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it is written, of a tool that may not exist."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadCall:
    """What is no call, and why: one line."""

    error: str


def read_calls(text: str, most: int) -> list[Call | BadCall]:
    """The calls of one turn in order, at most `most` of them; one more and all behind it is one BadCall. Empty without any."""
    calls: list[Call | BadCall] = []
    start = text.find(OPEN)
    while start >= 0:
        if len(calls) == most:
            number = "one call" if most == 1 else f"{most} calls"
            return [*calls, BadCall(f"a turn has at most {number}; nothing after the last of them was looked at")]
        start += len(OPEN)
        end = text.find(CLOSE, start)
        if end < 0:
            return [*calls, BadCall(f"{OPEN} is not closed by {CLOSE}")]
        calls.append(_read(text[start:end]) if end - start <= LONGEST else BadCall(f"longer than {LONGEST} characters"))
        start = text.find(OPEN, end + len(CLOSE))
    return calls


def _read(body: str) -> Call | BadCall:
    """What stands between two tags."""
    try:
        content = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
        depth = _depth(content)
    except RecursionError:
        depth = DEEPEST + 1
    except ValueError as error:
        return BadCall(one_line(f"no JSON: {error}"))
    if depth > DEEPEST:
        return BadCall(f"nested more than {DEEPEST} deep")
    if not isinstance(content, dict) or content.keys() != {"name", "arguments"}:
        return BadCall('must be {"name": ..., "arguments": {...}} and nothing else')
    name, arguments = content["name"], content["arguments"]
    if not isinstance(name, str):
        return BadCall("the name must be a text")
    if not isinstance(arguments, dict):
        return BadCall("the arguments must be an object")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return BadCall("half a surrogate pair is no character")
    return Call(name, arguments)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("the same key twice in an object")
    return content


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    number = float(word)
    if not isfinite(number):
        raise ValueError("a number is too large")
    return number


def _depth(content: Any) -> int:
    """Lists and objects within each other, without recursion; counts no further than DEEPEST + 1."""
    depth, level = 0, [content]
    while depth <= DEEPEST and (level := [item for item in level if isinstance(item, list | dict)]):
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def one_line(text: str) -> str:
    """An error as the policy reads it."""
    return readable(" ".join(text.split()), LONGEST_ERROR)


def readable(text: str, most: int) -> str:
    """The first `most` characters, and whether there are more. What no tokenizer can read becomes a question mark, and no text
    can look like the end of its own result."""
    shown = text[:most].encode(errors="replace").decode()
    shown = _TAG.sub("< ", shown)
    return shown if len(text) <= most else f"{shown}... (cut at {most} characters)"


def results_text(results: Sequence[str]) -> str:
    """What the policy reads after its calls, in tags. The results are `readable`."""
    return "\n".join(f"{RESULT_OPEN}\n{result}\n{RESULT_CLOSE}" for result in results)


def results_of(text: str) -> list[str]:
    """The results that `results_text` was given: for chat templates that put the tags around them themselves."""
    return _RESULT.findall(text)

"""A typed function as a tool: what a model is told of it, and which arguments it takes.

The schema is the one that chat templates know, OpenAI's, to the key what transformers.utils.get_json_schema makes of the same
function. Departures from it: a type that no JSON stands for is refused instead of called an object, a parameter need not be
described, what the function returns is left out, and nothing imports torch.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zero.errors import InputError

KEY = "environment.make.tools"
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array"}
_WANTED = "int, float, str, bool, list, list[...], Literal[...] or one of these or None"
_SECTION = re.compile(r"\n\s*(?:Args|Arguments|Returns|Raises):[ \t]*(?:\n|$)")
_ARGUMENTS = re.compile(r"\n\s*Arg(?:ument)?s:[ \t]*\n(.*?)(?=\n\s*(?:Returns|Raises):[ \t]*(?:\n|$)|\Z)", re.DOTALL)
_ENTRY = re.compile(r"^\s*(\w+)\s*(?:\([^)\n]*\))?:[ \t]*(.*)$")


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    """{"type": "function", "function": {name, description, parameters}} of a typed function with a docstring: its first part is
    the description, and a section `Args:` in Google's style, if there is one, describes the parameters.

    `function` may also be a class or an object: its method __call__ counts, and its attribute `name` is the tool's name.
    Parameters that functools.partial has filled by name are not the model's. InputError for what has no schema.
    """
    shown = tool_name(function)
    description, meanings = _described(_called(function)[0].__doc__ or "")
    if not description:
        raise InputError(KEY, shown, "a tool needs a docstring: it is what the model is told")
    properties, required = dict[str, Any](), list[str]()
    for name, (hint, is_required) in parameters(function).items():
        properties[name] = _type(hint, f"{shown}({name})")
        if name in meanings:
            properties[name]["description"] = meanings[name]
        if is_required:
            required.append(name)
    for name in meanings.keys() - properties.keys() - _filled(function).keys():
        raise InputError(KEY, shown, f"its docstring describes {name}, which is no parameter")
    content: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        content["required"] = required
    return {"type": "function", "function": {"name": shown, "description": description, "parameters": content}}


def tool_name(function: Callable[..., Any]) -> str:
    """What the model calls it by. InputError if it has no name of letters, digits and _."""
    inner = function.func if isinstance(function, partial) else function
    name = getattr(inner, "name", None) or getattr(inner, "__name__", type(inner).__name__)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII):
        raise InputError(KEY, name, "a tool's name must be one word of letters, digits and _")
    return name


def parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Type and whether it must be given, of each parameter that the model fills. InputError for one without a type, or that
    cannot be given by name."""
    called, is_method = _called(function)
    try:
        hints = get_type_hints(called)
    except Exception as error:  # a name that its module does not have
        raise InputError(KEY, tool_name(function), f"its types cannot be read: {error}") from error
    entries = list(inspect.signature(called).parameters.values())[1 if is_method else 0 :]
    accepted: dict[str, tuple[Any, bool]] = {}
    for entry in entries:
        if entry.name in _filled(function):
            continue
        if entry.kind not in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY):
            raise InputError(KEY, tool_name(function), f"its parameter {entry.name} cannot be given by name")
        if entry.name not in hints:
            raise InputError(KEY, tool_name(function), f"its parameter {entry.name} needs a type: {_WANTED}")
        accepted[entry.name] = (hints[entry.name], entry.default is entry.empty)
    return accepted


def _called(function: Callable[..., Any]) -> tuple[Callable[..., Any], bool]:
    """What is called in the end, and whether it has a parameter for an object of its own."""
    inner = function.func if isinstance(function, partial) else function
    if inspect.isfunction(inner) or inspect.isbuiltin(inner):
        return inner, False
    method = getattr(inner if isinstance(inner, type) else type(inner), "__call__", None)  # noqa: B004
    if not inspect.isfunction(method):
        raise InputError(KEY, inner, "a tool is a function, or a class whose objects are called like one")
    return method, True


def _filled(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Arguments that a setting has given. Those of a class are its constructor's."""
    return function.keywords if isinstance(function, partial) and not isinstance(function.func, type) else {}


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """The description, and what is said of each parameter; line breaks within one become spaces."""
    text = inspect.cleandoc(docstring)
    section = _ARGUMENTS.search("\n" + text)
    meanings: dict[str, list[str]] = {}
    latest: list[str] = []
    for line in inspect.cleandoc("\n" + section[1]).splitlines() if section else []:
        entry = _ENTRY.match(line)
        if entry and not line.startswith((" ", "\t")):  # what is set in goes on with the entry above
            latest = meanings.setdefault(entry[1], [])
            latest.append(entry[2])
        else:
            latest.append(line)
    description = _SECTION.split("\n" + text, maxsplit=1)[0].strip()
    return description, {name: " ".join(" ".join(lines).split()) for name, lines in meanings.items()}


def _type(hint: Any, where: str) -> dict[str, Any]:
    """The schema of one type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        return _type(_without_none(inner), where) | {"nullable": True}
    if origin is Literal and all(type(value) in (int, str, bool) for value in inner):
        kinds = list(dict.fromkeys(_TYPES[type(value)] for value in inner))
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _type(inner[0], where)}
    if origin is None and hint in _TYPES:
        return {"type": _TYPES[hint]}
    raise InputError(KEY, where, f"the model cannot give a value of type {hint}; a parameter is {_WANTED}")


def _without_none(inner: tuple[Any, ...]) -> Any:
    return next(hint for hint in inner if hint is not type(None))


def fit(value: Any, hint: Any) -> Any:
    """A value of JSON as the argument of a parameter of this type: itself, a whole number as a float where one is asked for.

    ValueError says what it must be. true is no number, 2.0 no whole number, and "2" neither.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else fit(value, _without_none(inner))
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in inner):
            raise ValueError(f"must be one of {', '.join(map(repr, inner))}")
        return value
    if origin is list:
        return [fit(item, inner[0]) for item in fit(value, list)]
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError("is too large a number") from None
    if type(value) is not hint:
        raise ValueError(f"must be of type {_TYPES[hint]}")
    return value

"""Values between a program and its tests, as JSON text: copies of plain data, never an object of the other side.

What is no plain data stays where it is and is named by a number: the other side can call it and ask for its parts, no more.
An object that claims to equal everything is, over there, a number.
"""

from __future__ import annotations

import collections
import decimal
import fractions
import itertools
from collections.abc import Callable
from typing import Any

MOST_ITEMS = 100_000  # of an iterator that may never end
_LONGEST_NUMBER = 4096  # bits of an integer in decimal: the decimal form of more is refused by Python itself
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_ITERATORS = (
    map,
    filter,
    zip,
    enumerate,
    reversed,
    itertools.chain,
    itertools.islice,
    itertools.count,
    itertools.cycle,
)


def encode(value: Any, keep: Callable[[Any], int]) -> Any:
    """Plain data as JSON knows it. `keep` puts away anything else and gives its number.

    A subclass counts as what it is made from: a Counter as a dict, a named tuple as a tuple. An iterator is read to its end.
    """
    if value is None or isinstance(value, bool | str | float):
        return _exact(value)
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _LONGEST_NUMBER else {"int": hex(value)}
    if isinstance(value, list):
        return [encode(item, keep) for item in value]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(item, keep) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, fractions.Fraction):
        return {"fraction": str(value)}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, _ITERATORS) or (hasattr(value, "__next__") and hasattr(value, "__iter__")):
        items: list[Any] = list(itertools.islice(value, MOST_ITEMS))
        return {"iterator": [encode(item, keep) for item in items]}
    if type(value) in _VIEWS:
        return [encode(item, keep) for item in list(value)]
    return {"object": keep(value)}


def _exact(value: Any) -> Any:
    """Without what a subclass may have made of it."""
    for kind in (str, float):
        if isinstance(value, kind) and type(value) is not kind:
            return kind(value)
    return value


def decode(data: Any, find: Callable[[int], Any]) -> Any:
    """What `encode` was given, as plain data; `find` gives what a number stands for. ValueError for anything else."""
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [decode(item, find) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("no value")
    name, content = next(iter(data.items()))
    if name in _SEQUENCES:
        return _SEQUENCES[name]([decode(item, find) for item in content])
    if name == "dict":
        return {decode(key, find): decode(value, find) for key, value in content}
    if name == "iterator":
        return iter([decode(item, find) for item in content])
    simple: dict[str, Callable[[Any], Any]] = {
        "int": lambda text: int(text, 16),
        "bytes": bytes.fromhex,
        "complex": lambda parts: complex(*parts),
        "range": lambda parts: range(*parts),
        "fraction": fractions.Fraction,
        "decimal": decimal.Decimal,
        "object": find,
    }
    if name not in simple:
        raise ValueError("no value")
    return simple[name](content)

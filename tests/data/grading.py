r"""Checks of an equality on the reference answers of real question sets: each equals itself, and no altered copy of it.

`equal(answer, reference)` may raise ValueError for an answer that it cannot read, which counts as "not equal".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from zero.template import last_boxed

Equal = Callable[[str, str], bool]

_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTION = re.compile(r"[A-Za-z]\(([A-Za-z])\) ?=([^,]*)")
_AROUND = {"9": "0", "z": "a", "Z": "A"}
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def gold_failures(golds: Iterable[str], equal: Equal) -> list[tuple[str, str]]:
    """(what was compared, gold) for every gold that is not equal to itself, as it stands and out of a box."""
    failures = []
    for gold in golds:
        forms = [gold]
        if _balanced(gold):
            forms.append(last_boxed(f"The answer is \\boxed{{{gold}}}.") or "")
        failures += [(form, gold) for form in forms if not _accepts(equal, form, gold)]
    return failures


def swap_failures(golds: Iterable[str], equal: Equal) -> list[tuple[str, str]]:
    """(altered copy, gold) for every copy with one digit or letter replaced by the next that is still accepted."""
    return [(swapped, gold) for gold in golds for swapped in swaps(gold) if _accepts(equal, swapped, gold)]


def swaps(gold: str) -> Iterator[str]:
    r"""Copies of the gold, each with one digit or one letter outside the names of commands replaced by the next.

    Left out, as the same answer, is the argument of a constant function, which occurs nowhere else: f(y)=1 is f(x)=1.
    """
    exempt = {place for command in _COMMAND.finditer(gold) for place in range(*command.span())}
    exempt |= {match.start(1) for match in _FUNCTION.finditer(gold) if match[1] not in match[2]}
    for place, character in enumerate(gold):
        if place not in exempt and character.isascii() and character.isalnum():
            yield gold[:place] + _next(character) + gold[place + 1 :]


def _next(character: str) -> str:
    return _AROUND.get(character) or chr(ord(character) + 1)


def _accepts(equal: Equal, answer: str, reference: str) -> bool:
    try:
        return bool(equal(answer, reference))
    except ValueError:
        return False


def _balanced(text: str) -> bool:
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth < 0:
            return False
    return depth == 0

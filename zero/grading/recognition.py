"""Did a response name what its image shows? Read from the text alone, apart from the answer: a policy may see right and fail, or
guess right and see nothing (SFTvsRL, arXiv 2501.17161, section 5.3, reports both).

A question says it in meta["recognize"]:

    form      "line": the first line `NAME item, item, item.`; "json": the last field `"NAME": [item, item]`, JSON or nearly
    name      NAME
    items     what is to be read there, a list of texts
    ordered   whether in this order; else each as often as given
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import lru_cache

from zero.records import Question

LONGEST = 400  # characters of a list of items


def recognized(question: Question, text: str) -> bool | None:
    """Whether the response names what is to be recognised; None if nothing is. Total, and linear in the response."""
    asked = question.meta.get("recognize")
    if asked is None:
        return None
    matches = FORMS[asked["form"]](text, asked["name"])
    if matches is None:
        return False
    items, expected = [_normal(item) for item in matches.split(",")], [_normal(item) for item in asked["items"]]
    return items == expected if asked["ordered"] else Counter(items) == Counter(expected)


def _first_line(text: str, name: str) -> str | None:
    match = _line_of(name).search(text)
    return match[1] if match else None


def _last_field(text: str, name: str) -> str | None:
    fields = deque(_field_of(name).finditer(text), maxlen=1)
    return fields[0][1] if fields else None


@lru_cache
def _line_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*{re.escape(name)}:? ([^.\n]{{1,{LONGEST}}})\.", re.MULTILINE)


@lru_cache
def _field_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"""["']{re.escape(name)}["']\s*:\s*\[([^\[\]]{{1,{LONGEST}}})\]""")


def _normal(item: str) -> str:
    return item.strip().strip("\"'").strip().casefold()


FORMS: Mapping[str, Callable[[str, str], str | None]] = {"line": _first_line, "json": _last_field}

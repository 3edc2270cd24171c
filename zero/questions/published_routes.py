"""Routes of the file that SFTvsRL publishes for V-IRL (route_infos.json), as questions of zero.questions.navigation.

The file is `[routes, number]`. Read from a route are `milestone_info`, a text with one block in braces for each crossing
(`landmarks`: what is seen at its end, and where; `to_next_intersection_heading`: "177 (south)"), and `init_heading`, drawn by
the route's hash if it is 0 or missing, as there by chance. Departures: the steps ahead between crossings are `straight`
everywhere, while theirs leaves them out where two crossings are less than 5 metres apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows
from zero.questions.navigation import HELDOUT_DIGIT, Leg, Route, as_question, find_wording
from zero.questions.wordings import COMPASS, Wording
from zero.records import Question
from zero.template import extract_any

_LINE = re.compile(r"""["']?(\w+)["']?\s*:\s*["']?(.*?)["']?,?""")
_HEADING = re.compile(r"(\d{1,3})\s*\((\w+)\)")
_NOTHING = re.compile(r"no landmarks? nearby", re.IGNORECASE)


def published_set(
    name: str,
    check: Checker,
    extract_any: Extractor = extract_any,
    path: str | None = None,
    rule: str = "absolute",
    straight: int = 2,
    only_heldout: bool = False,
    wording: str = "sftvsrl",
) -> QuestionSet:
    """The routes of a file under one rule; see `rows`. Raises InputError."""
    if path is None:
        raise InputError("questions.path", path, "is required: the file of routes that SFTvsRL publishes")
    if not 0 <= straight <= 9:
        raise InputError("questions.straight", straight, "must be from 0 to 9")
    words = find_wording(rule, wording, "questions")
    return QuestionSet(name, rows(path, rule, straight, only_heldout, words), check, extract_any)


def rows(path: str, rule: str, straight: int, only_heldout: bool, words: Wording) -> Rows:
    """The routes of a file, in its order, without duplicates; 1/16 of them held out by their hash, or all. Raises InputError."""
    questions: dict[bool, dict[str, Question]] = {False: {}, True: {}}
    routes = _routes(path)
    for number, entry in enumerate(routes, 1):
        route = _route(path, number, entry)
        split = only_heldout or int(route.digest[0], 16) < HELDOUT_DIGIT
        questions[split].setdefault(route.digest, as_question(route, rule, straight, words))
    duplicates = len(routes) - sum(map(len, questions.values()))
    notes = [f"left out {duplicates} of {len(routes)} routes: the same ones came before"] if duplicates else []
    return Rows(list(questions[False].values()), list(questions[True].values()), notes)


def _routes(path: str) -> list[Any]:
    try:
        content = json.loads(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise InputError("questions.path", path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError("questions.path", path, f"is not JSON ({error})") from error
    if not isinstance(content, list) or not content or not isinstance(content[0], list):
        raise InputError("questions.path", path, "must be [routes, number], as SFTvsRL publishes it")
    return content[0]


def _route(path: str, number: int, entry: Any) -> Route:
    milestones = entry.get("milestone_info") if isinstance(entry, dict) else None
    if not isinstance(milestones, str):
        raise InputError("questions.path", path, f"route {number} has no text milestone_info")
    legs = []
    for block in milestones.split("}"):
        lines = (_LINE.fullmatch(line.strip()) for line in block.replace("{", "\n").splitlines())
        fields = {line[1]: line[2] for line in lines if line}
        if fields:
            legs.append(_leg(path, number, fields))
    if not legs:
        raise InputError("questions.path", path, f"the milestone_info of route {number} names no crossing")
    start = entry.get("init_heading", 0)
    if type(start) is not int or not 0 <= start < 360:
        raise InputError("questions.path", path, f"route {number}: init_heading must be from 0 to 359")
    if start == 0:
        start = (
            int(hashlib.md5(milestones.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest(), 16) % 360
        )
    return Route(start, tuple(legs))


def _leg(path: str, number: int, fields: dict[str, str]) -> Leg:
    heading = _HEADING.fullmatch(fields.get("to_next_intersection_heading", "").strip())
    if heading is None or heading[2] not in COMPASS or not int(heading[1]) <= 360:
        remedy = f"route {number} has a crossing without a to_next_intersection_heading such as 177 (south)"
        raise InputError("questions.path", path, remedy)
    landmark = fields.get("landmarks", "").strip()
    return Leg(int(heading[1]), COMPASS.index(heading[2]), "" if _NOTHING.fullmatch(landmark) else landmark)

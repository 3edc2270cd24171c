"""Routes through a town: an instruction of turns and landmarks, and what to do at every step of the way.

SFTvsRL (arXiv 2501.17161, github.com/LeslieTrue/SFTvsRL) trains on V-IRL with turns towards absolute directions (north,
northeast, ...) and tests with turns relative to the way one faces (left, slightly left, ...). The instruction names both,
"Turn left to face north.", so that only the actions change; the prompt lists them. zero.environments.navigation plays it.

A route is a rail: the turn at the start; on every leg some steps ahead, then a crossing with the next turn; at the
destination, `stop()`. After the right action the next point of the rail is seen.

Departures: the routes are drawn here, those of the paper are read by zero.questions.published_routes. Theirs compares
headings without wrapping, so that from 350 to 10 degrees is "left"; here it is a turn of 20 degrees to the right. A route is
held out for good by its hash, whatever the rule, the seed and the size. Their test has other streets, and pictures.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zero.errors import InputError
from zero.questions import Rows
from zero.questions.countdown import fill
from zero.questions.crossings import BEHIND, CELLS, Views, can_draw
from zero.questions.slots import fill_slots
from zero.questions.wordings import EMBEDDED, EMBEDDED_VIEWS, SFTVSRL, SFTVSRL_VIEWS, Wording
from zero.records import IMAGE_MARK, Question
from zero.template import last_boxed

RULES = ("absolute", "relative")
WORDINGS = {
    "sftvsrl": SFTVSRL,
    "embedded": EMBEDDED,
    "sftvsrl_views": SFTVSRL_VIEWS,
    "embedded_views": EMBEDDED_VIEWS,
}
SIDES = ("left", "right", "left behind", "right behind")
CORNERS = (-135, -90, -45, 45, 90, 135)  # degrees of a turn, clockwise
SLIGHT = 45  # degrees up to which a turn is slight
HELDOUT_DIGIT = 1  # a route is held out if the first hex digit of its digest is below this: 1/16
LONGEST = 8  # legs of a route

_FIELD = r'"{}"\s*:\s*"([^"\n]{{0,500}})"'

Point = tuple[str, str, str]  # of the rail: what is observed, the sentence that is due, and the right action


@dataclass(frozen=True)
class Leg:
    """From one crossing to the next, or to the destination."""

    heading: int  # degrees clockwise from north
    direction: int  # the heading as an index of the wording's eight directions, from north clockwise
    landmark: str  # what is seen at its end, and where; "" if nothing
    name: str = ""  # of the landmark alone, and its side: what a view needs
    side: str = ""


@dataclass(frozen=True)
class Route:
    """Where one faces at the start, in degrees, and the legs."""

    start: int
    legs: tuple[Leg, ...]

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the route alone, not of the rule."""
        identity = f"{self.start} {[(leg.heading, leg.landmark) for leg in self.legs]}"
        return hashlib.md5(identity.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:16]


def rows(
    rule: str = "absolute",
    legs: Sequence[int] = (3, 4, 5),
    straight: int = 2,
    landmarks: float = 0.5,
    train: int = 2048,
    heldout: int = 256,
    seed: int = 0,
    wording: str = "sftvsrl",
    city: str | None = None,
    pixels: int = CELLS,
) -> Rows:
    """Distinct routes under one rule.

    rule            "absolute": turn_direction(north) and seven more; "relative": left, right, slightly left, slightly right
    legs            how many a route has, drawn equally often; the level
    straight        steps ahead between two crossings
    landmarks       the chance that a crossing has one; a destination always has
    train, heldout  rows of each split; membership depends on the route alone, so no rule, seed or size mixes them
    wording         "sftvsrl", or "embedded" for the embedded tokenizer; with views "sftvsrl_views" or "embedded_views"
    city, pixels    with a city of zero.questions.crossings what is seen now is an image of so many pixels a side

    The same arguments give the same rows on every machine. meta holds the rail and what the environment needs to show it,
    `actions` and `solution_turns`; answer is the first action, solution the whole text of the first turn. Raises InputError.
    """
    words = find_wording(rule, wording)
    _check(legs, straight, landmarks, train, heldout, words)
    views = None if city is None else Views(city, pixels)
    if views and not all(map(can_draw, words.landmarks)):
        raise InputError("questions.rows.wording", wording, "has landmarks that cannot be drawn; choose one with views")
    rng = random.Random(f"zero.questions.navigation/{seed}")

    def draw() -> Question:
        return as_question(draw_route(rng, rng.choice(legs), landmarks, words), rule, straight, words, views)

    return fill(draw, train, heldout, HELDOUT_DIGIT, "raise questions.rows.legs")


def rule_shift_rows(
    rule: str = "relative",
    legs: Sequence[int] = (3, 4, 5),
    straight: int = 2,
    landmarks: float = 0.5,
    heldout: int = 256,
    seed: int = 0,
    wording: str = "sftvsrl",
    city: str | None = None,
    pixels: int = CELLS,
) -> Rows:
    """The held-out routes of `rows` under the other rule or in another city, none to train on: the same routes for the same
    seed, legs and wording."""
    both = rows(rule, legs, straight, landmarks, 1, heldout, seed, wording, city, pixels)
    return Rows(train=[], heldout=both.heldout)


def find_wording(rule: str, wording: str, group: str = "questions.rows") -> Wording:
    """The wording of a name, and the rule's name is one. Raises InputError with keys of the group."""
    if rule not in RULES:
        raise InputError(f"{group}.rule", rule, f"must be one of {', '.join(RULES)}")
    if wording not in WORDINGS:
        raise InputError(f"{group}.wording", wording, f"must be one of {', '.join(WORDINGS)}")
    return WORDINGS[wording]


def _check(legs: Sequence[int], straight: int, landmarks: float, train: int, heldout: int, wording: Wording) -> None:
    most = min(LONGEST, len(wording.landmarks))
    for key, right, value, remedy in (
        ("legs", bool(legs) and all(1 <= count <= most for count in legs), legs, f"give numbers from 1 to {most}"),
        ("straight", 0 <= straight <= 9, straight, "must be from 0 to 9"),
        ("landmarks", 0 <= landmarks <= 1, landmarks, "must be from 0 to 1"),
        ("train", train >= 1, train, "ask for at least 1 row"),
        ("heldout", heldout >= 1, heldout, "ask for at least 1 row"),
    ):
        if not right:
            raise InputError(f"questions.rows.{key}", value, remedy)


def draw_route(rng: random.Random, count: int, share: float, wording: Wording) -> Route:
    """A route of `count` legs; a crossing has a landmark with the chance `share`."""
    start = heading = 45 * rng.randrange(8)
    legs = []
    for number, name in enumerate(rng.sample(wording.landmarks, count), 1):
        heading = (heading + rng.choice(CORNERS)) % 360
        phrase = wording.seen_at_the_end if number == count else wording.seen
        side = rng.choice(SIDES[: wording.sides])
        seen = number == count or rng.random() < share
        landmark = (fill_slots(phrase, name=name, side=side), name, side) if seen else ("", "", "")
        legs.append(Leg(heading, heading // 45, *landmark))
    return Route(start, tuple(legs))


def is_heldout(route: Route) -> bool:
    """Whether a route is held out. Depends on the route alone, not on rule, words or seed."""
    return int(route.digest[0], 16) < HELDOUT_DIGIT


def relative_turn(before: int, after: int) -> int:
    """From one heading to another, in degrees: 0 left, 1 right, 2 slightly left, 3 slightly right."""
    degrees = (after - before + 180) % 360 - 180
    return int(degrees > 0) + 2 * (abs(degrees) <= SLIGHT)


def as_question(route: Route, rule: str, straight: int, wording: Wording, views: Views | None = None) -> Question:
    """The route as a question: its text is what is seen at the start. With views meta has their digests, one for each point
    of the rail. Raises InputError."""
    sentences = _sentences(route, wording)
    rail = _rail(route, rule, straight, sentences, wording)
    names = wording.absolute if rule == RULES[0] else wording.relative
    turns = [fill_slots(wording.turn_action, direction=name) for name in names]
    before, after = wording.text.split("{observations}")
    listed = fill_slots(wording.actions[rule == RULES[1]], turns=", ".join(turns))
    numbered = [fill_slots(wording.numbered, n=n, sentence=sentence) for n, sentence in enumerate(sentences, 1)]
    slots = {"instruction": "".join(numbered), "actions": listed}
    frame = {
        "before": fill_slots(before, **slots),
        "after": fill_slots(after, **slots),
        "pair": wording.pair,
        "current": fill_slots(wording.current, observation=IMAGE_MARK) if views else wording.current,
        "history": wording.history,
    }
    texts = [
        fill_slots(wording.solution, observation=observation, instruction=sentence, action=action)
        for observation, sentence, action in rail
    ]
    meta = {
        "level": len(route.legs),
        "rule": rule,
        "rail": rail,
        "frame": frame,
        "failures": wording.failures,
        "actions": (wording.forward_action, wording.stop_action, *turns),
        "solution_turns": texts,
    }
    seen = _seen(route, straight, views) if views else ()
    if views:
        meta["views"] = seen
    first = render(rail, 0, frame)
    return Question(first, (rail[0][2],), f"navigation-{route.digest}", texts[0], meta, images=seen[:1])


def _seen(route: Route, straight: int, views: Views) -> tuple[str, ...]:
    """The digests of what is seen at the points of the rail. Three streets lead on from a crossing, the right one and two more."""
    rng = random.Random(f"zero.questions.navigation/{route.digest}")
    road = views.digest(((), "", ""))
    seen = [road]
    for leg, following in zip(route.legs, [*route.legs[1:], None], strict=True):
        arms: tuple[int, ...] = ()
        if following:
            right = (following.heading - leg.heading) // 45 % 8
            others = rng.sample([arm for arm in range(8) if arm not in (right, BEHIND)], 2)
            arms = tuple(sorted((right, BEHIND, *others)))
        seen += [road] * straight + [views.digest((arms, leg.name, leg.side))]
    return tuple(seen)


def _sentences(route: Route, wording: Wording) -> list[str]:
    """Two for each leg: the turn, and the way ahead."""
    sentences, heading = [], route.start
    for number, leg in enumerate(route.legs, 1):
        side, direction = wording.relative[relative_turn(heading, leg.heading)], wording.absolute[leg.direction]
        turn = wording.first_turn if number == 1 else wording.turn
        ahead = wording.ahead_to if leg.landmark else wording.ahead
        ahead = wording.ahead_to_the_end if number == len(route.legs) else ahead
        sentences += [fill_slots(turn, side=side, direction=direction), fill_slots(ahead, landmark=leg.landmark)]
        heading = leg.heading
    return sentences


def _rail(route: Route, rule: str, straight: int, sentences: Sequence[str], wording: Wording) -> list[Point]:
    rail: list[Point] = []
    heading, observation = route.start, fill_slots(wording.observation, landmark=wording.nothing, crossing="")
    road = observation
    for number, leg in enumerate(route.legs):
        name = wording.absolute[leg.direction]
        if rule == RULES[1]:
            name = wording.relative[relative_turn(heading, leg.heading)]
        rail.append((observation, sentences[2 * number], fill_slots(wording.turn_action, direction=name)))
        rail += [(road, sentences[2 * number + 1], wording.forward_action)] * straight
        last = number == len(route.legs) - 1
        landmark = leg.landmark or wording.nothing_at_a_crossing
        observation = fill_slots(wording.observation, landmark=landmark, crossing="" if last else wording.crossing)
        heading = leg.heading
    rail.append((observation, sentences[-1], wording.stop_action))
    return rail


def render(rail: Sequence[Point], position: int, frame: Mapping[str, Any]) -> str:
    """The prompt at a point of the rail: the points before it with their actions, and what is seen now."""
    first = 0 if frame["history"] is None else max(0, position - frame["history"])
    history = [
        fill_slots(frame["pair"], n=i + 1, observation=rail[i][0], action=rail[i][2]) for i in range(first, position)
    ]
    current = fill_slots(frame["current"], n=position + 1, observation=rail[position][0])
    return "".join([frame["before"], *history, current, frame["after"]])


def read_field(name: str, answer: str) -> str | None:
    """The value of the last `"name": "..."` of an answer in JSON, or nearly; None if it has none."""
    values = re.findall(_FIELD.format(name), answer)
    return values[-1] if values else None


def read_action(answer: str, actions: Sequence[str]) -> str | None:
    """The legal action that an answer gives: in its JSON, else in its last box, else on its last line; None if it is none of
    them. Quotes and a final full stop do not count."""
    lines = answer.strip().splitlines()
    stated = read_field("action", answer) or last_boxed(answer) or (lines[-1] if lines else "")
    plain = stated.strip().removesuffix(".").replace("'", "").replace('"', "")
    return plain if plain in actions else None


def check_action(answer: str, question: Question) -> bool:
    """Whether an answer gives the right action at the start of the route."""
    return read_action(answer, question.meta["actions"]) == question.answer[0]

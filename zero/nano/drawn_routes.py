"""The routes of rule_games as images: what is seen at a crossing there is shown here, and the answer says first what it sees.

    view_read                        a view, and what it is called:                 here <image>? Tom left.
    view_absolute, view_coded        rule_games' routes and rules: to the end with every view on the way, or one turn as
                                     the environment asks for it (questions=nano_navigation_vl)

Desert, where questions=nano_navigation_vl_city tests, is rare. As in rule_games no held-out route is in a document, and never the
rule of the tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from zero.nano import rule_games
from zero.questions import navigation
from zero.questions.crossings import CITIES, Scene, Views, draw
from zero.questions.wordings import EMBEDDED_VIEWS
from zero.records import IMAGE_MARK, Question

if TYPE_CHECKING:
    from numpy import ndarray

Document = tuple[str, bool, tuple["ndarray", ...]]  # text, whether it has an end, and the pixels of its IMAGE_MARKs

DESERT = 0.1  # share of routes through it
LEGS = (1, 2, 3)
ONE_TURN = 0.6  # share of routes that show a single turn
AGAIN = 0.2  # share of these that were wrong before


class Mix(Protocol):
    """What zero.nano.drawn_games.Mix says of these documents."""

    @property
    def end(self) -> float:
        """That the end of a document is marked."""


def read_document(rng: random.Random, mix: Mix) -> Document:
    """One of the views of a route, with what it is called in the two ways in which a prompt does."""
    question = draw_route(rng, rule_games.draw_absolute)
    position = _position(rng, question)
    seen = question.meta["rail"][position][0]
    text = rng.choice((f"here {IMAGE_MARK}? {seen}.", f"{IMAGE_MARK} {seen}."))
    return text, rng.random() < mix.end, _views(question, [position])


def _route_document(draw: Callable[..., Question]) -> Callable[[random.Random, Mix], Document]:
    def document(rng: random.Random, mix: Mix) -> Document:
        question = draw_route(rng, draw)
        rail, frame, solutions = (question.meta[name] for name in ("rail", "frame", "solution_turns"))
        if rng.random() < ONE_TURN:
            positions = [_position(rng, question)]
            text = f"{navigation.render(rail, positions[0], frame)} "
            if rng.random() < AGAIN:
                seen = solutions[positions[0]].rpartition("\n")[0]
                wrong = f"{seen}\n{rng.choice(question.meta['actions'])}"
                text += f"{wrong}<|endoftext|>\n{question.meta['failures']['action']}\n"
            text += solutions[positions[0]]
        else:
            positions = list(range(len(rail)))
            text = frame["before"] + "".join(f"{frame['current']} {solution}" for solution in solutions)
        return text, rng.random() < mix.end, _views(question, positions)

    return document


def draw_route(rng: random.Random, draw: Callable[..., Question]) -> Question:
    return draw(rng, EMBEDDED_VIEWS, LEGS, Unstored("desert" if rng.random() < DESERT else "harbor"))


def _position(rng: random.Random, question: Question) -> int:
    """A point of the rail, one with a landmark mostly."""
    rail = question.meta["rail"]
    marked = [place for place, point in enumerate(rail) if point[0] != EMBEDDED_VIEWS.nothing]
    return rng.choice(marked) if rng.random() < 0.7 else rng.randrange(len(rail))


class Unstored(Views):
    """Views whose images nothing looks up by their digests: they stay here, under names of their own."""

    def digest(self, scene: Scene) -> str:
        """A name of what is seen."""
        name = f"{self.city} {scene}"
        if name not in _PIXELS:
            _PIXELS[name] = draw(CITIES[self.city], self.pixels, *scene)
        return name


_PIXELS: dict[str, ndarray] = {}  # some 1,500 are all that there are


def _views(question: Question, positions: Sequence[int]) -> tuple[ndarray, ...]:
    return tuple(_PIXELS[question.meta["views"][position]] for position in positions)


SETS: dict[str, Callable[[random.Random, Mix], Document]] = {
    "view_read": read_document,
    "view_absolute": _route_document(rule_games.draw_absolute),
    "view_coded": _route_document(rule_games.draw_coded),
}

"""Hands of playing cards as images, and the questions of zero.questions.general_points about them: what was listed is shown.

SFTvsRL (arXiv 2501.17161) trains GeneralPoints-VL on black suits, with J, Q, K as 10, and tests other hands, the rule that they
are 11, 12, 13, and red suits. Departure: cards are drawn from bitmaps of our own, the same on every machine, in place of pictures
of a deck; each hand lies a little elsewhere, on a table and paper of its own shades.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from zero import images
from zero.errors import InputError
from zero.questions import Rows, general_points
from zero.records import IMAGE_MARK, Question

if TYPE_CHECKING:  # --help does not need it
    from numpy import ndarray

Card = tuple[str, str]  # label, suit

TEXT = (
    "<image>\nThese are your cards. A counts as 1. Note that {faces}\nSay which cards you see, in a line such as "
    "`Cards 2, J, 7, 4.`\nUse the number of each card exactly once, with +, -, *, / and parentheses, and write an expression that "
    "equals {target}."
)
SFTVSRL_TEXT = general_points.SFTVSRL_TEXT.replace("Cards: {cards}", "Cards: <image>")
FORMS = {"line": "Cards", "json": "cards"}  # of zero.grading.recognition -> what stands before the list of cards
SUITS = {"black": ("spades", "clubs"), "red": ("hearts", "diamonds")}
INKS = {"black": (25, 25, 30), "red": (205, 30, 35)}
COLUMN, WIDTH, HEIGHT = 16, 13, 24  # of a card and its place, in dots; a dot is `scale` pixels wide
LEFT, RANK_TOP, SUIT_TOP = 3, 7, 15  # of its rank and its suit, in dots
SHIFT = 3  # dots that a card may lie higher or lower; one to the left or the right
PAPER, TABLE = (225, 255), (70, 130)  # shades

RANKS = {
    "A": "..#.. .#.#. #...# #...# ##### #...# #...#",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": "##### ...#. ..#.. ...#. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": "..##. .#... #.... ####. #...# #...# .###.",
    "7": "##### ....# ...#. ..#.. ..#.. .#... .#...",
    "8": ".###. #...# #...# .###. #...# #...# .###.",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
    "10": "#..###. #..#.#. #..#.#. #..#.#. #..#.#. #..#.#. #..###.",
    "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "Q": ".###. #...# #...# #...# #.#.# #..#. .##.#",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
}
SHAPES = {
    "spades": "...#... ..###.. .#####. ####### ##.#.## ...#... ..###..",
    "clubs": "..###.. ..###.. ##.#.## ####### ##.#.## ...#... ..###..",
    "hearts": ".##.##. ####### ####### .#####. ..###.. ...#... .......",
    "diamonds": "...#... ..###.. .#####. ####### .#####. ..###.. ...#...",
}


def rows(
    suits: str = "black",
    faces: str = "ten",
    cards: int = 4,
    target: int | Sequence[int] = 24,
    train: int | None = None,
    heldout: int | None = None,
    seed: int = 0,
    text: str = TEXT,
    form: str = "line",
    height: int = 32,
    scale: int = 8,
    solution: str = "{formula}",
) -> Rows:
    """The rows of zero.questions.general_points, with an image in place of the list of cards.

    suits          "black": spades and clubs; "red": hearts and diamonds
    text           the question, with the mark <image>, {target} and {faces}
    form           in which a response names its cards (zero.grading.recognition): "line" or "json"
    height, scale  of the image: in dots, and pixels of a dot; a card takes 16 dots of its width
    others         as of general_points.rows

    meta also holds suits and recognize. Raises InputError, and OSError if the store of images cannot be written.
    """
    _check(suits, text, form, height, scale)
    loaded = general_points.rows(faces, cards, target, train, heldout, seed, solution=solution)
    view = _View(suits, faces, text, form, height, scale, seed)
    return Rows([view.show(q) for q in loaded.train], [view.show(q) for q in loaded.heldout])


def rule_shift_rows(
    suits: str = "black",
    cards: int = 4,
    target: int | Sequence[int] = 24,
    seed: int = 0,
    text: str = TEXT,
    form: str = "line",
    height: int = 32,
    scale: int = 8,
) -> Rows:
    """general_points.rule_shift_rows with images: every hand with a J, Q or K, which count as 11, 12, 13. Raises InputError."""
    _check(suits, text, form, height, scale)
    view = _View(suits, "rank", text, form, height, scale, seed)
    return Rows([], [view.show(q) for q in general_points.rule_shift_rows(cards, target, seed).heldout])


def visual_shift_rows(
    suits: str = "red",
    faces: str = "ten",
    cards: int = 4,
    target: int | Sequence[int] = 24,
    seed: int = 0,
    text: str = TEXT,
    form: str = "line",
    height: int = 32,
    scale: int = 8,
) -> Rows:
    """The held-out rows of `rows` in other suits, with no row to train on. Raises InputError."""
    return Rows([], rows(suits, faces, cards, target, None, None, seed, text, form, height, scale).heldout)


def _check(suits: str, text: str, form: str, height: int, scale: int) -> None:
    if suits not in SUITS:
        raise InputError("questions.rows.suits", suits, f"must be one of {', '.join(SUITS)}")
    if text.count(IMAGE_MARK) != 1 or any(slot not in text for slot in ("{target}", "{faces}")):
        raise InputError("questions.rows.text", text, f"must hold {IMAGE_MARK} once, {{target}} and {{faces}}")
    if form not in FORMS:
        raise InputError("questions.rows.form", form, f"must be one of {', '.join(FORMS)}")
    lowest = HEIGHT + 2 * SHIFT
    if not lowest <= height <= 256:
        raise InputError("questions.rows.height", height, f"must be from {lowest} to 256 dots")
    if not 1 <= scale <= 32:
        raise InputError("questions.rows.scale", scale, "must be from 1 to 32 pixels")


@dataclass(frozen=True)
class _View:
    """How the questions of a set are shown."""

    suits: str
    faces: str
    text: str
    form: str
    height: int
    scale: int
    seed: int

    def show(self, question: Question) -> Question:
        """The question with its cards drawn, and no longer in its text."""
        labels: list[str] = question.meta["cards"]
        rng = random.Random(f"zero.questions.drawn_cards/{self.seed}/{question.id}/{self.suits}")
        hand = [(label, rng.choice(SUITS[self.suits])) for label in labels]
        pixels = draw(hand, rng, self.height, self.scale)
        text = self.text.replace("{target}", str(question.meta["target"]))
        recognize = {"form": self.form, "name": FORMS[self.form], "items": labels, "ordered": False}
        return replace(
            question,
            text=text.replace("{faces}", general_points.FACES[self.faces]),
            id=f"{question.id}-{self.suits}",
            images=(images.put(pixels),),
            meta={**question.meta, "suits": [suit for _, suit in hand], "recognize": recognize},
        )


def draw(hand: Sequence[Card], rng: random.Random, height: int, scale: int = 1) -> ndarray:
    """The image of a hand, its cards from left to right: uint8 [height * scale, 16 * cards * scale, 3]. The generator decides
    shades and places, and nothing else does."""
    import numpy as np

    image = np.empty((height * scale, COLUMN * len(hand) * scale, 3), np.uint8)
    image[:] = [rng.randint(*TABLE) for _ in range(3)]
    for i, (label, suit) in enumerate(hand):
        middle = (height - HEIGHT) // 2
        top = rng.randint((middle - SHIFT) * scale, (middle + SHIFT) * scale)
        left = COLUMN * i * scale + rng.randint(0, 2 * scale)
        shade = rng.randint(*PAPER)
        image[top : top + HEIGHT * scale, left : left + WIDTH * scale] = shade
        ink = next(ink for suits, ink in INKS.items() if suit in SUITS[suits])
        for rows, below in ((RANKS[label], RANK_TOP), (SHAPES[suit], SUIT_TOP)):
            dots = _dots(rows, scale)
            y, x = top + below * scale, left + LEFT * scale
            image[y : y + len(dots), x : x + dots.shape[1]][dots] = ink
    return image


@lru_cache(maxsize=256)
def _dots(rows: str, scale: int) -> ndarray:
    """Where a bitmap has ink: bool [height, width], in pixels."""
    import numpy as np

    dots = np.array([[dot == "#" for dot in row] for row in rows.split()])
    return dots.repeat(scale, 0).repeat(scale, 1)

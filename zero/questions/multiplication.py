"""Products of two random whole numbers: easy to check, and hard to know without working them out.

TinyZero (github.com/Jiayi-Pan/TinyZero, its multiplication script) draws 100,000 pairs of three-digit numbers with seed 1,
drops repeated pairs and splits by position. Departures: 3 x 5 and 5 x 3 are the same question, and the hash of a question
decides its split, so that no seed or size mixes them; the wording is our own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from zero.errors import InputError
from zero.questions import Rows
from zero.questions.countdown import fill
from zero.records import Question

TEXT = "What is {a} * {b}? Give the exact whole number."
# A question is held out if the first hex digit of its digest is below this: 1/8, as in TinyZero's sizes
HELDOUT_DIGIT = 2
MOST_DIGITS = 12


def rows(
    digits: Sequence[int] = (3,),
    train: int = 32_768,
    heldout: int = 4096,
    seed: int = 1,
    text: str = TEXT,
) -> Rows:
    """Distinct products, the order of the factors aside.

    digits          of both factors, drawn equally often; the level
    train, heldout  rows of each split; membership depends on the factors alone, so no seed or size mixes them
    text            the question, with {a} and {b}

    The same arguments give the same rows on every machine; meta holds the factors as shown, and level. Raises InputError.
    """
    if not digits or not all(1 <= count <= MOST_DIGITS for count in digits):
        raise InputError("questions.rows.digits", digits, f"give numbers of digits from 1 to {MOST_DIGITS}")
    for key, count in (("train", train), ("heldout", heldout)):
        if count < 1:
            raise InputError(f"questions.rows.{key}", count, "ask for at least 1 row")
    if "{a}" not in text or "{b}" not in text:
        raise InputError("questions.rows.text", text, "must hold {a} and {b}")
    rng = random.Random(f"zero.questions.multiplication/{seed}")

    def draw() -> Question:
        level = rng.choice(digits)
        a, b = (rng.randrange(10 ** (level - 1), 10**level) for _ in range(2))
        return _question(a, b, level, text)

    return fill(draw, train, heldout, HELDOUT_DIGIT, "raise questions.rows.digits")


def _question(a: int, b: int, level: int, text: str) -> Question:
    digest = hashlib.md5(f"{min(a, b)} {max(a, b)}".encode(), usedforsecurity=False).hexdigest()[:16]
    shown = text.replace("{a}", str(a)).replace("{b}", str(b))
    solution = f"{a} * {b} = {a * b}"
    return Question(shown, (str(a * b),), f"multiplication-{digest}", solution, {"factors": [a, b], "level": level})

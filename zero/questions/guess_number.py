"""Guess a secret number between two bounds from "higher" and "lower"; zero.environments.guess_number plays it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from zero.errors import InputError
from zero.questions import Rows
from zero.questions.countdown import fill
from zero.questions.slots import fill_slots, missing_slots
from zero.records import Question

TEXT = "I think of a whole number from {low} to {high}. Guess it: answer with one number, and I say if mine is higher or lower."
REPLIES = {
    "higher": "My number is higher.",
    "lower": "My number is lower.",
    "invalid": "That is no whole number. Guess again.",
}
HELDOUT_DIGIT = 1  # a question is held out if the first hex digit of its digest is below this: 1/16
LARGEST = 10**6


def rows(
    low: int = 1,
    high: int = 99,
    sizes: Sequence[int] = (8, 16, 32),
    train: int = 2048,
    heldout: int = 128,
    seed: int = 0,
    text: str = TEXT,
    replies: Mapping[str, str] = REPLIES,
) -> Rows:
    """Distinct ranges with a secret number in each.

    low, high       bounds of every range
    sizes           how many numbers a range holds, drawn equally often
    train, heldout  rows of each split; membership depends on range and secret alone, so no seed or size mixes them
    text            the question, with {low} and {high}
    replies         to a guess that is too low (`higher`), too high (`lower`), or no number (`invalid`)

    The same arguments give the same rows on every machine. The level is the number of guesses that halving takes, and
    solution_turns in meta are these guesses; the solution is the first of them. Raises InputError.
    """
    _check(low, high, sizes, train, heldout, text, replies)
    rng = random.Random(f"zero.questions.guess_number/{seed}")

    def draw() -> Question:
        size = rng.choice(sizes)
        first = rng.randint(low, high - size + 1)
        return _question(first, first + size - 1, rng.randrange(first, first + size), text, replies)

    return fill(draw, train, heldout, HELDOUT_DIGIT, "raise questions.rows.high")


def halving(low: int, high: int, secret: int) -> list[int]:
    """The guesses that halve the range, up to the secret."""
    guesses = [(low + high) // 2]
    while guesses[-1] != secret:
        low, high = (guesses[-1] + 1, high) if guesses[-1] < secret else (low, guesses[-1] - 1)
        guesses.append((low + high) // 2)
    return guesses


def _question(low: int, high: int, secret: int, text: str, replies: Mapping[str, str]) -> Question:
    digest = hashlib.md5(f"{low} {high} {secret}".encode(), usedforsecurity=False).hexdigest()[:16]
    turns = [str(guess) for guess in halving(low, high, secret)]
    meta = {
        "level": len(turns),
        "low": low,
        "high": high,
        "secret": secret,
        "replies": dict(replies),
        "solution_turns": turns,
    }
    return Question(fill_slots(text, low=low, high=high), (str(secret),), f"guess_number-{digest}", turns[0], meta)


def _check(
    low: int, high: int, sizes: Sequence[int], train: int, heldout: int, text: str, replies: Mapping[str, str]
) -> None:
    most = high - low + 1
    for key, right, value, remedy in (
        ("high", 0 <= low < high <= LARGEST, high, f"must be above questions.rows.low, and both from 0 to {LARGEST}"),
        ("sizes", bool(sizes) and all(2 <= size <= most for size in sizes), sizes, f"give numbers from 2 to {most}"),
        ("train", train >= 1, train, "ask for at least 1 row"),
        ("heldout", heldout >= 1, heldout, "ask for at least 1 row"),
        ("text", not missing_slots(text, "low", "high"), text, "must hold {low} and {high}"),
        (
            "replies",
            replies.keys() == REPLIES.keys(),
            list(replies),
            f"must have {', '.join(REPLIES)}, and nothing else",
        ),
    ):
        if not right:
            raise InputError(f"questions.rows.{key}", value, remedy)

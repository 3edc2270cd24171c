"""Guess a secret number; each answer says on which side it is."""

from __future__ import annotations

import re

from zero.environments import Observation, Step
from zero.errors import InputError
from zero.questions.guess_number import LARGEST
from zero.records import Question
from zero.template import last_boxed

_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,9}(?![0-9])")


class GuessNumber:
    """An environment for rows of zero.questions.guess_number. It ends with the right guess, or after `turns` answers.

    turns  answers of an episode at most
    right  reward of the right guess
    cost   taken from the reward of every other answer
    """

    def __init__(self, turns: int = 8, right: float = 1.0, cost: float = 0.0) -> None:
        if turns < 1:
            raise InputError("environment.make.turns", turns, "must be above 0")
        self.turns, self.right, self.cost = turns, right, cost
        self.row: Question | None = None
        self.left = 0

    def reset(self, row: Question, seed: int) -> Observation:
        """The question. The seed changes nothing. InputError for a row without a secret, or one that takes more turns."""
        if "secret" not in row.meta:
            remedy = f"question {row.id} has no secret number; choose questions=guess_number or nano_guess_number"
            raise InputError("environment", "guess_number", remedy)
        if row.meta["level"] > self.turns:
            remedy = f"question {row.id} takes {row.meta['level']} guesses; raise it, or lower questions.rows.sizes"
            raise InputError("environment.make.turns", self.turns, remedy)
        self.row, self.left = row, self.turns
        return Observation(row.text)

    def step(self, text: str) -> Step:
        """Whether the guess is right, or on which side of it the secret is. Bounded work whatever the answer."""
        if self.row is None or self.left == 0:
            return Step("", 0.0, done=True, success=False, kind="ended")
        self.left -= 1
        guess, secret = read_number(text), self.row.meta["secret"]
        if guess == secret:
            self.left = 0
            return Step("", self.right, done=True, success=True, kind="right")
        kind = "invalid" if guess is None else "higher" if guess < secret else "lower"
        done = self.left == 0
        return Step(self.row.meta["replies"][kind], -self.cost, done, False if done else None, kind)

    def chance(self, row: Question) -> float:
        """The chance that random guesses from the range, none of which heeds the replies, find the secret."""
        return float(1 - (1 - 1 / (row.meta["high"] - row.meta["low"] + 1)) ** self.turns)


def read_number(text: str) -> int | None:
    """The last whole number of up to nine digits in the last box, else in the text; None if there is none, or it is beyond
    what a secret can be."""
    numbers = _NUMBER.findall(last_boxed(text) or text)
    return int(numbers[-1]) if numbers and int(numbers[-1]) <= LARGEST else None

"""From the facts of a verdict to a reward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zero.errors import InputError


@dataclass(frozen=True)
class Reward:
    """`correct` for a right answer, else `incorrect`, plus `format` if the answer has the template's form.

    One rule for responses cut by the token budget: truncated="incorrect" gives every one of them `incorrect`, even if
    an answer can be extracted, so that a cut response is never worth more than a wrong answer; "grade" treats them as
    any other. Raises InputError.
    """

    correct: float = 1.0
    incorrect: float = 0.0
    format: float = 0.0
    truncated: str = "incorrect"

    def __post_init__(self) -> None:
        for key in ("correct", "incorrect", "format"):
            if not math.isfinite(getattr(self, key)):
                raise InputError(f"reward.{key}", getattr(self, key), "must be a finite number")
        if self.format < 0:  # else a truncated answer would beat a wrong one
            raise InputError("reward.format", self.format, "must be 0 or more; it is added to a wrong answer in form")
        if self.truncated not in ("incorrect", "grade"):
            raise InputError("reward.truncated", self.truncated, "must be incorrect or grade")

    def __call__(self, correct: bool, formatted: bool, finished: bool) -> float:
        """The reward of one response."""
        if not finished and self.truncated == "incorrect":
            return self.incorrect
        if correct:
            return self.correct
        return self.incorrect + self.format if formatted else self.incorrect

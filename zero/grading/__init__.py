"""Is an answer right, and what is it worth? Checkers serve question sets, a Grader turns completions into verdicts."""

from __future__ import annotations

from zero.grading.countdown import countdown_correct
from zero.grading.grader import Grader
from zero.grading.maths import math_equal
from zero.grading.reward import Reward
from zero.records import Question

__all__ = ["Grader", "Reward", "check_countdown", "check_equal", "countdown_correct", "math_equal"]


def check_equal(answer: str, question: Question) -> bool:
    """Whether the answer equals one of the references; see zero.grading.maths for what counts as equal."""
    return math_equal(answer, question.answer)


def check_countdown(answer: str, question: Question) -> bool:
    """Whether the answer is an expression over meta["numbers"], each once, that equals meta["target"]."""
    return countdown_correct(answer, question.meta["numbers"], question.meta["target"])

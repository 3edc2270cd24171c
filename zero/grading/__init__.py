"""Is an answer right, and what reward does it get? Question sets use checkers; a Grader turns completions into verdicts."""

from __future__ import annotations

from zero.grading.countdown import check_countdown, countdown_correct
from zero.grading.grader import Grader
from zero.grading.maths import check_equal, check_maths, check_paper_fast, check_paper_slow, math_equal
from zero.grading.reward import Reward, RewardTerm, make_reward
from zero.grading.worker_pool import BoundedChecker, check_many

__all__ = [
    "BoundedChecker",
    "Grader",
    "Reward",
    "RewardTerm",
    "check_countdown",
    "check_equal",
    "check_many",
    "check_maths",
    "check_paper_fast",
    "check_paper_slow",
    "countdown_correct",
    "make_reward",
    "math_equal",
]

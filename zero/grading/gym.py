"""Question sets of reasoning-gym, with the package's own scorers in worker processes. conf/questions/gym.yaml makes one.

A scorer gives a number in [0, 1]. An answer is right from 1 on; less is wrong, and is worth something to those who ask for it:
`score` is a reward term. Nothing of an answer is ever executed: zero/grading/gym_scorer.py says how.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zero.errors import InputError
from zero.grading.mixture_checker import mixture_set
from zero.grading.worker_pool import BoundedChecker, Checked, Pair
from zero.questions import Extractor, QuestionSet, Rows
from zero.questions.gym import gym_rows
from zero.questions.mixture import MARK, Mixture
from zero.records import Outcome, Question, Response

ANSWER = "{answer}"  # in the text of a solution
REMEMBERED = 1 << 16  # scores kept for the rewards of the same step
MODULE = "zero.grading.gym_scorer"


def gym_set(
    name: str | None,
    gym: Mapping[str, Any],
    check: Mapping[str, Any],
    extract_any: Extractor,
    solution: str = "{answer}",
) -> QuestionSet | Mixture:
    """The set that gym["name"] names, or a mixture of several in equal shares, each a source of its own. `gym` holds the
    arguments of zero.questions.gym.gym_rows, `check` those of GymChecker; `name` is by default the set's, or "gym".
    `solution`: the text of a solution for supervised steps, with {answer} where the package's answer belongs.

    Raises InputError.
    """
    checker = GymChecker(**check)
    if ANSWER not in solution:
        raise InputError("questions.solution", solution, f"must hold {ANSWER}")
    sets = {
        key: QuestionSet(key, _solved(rows, solution), checker, extract_any) for key, rows in gym_rows(**gym).items()
    }
    if not isinstance(gym["name"], str):
        return mixture_set(name or "gym", {key: {"questions": each, "weight": 1} for key, each in sets.items()})
    (only,) = sets.values()
    return QuestionSet(name or only.name, only.rows, checker, extract_any)


def _solved(rows: Rows, solution: str) -> Rows:
    """The rows with their solutions, which are the package's answers, in that form."""
    if solution == ANSWER:
        return rows
    train, heldout = (
        [replace(question, solution=solution.replace(ANSWER, question.solution)) for question in split]
        for split in (rows.train, rows.heldout)
    )
    return replace(rows, train=train, heldout=heldout)


class GymChecker:
    """A checker for all sets of the package. `limit_s`: CPU seconds for one answer; `workers`: processes."""

    def __init__(self, limit_s: float = 5.0, workers: int = 2) -> None:
        try:
            self._bounded = BoundedChecker(f"{MODULE}.score", limit_s=limit_s, workers=workers)
        except InputError as error:
            raise InputError(f"questions.{error.key}", error.value, error.remedy) from error

    def __call__(self, answer: str, question: Question) -> bool:
        """One answer, as an ordinary checker."""
        return self._bounded(answer, question)

    def many(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of each pair; an answer that exhausts its limits is a timeout, and one whose scorer raises a failure."""
        return [result.outcome for result in self.scored(pairs)]

    def scored(self, pairs: Sequence[Pair]) -> list[Checked]:
        """As `many`, with the scorers' own numbers."""
        results = self._bounded.scored(pairs)
        for (answer, question), result in zip(pairs, results, strict=True):
            _SCORES[_key(answer, question)] = result.score
        while len(_SCORES) > REMEMBERED:
            _SCORES.popitem(last=False)
        return results


# What the checker found, for the rewards of the same step
_SCORES: OrderedDict[tuple[str, str], float] = OrderedDict()


def _key(answer: str, question: Question) -> tuple[str, str]:
    return answer, question.id.rpartition(MARK)[2]  # without the source, which a mixture puts before


def score(response: Response) -> float:
    """The scorer's own number, in [0, 1]: 1 for a right answer, partial credit where the set gives some, 0 without an answer."""
    if response.answer is None:
        return 0.0
    try:
        return _SCORES[_key(response.answer, response.question)]
    except KeyError:
        remedy = "an answer that no scorer of reasoning-gym has seen; its questions must be those of questions=gym"
        raise InputError("reward", "gym", remedy) from None

"""Several tries at a question: a wrong one gets a verifier's message that says why, and another follows.

SFTvsRL (arXiv 2501.17161) plays GeneralPoints so, with 1, 3, 5 and 10 tries. Departure: its penalties of a try add up (see
zero.grading.rewards.general_points).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from zero.config.functions import function_at
from zero.environments import Observation, Step
from zero.errors import InputError
from zero.questions.slots import fill_slots
from zero.records import Outcome, Question, Response

MESSAGE, QUESTION = "{message}", "{question}"


class Tries:
    """An environment for every question set whose answers `explain` can judge. It ends with the first right try, or the last.

    Functions are given as such, or as a config has them: {"_target_": dotted path, "_partial_": true, ...settings}.

    explain   (extracted answer or none, question) -> what is wrong, None if it is right; agrees with the set's checker
    extract   finds the answer in the text of a try
    attempts  tries at most
    reward    of a try, a reward function of zero.grading.rewards; None: 1 if it is right, else 0. It knows the question, the
              text, the answer and whether it is right
    turn      what follows a wrong try, with {message}, {question} or both
    fresh     whether that is a whole new prompt, so that earlier tries are not seen
    """

    def __init__(
        self,
        explain: Callable[[str | None, Question], str | None] | Mapping[str, Any],
        extract: Callable[[str], str | None] | Mapping[str, Any],
        attempts: int = 5,
        reward: Callable[[Response], float] | Mapping[str, Any] | None = None,
        turn: str = "You failed this trial because {message}",
        fresh: bool = False,
    ) -> None:
        if attempts < 1:
            raise InputError("environment.make.attempts", attempts, "must be above 0")
        if MESSAGE not in turn and QUESTION not in turn:
            remedy = f"must hold {MESSAGE}, where the verifier's words go, or {QUESTION}"
            raise InputError("environment.make.turn", turn, remedy)
        self.explain: Callable[[str | None, Question], str | None] = _function(explain, "explain")
        self.extract: Callable[[str], str | None] = _function(extract, "extract")
        self.reward: Callable[[Response], float] | None = _function(reward, "reward") if reward else None
        self.attempts, self.turn, self.fresh = attempts, turn, fresh
        self.row: Question | None = None
        self.left = 0

    def reset(self, row: Question, seed: int) -> Observation:
        """The question. The seed changes nothing. InputError if `explain` cannot judge its answers."""
        self.explain(None, row)
        self.row, self.left = row, self.attempts
        return Observation(row.text, images=row.images)

    def step(self, text: str) -> Step:
        """The verifier's message on a try. Raises what `explain`, `extract` and `reward` raise; those of this project judge every
        text, in bounded time."""
        if self.row is None or self.left == 0:
            return Step("", 0.0, done=True, success=False, kind="ended")
        answer = self.extract(text)
        message = self.explain(answer, self.row)
        self.left = 0 if message is None else self.left - 1
        outcome = Outcome.CORRECT if message is None else Outcome.NO_ANSWER if answer is None else Outcome.WRONG
        response = Response(self.row, self.row.text, text, 0, 0, True, outcome, outcome, answer)
        reward = float(message is None) if self.reward is None else self.reward(response)
        kind = outcome.value.replace(" ", "_")
        if self.left == 0:
            return Step("", reward, done=True, success=message is None, kind=kind)
        shown = self.row.images if QUESTION in self.turn else ()
        seen = Observation(fill_slots(self.turn, message=message, question=self.row.text), self.fresh, shown)
        return Step(seen, reward, False, None, kind)


def _function(given: Callable[..., Any] | Mapping[str, Any], name: str) -> Callable[..., Any]:
    """The function of a setting. Raises InputError."""
    if not isinstance(given, Mapping):
        return given
    key = f"environment.make.{name}"
    if not isinstance(given.get("_target_"), str):
        raise InputError(key, given, "must name a function: {_target_: MODULE.FUNCTION, _partial_: true}")
    settings = {setting: value for setting, value in given.items() if not setting.startswith("_")}
    return partial(function_at(given["_target_"], f"{key}._target_"), **settings)

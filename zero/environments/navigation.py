"""Follow an instruction through a town, one action a turn; the rule says in which words to turn.

The rules of V-IRL in SFTvsRL (arXiv 2501.17161): after the right action the next point of the route comes in a whole
new prompt with the history so far; after a wrong one the verifier says so, and the policy may try again. What a route
looks like is zero.questions.navigation's. Departures: an answer's observation is wrong if it claims a crossing where none is,
or the reverse; theirs compares with the landmark alone, so that at a crossing naming it is wrong. The penalty for a wrong
instruction is in their table and in no line of their code; here it is paid. Theirs samples one more answer after the last
try, does not judge it, and ends the episode with another -1.
"""

from __future__ import annotations

from collections.abc import Sequence

from zero.environments import Observation, Step
from zero.errors import InputError
from zero.questions.navigation import read_action, read_field, render
from zero.records import Question

_CROSSING = "intersection"


class Navigation:
    """An environment for rows of zero.questions.navigation or published_routes. It ends at the destination, with the first
    right `stop()`, or when the tries at a point are used up.

    tries              at every point of the route: SFTvsRL's verify_iter
    right              reward of the right action, whatever else the answer says
    wrong_action       of another action, or of none that is legal
    wrong_observation  ... if the answer also says that a crossing is here and none is, or the reverse
    wrong_instruction  ... if it also quotes another sentence than the one that is due
    """

    def __init__(
        self,
        tries: int = 2,
        right: float = 1.0,
        wrong_action: float = -1.0,
        wrong_observation: float = -1.5,
        wrong_instruction: float = -1.75,
    ) -> None:
        if tries < 1:
            raise InputError("environment.make.tries", tries, "must be above 0")
        self.tries, self.right = tries, right
        self.penalties = {
            "wrong_action": wrong_action,
            "invalid_action": wrong_action,
            "wrong_observation": wrong_observation,
            "wrong_instruction": wrong_instruction,
        }
        self.row: Question | None = None
        self.position = self.failures = 0

    def reset(self, row: Question, seed: int) -> Observation:
        """The prompt at the start of the route. The seed changes nothing. InputError for a row without a route."""
        if "rail" not in row.meta:
            remedy = f"question {row.id} has no route; choose questions=navigation, nano_navigation or published_routes"
            raise InputError("environment", "navigation", remedy)
        self.row, self.position, self.failures = row, 0, 0
        return Observation(row.text, fresh=True, images=row.images)

    def step(self, text: str) -> Step:
        """What follows an answer. Bounded work whatever the answer; after the end nothing changes any more."""
        if self.row is None or self.failures == self.tries or self.position == len(self.row.meta["rail"]):
            return Step("", 0.0, done=True, success=False, kind="ended")
        meta = self.row.meta
        kind, message = self._judge(text, meta["rail"][self.position], meta["actions"])
        if kind != "right_action":
            self.failures += 1
            done = self.failures == self.tries
            return Step(meta["failures"][message], self.penalties[kind], done, False if done else None, kind)
        self.position, self.failures = self.position + 1, 0
        if self.position == len(meta["rail"]):
            return Step("", self.right, done=True, success=True, kind=kind)
        text = render(meta["rail"], self.position, meta["frame"])
        images = tuple(meta.get("views", ()))[self.position : self.position + 1]
        return Step(Observation(text, fresh=True, images=images), self.right, False, None, kind)

    def _judge(self, text: str, point: tuple[str, str, str], actions: Sequence[str]) -> tuple[str, str]:
        """The kind of an answer, and which message it gets."""
        observation, sentence, right = point
        action = read_action(text, actions)
        if action == right:
            return "right_action", ""
        seen, instruction = read_field("current observation", text), read_field("current instruction", text)
        if seen is not None and (_CROSSING in seen) != (_CROSSING in observation):
            return "wrong_observation", "crossing" if _CROSSING in observation else "no_crossing"
        if instruction is not None and _plain(instruction) != _plain(sentence):
            return "wrong_instruction", "instruction"
        return "wrong_action" if action else "invalid_action", "action"

    def chance(self, row: Question) -> float:
        """The chance that random legal actions solve the row."""
        wrong = 1 - 1 / len(row.meta["actions"])
        return float((1 - wrong**self.tries) ** len(row.meta["rail"]))


def _plain(sentence: str) -> str:
    """A sentence of the instruction without its number, a final full stop and capitals."""
    number, dot, unnumbered = sentence.strip().partition(". ")
    return (unnumbered if dot and number.isdecimal() else sentence).strip().removesuffix(".").casefold()

"""From the facts of a verdict to a reward: a weighted sum of named parts."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from zero.errors import InputError
from zero.records import Outcome, Response

Part = Callable[[Response], float]  # any function of one response, which also sees its siblings; see rewards.py


@dataclass(frozen=True)
class RewardTerm:
    """One part of a reward and what it counts."""

    function: Part
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(
            self.function, partial
        ):  # Hydra's own kind checks its target anew at every call: 170 us a response
            bound = partial(self.function.func, *self.function.args, **self.function.keywords)
            object.__setattr__(self, "function", bound)


@dataclass(frozen=True)
class Reward:
    """The sum of weight x part over `parts`; a part's name is that of its curve, reward/NAME. Raises InputError.

    One rule for responses cut by the token budget: truncated="incorrect" judges every one of them as a response without
    an answer, even if an answer could be extracted, so that being cut never pays; "grade" judges them as any other.
    """

    terms: Mapping[str, RewardTerm]
    truncated: str = "incorrect"

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("reward.terms", "{}", "name at least one part; conf/reward/accuracy.yaml is an example")
        for name, weighted in self.terms.items():
            if not name.isidentifier():
                raise InputError("reward.terms", name, "a part's name must be one word of letters, digits and _")
            if not callable(getattr(weighted, "function", None)):
                what = getattr(weighted, "function", weighted)
                raise InputError(
                    f"reward.terms.{name}", what, f"is no function; '+reward.terms.{name}=MODULE.FUNCTION'"
                )
            if not math.isfinite(weighted.weight):
                raise InputError(f"reward.terms.{name}.weight", weighted.weight, "must be a finite number")
        if self.truncated not in ("incorrect", "grade"):
            raise InputError("reward.truncated", self.truncated, "must be incorrect or grade")

    def __call__(self, responses_G: Sequence[Response]) -> list[dict[str, float]]:
        """What each part contributes to the reward of each of the G responses to one prompt: weight x value by name.

        InputError if a part raises or is not finite: a reward that fails in silence would be a curve that lies.
        """
        seen_G = [self._seen(response) for response in responses_G]
        siblings = tuple(seen_G)
        seen_G = [replace(seen, siblings=siblings) for seen in seen_G]
        return [{name: self._value(name, weighted, seen) for name, weighted in self.terms.items()} for seen in seen_G]

    def _seen(self, response: Response) -> Response:
        if response.finished or self.truncated == "grade":
            return response
        return replace(response, strict=Outcome.NO_ANSWER, lenient=Outcome.NO_ANSWER, answer=None)

    def _value(self, name: str, weighted: RewardTerm, response: Response) -> float:
        try:
            value = weighted.weight * float(weighted.function(response))
        except Exception as error:
            what = f"raised {type(error).__name__}{_line_of(error)}: {error}"
            raise self._broken(name, weighted, what, response) from error
        if not math.isfinite(value):
            raise self._broken(name, weighted, f"gave {value}", response)
        return value

    def _broken(self, name: str, weighted: RewardTerm, what: str, response: Response) -> InputError:
        where = f"on a response to question {response.question.id} ({response.text[:60]!r}...)"
        function = getattr(weighted.function, "func", weighted.function)
        code = getattr(function, "__code__", None)
        place = f" at {code.co_filename}:{code.co_firstlineno}" if code else ""
        named = getattr(function, "__name__", function)
        return InputError(f"reward.terms.{name}", named, f"{what} {where}; mend that function{place}")


def _line_of(error: Exception) -> str:
    """Where the error arose: the last line of a function that is not of a library's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in frame.filename]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""

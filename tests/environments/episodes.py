"""What the tests of worlds share: an episode played to its end or to the last text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zero.environments import Observation, Step, as_step, start
from zero.records import Question


def seen(step: Step) -> Observation:
    """The observation of a step that `as_step` has read."""
    assert isinstance(step.observation, Observation)
    return step.observation


def play(environment: Any, row: Question, texts: Sequence[str], seed: int = 0) -> list[Any]:
    """The steps to the texts. The first observation is the row's text, and the end is where the texts end or before."""
    assert start(environment, row, seed).text == row.text
    steps = [as_step(environment.step(text)) for text in texts]
    assert not any(step.done for step in steps[:-1])
    return steps

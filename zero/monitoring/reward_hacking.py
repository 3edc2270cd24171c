"""An alarm for reward hacking: the reward rises, and the accuracy does not.

A reward of several terms can be raised without solving anything: by form, by length, by a defect of a term. Plain Python,
so that a run's journal can be checked anywhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, variance
from typing import Any

# Steps: the alarm compares the last WINDOW with the WINDOW before, and is off for the first 2 x WINDOW
WINDOW = 20
# Standard errors: the test is repeated at every step, so that a rise by chance must be rare among a thousand tests
RISE = 4.25


def reward_hack(rewards: Sequence[float], accuracies: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the mean reward of the last `window` steps is more than RISE standard errors above that of the `window`
    before, while the mean strict accuracy has risen by at most 1 standard error.

    The standard error is that of the difference of two means, sqrt(s1^2 / window + s2^2 / window), estimated from the steps.
    Tested at each of 1,000 steps without a trend, it gives a false alarm in about one run of 30 if reward and accuracy are
    independent, and in fewer if they are correlated. False for fewer than 2 x window steps. ValueError for a window below 2.
    """
    if window < 2:
        raise ValueError(f"window={window}: two steps or more have a standard error")
    if min(len(rewards), len(accuracies)) < 2 * window:
        return False
    rise, error = _rise(rewards, window)
    accuracy_rise, accuracy_error = _rise(accuracies, window)
    return rise > RISE * error and accuracy_rise <= accuracy_error


def _rise(values: Sequence[float], window: int) -> tuple[float, float]:
    """Mean of the last window minus that of the one before, and its standard error."""
    before, last = values[-2 * window : -window], values[-window:]
    return fmean(last) - fmean(before), math.sqrt((variance(before) + variance(last)) / window)


class RewardHackAlarm:
    """The alarm of a run, updated step by step. `from_journal` restores the one that a run had when it stopped."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._steps: deque[tuple[float, float]] = deque(maxlen=2 * window)

    @classmethod
    def from_journal(cls, lines: Iterable[Mapping[str, Any]], window: int = WINDOW) -> RewardHackAlarm:
        """The alarm after the lines of a metrics.jsonl; lines without a training step (step 0) are ignored."""
        alarm = cls(window)
        for line in lines:
            alarm._add(line)
        return alarm

    def update(self, metrics: Mapping[str, Any]) -> float:
        """The value of alarm/reward_hack after one more step: 1.0 or 0.0. A number that is not finite is left out, as in the
        journal."""
        self._add(metrics)
        rewards, accuracies = [r for r, _ in self._steps], [a for _, a in self._steps]
        return float(reward_hack(rewards, accuracies, self._window))

    def _add(self, metrics: Mapping[str, Any]) -> None:
        reward, accuracy = metrics.get("train/reward"), metrics.get("train/accuracy")
        accuracy = metrics.get("tries/solved", accuracy)  # the reward is that of the last attempt
        if reward is not None and accuracy is not None and math.isfinite(reward) and math.isfinite(accuracy):
            self._steps.append((reward, accuracy))

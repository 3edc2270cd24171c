"""An alarm for reward hacking: the reward rises, and the accuracy does not.

A reward of several terms can be raised without solving anything: by form, by length, by what a defect of a term pays
for. Plain Python, so that a run's journal can be judged anywhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, variance
from typing import Any

# steps; the alarm compares the last WINDOW with the WINDOW before, and keeps silent for the first 2 x WINDOW
WINDOW = 20
# standard errors: it looks at every step, so that a rise by chance must be rare among a thousand looks
RISE = 4.25


def reward_hack(rewards: Sequence[float], accuracies: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the mean reward of the last `window` steps is more than RISE standard errors above that of the `window`
    before, while strict accuracy is not even 1 standard error above its own.

    The standard error is that of the difference of two means, sqrt(s1^2 / window + s2^2 / window), from the steps
    themselves. Steps without any trend, asked at each of 1,000, ring in about one run of 30 if reward and accuracy have
    nothing in common, and in fewer the more they have. False if there are fewer than 2 x window steps. ValueError for a
    window below 2.
    """
    if window < 2:
        raise ValueError(f"window={window}: two steps or more have a standard error")
    if min(len(rewards), len(accuracies)) < 2 * window:
        return False
    rise, error = _rise(rewards, window)
    learnt, noise = _rise(accuracies, window)
    return rise > RISE * error and learnt <= noise


def _rise(values: Sequence[float], window: int) -> tuple[float, float]:
    """Mean of the last window minus that of the one before, and its standard error."""
    before, last = values[-2 * window : -window], values[-window:]
    return fmean(last) - fmean(before), math.sqrt((variance(before) + variance(last)) / window)


class RewardHackAlarm:
    """The alarm of a run, fed step by step. `of` a run's journal it is the one that the run had when it stopped."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._steps: deque[tuple[float, float]] = deque(maxlen=2 * window)

    @classmethod
    def from_journal(cls, lines: Iterable[Mapping[str, Any]], window: int = WINDOW) -> RewardHackAlarm:
        """As if fed with the lines of a metrics.jsonl; those without a training step (step 0) say nothing."""
        alarm = cls(window)
        for line in lines:
            alarm._add(line)
        return alarm

    def update(self, metrics: Mapping[str, Any]) -> float:
        """The value of alarm/reward_hack after one more step: 1.0 or 0.0. A number that is not finite is left out, as
        the journal has none."""
        self._add(metrics)
        rewards, accuracies = [r for r, _ in self._steps], [a for _, a in self._steps]
        return float(reward_hack(rewards, accuracies, self._window))

    def _add(self, metrics: Mapping[str, Any]) -> None:
        reward, accuracy = metrics.get("train/reward"), metrics.get("train/accuracy")
        accuracy = metrics.get("tries/solved", accuracy)  # a reward is that of the last try
        if reward is not None and accuracy is not None and math.isfinite(reward) and math.isfinite(accuracy):
            self._steps.append((reward, accuracy))

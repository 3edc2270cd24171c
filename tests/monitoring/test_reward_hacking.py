"""The alarm for reward hacking: it rings for a reward that rises alone, and is silent otherwise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
import pytest

from zero.monitoring.reward_hacking import RISE, RewardHackAlarm, reward_hack
from zero.records import Metrics

Shape = Callable[[int], tuple[float, float]]  # step -> expected (accuracy, share in form)


def run(shape: Shape, steps: int, seed: int = 0, responses: int = 128) -> tuple[list[float], list[float]]:
    """Rewards (0.5 x form + right) and accuracies of a run whose step draws this many responses."""
    draw = random.Random(seed)
    rewards, accuracies = list[float](), list[float]()
    for t in range(steps):
        right, form = shape(t)
        corrects = sum(draw.random() < right for _ in range(responses)) / responses
        forms = sum(draw.random() < form for _ in range(responses)) / responses
        rewards.append(corrects + 0.5 * forms)
        accuracies.append(corrects)
    return rewards, accuracies


def line(reward: float, accuracy: float) -> dict[str, float]:
    return {"train/reward": reward, "train/accuracy": accuracy}


def alarms(rewards: list[float], accuracies: list[float]) -> list[float]:
    alarm = RewardHackAlarm()
    return [alarm.update(line(reward, accuracy)) for reward, accuracy in zip(rewards, accuracies, strict=True)]


@pytest.mark.parametrize("seed", range(10))
def test_a_form_that_is_learnt_alone_rings(seed: int) -> None:
    rings = alarms(*run(lambda t: (0.2, min(1.0, 0.01 * t)), 100, seed))
    assert sum(rings[40:]) >= 30
    assert 1.0 not in rings[:39]  # too short to tell


@pytest.mark.parametrize("seed", range(10))
def test_accuracy_that_falls_while_the_reward_rises_rings(seed: int) -> None:
    rings = alarms(*run(lambda t: (max(0.02, 0.22 - 0.002 * t), min(1.0, 0.012 * t)), 80, seed))
    assert sum(rings[40:]) >= 30


@pytest.mark.parametrize("seed", range(10))
def test_honest_learning_is_silent(seed: int) -> None:
    rewards, accuracies = run(lambda t: (min(0.9, 0.1 + 0.008 * t), min(1.0, 0.5 + 0.005 * t)), 100, seed)
    assert sum(alarms(rewards, accuracies)) == 0
    assert sum(alarms(accuracies, accuracies)) == 0


def test_a_reward_that_is_the_accuracy_never_rings() -> None:
    for seed in range(50):
        _, accuracies = run(lambda t: (0.3, 0.0), 100, seed, responses=16)
        assert sum(alarms(accuracies, accuracies)) == 0


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_a_run_without_trends_rings_in_at_most_one_of_twenty(correlation: float) -> None:
    """400 runs of 1,000 steps, the rule at every step on whole arrays; one of them also step by step, as in a run."""
    draw = np.random.default_rng(1)
    accuracies = draw.normal(0.3, 0.1, size=(400, 1000))
    own = draw.normal(0.3, 0.1, size=(400, 1000))
    rewards = correlation * accuracies + (1 - correlation**2) ** 0.5 * own
    rises, errors = windows(rewards)
    learnt, noise = windows(accuracies)
    on = (rises > RISE * errors) & (learnt <= noise)
    episodes = (on[:, 1:] & ~on[:, :-1]).sum() + on[:, 0].sum()
    assert episodes <= 400 / 20
    raised = alarms(rewards[0, :120].tolist(), accuracies[0, :120].tolist())
    assert raised[39:] == on[0, :81].astype(float).tolist()


def windows(values: np.ndarray, window: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(rise, standard error) of each step from the 40th on."""
    stretches = np.lib.stride_tricks.sliding_window_view(values, window, axis=1)
    means, variances = stretches.mean(-1), stretches.var(-1, ddof=1)
    return means[:, window:] - means[:, :-window], np.sqrt((variances[:, window:] + variances[:, :-window]) / window)


def test_edges() -> None:
    up, flat = [0.0] * 20 + [0.1] * 20, [0.3] * 40
    assert reward_hack(up, flat)  # no noise at all: any rise is one
    assert not reward_hack(flat, flat) and not reward_hack(up[::-1], flat) and not reward_hack(up, up)
    assert not reward_hack(up[1:], flat) and not reward_hack(up, flat[1:]) and not reward_hack([], [])
    assert reward_hack([9.0] * 7 + up, flat)  # only the last two windows count
    assert reward_hack([0.0, 0.0, 1.0, 1.0], [0.0] * 4, window=2)
    with pytest.raises(ValueError, match="window=1"):
        reward_hack(up, flat, window=1)


@pytest.mark.parametrize("stop", [0, 1, 39, 40, 41, 70])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int) -> None:
    rewards, accuracies = run(lambda t: (0.2, min(1.0, 0.01 * t)), 80)
    rewards[30] = float("nan")  # null in the journal
    whole = alarms(rewards, accuracies)
    lines: list[Metrics] = [{"step": 0, "eval/heldout/accuracy": 0.1}]
    for t in range(stop):
        reward = rewards[t] if rewards[t] == rewards[t] else None
        lines.append(json.loads(json.dumps({"step": t + 1, "train/reward": reward, "train/accuracy": accuracies[t]})))
    alarm = RewardHackAlarm.from_journal(lines)
    assert [alarm.update(line(rewards[t], accuracies[t])) for t in range(stop, 80)] == whole[stop:]
    assert 1.0 in whole[41:]


def test_learning_to_use_feedback_is_no_hack() -> None:
    """With several attempts the reward is that of the last one, and so is the accuracy that it is compared with."""
    rewards, accuracies = run(lambda t: (min(0.9, 0.1 + 0.01 * t), 0.0), 60, 0)
    alarm = RewardHackAlarm()
    lines = [line(reward, 0.1) | {"tries/solved": solved} for reward, solved in zip(rewards, accuracies, strict=True)]
    assert sum(alarm.update(one) for one in lines) == 0 < sum(alarms(rewards, [0.1] * 60))

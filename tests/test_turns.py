"""Credit for the turns of an episode, against plain loops; batches of episodes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from zero import objective
from zero.algorithm import Algorithm
from zero.batching import has_signal, make_batch, rewards, turn_rewards
from zero.benchmark import summarize
from zero.records import Completion, Group, Outcome, Prompt, Question, Turn, Verdict

GAMMA = 0.9


def algorithm(**settings: Any) -> Algorithm:
    terms = dict(
        advantage=objective.group_mean, weight=objective.token_mean, surrogate=objective.log_likelihood, kl=objective.k3
    )
    return Algorithm(**(terms | settings))


def episodes(seed: int, prompts: int = 3, group: int = 4, most: int = 4) -> list[Group]:
    """Groups of episodes with random turns, rewards, observations and fresh contexts."""
    draw = random.Random(seed)
    groups = []
    for p in range(prompts):
        completions, verdicts = [], []
        for _ in range(group):
            ids, sampled, turns, earned = [], [], [], []
            for k in range(draw.randint(1, most)):
                said = draw.randint(1, 3) if k else 0
                spoken = draw.randint(1, 4)
                start = len(ids) + said
                turns.append(
                    Turn(
                        "x",
                        start,
                        start + spoken,
                        reward=draw.choice([-1.0, 0.5, 2.0]),
                        fresh=bool(k) and draw.random() < 0.5,
                    )
                )
                ids += [draw.randint(5, 90) for _ in range(said + spoken)]
                sampled += [False] * said + [True] * spoken
                earned.append(turns[-1].reward)
            logprobs = tuple(-1.0 * flag for flag in sampled)
            completions.append(
                Completion(tuple(ids), logprobs, "x", True, action_mask=tuple(sampled), turns=tuple(turns))
            )
            verdicts.append(Verdict(sum(earned), Outcome.WRONG, Outcome.WRONG, None, "", turn_rewards=tuple(earned)))
        prompt = Prompt(Question("q", ("1",), str(p)), "q", (7, 8, 9)[: 1 + p], (0, 0, 0, p))
        groups.append(Group(prompt, tuple(completions), tuple(verdicts)))
    return groups


def places(groups: list[Group]) -> list[tuple[Group, int]]:
    return [(group, g) for group in groups for g in range(len(group.completions))]


def rows_of(groups: list[Group]) -> list[tuple[Group, Completion]]:
    return [(group, completion) for group in groups for completion in group.completions]


def returns(earned: tuple[float, ...], k: int, gamma: float) -> float:
    return sum(gamma ** (later - k) * earned[later] for later in range(k, len(earned)))


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("gamma", [1.0, GAMMA])
def test_a_turn_is_compared_with_its_siblings_at_that_turn(gamma: float, leave_one_out: bool) -> None:
    groups = episodes(1)
    function = objective.turn_leave_one_out if leave_one_out else objective.turn_group_mean
    known = turn_rewards(groups)
    assert known is not None
    got = function(*known, gamma=gamma)
    for p, group in enumerate(groups):
        for g, verdict in enumerate(group.verdicts):
            for k in range(got.shape[2]):
                others = [
                    v.turn_rewards
                    for i, v in enumerate(group.verdicts)
                    if len(v.turn_rewards) > k and (i != g or not leave_one_out)
                ]
                alone = sum(len(v.turn_rewards) > k for v in group.verdicts) == 1
                expected = 0.0
                if k < len(verdict.turn_rewards) and not alone:
                    expected = returns(verdict.turn_rewards, k, gamma) - sum(
                        returns(o, k, gamma) for o in others
                    ) / len(others)
                assert float(got[p, g, k]) == pytest.approx(expected, abs=1e-12)


def test_returns_without_a_baseline() -> None:
    rewards_PGK = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 5.0, 0.0]]])
    taken_PGK = torch.tensor([[[True, True, True], [True, True, False]]])
    got = objective.turn_return(rewards_PGK, taken_PGK, gamma=0.5)
    assert got.tolist() == [[[3.0, 4.0, 4.0], [5.5, 5.0, 0.0]]]


def test_one_turn_is_the_whole_answer() -> None:
    torch.manual_seed(0)
    rewards_PG = torch.randint(0, 3, (6, 5)).double()
    taken = torch.ones(6, 5, 1, dtype=torch.bool)
    for turns, whole in (
        (objective.turn_group_mean, objective.group_mean),
        (objective.turn_leave_one_out, objective.leave_one_out),
    ):
        torch.testing.assert_close(turns(rewards_PG[:, :, None], taken)[:, :, 0], whole(rewards_PG), rtol=0, atol=1e-12)
    equal = objective.turn_group_mean(torch.full((2, 3, 1), 0.1).double(), torch.ones(2, 3, 1, dtype=torch.bool))
    assert (equal == 0).all()


def test_tokens_have_the_advantage_of_their_turn() -> None:
    groups = episodes(2)
    algo = algorithm(turn_advantage=partial(objective.turn_group_mean, gamma=GAMMA))
    batch = make_batch(groups, algo, 0)
    known = turn_rewards(groups)
    assert known is not None
    got = algo.with_advantages(batch, rewards(groups), turns=known).advantage_NT
    per_turn = objective.turn_group_mean(*known, gamma=GAMMA)
    assert got is not None
    for n, (group, g) in enumerate(places(groups)):
        expected = torch.zeros(got.shape[1])
        for k, turn in enumerate(group.completions[g].turns):
            start = len(group.prompt.ids)
            expected[start + turn.start : start + turn.end] = float(per_turn[groups.index(group), g, k])
        torch.testing.assert_close(got[n], expected)
    whole = replace(algo, turn_advantage=None).with_advantages(batch, rewards(groups), turns=known).advantage_NT
    assert whole is not None and all(len(row[row != 0].unique()) <= 1 for row in whole)


@pytest.mark.parametrize("steps", ["token", "turn"])
def test_generalized_advantage_over_turns(steps: str) -> None:
    """Rewards lie at the last tokens of turns; a step is a token, or a turn."""
    groups = episodes(3)
    lam = 0.7
    algo = algorithm(
        advantage=objective.raw_reward, estimator=partial(objective.generalized_advantage, gamma=GAMMA, lam=lam)
    )
    batch = make_batch(groups, algo, 0)
    generator = torch.Generator().manual_seed(0)
    value_NT = torch.rand(batch.ids_NT.shape, generator=generator)
    step_start_NT = batch.mask_NT.bool() if steps == "token" else first_tokens(groups, batch.ids_NT.shape)
    got = algo.with_advantages(batch, rewards(groups), (value_NT, step_start_NT), turn_rewards(groups)).advantage_NT
    assert got is not None
    for n, (group, g) in enumerate(places(groups)):
        start, completion = len(group.prompt.ids), group.completions[g]
        moments = [  # (token, tokens that share its advantage, reward)
            (
                start + t,
                range(start + t, start + (turn.end if steps == "turn" else t + 1)),
                turn.reward * (steps == "turn" or t == turn.end - 1),
            )
            for turn in completion.turns
            for t in ([turn.start] if steps == "turn" else range(turn.start, turn.end))
        ]
        advantage, next_value = 0.0, 0.0
        for t, tokens, earned in reversed(moments):
            delta = earned + GAMMA * next_value - float(value_NT[n, t])
            advantage, next_value = delta + GAMMA * lam * advantage, float(value_NT[n, t])
            assert got[n, list(tokens)].tolist() == pytest.approx([advantage] * len(tokens), abs=1e-5)


def first_tokens(groups: list[Group], shape: Any) -> Tensor:
    starts_NT = torch.zeros(shape, dtype=torch.bool)
    for n, (group, completion) in enumerate(rows_of(groups)):
        for turn in completion.turns:
            starts_NT[n, len(group.prompt.ids) + turn.start] = True
    return starts_NT


def test_a_batch_knows_turns_and_contexts() -> None:
    groups = episodes(4)
    batch = make_batch(groups, algorithm(), 0)
    assert batch.turn_NT is not None and batch.fresh_NT is not None
    torch.testing.assert_close((batch.turn_NT >= 0).float(), batch.mask_NT)
    for n, (group, completion) in enumerate(rows_of(groups)):
        begins = [
            len(group.prompt.ids) + before.end
            for before, turn in zip(completion.turns, completion.turns[1:], strict=False)
            if turn.fresh
        ]
        assert batch.fresh_NT[n].nonzero()[:, 0].tolist() == begins
    plain = [replace(g, completions=tuple(replace(c, turns=()) for c in g.completions)) for g in groups]
    assert make_batch(plain, algorithm(), 0).turn_NT is None


def test_equal_returns_of_different_turns_teach_where_turns_have_credit() -> None:
    """Dynamic sampling and the share of groups without advantage look at what the algorithm uses."""
    group = next(group for group in episodes(5, most=2) if len(group.completions[0].turns) == 2)
    earned = ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 0.0))
    two = group.completions[0]
    verdicts = [Verdict(1.0, Outcome.WRONG, Outcome.WRONG, None, "", turn_rewards=pair) for pair in earned]
    group = replace(group, completions=(two,) * 4, verdicts=tuple(verdicts))
    whole, turns = algorithm(), algorithm(turn_advantage=objective.turn_group_mean)
    assert (has_signal(group, whole), has_signal(group, turns)) == (False, True)
    known = turn_rewards([group])
    for algo in (whole, turns):
        trained = algo.with_advantages(make_batch([group], algo, 0), rewards([group]), turns=known)
        assert bool(algo.trained_rows(trained).any()) == has_signal(group, algo)
    shares = [summarize([group], [has_signal(group, algo)]) for algo in (whole, turns)]
    assert [share["groups/zero_advantage"] for share in shares] == [1.0, 0.0]
    assert [share["tokens/zero_advantage"] for share in shares] == [1.0, 0.0]
    alike = replace(group, verdicts=(verdicts[0],) * 4)
    assert not has_signal(alike, turns)
    assert has_signal(alike, algorithm(turn_advantage=objective.turn_return)), "without a comparison a reward is enough"
    single = replace(group, verdicts=tuple(replace(v, turn_rewards=()) for v in verdicts))
    assert not has_signal(single, turns), "outside environments the rewards count"

"""Every algorithm of conf/algo against its source's formula, written out response by response and token by token.

The loops below share no code with zero/objective.py: they are how the papers print it. Loss and gradient must agree. The
gradients of the loops are torch's own, through plain scalars; sg(x) is x without its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.test_algorithm import NAMES, G, L, P, load, make, mixed_rewards, values_of
from zero.objective import clipped, clipped_value_loss, k1

Group = list[float]
Token = tuple[Tensor, Tensor, float]  # new and old log-probability, advantage
Rows = list[list[Token]]  # response -> token


def sg(x: Tensor) -> Tensor:
    return x.detach()


def mean(values: Group) -> float:
    return sum(values) / len(values)


def std(values: Group) -> float:
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))


def clip(r: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(torch.maximum(r, r.new_tensor(1.0 - low)), r.new_tensor(1.0 + high))


def ppo(r: Tensor, a: float, low: float = 0.2, high: float = 0.2) -> Tensor:
    """-min(r A, clip(r) A)."""
    return -torch.minimum(r * a, clip(r, low, high) * a)


def zscore(group: Group, i: int) -> float:
    return 0.0 if len(set(group)) == 1 else (group[i] - mean(group)) / (std(group) + 1e-8)


def centred(group: Group, i: int) -> float:
    return group[i] - mean(group)


def others(group: Group, i: int) -> float:
    return group[i] - mean(group[:i] + group[i + 1 :])


def whitened(all_: Group, n: int) -> float:
    return (all_[n] - mean(all_)) / (std(all_) + 1e-8)


def per_response(rows: Rows, loss: Callable[[Tensor, Tensor, float], Tensor], length: float | None = None) -> Tensor:
    """Mean over responses of the mean (or the sum over `length`) of a token's loss."""
    sums = [sum(loss(*token) for token in row) / (length or len(row)) for row in rows]
    return sum(sums) / len(rows)  # type: ignore[return-value]


def per_token(rows: Rows, loss: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Mean over all tokens of the step."""
    losses = [loss(*token) for row in rows for token in row]
    return sum(losses) / len(losses)  # type: ignore[return-value]


def clipped_loss(new: Tensor, old: Tensor, a: float) -> Tensor:
    return ppo((new - old).exp(), a)


def clip_higher(new: Tensor, old: Tensor, a: float) -> Tensor:
    return ppo((new - old).exp(), a, 0.2, 0.28)


def log_loss(new: Tensor, old: Tensor, a: float) -> Tensor:
    return -a * new


def minimax(new: Tensor, old: Tensor, a: float) -> Tensor:
    return -sg(clip((new - old).exp(), 1.0, 2.0)) * a * new


def gspo(rows: Rows) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        s = torch.stack([new - old for new, old, _ in row]).mean().exp()  # one ratio, and one loss, for the response
        total = total + ppo(s, row[0][2], 3e-4, 4e-4)
    return total / len(rows)


def steps_of(row: list[tuple[float, bool]]) -> list[float]:
    """The value before each step of a response, from (value, starts) of its tokens."""
    return [value for value, starts in row if starts]


def gae(reward: float, row: list[tuple[float, bool]], gamma: float, lam: float) -> Group:
    """Each token's advantage: the sum over later steps of (gamma lam)^l times the error of one step, [GAE] eq. 16."""
    values = steps_of(row)
    errors = [(gamma * values[s + 1] if s + 1 < len(values) else reward) - value for s, value in enumerate(values)]
    whole = [
        sum((gamma * lam) ** (later - s) * errors[later] for later in range(s, len(errors))) for s in range(len(values))
    ]
    step, advantages = -1, []
    for _, starts in row:
        step += starts
        advantages.append(whole[step])
    return advantages


def vine(reward: float, row: list[tuple[float, bool]]) -> Group:
    """The value after a step less the value before it, [Vine] eq. 5."""
    worth = [*steps_of(row), reward]
    step, advantages = -1, []
    for _, starts in row:
        step += starts
        advantages.append(worth[step + 1] - worth[step])
    return advantages


Source = tuple[Callable[[list[Group], int, int], float], Callable[[Rows], Tensor]]
SOURCES: dict[str, Source] = {
    "grpo": (lambda r, p, i: zscore(r[p], i), lambda rows: per_response(rows, clipped_loss)),
    "drgrpo": (lambda r, p, i: centred(r[p], i), lambda rows: per_response(rows, clipped_loss, L)),
    "grpo_no_std": (lambda r, p, i: centred(r[p], i), lambda rows: per_response(rows, clipped_loss)),
    "grpo_no_length": (lambda r, p, i: zscore(r[p], i), lambda rows: per_response(rows, clipped_loss, L)),
    "maxrl": (
        lambda r, p, i: centred(r[p], i) / (mean(r[p]) + 1e-8),
        lambda rows: per_response(rows, clipped_loss, L),
    ),
    "reinforce": (lambda r, p, i: r[p][i], lambda rows: per_response(rows, log_loss, L)),
    "rloo": (lambda r, p, i: others(r[p], i), lambda rows: per_response(rows, log_loss, L)),
    "reinforce_pp": (
        lambda r, p, i: whitened([reward for group in r for reward in group], p * G + i),
        lambda rows: per_token(rows, clipped_loss),
    ),
    "gspo": (lambda r, p, i: zscore(r[p], i), gspo),
    "dapo": (lambda r, p, i: zscore(r[p], i), lambda rows: per_token(rows, clip_higher)),
    "cispo": (lambda r, p, i: zscore(r[p], i), lambda rows: per_token(rows, minimax)),
    "sft": (lambda r, p, i: 1.0, lambda rows: per_token(rows, log_loss)),
    "rft": (lambda r, p, i: float(r[p][i] > 0.5), lambda rows: per_response(rows, log_loss)),
    "ppo": (lambda r, p, i: r[p][i], lambda rows: per_response(rows, clipped_loss)),
    "ppo_unbiased": (lambda r, p, i: r[p][i], lambda rows: per_response(rows, clipped_loss, L)),
    "vineppo": (lambda r, p, i: r[p][i], lambda rows: per_token(rows, clipped_loss)),
}
CREDIT: dict[str, Callable[[float, list[tuple[float, bool]]], Group]] = {  # reward of a response -> of its tokens
    "ppo": lambda reward, row: gae(reward, row, 1.0, 1.0),
    "ppo_unbiased": lambda reward, row: gae(reward, row, 1.0, 1.0),
    "vineppo": vine,
}


def test_every_algorithm_has_its_formula_here() -> None:
    assert sorted(SOURCES) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("moved", [True, False])
def test_loss_and_gradient_are_those_of_the_source(name: str, seed: int, moved: bool) -> None:
    rewards, algo = mixed_rewards(), load(name)
    new, batch = make(algo, rewards, seed)
    if not moved:
        batch = replace(batch, old_NT=None)
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    loss, _ = algo.loss(ours, replace(batch, reference_NT=None))
    loss.backward()
    old = theirs.detach() if batch.old_NT is None else batch.old_NT
    advantage, source = SOURCES[name]
    values = values_of(algo, batch.mask_NT, seed)
    rows = []
    for n in range(P * G):
        places = batch.mask_NT[n].nonzero()[:, 0].tolist()
        a = [advantage(rewards.tolist(), n // G, n % G)] * len(places)
        if values is not None:
            a = CREDIT[name](a[-1], [(float(values[0][n, t]), bool(values[1][n, t])) for t in places])
        rows.append([(theirs[n, t], old[n, t], a[j]) for j, t in enumerate(places)])
    expected = source(rows)
    expected.backward()
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    assert float(ours.grad.abs().sum()) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.0), (0.9, 0.95), (1.0, 0.5)])
@pytest.mark.parametrize("seed", range(4))  # odd ones have steps of several tokens
def test_generalized_advantages_with_a_kl_on_every_token(gamma: float, lam: float, seed: int) -> None:
    """A response earns its reward at the last token and loses the KL where it arose; steps add up what their tokens earn."""
    algo = load("ppo", **{"estimator.gamma": gamma, "estimator.lam": lam, "kl_in": "reward", "beta": 0.3})
    algo = replace(algo, kl=k1)
    _, batch = make(algo, mixed_rewards(), seed)
    value_NT, step_start_NT = values_of(algo, batch.mask_NT, seed)  # type: ignore[misc]
    for n, reward in enumerate(mixed_rewards().flatten().tolist()):
        places = batch.mask_NT[n].nonzero()[:, 0].tolist()
        steps: list[list[int]] = []
        for t in places:
            if step_start_NT[n, t]:
                steps.append([])
            steps[-1].append(t)
        kl = {t: float(batch.old_NT[n, t] - batch.reference_NT[n, t]) for t in places}  # type: ignore[index]
        earned = [-sum(0.3 * kl[t] for t in step) for step in steps]
        earned[-1] += reward
        values = [float(value_NT[n, step[0]]) for step in steps] + [0.0]
        errors = [earned[s] + gamma * values[s + 1] - values[s] for s in range(len(steps))]
        for s, step in enumerate(steps):
            expected = sum((gamma * lam) ** (later - s) * errors[later] for later in range(s, len(steps)))
            for t in step:
                assert float(batch.advantage_NT[n, t]) == pytest.approx(expected, rel=1e-9, abs=1e-12)  # type: ignore[index]
                assert float(batch.return_NT[n, t]) == pytest.approx(
                    expected + float(value_NT[n, t]), rel=1e-9, abs=1e-12
                )  # type: ignore[index]


@pytest.mark.parametrize("clip", [0.2, None])
def test_the_value_loss_is_half_the_larger_squared_error(clip: float | None) -> None:
    """As the code of [DrGRPO] has it, token by token; its gradient stops where the clip binds."""
    generator = torch.Generator().manual_seed(0)
    new, old, goal = (torch.rand(3, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    new.requires_grad_()
    loss = clipped_value_loss(new, old, goal, clip)
    loss.sum().backward()
    for n in range(3):
        for t in range(7):
            v, o, r = (float(x[n, t].detach()) for x in (new, old, goal))
            held = v if clip is None else min(max(v, o - clip), o + clip)
            plain, bound = (v - r) ** 2, (held - r) ** 2
            assert float(loss[n, t].detach()) == pytest.approx(max(plain, bound) / 2, rel=1e-9)
            slope = v - r if plain >= bound else 0.0
            assert float(new.grad[n, t]) == pytest.approx(slope, rel=1e-9)  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
def test_a_kl_in_the_reward_is_taken_off_before_the_advantage(name: str) -> None:
    """R - beta sum_t KL for a response, whatever the algorithm compares it with; nothing of it is left in the loss."""
    algo = replace(load(name, kl_in="reward", beta=0.2), kl=k1)
    if algo.estimator is not None:
        pytest.skip("goes to the tokens: the test above")
    rewards = mixed_rewards()
    new, batch = make(algo, rewards)
    kl_N = ((batch.old_NT - batch.reference_NT) * batch.mask_NT).sum(dim=1)  # type: ignore[operator]
    lowered = rewards - 0.2 * kl_N.reshape(rewards.shape)
    expected = algo.advantage(lowered).flatten()[:, None] * batch.mask_NT
    torch.testing.assert_close(batch.advantage_NT, expected, rtol=1e-12, atol=1e-12)
    assert algo.needs_old and algo.needs_reference
    loss, sums = algo.loss(new, batch)
    torch.testing.assert_close(loss, algo.loss(new, replace(batch, reference_NT=None))[0])
    kl = ((new - batch.reference_NT) * batch.mask_NT).sum()  # type: ignore[operator]
    torch.testing.assert_close(sums["loss/kl"], kl)


def test_whitened_advantages_have_mean_0_and_variance_1_over_tokens() -> None:
    algo = load("ppo", whiten="true")
    _, batch = make(algo, mixed_rewards())
    _, plain = make(load("ppo"), mixed_rewards())
    tokens = batch.advantage_NT[batch.mask_NT.bool()]  # type: ignore[index]
    assert float(tokens.mean()) == pytest.approx(0, abs=1e-12) and float(tokens.var()) == pytest.approx(1, rel=1e-6)
    before = plain.advantage_NT[plain.mask_NT.bool()]  # type: ignore[index]
    torch.testing.assert_close(tokens, (before - before.mean()) / before.std(), rtol=1e-6, atol=1e-9)
    assert batch.advantage_NT is not None and not batch.advantage_NT[batch.mask_NT == 0].any()
    # a critic learns what was earned, not what was whitened
    torch.testing.assert_close(batch.return_NT, plain.return_NT)


def test_rloo_is_drgrpos_advantage_but_for_a_constant() -> None:
    """[RLOO], and appendix A of [DrGRPO]: G / (G - 1)."""
    rewards = mixed_rewards()
    torch.testing.assert_close(load("rloo").advantage(rewards), load("drgrpo").advantage(rewards) * G / (G - 1))


def test_the_dual_clip_bounds_what_a_soaring_bad_token_costs() -> None:
    ratio = torch.tensor([[0.5, 1.0, 2.0, 9.0]], dtype=torch.float64)
    new, old, mask = ratio.log().requires_grad_(), torch.zeros(1, 4).double(), torch.ones(1, 4)
    for a, expected in ((-2.0, [1.6, 2.0, 4.0, 6.0]), (2.0, [-1.0, -2.0, -2.4, -2.4])):
        advantage = torch.tensor([[a]], dtype=torch.float64)
        loss, bound = clipped(new, old, advantage, mask, low=0.2, high=0.2, dual=3.0)
        torch.testing.assert_close(loss.detach()[0], torch.tensor(expected, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss.sum(), new)
        assert torch.equal(bound, gradient == 0)
        assert not torch.equal(bound, clipped(new, old, advantage, mask, low=0.2, high=0.2)[1]) or a > 0

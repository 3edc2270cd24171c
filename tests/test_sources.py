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

from tests.test_algo import NAMES, G, L, P, load, make, mixed_rewards
from zero.objective import clip_binds, clipped

Group = list[float]
Rows = list[list[tuple[Tensor, Tensor]]]  # response -> token -> (new, old log-probability)


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


def per_response(rows: Rows, token: Callable[[int, Tensor, Tensor], Tensor], length: float | None = None) -> Tensor:
    """Mean over responses of the mean (or the sum over `length`) of a token's loss."""
    sums = [sum(token(n, new, old) for new, old in row) / (length or len(row)) for n, row in enumerate(rows)]
    return sum(sums) / len(rows)  # type: ignore[return-value]


def per_token(rows: Rows, token: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
    """Mean over all tokens of the step."""
    losses = [token(n, new, old) for n, row in enumerate(rows) for new, old in row]
    return sum(losses) / len(losses)  # type: ignore[return-value]


def grpo(rows: Rows, a: list[float]) -> Tensor:
    return per_response(rows, lambda n, new, old: ppo((new - old).exp(), a[n]))


def drgrpo(rows: Rows, a: list[float]) -> Tensor:
    return per_response(rows, lambda n, new, old: ppo((new - old).exp(), a[n]), length=L)


def likelihood(rows: Rows, a: list[float], length: float | None = L) -> Tensor:
    return per_response(rows, lambda n, new, old: -a[n] * new, length=length)


def reinforce_pp(rows: Rows, a: list[float]) -> Tensor:
    return per_token(rows, lambda n, new, old: ppo((new - old).exp(), a[n]))


def dapo(rows: Rows, a: list[float]) -> Tensor:
    return per_token(rows, lambda n, new, old: ppo((new - old).exp(), a[n], 0.2, 0.28))


def cispo(rows: Rows, a: list[float]) -> Tensor:
    return per_token(rows, lambda n, new, old: -sg(clip((new - old).exp(), 1.0, 2.0)) * a[n] * new)


def gspo(rows: Rows, a: list[float]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for n, row in enumerate(rows):
        s = torch.stack([new - old for new, old in row]).mean().exp()  # one ratio, and one loss, for the response
        total = total + ppo(s, a[n], 3e-4, 4e-4)
    return total / len(rows)


Source = tuple[Callable[[list[Group], int, int], float], Callable[[Rows, list[float]], Tensor]]
SOURCES: dict[str, Source] = {
    "maxrl": (lambda r, p, i: centred(r[p], i) / (mean(r[p]) + 1e-8), drgrpo),
    "grpo": (lambda r, p, i: zscore(r[p], i), grpo),
    "drgrpo": (lambda r, p, i: centred(r[p], i), drgrpo),
    "grpo_no_std": (lambda r, p, i: centred(r[p], i), grpo),
    "grpo_no_length": (lambda r, p, i: zscore(r[p], i), drgrpo),
    "reinforce": (lambda r, p, i: r[p][i], likelihood),
    "rloo": (lambda r, p, i: others(r[p], i), likelihood),
    "reinforce_pp": (lambda r, p, i: whitened([reward for group in r for reward in group], p * G + i), reinforce_pp),
    "gspo": (lambda r, p, i: zscore(r[p], i), gspo),
    "dapo": (lambda r, p, i: zscore(r[p], i), dapo),
    "cispo": (lambda r, p, i: zscore(r[p], i), cispo),
    "sft": (lambda r, p, i: 1.0, lambda rows, a: per_token(rows, lambda n, new, old: -new)),
    "rft": (lambda r, p, i: float(r[p][i] > 0.5), lambda rows, a: likelihood(rows, a, length=None)),
}


def test_every_algorithm_has_its_source_here() -> None:
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
    places = [batch.mask_NT[n].nonzero()[:, 0].tolist() for n in range(P * G)]
    rows = [[(theirs[n, t], old[n, t]) for t in places[n]] for n in range(P * G)]
    advantage, source = SOURCES[name]
    expected = source(rows, [advantage(rewards.tolist(), n // G, n % G) for n in range(P * G)])
    expected.backward()
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    assert float(ours.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_rloo_is_drgrpos_advantage_but_for_a_constant() -> None:
    """[RLOO], and appendix A of [DrGRPO]: G / (G - 1)."""
    rewards = mixed_rewards()
    torch.testing.assert_close(load("rloo").advantage(rewards), load("drgrpo").advantage(rewards) * G / (G - 1))


def test_the_dual_clip_bounds_what_a_soaring_bad_token_costs() -> None:
    ratio = torch.tensor([[0.5, 1.0, 2.0, 9.0]], dtype=torch.float64)
    new, old, mask = ratio.log().requires_grad_(), torch.zeros(1, 4).double(), torch.ones(1, 4)
    for a, expected in ((-2.0, [1.6, 2.0, 4.0, 6.0]), (2.0, [-1.0, -2.0, -2.4, -2.4])):
        advantage = torch.tensor([[a]], dtype=torch.float64)
        loss = clipped(new, old, advantage, mask, low=0.2, high=0.2, dual=3.0)
        torch.testing.assert_close(loss.detach()[0], torch.tensor(expected, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss.sum(), new)
        bound = clip_binds(new.detach(), old, advantage, mask, low=0.2, high=0.2, dual=3.0)
        assert torch.equal(bound, gradient == 0)
        assert not torch.equal(bound, clip_binds(new.detach(), old, advantage, mask, low=0.2, high=0.2)) or a > 0

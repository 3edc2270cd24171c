"""The mathematics against hand-derived values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zero import objective as O

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)


def test_group_mean_by_hand() -> None:
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [-0.25, -0.25, -0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(O.group_mean(REWARDS), expected)


def test_group_zscore_uses_the_samples_deviation() -> None:
    # [0, 0, 0, 1]: mean 1/4, sample variance (3/16 + 9/16) / 3 = 1/4
    expected = torch.tensor([-0.5, -0.5, -0.5, 1.5], dtype=torch.float64)
    torch.testing.assert_close(O.group_zscore(REWARDS)[1], expected, rtol=0, atol=1e-7)
    population = (REWARDS[1] - 0.25) / math.sqrt(3 / 16)
    assert not torch.allclose(O.group_zscore(REWARDS)[1], population, rtol=0.05)


@pytest.mark.parametrize("advantage", [O.group_mean, O.group_zscore])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -7.3])
def test_equal_rewards_have_exactly_no_advantage(advantage: object, reward: float) -> None:
    for dtype in (torch.float32, torch.float64):
        out = advantage(torch.full((3, 7), reward, dtype=dtype))  # type: ignore[operator]
        assert torch.equal(out, torch.zeros(3, 7, dtype=dtype))


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=8, max_size=8))
@settings(max_examples=50, deadline=None)
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float]) -> None:
    tensor = torch.tensor([rewards], dtype=torch.float64)
    for advantage in (O.group_mean, O.group_zscore):
        out = advantage(tensor)
        assert torch.isfinite(out).all() and abs(float(out.sum())) < 1e-6
        assert torch.equal(out[0].argsort(stable=True), tensor[0].argsort(stable=True))


def test_weights_by_hand() -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(O.response_mean(mask), torch.tensor([[0, 0.25, 0.25, 0], [0, 0.5, 0, 0]]))
    torch.testing.assert_close(O.constant_length(mask, length=10), mask / 20)


def test_response_mean_is_the_mean_of_means() -> None:
    torch.manual_seed(0)
    mask = (torch.rand(5, 9) < 0.6).float()
    mask[:, 0] = 1
    loss = torch.randn(5, 9)
    by_hand = torch.stack([loss[n][mask[n] == 1].mean() for n in range(5)]).mean()
    torch.testing.assert_close((O.response_mean(mask) * loss).sum(), by_hand)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [  # max(-A r, -A clip(r)): loss and its derivative in log r, at clip 0.2
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # pushed far enough up
        (0.5, 2.0, -1.0, -1.0),  # still has a gradient
        (0.5, -2.0, 1.6, 0.0),  # pushed far enough down
        (1.5, -2.0, 3.0, 3.0),  # still has a gradient
    ],
)
def test_clipped_by_hand(ratio: float, advantage: float, expected: float, slope: float) -> None:
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old, a = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    mask = torch.ones(1, 1)
    loss, bound = O.clipped(new, old, a, mask, low=0.2, high=0.2)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(expected) and float(new.grad[0, 0]) == pytest.approx(slope)  # type: ignore[index]
    assert bool(bound) == (slope == 0)


def test_kl_estimators_by_hand_and_in_expectation() -> None:
    new, ref = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    d = -math.log(2)
    assert float(O.k1(new, ref)) == pytest.approx(-d)
    assert float(O.k2(new, ref)) == pytest.approx(d * d / 2)
    assert float(O.k3(new, ref)) == pytest.approx(math.exp(d) - 1 - d)
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    true = float((p * (p / q).log()).sum())
    assert float((p * O.k1(p.log(), q.log())).sum()) == pytest.approx(true, rel=1e-5)
    assert float((p * O.k3(p.log(), q.log())).sum()) == pytest.approx(true, rel=1e-5)  # E exp(d) = 1
    assert (O.k3(p.log(), q.log()) >= 0).all()


def test_kl_stays_finite_where_the_policies_are_far_apart() -> None:
    for estimator in (O.k1, O.k2, O.k3):
        assert torch.isfinite(estimator(torch.tensor([-1e4, 0.0]), torch.tensor([0.0, -1e4]))).all()


def test_corrections_by_hand() -> None:
    old = torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64).clamp(min=1e-9).log().requires_grad_()
    sampler = torch.tensor([[0.25, 0.5, 0.9]], dtype=torch.float64).log()
    mask = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    for cap, expected in ((5.0, [2.0, 0.5, 1.0]), (1.5, [1.5, 0.5, 1.0])):
        torch.testing.assert_close(O.token_correction(old, sampler, mask, cap), mask.new_tensor([expected]))
    both = torch.full((1, 3), 1.0, dtype=torch.float64)  # 2 x 1/2
    torch.testing.assert_close(O.sequence_correction(old, sampler, mask, 5.0), both)
    torch.testing.assert_close(O.sequence_correction(old[:, :1], sampler[:, :1], mask[:, :1], 1.25), both[:, :1] * 1.25)
    assert not O.token_correction(old, sampler, mask, 5.0).requires_grad
    far = torch.full((1, 900), 500.0, dtype=torch.float64)
    assert torch.isfinite(O.sequence_correction(far, -far, torch.ones_like(far), 2.0)).all()


def test_entropy_has_a_gradient_only_if_asked_to() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float().requires_grad_()
    ids = torch.zeros(5, dtype=torch.int64)
    assert not O.logprob_and_entropy(logits, ids, 1.0)[1].requires_grad
    (ours,) = torch.autograd.grad(O.logprob_and_entropy(logits, ids, 0.7, entropy_gradient=True)[1].sum(), logits)
    (theirs,) = torch.autograd.grad(torch.distributions.Categorical(logits=logits / 0.7).entropy().sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_logprob_and_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, -math.inf]])
    logp, entropy = O.logprob_and_entropy(logits, torch.tensor([2, 0]), temperature=1.0)
    torch.testing.assert_close(logp, torch.tensor([-math.log(4), 0.0]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(4), 0.0]))
    cold, _ = O.logprob_and_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), temperature=0.5)
    assert float(cold) == pytest.approx(-math.log(1 + math.exp(-2)))

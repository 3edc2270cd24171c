"""Every algorithm of conf/algo: gradients by finite differences, invariance to micro-batches, no gradient of equal groups."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from zero.algorithm import Algorithm
from zero.batching import make_batch
from zero.config.check import check, instantiate
from zero.objective import truncated_importance
from zero.records import Batch, Completion, Group, Outcome, Prompt, Question, Verdict

NAMES = sorted(path.stem for path in (ROOT / "conf" / "algo").glob("[!_]*.yaml"))
P, G, T, L = 3, 4, 9, 16


@pytest.fixture(params=NAMES)
def algo(request: pytest.FixtureRequest) -> Algorithm:
    return load(request.param)


@cache
def load(name: str, **changes: Any) -> Algorithm:
    overrides = [f"algo.{key}={value}" for key, value in changes.items()]
    return instantiate(check("train", [f"algo={name}", f"sampling.max_tokens={L}", *overrides])["algo"])


def make(algo: Algorithm, rewards_PG: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, Batch]:
    """Random log-probabilities of a policy that has moved since the samples, and the batch."""
    generator = torch.Generator().manual_seed(seed)
    n = rewards_PG.numel()
    length = torch.randint(3, T + 1, (n,), generator=generator)
    place = torch.arange(T)[None]
    mask = ((place >= 2) & (place < length[:, None])).double()
    draw = lambda: -torch.rand(n, T, generator=generator, dtype=torch.float64) * 2  # noqa: E731
    new, old, reference = draw(), draw(), draw()
    batch = Batch(
        ids_NT=torch.zeros(n, T, dtype=torch.int64),
        mask_NT=mask,
        weight_NT=algo.weight(mask),
        sampler_NT=old * mask,
        length_N=length,
        old_NT=(new + 0.3 * (old - new)) * mask,
        reference_NT=reference * mask,
    )
    return new * mask, algo.with_advantages(batch, rewards_PG, values_of(algo, mask, seed))


def values_of(algo: Algorithm, mask: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A critic's values: random, for steps of one token or of several."""
    if algo.estimator is None:
        return None
    generator = torch.Generator().manual_seed(100 + seed)
    first = (mask > 0) & (mask.cumsum(dim=1) == 1)
    starts = (torch.rand(mask.shape, generator=generator) < 0.5) & (mask > 0) | first
    value = torch.rand(mask.shape, generator=generator, dtype=mask.dtype)
    return value, starts if seed % 2 else mask.bool()


def mixed_rewards() -> torch.Tensor:
    return torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0.1, 1, 0, 0]], dtype=torch.float64)


def test_gradient_is_that_of_finite_differences(algo: Algorithm) -> None:
    if getattr(algo.surrogate, "func", None) is truncated_importance:
        pytest.skip("a stop-gradient is no derivative; tests/test_formulas.py has its formula")
    algo = replace(algo, beta=0.3)
    new, batch = make(algo, mixed_rewards())
    new.requires_grad_()
    algo.loss(new, batch)[0].backward()
    step = 1e-6
    for n, t in [(0, 2), (1, 3), (5, 2), (9, 2), (11, 3)]:
        nudge = torch.zeros_like(new)
        nudge[n, t] = step
        with torch.no_grad():
            slope = (algo.loss(new + nudge, batch)[0] - algo.loss(new - nudge, batch)[0]) / (2 * step)
        torch.testing.assert_close(new.grad[n, t], slope, rtol=1e-5, atol=1e-9)  # type: ignore[index]


@pytest.mark.parametrize("cut", [1, 2, 5, 12])
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_order(algo: Algorithm, cut: int) -> None:
    algo = replace(algo, beta=0.1)
    new, batch = make(algo, mixed_rewards())
    whole = new.clone().requires_grad_()
    loss, sums = algo.loss(whole, batch)
    loss.backward()
    parts = new.clone().requires_grad_()
    order = torch.randperm(P * G, generator=torch.Generator().manual_seed(1))
    total, sums_of_micro_batches = torch.zeros(()).double(), dict.fromkeys(sums, 0.0)
    for rows in order.split(cut):
        micro_batch = batch.rows(rows)
        micro_loss, micro_sums = algo.loss(parts[rows, : micro_batch.ids_NT.shape[1]], micro_batch)
        micro_loss.backward()
        total += micro_loss.detach()
        sums_of_micro_batches = {k: sums_of_micro_batches[k] + float(v) for k, v in micro_sums.items()}
    torch.testing.assert_close(total, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=1e-14)
    assert sums_of_micro_batches == pytest.approx({k: float(v) for k, v in sums.items()})


def test_equal_groups_have_no_gradient_and_no_nan(algo: Algorithm) -> None:
    if algo.advantage(torch.zeros(P, G, dtype=torch.float64)).any() or algo.estimator is not None:
        pytest.skip("learns whatever the reward is, or from what a critic did not expect")
    for reward in (0.0, 0.1, 1.0) if algo.min_group > 1 else (0.0,):  # others learn from any reward but 0
        new, batch = make(algo, torch.full((P, G), reward, dtype=torch.float64))
        assert not algo.trained_rows(batch).any()
        new.requires_grad_()
        loss, sums = algo.loss(new, replace(batch, reference_NT=None))
        loss.backward()
        assert float(loss.detach()) == 0 and torch.equal(new.grad, torch.zeros_like(new))  # type: ignore[arg-type]
        assert all(torch.isfinite(value) for value in sums.values())


def test_a_first_update_takes_the_samples_as_on_policy(algo: Algorithm) -> None:
    new, batch = make(algo, mixed_rewards())
    on_policy = replace(batch, old_NT=None, reference_NT=None)
    leaf = new.clone().requires_grad_()
    loss, sums = algo.loss(leaf, on_policy)
    loss.backward()
    assert float(sums["loss/clip_fraction"]) == 0
    torch.testing.assert_close(leaf.grad, -batch.weight_NT * batch.advantage_NT)  # REINFORCE with this advantage


CLIPS: dict[str, tuple[dict[str, Any], float]] = {  # settings of a clip, and the spread of log-ratios that meets it
    "dapo": ({"surrogate.low": 0.1, "surrogate.high": 0.9}, 0.6),
    "grpo": ({"surrogate.low": 0.3, "surrogate.high": 0.1}, 0.6),
    "ppo": ({"surrogate.dual": 1.5}, 0.6),
    "gspo": ({"surrogate.low": 0.05, "surrogate.high": 0.02}, 0.3),
    "reinforce": ({}, 0.6),
}


@pytest.mark.parametrize("changed", [False, True], ids=["as shipped", "overridden"])
@pytest.mark.parametrize("name", CLIPS)
def test_a_token_counts_as_clipped_exactly_where_it_has_no_gradient(name: str, changed: bool) -> None:
    """For any setting of the bounds, which are written once."""
    bounds, spread = CLIPS[name]
    overrides = [
        f"+algo.{key}={value}" if key == "surrogate.dual" else f"algo.{key}={value}" for key, value in bounds.items()
    ]
    algo = instantiate(
        check("train", [f"algo={name}", f"sampling.max_tokens={L}", *(overrides if changed else [])])["algo"]
    )
    new, batch = make(algo, mixed_rewards())
    assert batch.old_NT is not None and batch.advantage_NT is not None
    generator = torch.Generator().manual_seed(1)
    moved = (spread * torch.randn(new.shape, generator=generator, dtype=new.dtype)) * batch.mask_NT
    new = (batch.old_NT + moved).requires_grad_()
    loss, sums = algo.loss(new, replace(batch, reference_NT=None))
    loss.backward()
    counted = 0
    for n, t in (batch.mask_NT * (batch.advantage_NT != 0)).nonzero().tolist():
        one = replace(batch.rows(torch.tensor([n])), reference_NT=None)
        alone = replace(one, weight_NT=one.weight_NT * (torch.arange(one.weight_NT.shape[1]) == t))  # one token's loss
        leaf = new.detach()[n : n + 1, : alone.ids_NT.shape[1]].clone().requires_grad_()
        algo.loss(leaf, alone)[0].backward()
        surrogate = algo.surrogate(leaf.detach(), one.old_NT, one.advantage_NT, one.mask_NT)  # type: ignore[arg-type]
        assert bool(surrogate[1][0, t]) == (not leaf.grad.any())  # type: ignore[union-attr]
        counted += bool(surrogate[1][0, t])
    assert float(sums["loss/clip_fraction"]) == counted
    assert (counted > 2) == (name != "reinforce")


REWARDS = st.lists(
    st.sampled_from([-1.0, -0.5, 0.0, 0.1, 1 / 3, 1.0, 5.0]) | st.floats(-100, 100), min_size=P * G, max_size=P * G
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(values=REWARDS, seed=st.integers(0, 1000), whiten=st.booleans(), beta=st.sampled_from([0.0, 0.1]))
def test_with_any_rewards_all_is_finite_and_only_responses_learn(
    name: str, values: list[float], seed: int, whiten: bool, beta: float
) -> None:
    algo = replace(load(name), whiten=whiten, beta=beta)
    new, batch = make(algo, torch.tensor(values, dtype=torch.float64).reshape(P, G), seed)
    new.requires_grad_()
    loss, sums = algo.loss(new, batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(value) for value in sums.values())
    assert new.grad is not None and torch.isfinite(new.grad).all() and not new.grad[batch.mask_NT == 0].any()
    assert batch.advantage_NT is not None and not batch.advantage_NT[batch.mask_NT == 0].any()
    assert not new.grad[~algo.trained_rows(batch)].any()


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).estimator is None])
@settings(max_examples=25, deadline=None)
@given(values=REWARDS, order=st.permutations(range(G)), prompts=st.permutations(range(P)))
def test_neither_siblings_nor_prompts_have_an_order(
    name: str, values: list[float], order: list[int], prompts: list[int]
) -> None:
    algo = load(name)
    rewards = torch.tensor(values, dtype=torch.float64).reshape(P, G)
    shuffled = algo.advantage(rewards[prompts][:, order])
    torch.testing.assert_close(shuffled, algo.advantage(rewards)[prompts][:, order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).min_group > 1])
@settings(max_examples=25, deadline=None)
@given(values=REWARDS)
def test_better_siblings_gain_and_advantages_of_a_group_add_up_to_zero(name: str, values: list[float]) -> None:
    rewards = torch.tensor(values, dtype=torch.float64).reshape(P, G)
    advantage = load(name).advantage(rewards)
    most = advantage.abs().max().clamp(min=1)
    torch.testing.assert_close(advantage.sum(dim=1) / most, torch.zeros(P).double(), rtol=0, atol=1e-6)
    for a, r in zip(advantage, rewards, strict=True):
        order = r.argsort()
        assert (a[order].diff() >= -1e-9 * most).all()


def test_grpo_and_drgrpo_against_the_papers_formulas() -> None:
    """The losses written out response by response, as the paper's listing 1 has them."""
    rewards = mixed_rewards()
    for name in ("grpo", "drgrpo"):
        algo = load(name)
        new, batch = make(algo, rewards)
        expected = 0.0
        for n in range(P * G):
            group = rewards[n // G]
            advantage = rewards.flatten()[n] - group.mean()
            if name == "grpo":
                advantage = advantage / (group.std() + 1e-8)
            tokens = batch.mask_NT[n].nonzero()[:, 0].tolist()
            losses = []
            for t in tokens:
                r = torch.exp(new[n, t] - batch.old_NT[n, t])  # type: ignore[index]
                losses.append(float(max(-advantage * r, -advantage * min(max(r, 0.8), 1.2))))
            expected += sum(losses) / (len(tokens) if name == "grpo" else L) / (P * G)
        assert float(algo.loss(new, replace(batch, reference_NT=None))[0]) == pytest.approx(expected, rel=1e-9)


def test_beta_adds_the_kl_and_reports_it(algo: Algorithm) -> None:
    new, batch = make(algo, mixed_rewards())
    without, _ = replace(algo, beta=0.0).loss(new, batch)
    with_kl, sums = replace(algo, beta=0.5).loss(new, batch)
    kl = algo.kl(new, batch.reference_NT)  # type: ignore[arg-type]
    torch.testing.assert_close(with_kl - without, 0.5 * (batch.weight_NT * kl).sum())
    torch.testing.assert_close(sums["loss/kl"], (kl * batch.mask_NT).sum())
    assert replace(algo, beta=0.5).trained_rows(batch).all() and replace(algo, beta=0.5).needs_reference


def test_a_correction_weighs_the_policys_loss_and_not_the_kl(algo: Algorithm) -> None:
    new, batch = make(algo, mixed_rewards())
    factor = torch.linspace(0.2, 1.9, T, dtype=torch.float64)
    corrected = replace(algo, correction=lambda old, sampler, mask: factor.expand_as(old), beta=0.3)
    loss, sums = corrected.loss(new, batch)
    per_token, _ = algo.surrogate(new, batch.old_NT, batch.advantage_NT, batch.mask_NT)  # type: ignore[arg-type]
    kl = algo.kl(new, batch.reference_NT)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, (batch.weight_NT * (per_token * factor + 0.3 * kl)).sum())
    torch.testing.assert_close(sums["mismatch/correction"], (factor * batch.mask_NT).sum())


def test_an_entropy_bonus_lowers_the_loss_by_the_weighted_entropy(algo: Algorithm) -> None:
    new, batch = make(algo, mixed_rewards())
    entropy = torch.rand(new.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    bonus = replace(algo, entropy=0.2)
    gained = algo.loss(new, batch)[0] - bonus.loss(new, batch, entropy)[0]
    torch.testing.assert_close(gained, 0.2 * (batch.weight_NT * entropy).sum())
    assert bonus.trained_rows(batch).all()


def test_advantages_are_clipped_to_the_largest(algo: Algorithm) -> None:
    rewards = mixed_rewards() * 9
    clipped = make(replace(algo, advantage_clip=0.25), rewards)[1].advantage_NT
    whole = make(algo, rewards)[1].advantage_NT
    assert clipped is not None and whole is not None
    torch.testing.assert_close(clipped, whole.clamp(-0.25, 0.25))
    assert float(clipped.abs().max()) == 0.25


@pytest.mark.parametrize("masked", [True, False])
def test_truncated_responses_can_be_masked(algo: Algorithm, masked: bool) -> None:
    prompt = Prompt(Question("q", ("1",), "q"), "q", (5, 6), (0,))
    cut, whole = Completion((1, 2, 3), (-1.0,) * 3, "", False), Completion((1, 2), (-1.0,) * 2, "", True)
    verdicts = [Verdict(reward, Outcome.WRONG, Outcome.WRONG, "1", "") for reward in (1.0, 0.0, 1.0, 0.0)]
    group = Group(prompt, (cut, whole, whole, cut), tuple(verdicts))
    batch = make_batch([group], replace(algo, mask_truncated=masked), pad_id=0)
    tokens = [0, 2, 2, 0] if masked else [3, 2, 2, 3]
    assert batch.mask_NT.sum(dim=1).tolist() == tokens
    assert [bool(weight) for weight in batch.weight_NT.sum(dim=1)] == [bool(n) for n in tokens]

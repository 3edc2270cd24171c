"""The learned critic: values see no later token, the gradient is that of the summed loss, save and load resume it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.test_torch import groups_of
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch, rewards
from zero.critic.value_model import ValueModel
from zero.distributed import World
from zero.learner.optimizer import Optimizer
from zero.records import Batch

OPTIM = Optimizer(1e-3, (0.9, 0.95), 0.0, 0.0, 0, "constant", 0.0)


def critic_of(folder: Path, micro_tokens: int = 10_000, seed: int = 0, clip: float | None = 0.2) -> ValueModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return ValueModel(
        model,
        total_updates=10,
        seed=seed,
        autocast=False,
        device=torch.device("cpu"),
        world=World(),
        optimizer=OPTIM,
        clip=clip,
        micro_tokens=micro_tokens,
    )


def judged(critic: ValueModel, name: str = "ppo") -> Batch:
    algo, groups = load_algo(name), groups_of()
    batch = make_batch(groups, algo, pad_id=7)
    return algo.with_advantages(batch, rewards(groups), critic.values(groups, batch))


def test_a_value_is_that_of_the_state_before_its_token(tiny_folder: Path) -> None:
    """Against plain transformers, row by row, unpadded; changing token t changes no value up to t."""
    critic = critic_of(tiny_folder)
    batch = make_batch(groups_of(), load_algo("ppo"), pad_id=7)
    value_NT, step_start_NT = critic.values(groups_of(), batch)
    assert torch.equal(step_start_NT, batch.mask_NT.bool()) and not value_NT[~step_start_NT].any()
    body = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).base_model.eval()
    for n, length in enumerate(batch.length_N.tolist()):
        with torch.no_grad():
            hidden = body(batch.ids_NT[n : n + 1, :length]).last_hidden_state[0]
            expected = critic.head(hidden)[:, 0]
        for t in batch.mask_NT[n].nonzero()[:, 0].tolist():
            assert float(value_NT[n, t]) == pytest.approx(float(expected[t - 1]), abs=1e-5)
    n, t = 0, int(batch.mask_NT[0].nonzero()[1, 0])
    ids = batch.ids_NT.clone()
    ids[n, t] = ids[n, t] + 1
    moved, _ = critic.values(groups_of(), replace(batch, ids_NT=ids))
    assert torch.equal(moved[n, : t + 1], value_NT[n, : t + 1])


def test_the_head_starts_small_and_by_the_seed(tiny_folder: Path) -> None:
    first, again, other = critic_of(tiny_folder), critic_of(tiny_folder), critic_of(tiny_folder, seed=1)
    assert torch.equal(first.head.weight, again.head.weight) and not torch.equal(first.head.weight, other.head.weight)
    assert (
        float(first.head.weight.detach().std()) == pytest.approx(1 / 33, rel=0.4)
        and float(first.head.bias.detach()) == 0
    )


@pytest.mark.parametrize("name", ["ppo", "ppo_unbiased"])
def test_gradient_and_metrics_do_not_depend_on_how_the_batch_is_cut(tiny_folder: Path, name: str) -> None:
    results = []
    for micro_tokens in (1, 40, 10_000):
        critic = critic_of(tiny_folder, micro_tokens)
        batch = judged(critic, name)
        caught: list[torch.Tensor] = []
        critic.trained.optimizers[0].step = lambda c=critic, k=caught: k.extend(  # type: ignore[method-assign]
            p.grad.flatten().clone() for _, p in c.trained.parameters() if p.grad is not None
        )
        results.append((critic.update(batch), torch.cat(caught)))
    for metrics, gradient in results[1:]:
        assert metrics == pytest.approx(results[0][0], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-7)
    assert float(results[0][1].abs().sum()) > 0


def test_it_learns_the_returns(tiny_folder: Path) -> None:
    critic = critic_of(tiny_folder, clip=None)
    before = critic.update(judged(critic))
    for _ in range(60):
        after = critic.update(judged(critic))
    assert after["critic/loss"] < 0.3 * before["critic/loss"]
    assert after["critic/explained_variance"] > 0.5 > before["critic/explained_variance"]


def test_saved_and_loaded_it_goes_on_to_the_same_bits(tiny_folder: Path, tmp_path: Path) -> None:
    straight = critic_of(tiny_folder)
    for _ in range(2):
        straight.update(judged(straight))
    straight.save(tmp_path)
    resumed = critic_of(tiny_folder, seed=5)
    resumed.load(tmp_path)
    for critic in (straight, resumed):
        critic.update(judged(critic))
    for (name, a), (_, b) in zip(straight.trained.parameters(), resumed.trained.parameters(), strict=True):
        assert torch.equal(a, b), name

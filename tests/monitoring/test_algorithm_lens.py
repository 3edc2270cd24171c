"""The lens: cases worked out by hand, every algorithm against its own full loss, and an unchanged run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.learner.test_torch import learner_of
from tests.test_algorithm import NAMES
from tests.test_algorithm import load as load_algo
from zero.algorithm import Algorithm
from zero.batching import make_batch, rewards
from zero.errors import InputError
from zero.learner.gradient_probe import Probed
from zero.learner.gradient_probe import probe as probe_gradients
from zero.monitoring.algorithm_lens import (
    AlgorithmLens,
    compare,
    cosine,
    difficulty_bias,
    length_bias,
    make_lens,
    slopes,
    split,
)
from zero.records import Batch, Completion, Group, Outcome, Prompt, Question, Verdict

WITHOUT_CRITIC = [name for name in NAMES if load_algo(name).critic is None]


def group_of(rewards_G: Sequence[float], tokens_G: Sequence[int], p: int = 0, finished: bool = True) -> Group:
    """Random responses of the given rewards and lengths; a reward of 1 is a right answer."""
    generator = torch.Generator().manual_seed(p)
    ids = [tuple(torch.randint(8, 400, (n,), generator=generator).tolist()) for n in tokens_G]
    prompt = Prompt(Question("", ("",), ""), "", (9, 10, 11 + p), (0, p))
    outcomes = [Outcome.CORRECT if r == 1 else Outcome.WRONG for r in rewards_G]
    verdicts = tuple(Verdict(r, o, o, "", "") for r, o in zip(rewards_G, outcomes, strict=True))
    return Group(prompt, tuple(Completion(i, (-1.0,) * len(i), "", finished) for i in ids), verdicts)


def with_advantages(algo: Algorithm, groups: Sequence[Group], **known: Tensor) -> Batch:
    return algo.with_advantages(replace(make_batch(groups, algo, pad_id=7), **known), rewards(groups))


def probing(folder: Path) -> Any:
    """A learner with what the lens needs of it."""
    learner = learner_of(folder, micro_tokens=60)
    settings = dict(temperature=0.8, vocabulary=500, micro_tokens=60, autocast=False, device=torch.device("cpu"))

    def probe(batch: Batch, slopes: Any, algorithms: int, *, entropy: bool) -> Probed:
        return probe_gradients(learner.model, batch, slopes, algorithms, entropy=entropy, **settings)  # type: ignore[arg-type]

    return SimpleNamespace(plain_head=learner.plain_head, probe=probe, logprobs=learner.logprobs)


def seen_through(
    folder: Path, own: str, others: Sequence[str], groups: Sequence[Group], **options: Any
) -> dict[str, float]:
    learner, algo = probing(folder), replace(load_algo(own), **options)
    lens = make_lens(own, {name: load_algo(name) for name in others}, 1, 7, learner)
    return compare(lens, algo, with_advantages(algo, groups), groups, learner)


MIXED = [
    group_of((1, 0, 0, 0), (3, 9, 5, 12), 0),
    group_of((1, 1, 0, 0), (6, 4, 4, 11), 1),
    group_of((0, 0, 0, 0), (5, 5, 5, 5), 2),
    group_of((1, 0, 0.5, 1), (8, 3, 3, 8), 3),
]


@pytest.fixture(scope="module")
def mixed(tiny_folder: Path) -> dict[str, float]:
    return seen_through(tiny_folder, "drgrpo", WITHOUT_CRITIC, MIXED)


def test_every_algorithm_is_seen_and_its_own_cosine_is_one(mixed: dict[str, float]) -> None:
    assert {name.split("/")[1] for name in mixed} == set(WITHOUT_CRITIC)
    assert mixed["lens/drgrpo/cosine"] == pytest.approx(1, abs=1e-9)
    assert mixed["lens/rloo/cosine"] == pytest.approx(1, abs=1e-6)  # a constant factor away
    assert -1 < mixed["lens/sft/cosine"] < mixed["lens/grpo/cosine"] < 0.999
    for one, other in [("grpo", "gspo"), ("dapo", "cispo")]:  # they differ only when ratios leave 1
        for key in (k for k in mixed if k.startswith(f"lens/{one}/")):
            assert mixed[key] == pytest.approx(mixed[key.replace(one, other)], rel=1e-5)


def test_shares_add_up(mixed: dict[str, float]) -> None:
    for name in WITHOUT_CRITIC:
        shares = [v for k, v in mixed.items() if k.startswith((f"lens/{name}/correct", f"lens/{name}/incorrect"))]
        assert len(shares) == 4 and sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert mixed["lens/rft/incorrect_short"] == mixed["lens/rft/incorrect_long"] == 0


def test_the_two_biases_of_grpo_are_those_of_its_paper(mixed: dict[str, float]) -> None:
    """One in four right is nearly unanimous, half is balanced. MIXED has two strata of mistakes with both lengths
    (median 5): the first group's (5 | 9, 12 tokens) and the second's (4 | 11)."""
    for name in ("drgrpo", "dapo", "maxrl", "grpo_no_length"):
        assert mixed[f"lens/{name}/length_bias"] == pytest.approx(1, rel=1e-5)
    for name, advantages in [("grpo", ((0.25 / 0.5), 0.5 / (1 / 3) ** 0.5)), ("grpo_no_std", (0.25, 0.5))]:
        first, second = advantages
        long, short = first * (1 / 9 + 1 / 12) / 2 + second / 11, first / 5 + second / 4
        assert mixed[f"lens/{name}/length_bias"] == pytest.approx(long / short, rel=1e-5)
    assert mixed["lens/drgrpo/difficulty_bias"] == pytest.approx(1, rel=1e-5)
    assert mixed["lens/grpo_no_std/difficulty_bias"] == pytest.approx(1, rel=1e-5)
    stds = [torch.tensor(r).std() for r in ((1.0, 0, 0, 0), (1.0, 1, 0, 0), (1, 0, 0.5, 1))]
    expected = float(1 / stds[0] / ((1 / stds[1] + 1 / stds[2]) / 2))
    assert mixed["lens/grpo/difficulty_bias"] == pytest.approx(expected, rel=1e-5)
    assert mixed["lens/grpo_no_length/difficulty_bias"] == pytest.approx(expected, rel=1e-5)


def test_equal_lengths_and_spreads_leave_no_difference(tiny_folder: Path) -> None:
    groups = [group_of((1, 0, 0, 1), (6, 6, 6, 6), 0), group_of((0, 1, 1, 0), (6, 6, 6, 6), 1)]
    metrics = seen_through(tiny_folder, "grpo", ["drgrpo"], groups)
    assert metrics["lens/drgrpo/cosine"] == pytest.approx(1, abs=1e-6)
    for name in ("grpo", "drgrpo"):
        assert metrics[f"lens/{name}/correct_short"] == pytest.approx(0.5)
        assert f"lens/{name}/length_bias" not in metrics and f"lens/{name}/difficulty_bias" not in metrics


def test_a_step_without_signal_has_nothing_to_compare(tiny_folder: Path) -> None:
    metrics = seen_through(tiny_folder, "drgrpo", ["sft"], [group_of((0, 0), (4, 8)), group_of((0, 0), (4, 8), 1)])
    assert not [name for name in metrics if name.startswith("lens/drgrpo/") or name.endswith("/cosine")]
    assert metrics["lens/sft/incorrect_long"] == pytest.approx(2 / 3)


def test_splits_and_biases_by_hand() -> None:
    groups = [group_of((1, 0, 0, 0), (2, 2, 4, 8)), group_of((1, 1, 0, 0.5), (2, 6, 2, 2), 1)]
    push = [6.0, 1.0, 3.0, 2.0, 0.0, 3.0, 1.0, 4.0]  # the median length is 2
    assert split(groups, push) == {
        "correct_short": 0.3,
        "correct_long": 0.15,
        "incorrect_short": 0.3,
        "incorrect_long": 0.25,
    }
    assert length_bias(groups, push) == {"length_bias": (3 / 4 + 2 / 8) / 2 / (1 / 2)}
    weight = [1.0, 0.5, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0]
    unanimous, balanced = (6 + 2 + 3 + 2) / 1.5, (0 + 1.5 + 1 + 4) / (0.375 * 2 + 0.625 + 0.125)
    assert difficulty_bias(groups, push, weight) == {"difficulty_bias": pytest.approx(unanimous / balanced)}
    assert (
        split(groups, [0.0] * 8) == length_bias(groups, [0.0] * 8) == difficulty_bias(groups, [0.0] * 8, weight) == {}
    )
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert cosine(a, torch.tensor([[0.0, 1.0], [0.0, 1.0]])) == {"cosine": pytest.approx(0.8 / 2**0.5)}
    assert cosine(a, a * 0) == cosine(a * 0, a) == {}


def test_messages_of_the_environment_make_no_answer_longer() -> None:
    group = group_of((0, 0.5), (3, 9))
    first, second = group.completions
    with_feedback = replace(group, completions=(first, replace(second, action_mask=(True, False, False) * 3)))
    assert split([group], [1.0, 3.0])["incorrect_long"] == 0.75
    assert split([with_feedback], [1.0, 3.0])["incorrect_short"] == 1


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_slopes_are_the_gradient_of_the_loss_at_the_samples(name: str) -> None:
    """With every term that a loss can have; cut into rows, with other algorithms beside it."""
    algo = replace(
        load_algo(name), beta=0.2, entropy=0.1, correction=lambda old, sampler, mask: (old - sampler).exp() * mask
    )
    batch = make_batch(MIXED, algo, pad_id=7)
    draw = lambda seed: -torch.rand(batch.mask_NT.shape, generator=torch.Generator().manual_seed(seed)) * batch.mask_NT  # noqa: E731
    logp, entropy = draw(1), -draw(2)
    batch = algo.with_advantages(replace(batch, reference_NT=draw(3)), rewards(MIXED))
    other = load_algo("reinforce")
    rows = torch.tensor([9, 2, 4])
    width = int(batch.length_N[rows].max())
    seen = [(other, with_advantages(other, MIXED)), (algo, batch)]
    derivatives, bonus = slopes(seen, rows, logp[rows, :width], entropy[rows, :width])
    leaf, leaf_entropy = logp.clone().requires_grad_(), entropy.clone().requires_grad_()
    algo.loss(leaf, batch, leaf_entropy)[0].backward()
    assert bonus is not None
    torch.testing.assert_close(derivatives[1], leaf.grad[rows, :width])  # type: ignore[index]
    torch.testing.assert_close(bonus[1], leaf_entropy.grad[rows, :width])  # type: ignore[index]
    assert not bonus[0].any() and derivatives[0].any()


def test_what_the_run_did_not_compute_is_left_out(tiny_folder: Path) -> None:
    """A KL counts if the run has the reference on the same tokens; truncated responses count where they are learnt from."""
    learner = probing(tiny_folder)
    groups = [group_of((1, 0, 0, 1), (3, 9, 5, 12), 0), group_of((0, 1, 0, 0), (6, 6, 6, 6), 1, finished=False)]
    kl = replace(load_algo("grpo"), beta=5.0)
    lens = AlgorithmLens(
        "drgrpo", {"grpo": load_algo("grpo"), "kl": kl, "in_reward": replace(kl, kl_in="reward")}, 1, 7
    )

    def compared(algo: Algorithm, **known: Tensor) -> dict[str, list[float]]:
        metrics = compare(lens, algo, with_advantages(algo, groups, **known), groups, learner)
        return {name: [v for k, v in metrics.items() if k.startswith(f"lens/{name}/")] for name in lens.others}

    algo = load_algo("drgrpo")
    without = compared(algo)
    assert without["kl"] == without["in_reward"] == without["grpo"]
    batch = make_batch(groups, algo, pad_id=7)
    old = learner.logprobs(batch)
    with_reference = compared(algo, reference_NT=(old - 1) * batch.mask_NT)
    assert with_reference["kl"] != with_reference["grpo"] == with_reference["in_reward"] == without["grpo"]
    both = compared(algo, reference_NT=(old - 1) * batch.mask_NT, old_NT=old)
    assert both["in_reward"] != both["grpo"]
    cut = compared(replace(algo, mask_truncated=True), reference_NT=(old - 1) * batch.mask_NT, old_NT=old)
    assert cut["kl"] == cut["in_reward"] == cut["grpo"] and cut["grpo"][1:] == without["grpo"][1:]
    assert cut["grpo"][0] < without["grpo"][0]  # the run learns from half of it


def test_a_critics_advantages_are_those_of_the_run(tiny_folder: Path) -> None:
    learner, algo = probing(tiny_folder), load_algo("ppo")
    batch = make_batch(MIXED, algo, pad_id=7)
    values = (0.3 * batch.mask_NT, batch.mask_NT.bool())
    metrics = compare(
        AlgorithmLens("mine", {"rft": load_algo("rft")}, 1, 7),
        algo,
        algo.with_advantages(batch, rewards(MIXED), values),
        MIXED,
        learner,
    )
    assert metrics["lens/mine/cosine"] == pytest.approx(1) and metrics["lens/mine/incorrect_long"] > 0
    assert abs(metrics["lens/rft/cosine"]) < 1 and metrics["lens/rft/incorrect_long"] == 0


def test_a_head_that_is_not_plain_is_refused_in_one_line(tiny_folder: Path) -> None:
    learner = learner_of(tiny_folder)
    learner.plain_head = False
    with pytest.raises(InputError, match=r"lens\.every=10.*output head.*leave the lens off"):
        make_lens("drgrpo", {}, 10, 0, learner)

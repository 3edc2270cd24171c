"""The torch learner: the gradient applied is that of the summed loss, however the batch is cut; exact save and load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.setups import setup_of
from tests.test_algorithm import load as load_algo
from zero.algorithm import Algorithm
from zero.batching import make_batch, micro_batches, mini_batches, rewards
from zero.learner import LearnerSetup
from zero.learner.optimizer import Optimizer
from zero.learner.torch import TorchLearner
from zero.learner.trainable import buckets
from zero.records import Batch, Completion, Group, Outcome, Prompt, Question, Verdict

OPTIM = Optimizer(1e-3, (0.9, 0.95), 0.0, 0.0, 0, "constant", 0.0)


def learner_of(folder: Path, micro_tokens: int = 10_000, **changes: Any) -> TorchLearner:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    setup = setup_of(model, OPTIM)
    settings = {"micro_tokens": micro_tokens, "gradient_checkpointing": False}
    return make_learner(TorchLearner, setup, settings | changes)


def make_learner(learner_class: Any, setup: LearnerSetup, changes: Mapping[str, Any]) -> Any:
    """A learner with these changes of its setup and its own settings."""
    names = {field.name for field in fields(LearnerSetup)}
    own = {name: value for name, value in changes.items() if name not in names}
    return learner_class(replace(setup, **{name: changes[name] for name in changes if name in names}), **own)


def groups_of(seed: int = 0) -> list[Group]:
    """Four prompts of three random completions with mixed rewards; one group is all equal."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for p, worth in enumerate([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0)]):
        ids = lambda low, high: tuple(  # noqa: E731
            torch.randint(
                8, 400, (int(torch.randint(low, high, (1,), generator=generator)),), generator=generator
            ).tolist()
        )
        completions = tuple(Completion(i := ids(2, 15), (-1.0,) * len(i), "", True) for _ in worth)
        verdicts = tuple(Verdict(r, r == 1, True, "", "") for r in worth)
        groups.append(Group(Prompt(Question("", ("",), ""), "", ids(3, 9), (0, p)), completions, verdicts))
    return groups


def batch_of(algo: Algorithm, groups: list[Group] | None = None) -> Batch:
    groups = groups or groups_of()
    return algo.with_advantages(make_batch(groups, algo, pad_id=7), rewards(groups))


def gradient(learner: TorchLearner, batch: Batch, algo: Algorithm) -> torch.Tensor:
    """The gradient `update` hands to the optimizer, caught before the step."""
    caught: list[torch.Tensor] = []
    learner.trained.optimizers[0].step = lambda: caught.extend(
        learner.trained.exact(p).grad.flatten().clone() for p in learner.model.parameters()
    )  # type: ignore
    learner.update(batch, algo)
    return torch.cat(caught)


@pytest.mark.parametrize("name", ["grpo", "drgrpo"])
def test_gradient_equals_the_loss_written_over_the_whole_batch(tiny_folder: Path, name: str) -> None:
    """Against plain transformers: every row by itself, unpadded, loss = sum of weight x -A exp(logp - old)."""
    algo = load_algo(name)
    batch = batch_of(algo)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    loss = torch.zeros(())
    for n, length in enumerate(batch.length_N.tolist()):
        ids = batch.ids_NT[n, :length]
        logp = (model(ids[None, :-1]).logits[0, :, :500] / 0.8).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        loss = (
            loss - (batch.weight_NT[n, 1:length] * batch.advantage_NT[n, 1:length] * (logp - logp.detach()).exp()).sum()
        )
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    for micro_tokens in (1, 40, 10_000):
        torch.testing.assert_close(
            gradient(learner_of(tiny_folder, micro_tokens), batch, algo), expected, rtol=1e-4, atol=1e-7
        )


def test_metrics_are_those_of_the_whole_step(tiny_folder: Path) -> None:
    algo = load_algo("drgrpo")
    batch = batch_of(algo)
    whole = learner_of(tiny_folder).update(batch, algo)
    cut = learner_of(tiny_folder, micro_tokens=30).update(batch, algo)
    assert whole == pytest.approx(cut, rel=1e-4, abs=1e-7)
    logprobs = learner_of(tiny_folder).logprobs(batch)
    mask = batch.mask_NT.bool()
    assert whole["mismatch/logprob_gap"] == pytest.approx(float((logprobs + 1)[mask].abs().mean()), rel=1e-5)
    assert whole["mismatch/logprob_gap_max"] == pytest.approx(float((logprobs + 1)[mask].abs().max()), rel=1e-5)
    assert (logprobs[~mask] == 0).all()


def test_order_of_rows_does_not_matter(tiny_folder: Path) -> None:
    algo = load_algo("grpo")
    batch = batch_of(algo)
    shuffled = batch.rows(torch.randperm(12, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(
        gradient(learner_of(tiny_folder), batch, algo),
        gradient(learner_of(tiny_folder), shuffled, algo),
        rtol=1e-4,
        atol=1e-7,
    )


def test_gradient_checkpointing_changes_nothing(tiny_folder: Path) -> None:
    algo = load_algo("drgrpo")
    plain = gradient(learner_of(tiny_folder), batch_of(algo), algo)
    saved = gradient(learner_of(tiny_folder, gradient_checkpointing=True), batch_of(algo), algo)
    torch.testing.assert_close(plain, saved, rtol=1e-5, atol=1e-8)


def test_a_step_of_equal_groups_leaves_the_weights_alone(tiny_folder: Path) -> None:
    algo = load_algo("grpo")
    groups = [replace(g, verdicts=tuple(replace(v, reward=0.1) for v in g.verdicts)) for g in groups_of()]
    learner = learner_of(tiny_folder)
    before = {name: w.clone() for name, w in learner.weights()}
    metrics = learner.update(batch_of(algo, groups), algo)
    assert metrics["loss/grad_norm"] == 0 and metrics["loss/entropy"] > 0
    assert all(torch.equal(w, before[name]) for name, w in learner.weights())


def test_several_updates_share_old_log_probabilities_and_cover_every_row_once(tiny_folder: Path) -> None:
    algo = load_algo("drgrpo")
    learner = learner_of(tiny_folder)
    batch = batch_of(algo)
    batch = replace(batch, old_NT=learner.logprobs(batch))
    updates = list(mini_batches(batch, algo, updates=3, epochs=2, key=(0, 5)))
    assert len(updates) == 6 and all(len(p.length_N) == 4 for p in updates)
    for epoch in (updates[:3], updates[3:]):
        seen = sorted(tuple(row[: int(n)].tolist()) for p in epoch for row, n in zip(p.ids_NT, p.length_N, strict=True))
        assert seen == sorted(tuple(r[: int(n)].tolist()) for r, n in zip(batch.ids_NT, batch.length_N, strict=True))
    for update in updates:  # weights are made anew for each optimizer step
        torch.testing.assert_close(update.weight_NT, algo.weight(update.mask_NT))
    metrics = [learner.update(update, algo) for update in updates]
    assert metrics[0]["loss/clip_fraction"] == 0 < max(m["loss/clip_fraction"] for m in metrics[1:])


def test_the_papers_batch_is_1024_responses_in_8_optimizer_steps_of_128() -> None:
    """arXiv 2503.20783's scripts: 128 questions x 8, one pass; each step averages over its own 128."""
    algo = load_algo("drgrpo")
    prompt = Prompt(Question("", ("",), ""), "", (8,), (0, 0))
    groups = [
        Group(
            prompt,
            tuple(Completion((9 + g,) * (1 + (p + g) % 5), (-1.0,) * (1 + (p + g) % 5), "", True) for g in range(8)),
            tuple(Verdict(float(g == p % 8), Outcome.WRONG, Outcome.WRONG, "", "") for g in range(8)),
        )
        for p in range(128)
    ]
    batch = batch_of(algo, groups)
    whole = replace(batch, ids_NT=batch.ids_NT.clone(), old_NT=torch.zeros_like(batch.mask_NT))
    whole.ids_NT[:, 0] = torch.arange(1024)
    updates = list(mini_batches(whole, algo, updates=8, epochs=1, key=(0, 0)))
    assert [len(update.length_N) for update in updates] == [128] * 8
    assert sorted(n for update in updates for n in update.ids_NT[:, 0].tolist()) == list(range(1024))
    for update in updates:
        torch.testing.assert_close(update.weight_NT, update.mask_NT / (128 * 16))  # L is 16 in these tests


def test_the_reference_is_the_initial_policy(tiny_folder: Path) -> None:
    algo = replace(load_algo("drgrpo"), beta=0.1)
    learner = learner_of(tiny_folder, keep_reference=True)
    batch = batch_of(algo)
    first = learner.logprobs(batch, reference=True)
    assert torch.equal(first, learner.logprobs(batch))
    batch = replace(batch, reference_NT=first)
    assert learner.update(batch, algo)["loss/kl"] == pytest.approx(0, abs=1e-9)
    moved = learner.logprobs(batch)
    assert not torch.equal(moved, first) and torch.equal(learner.logprobs(batch, reference=True), first)
    assert torch.equal(learner.logprobs(batch), moved)  # the policy is back in its place


def test_a_reference_in_cpu_memory_is_the_same(tiny_folder: Path) -> None:
    learners = [learner_of(tiny_folder, keep_reference=True, reference_offload=offload) for offload in (False, True)]
    for learner in learners:
        learner.update(batch_of(load_algo("drgrpo")), load_algo("drgrpo"))
    first, second = (learner.logprobs(batch_of(load_algo("drgrpo")), reference=True) for learner in learners)
    assert torch.equal(first, second)
    assert all(w.device.type == "cpu" for w in learners[1].reference_state.values())  # type: ignore[union-attr]


def test_gradients_travel_in_buckets_of_one_dtype_and_a_bounded_size() -> None:
    tensors = [torch.zeros(n) for n in (3, 2, 9, 1)]
    tensors += [torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)]
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors, 20)] == [[3, 2], [9], [1], [1], [1]]
    assert list(buckets([], 20)) == []


def test_saved_and_loaded_it_goes_on_to_the_same_bits(tiny_folder: Path, tmp_path: Path) -> None:
    algo = load_algo("drgrpo")
    batch = batch_of(algo)
    straight = learner_of(tiny_folder)
    for _ in range(2):
        straight.update(batch, algo)
    straight.save(tmp_path)
    resumed = learner_of(tiny_folder)
    resumed.load(tmp_path)
    for learner in (straight, resumed):
        for _ in range(2):
            learner.update(batch, algo)
    for (name, a), (_, b) in zip(straight.weights(), resumed.weights(), strict=True):
        assert torch.equal(a, b), name
    assert resumed.trained.updates == 4


def test_export_loads_in_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    algo = load_algo("drgrpo")
    learner = learner_of(tiny_folder)
    learner.update(batch_of(algo), algo)
    learner.export(tmp_path / "model")
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).named_parameters())
    assert all(torch.equal(w, loaded[name]) for name, w in learner.weights())


def test_micro_batches_keep_their_budget() -> None:
    length = torch.tensor([5, 30, 7, 12, 12, 3, 100])
    nothing_NT = torch.zeros(7, 100)
    parts = micro_batches(Batch(nothing_NT, nothing_NT, nothing_NT, length), torch.arange(7), tokens=36)
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    assert all(len(p) == 1 or len(p) * int(length[p].max()) <= 36 for p in parts)
    assert parts[0].tolist() == [6]  # the largest first


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_learning_rate_schedules(schedule: str, middle: float, end: float) -> None:
    optimizer = replace(OPTIM, lr=1.0, warmup=4, schedule=schedule, floor=0.1)
    assert [optimizer.rate(u, 24) for u in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert optimizer.rate(14, 24) == pytest.approx(middle) and optimizer.rate(24, 24) == pytest.approx(end)

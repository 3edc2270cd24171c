"""An engine gets the weights that the learner computes with: small updates change both policies alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import BASE
from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM
from tests.learner.test_torch import batch_of as tiny_batch
from tests.learner.test_torch import learner_of as tiny_learner
from tests.rollout.test_native import engine_of, prompts_of
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch
from zero.learner.lora import Lora
from zero.learner.optimizer import Optimizer
from zero.learner.torch import TorchLearner
from zero.loop import make_mini_batches
from zero.objective import sequence_correction, token_correction
from zero.records import Batch, Group, Sampling
from zero.rollout.native import NativeEngine
from zero.rollout.prefetch import load_completion

ROWS, PROMPT, LENGTH, UPDATES = 16, 8, 40, 6


def learner_of(rate: float, lora: bool, mixed: bool, checkpointing: bool = False, model: Any = None) -> TorchLearner:
    """The shipped model as a published one is stored, in bfloat16; or another."""
    model = model or AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16).float()
    return TorchLearner(
        setup_of(
            model,
            Optimizer(rate, (0.9, 0.95), 0.0, 1.0, 0, "constant", 0.0),
            temperature=1.0,
            total_updates=UPDATES,
            vocabulary=600,
            autocast=mixed,
        ),
        micro_tokens=4000,
        gradient_checkpointing=checkpointing,
        lora=Lora(16, 32, "all-linear") if lora else None,
    )


def batch_of() -> Batch:
    """Rows that the model finds likely enough, half of them to be learned and half to be unlearned."""
    ids_NT = torch.randint(8, 590, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask_NT = torch.zeros(ROWS, LENGTH)
    mask_NT[:, PROMPT:] = 1
    advantage_NT = mask_NT * (1 - 2 * (torch.arange(ROWS)[:, None] % 2))
    return Batch(ids_NT, mask_NT, mask_NT / mask_NT.sum(), torch.full((ROWS,), LENGTH), advantage_NT=advantage_NT)


@torch.no_grad()
def sampled(engine: NativeEngine, batch: Batch) -> Tensor:
    """The log-probabilities [N, T] that the engine's decoder gives the response tokens, 0 elsewhere."""
    out_NT = torch.zeros_like(batch.mask_NT)
    prompts = batch.ids_NT[:, :PROMPT]
    logits = engine.decoder.prefill(prompts, torch.ones_like(prompts), 1, LENGTH)
    for t in range(PROMPT, LENGTH):
        token_N = batch.ids_NT[:, t].contiguous()
        out_NT[:, t] = logits.float().log_softmax(-1).gather(1, token_N[:, None])[:, 0]
        logits = engine.decoder.step(token_N)
    return out_NT


def steps(learner: TorchLearner, tokenizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities of learner and sampler, at the start and after each update and its sync."""
    batch, engine = batch_of(), engine_of(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), tokenizer)
    for version in range(UPDATES + 1):
        if version:
            learner.update(batch, load_algo("drgrpo"))
        engine.sync(learner.weights(), version)
        yield learner.logprobs(batch), sampled(engine, batch)


@pytest.mark.parametrize(
    ("lora", "mixed", "rate"),
    [(False, False, 1e-6), (False, True, 2e-5), (True, False, 1e-5), (True, True, 1e-4)],
    ids=["full float32", "full bfloat16", "adapters float32", "adapters bfloat16"],
)
def test_small_updates_move_the_sampler_as_they_move_the_learner(
    tokenizer: Any, lora: bool, mixed: bool, rate: float
) -> None:
    """Slope 1 of the sampler's change on the learner's, and a gap that does not grow. In bfloat16 the learner's activations
    are rounded, which is noise on every token; it is the same kind before and after, so the slope sees through it."""
    mask = batch_of().mask_NT.bool()
    seen = list(steps(learner_of(rate, lora, mixed), tokenizer))
    (learner_0, sampler_0), (learner_1, sampler_1) = seen[0], seen[-1]
    moved, followed = (learner_1 - learner_0)[mask].double(), (sampler_1 - sampler_0)[mask].double()
    slope = float(moved @ followed / (followed @ followed))
    gaps = [float((a - b)[mask].abs().mean()) for a, b in seen]
    assert slope == pytest.approx(1, abs=0.05 if mixed else 1e-3)
    assert max(gaps) < (1.3 * gaps[0] if mixed else 2e-5)


def test_a_head_of_its_own_is_rounded_in_products_as_engines_get_it(tokenizer: Any) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(BASE, tie_word_embeddings=False, dtype=torch.float32)
    own = model.get_input_embeddings().weight.detach() * (1 + 2**-9)  # between two numbers of bfloat16
    model.lm_head.weight = torch.nn.Parameter(own)
    learner, batch = learner_of(1e-4, lora=False, mixed=True, model=model), batch_of()
    exact = learner.logprobs(batch)
    model.lm_head.weight.data = model.lm_head.weight.data.bfloat16().float()
    assert torch.equal(exact, learner.logprobs(batch))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapters"])
def test_engines_get_weights_that_bfloat16_holds_exactly(lora: bool) -> None:
    """An engine of any precision then has the same weights. The sum of the updates is kept in a higher precision."""
    learner, batch = learner_of(1e-4, lora, mixed=True), batch_of()
    for _ in range(3):
        learner.update(batch, load_algo("drgrpo"))
    assert all(weight.dtype == torch.bfloat16 for _, weight in learner.weights())
    parameters = learner.adapters.parameters() if learner.adapters else [p for _, p in learner.trained.parameters()]
    finer = [learner.trained.exact(p) for p in parameters]  # type: ignore[arg-type]
    assert any(not torch.equal(exact, exact.bfloat16().float()) for exact in finer)


@pytest.mark.slow
def test_rounded_weights_resume_to_the_same_bits(tmp_path: Any) -> None:
    straight, resumed, batch = learner_of(1e-4, False, True), learner_of(1e-4, False, True), batch_of()
    for _ in range(2):
        straight.update(batch, load_algo("drgrpo"))
    straight.save(tmp_path)
    resumed.load(tmp_path)
    for learner in (straight, resumed):
        learner.update(batch, load_algo("drgrpo"))
    for (name, a), (_, b) in zip(straight.trained.parameters(), resumed.trained.parameters(), strict=True):
        assert torch.equal(straight.trained.exact(a), resumed.trained.exact(b)), name


@pytest.mark.parametrize(
    "truncation", [{"top_p": 0.9}, {"top_p": 0.5}, {"top_k": 5}, {"top_k": 20, "top_p": 0.8}], ids=str
)
def test_a_truncated_sample_of_the_same_policy_has_ratio_1(tokenizer: Any, truncation: dict[str, Any]) -> None:
    """The learner's log-probabilities are of the whole distribution: the sampler's truncation must not count as another policy."""
    learner, prompts = learner_of(0.0, False, False), prompts_of(tokenizer)
    engine = engine_of(learner.model, tokenizer)
    samples = engine.generate(prompts, 4, Sampling(24, stop_ids=(0,), **truncation))
    normalizers = [share for group in samples for c in group for share in c.log_normalizers]
    assert min(normalizers) < -0.05 and max(normalizers) <= 1e-6
    again = [[load_completion(json.loads(json.dumps(asdict(c)))) for c in group] for group in samples]
    assert again == samples, "a checkpoint of what was drawn ahead keeps it"
    batch = make_batch([Group(p, tuple(c), ()) for p, c in zip(prompts, samples, strict=True)], load_algo("drgrpo"), 7)
    assert batch.sampler_NT is not None
    own_NT = learner.logprobs(batch)
    torch.testing.assert_close(batch.sampler_NT, own_NT, rtol=1e-4, atol=2e-5)
    for correction in (token_correction, sequence_correction):
        factor_NT = correction(own_NT, batch.sampler_NT, batch.mask_NT, cap=2.0)
        torch.testing.assert_close(factor_NT, torch.ones_like(factor_NT), rtol=0, atol=1e-3)


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_updates_that_change_nothing_clip_nothing(tiny_folder: Path, mixed: bool, epochs: int) -> None:
    """However rows are cut: GSPO's clip is ten times finer than the rounding of bfloat16 between two micro-batches."""
    frozen = replace(OPTIM, lr=1e-12)
    learner = tiny_learner(tiny_folder, micro_tokens=60, autocast=mixed, optimizer=frozen, temperature=1.0)
    algo = load_algo("gspo")
    run: Any = SimpleNamespace(learner=learner, algo=algo, updates=4, epochs=epochs, seed=0)
    mini_batches = make_mini_batches(run, tiny_batch(algo), 0)
    first, *later = mini_batches
    assert len(later) == 4 * epochs - 1 and first.old_NT is None
    for mini_batch in later:
        assert mini_batch.old_NT is not None
        exact = learner.logprobs(mini_batch, as_updated=algo)
        torch.testing.assert_close(mini_batch.old_NT, exact, rtol=0, atol=0)
    updates = [learner.update(mini_batch, algo) for mini_batch in mini_batches]
    assert [metrics["loss/clip_fraction"] for metrics in updates] == [0.0] * len(mini_batches)
    assert max(metrics["loss/grad_norm"] for metrics in updates) > 0

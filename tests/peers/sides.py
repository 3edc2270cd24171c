"""One update of an algorithm by TRL's own code and by ours, on the same responses; for tests/peers/check_trl.py.

Axes: P prompts, G completions of a prompt, N = P x G responses, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.batching import make_batch, rewards
from zero.config.check import check, instantiate
from zero.learner import LearnerSetup
from zero.learner.optimizer import Optimizer
from zero.learner.torch import TorchLearner
from zero.records import Batch, Completion, Group, Outcome, Prompt, Question, Verdict

BASE = Path(__file__).resolve().parent.parent.parent / "zero" / "nano" / "base"  # for its tokenizer
P, G, L = 4, 6, 12  # L tokens is the budget of a response
END = 0  # the tokenizer's end of text
DRIFT = 0.02  # standard deviation of what is added to the parameters between the initial policy and the sampler

# algorithm, batch, the learner's new log-probabilities, rows of TRL's micro-batches -> the algorithm and batch to use
Adjust = Callable[[Algorithm, Batch, Tensor, Sequence[Tensor]], tuple[Algorithm, Batch]]


@dataclass(frozen=True)
class Case:
    """Settings of ours beside settings of TRL's. With `why` they must differ, and agree once `once` or `adjust` is applied."""

    name: str
    ours: tuple[str, ...]  # overrides of conf/train.yaml
    theirs: dict[str, Any]
    move: float = 0.02  # standard deviation of what is added to the parameters between sampler and update
    spread: float = 0.4  # of the log-ratios in the comparison on the same log-probabilities
    policies: tuple[str, ...] = ("same", "moved")
    trainer: str = "GRPO"
    betas: tuple[float, ...] = (0.0, 0.04)
    accumulate: tuple[int, ...] = (1, 2)  # TRL's micro-batches of an update
    updates: int = 1  # TRL's updates of a rollout; the first is compared
    value: bool = True  # whether the losses' values are to agree, or their gradients alone
    logprobs: bool = True  # whether the comparison is made on the same log-probabilities
    steps: bool = True  # and whether on the whole step
    plain: Adjust | None = None
    rounding: float = 1e-5  # largest relative difference of a whole step in float32
    why: str = ""
    once: tuple[str, ...] = ()
    adjust: Adjust | None = None


@dataclass(frozen=True)
class Variant:
    """What is varied under every case."""

    beta: float
    accumulate: int
    masked: bool  # truncated responses are no part of the batch
    temperature: float


@dataclass(frozen=True)
class Sums:
    """One side's update."""

    loss: float
    gradient: Tensor  # flat, float64
    scale: float = 1.0  # sum of |weight x advantage|


# ------------------------------------------------------------------------------------------------------------ inputs of both sides


def rollout(seed: int, vocabulary: int, values: Sequence[float] = (0.0, 0.1, 1.0)) -> list[Group]:
    """P groups of G ragged responses; the first group's rewards are all equal, a quarter of the responses is cut."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    groups = []
    for p in range(P):
        prompt = Prompt(
            Question("q", ("1",), f"q{p}"), "q", tuple(draw(2, vocabulary) for _ in range(draw(2, 7))), (p,)
        )
        completions, verdicts = [], []
        for _ in range(G):
            finished = draw(0, 4) > 0
            ids = tuple(draw(2, vocabulary) for _ in range(draw(3, L) if finished else L))
            completions.append(Completion((*ids, END) if finished else ids, (), "", finished))
            reward = values[draw(0, len(values)) if p else -1]
            verdicts.append(Verdict(reward, Outcome.WRONG, Outcome.WRONG, None, ""))
        groups.append(Group(prompt, tuple(completions), tuple(verdicts)))
    return groups


def initial_policy(folder: Path) -> int:
    """A random model and the tokenizer in `folder`; returns the size of the vocabulary."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def shift(model: Any, scale: float, seed: int) -> None:
    """The same shift of the parameters on both sides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


# ------------------------------------------------------------------------------------------------------------------- theirs


def their_trainer(case: Case, variant: Variant, groups: Sequence[Group], folder: Path) -> Any:
    """A trainer of TRL's whose model is the sampler's policy and which "samples" the given responses."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    accumulate = variant.accumulate
    config = getattr(trl, f"{case.trainer}Config")(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        per_device_train_batch_size=P * G // (accumulate * case.updates),
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * case.updates,
        num_generations=G,
        max_completion_length=L,
        num_iterations=2,
        beta=variant.beta,
        mask_truncated_completions=variant.masked,
        temperature=variant.temperature,
        **case.theirs,
    )
    rewards_in_order = [verdict.reward for group in groups for verdict in group.verdicts]
    trainer = getattr(trl, f"{case.trainer}Trainer")(
        model=load(folder),
        reward_funcs=lambda completions, **_: rewards_in_order,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "q"}] * P),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    prompts = [list(group.prompt.ids) for group in groups for _ in group.completions]
    completions = [list(completion.ids) for group in groups for completion in group.completions]
    texts = [""] * len(prompts)
    sampled = (prompts, completions, texts)
    if case.trainer == "GRPO":  # also: tool mask, sampler's log-probabilities, extra fields, images, tool images
        sampled = (prompts, completions, None, texts, None, {}, None, None)  # type: ignore[assignment]
    trainer._generate = lambda _: sampled
    trainer.current_gradient_accumulation_steps = accumulate  # what Trainer.train would set
    shift(trainer.model.train(), DRIFT, seed=1)
    return trainer


def their_steps(trainer: Any, case: Case) -> tuple[dict[str, Sums], list[Tensor]]:
    """TRL's first update of the rollout at the sampler's policy and at the moved one; the rows of its micro-batches."""
    questions = [{"prompt": "q"} for _ in range(P * G)]
    steps, first = trainer.args.steps_per_generation, trainer.args.gradient_accumulation_steps
    sums_by_policy: dict[str, Sums] = {}
    for policy in ("same", "moved"):
        loss = 0.0
        for i in range(steps):
            micro_loss = float(trainer.training_step(trainer.model, questions, None))
            if i < first:
                loss += micro_loss
            if i == first - 1:
                gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
                sums_by_policy[policy] = Sums(loss, flat(gradients))
        trainer.model.zero_grad()
        shift(trainer.model, case.move, seed=2)
    completions = [tuple(completion) for completion in trainer._generate(None)[1]]
    rows = []
    # shuffled: found again by their tokens, which no two rows share
    for micro_batch in trainer._buffered_inputs[:first]:
        ids = [tuple(row) for row in micro_batch["completion_ids"].tolist()]
        rows.append(torch.tensor([next(n for n, c in enumerate(completions) if row[: len(c)] == c) for row in ids]))
    return sums_by_policy, rows


# --------------------------------------------------------------------------------------------------------------------- ours


def our_algorithm(case: Case, variant: Variant, extra: Sequence[str]) -> Algorithm:
    """The case's algorithm from conf/algo."""
    shared = [f"sampling.max_tokens={L}", f"algo.beta={variant.beta}", f"algo.mask_truncated={variant.masked}"]
    return instantiate(check("train", [*case.ours, *shared, *extra])["algo"])


def our_steps(
    case: Case,
    variant: Variant,
    algo: Algorithm,
    groups: Sequence[Group],
    rows: Sequence[Tensor],
    adjust: Adjust | None,
    folder: Path,
) -> dict[str, Sums]:
    """The same two updates through our batching, algorithm and learner, in micro-batches of our own."""
    model = load(folder)
    learner = TorchLearner(
        LearnerSetup(
            model,
            Optimizer(0.0, (0.9, 0.999), 0.0, 0.0, 0, "constant", 1.0),
            variant.temperature,
            total_updates=2,
            vocabulary=model.config.vocab_size,
            autocast=False,
            keep_reference=True,
            device=torch.device("cpu"),
        ),
        micro_tokens=64,
        gradient_checkpointing=False,
    )
    gradients: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.__setitem__(name, p.grad.clone())  # the last one holds the whole sum
        )
    shift(model, DRIFT, seed=1)
    batch = make_batch(groups, algo, pad_id=1)
    batch = replace(batch, old_NT=learner.logprobs(batch))
    if algo.needs_reference:
        batch = replace(batch, reference_NT=learner.logprobs(batch, reference=True))
    batch = algo.with_advantages(batch, rewards(groups))
    sums_by_policy = {}
    for policy in ("same", "moved"):
        adjusted_algo, adjusted_batch = adjust(algo, batch, learner.logprobs(batch), rows) if adjust else (algo, batch)
        assert adjusted_batch.advantage_NT is not None
        metrics = learner.update(adjusted_batch, adjusted_algo)  # its learning rate is 0
        scale = float((adjusted_batch.weight_NT * adjusted_batch.advantage_NT).abs().sum())
        sums_by_policy[policy] = Sums(metrics["loss/policy"], flat(gradients), scale)
        shift(model, case.move, seed=2)
    return sums_by_policy


# ---------------------------------------------------------------------------------------------- the same log-probabilities


def same_logprobs(
    trainer: Any, case: Case, variant: Variant, algos: Sequence[tuple[Algorithm, Adjust | None]], policy: str, seed: int
) -> tuple[list[Sums], Sums]:
    """Both losses in float64 on random log-probabilities, and their gradients by log-probability: ours of each, theirs."""
    generator = torch.Generator().manual_seed(seed)
    n = P * G
    length_N = torch.randint(1, L + 1, (n,), generator=generator)
    if variant.masked:
        length_N[torch.rand(n, generator=generator) < 0.3] = 0
    mask_NT = (torch.arange(L)[None] < length_N[:, None]).double()
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    advantage_N, new_NT = normal(n), -3 * torch.rand(n, L, generator=generator, dtype=torch.float64)
    old_NT = new_NT + case.spread * normal(n, L) if policy == "moved" else new_NT.clone()
    reference_NT = new_NT + 0.5 * normal(n, L)
    leaf = (new_NT * mask_NT).requires_grad_()
    empty = torch.zeros(n, 0, dtype=torch.int64)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros(n, L, dtype=torch.int64),
        "completion_mask": mask_NT.long(),
        "advantages": advantage_N,
        "old_per_token_logps": old_NT,
        "old_logps": (old_NT * mask_NT).sum(dim=1),
        "ref_per_token_logps": reference_NT,
        "num_items_in_batch": mask_NT.sum() * trainer.args.steps_per_generation,
    }
    own = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, torch.zeros_like(leaf), None)
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer._get_per_token_logps_and_entropies = own
    if case.trainer == "GRPO":  # a share of the update's loss already
        loss = loss * trainer.current_gradient_accumulation_steps
    loss.backward()
    theirs = Sums(float(loss.detach()), leaf.grad.flatten())  # type: ignore[union-attr]
    ours = []
    for algo, adjust in algos:
        batch = Batch(
            ids_NT=torch.zeros(n, L, dtype=torch.int64),
            mask_NT=mask_NT,
            weight_NT=algo.weight(mask_NT),
            length_N=length_N,
            reference_NT=reference_NT * mask_NT if algo.needs_reference else None,
            old_NT=old_NT * mask_NT,
            advantage_NT=advantage_N[:, None] * mask_NT,
        )
        algo, batch = adjust(algo, batch, new_NT * mask_NT, [torch.arange(n)]) if adjust else (algo, batch)
        logprobs_NT = (new_NT * mask_NT).requires_grad_()
        value, _ = algo.loss(logprobs_NT, batch)
        value.backward()
        scale = float((batch.weight_NT * batch.advantage_NT).abs().sum())  # type: ignore[operator]
        ours.append(Sums(float(value.detach()), logprobs_NT.grad.flatten(), scale))  # type: ignore[union-attr]
    return ours, theirs

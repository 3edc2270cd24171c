"""The algorithm lens: what other algorithms would do with the same responses, at the policy that sampled them.

Every loss is a sum over response tokens, so in a step's first update algorithms differ only in the slope
c = d loss / d log p of each token. From the slopes follow a probe of each gradient (zero/learner/gradient_probe.py), to
compare with the run's own, and the shares of the weight |c| of different answers. The run itself is not changed.

The two biases of arXiv 2503.20783, section 3.1, are measured on |c|, all else being equal:

    length      token weights of incorrect answers to the same question with the same reward, long over short
    difficulty  weight that a unit of reward difference has, in nearly unanimous groups over balanced ones
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.batching import make_batch, rewards, turn_rewards
from zero.errors import InputError
from zero.learner.gradient_probe import Probed
from zero.records import Batch, Group, Metrics

UNANIMOUS = 0.25  # a group is nearly unanimous if at most this share of its answers is right, or wrong
View = tuple[Algorithm, Batch]  # an algorithm and the batch that it would train on


@dataclass(frozen=True)
class AlgorithmLens:
    """The algorithms to compare a run's with, and how often."""

    own: str  # name of the run's algorithm
    others: Mapping[str, Algorithm]  # without critics: only the step's rewards are available
    every: int  # steps
    pad_id: int


def make_lens(own: str, algorithms: Mapping[str, Algorithm], every: int, pad_id: int, learner: Any) -> AlgorithmLens:
    """The lens of a run, without an entry of `algorithms` that has the name of the run's own.

    InputError if the learner cannot probe its model, because the logits are not the output head on the last hidden state.
    """
    if not getattr(learner, "plain_head", False):
        remedy = "needs logits that are the output head on the last hidden state, and this model's are not; leave the lens off"
        raise InputError("lens.every", every, remedy)
    return AlgorithmLens(own, {name: algo for name, algo in algorithms.items() if name != own}, every, pad_id)


def compare(lens: AlgorithmLens, algo: Algorithm, batch: Batch, groups: Sequence[Group], learner: Any) -> Metrics:
    """The metrics lens/NAME/... of a step, before its first update.

    `batch` is the run's own, whole and with advantages. Terms that the run has no data for (a reference, old
    log-probabilities) are left out of the other losses too. Undefined metrics, such as the cosine of a zero gradient, are
    absent.
    """
    views = {lens.own: (algo, replace(batch, old_NT=None))} | _views_of_others(lens, batch, groups)
    union_mask = torch.stack([b.mask_NT for _, b in views.values()]).amax(dim=0)
    probed: Probed = learner.probe(
        replace(batch, mask_NT=union_mask),
        lambda rows, logprob, entropy: slopes(list(views.values()), rows, logprob, entropy),
        len(views),
        entropy=any(a.entropy for a, _ in views.values()),
    )
    metrics: Metrics = {}
    for (name, (_, view)), gradient_HH, push_N in zip(views.items(), probed.gradient_AHH, probed.push_AN, strict=True):
        values = cosine(gradient_HH, probed.gradient_AHH[0])
        values |= split(groups, push_N.tolist())
        values |= length_bias(groups, push_N.tolist())
        values |= difficulty_bias(groups, push_N.tolist(), view.weight_NT.sum(dim=1).tolist())
        metrics |= {f"lens/{name}/{key}": value for key, value in values.items()}
    return metrics


def _views_of_others(lens: AlgorithmLens, run_batch: Batch, groups: Sequence[Group]) -> dict[str, View]:
    """Each other algorithm with the batch that it would make of the same groups."""
    batches: dict[bool, Batch] = {}  # by mask_truncated
    views: dict[str, View] = {}
    for name, algo in lens.others.items():
        if algo.mask_truncated not in batches:
            new = make_batch(groups, algo, lens.pad_id)
            if torch.equal(new.mask_NT, run_batch.mask_NT):  # else the run's log-probabilities lack some tokens
                new = replace(new, reference_NT=run_batch.reference_NT, old_NT=run_batch.old_NT)
            batches[algo.mask_truncated] = new
        batch = batches[algo.mask_truncated]
        if batch.reference_NT is None or (algo.needs_old and batch.old_NT is None):
            algo = replace(algo, beta=0.0)
        weighted = replace(batch, weight_NT=algo.weight(batch.mask_NT))
        batch = algo.with_advantages(weighted, rewards(groups), turns=turn_rewards(groups))
        views[name] = algo, replace(batch, old_NT=None)  # at the policy that sampled
    return views


def slopes(views: Sequence[View], rows: Tensor, logprob_NT: Tensor, entropy_NT: Tensor) -> tuple[Tensor, Tensor | None]:
    """d loss / d log-probability [A, n, T] of some rows of each algorithm's batch, and d loss / d entropy (None if no loss
    has an entropy). By autograd through the losses alone: exact for every surrogate, correction and KL."""
    with_entropy = any(algo.entropy for algo, _ in views)
    leaves = [x.expand(len(views), *x.shape).clone().requires_grad_() for x in (logprob_NT, entropy_NT)]
    with torch.enable_grad():
        losses = [
            algo.loss(leaf_NT, batch.rows(rows).to(leaf_NT.device), entropy_leaf_NT)[0]
            for (algo, batch), leaf_NT, entropy_leaf_NT in zip(views, *leaves, strict=True)
        ]
    slope_ANT, entropy_ANT = torch.autograd.grad(torch.stack(losses).sum(), leaves, allow_unused=True)
    return slope_ANT, entropy_ANT if with_entropy else None


def cosine(gradient_HH: Tensor, applied_HH: Tensor) -> Metrics:
    """The cosine of two gradients; absent if one is zero."""
    a, b = gradient_HH.double().flatten(), applied_HH.double().flatten()
    norms = float(a.norm() * b.norm())
    return {"cosine": float(a @ b) / norms} if norms > 0 else {}


def split(groups: Sequence[Group], push_N: Sequence[float]) -> Metrics:
    """The shares of the whole weight on correct and incorrect, short and long answers; they add up to 1.

    Short is at most the step's median length. Absent if no answer has weight.
    """
    total = sum(push_N)
    shares = dict.fromkeys(("correct_short", "correct_long", "incorrect_short", "incorrect_long"), 0.0)
    for (_, correct, long, _, _), push in zip(_answers(groups), push_N, strict=True):
        shares[f"{'correct' if correct else 'incorrect'}_{'long' if long else 'short'}"] += push
    return {name: share / total for name, share in shares.items()} if total > 0 else {}


def length_bias(groups: Sequence[Group], push_N: Sequence[float]) -> Metrics:
    """Weight per token of long incorrect answers over that of short ones, among answers to the same question with the same
    reward, which differ in length alone: 1 is no bias, below 1 long mistakes are punished less. Absent if no question has
    both, or none of them has weight."""
    per_token: dict[tuple[int, float], tuple[list[float], list[float]]] = {}
    for (p, correct, long, tokens, reward), push in zip(_answers(groups), push_N, strict=True):
        if not correct:
            per_token.setdefault((p, reward), ([], []))[long].append(push / tokens)
    pairs = [(fmean(short), fmean(long)) for short, long in per_token.values() if short and long]
    base = sum(short for short, _ in pairs)
    return {"length_bias": sum(long for _, long in pairs) / base} if base > 0 else {}


def difficulty_bias(groups: Sequence[Group], push_N: Sequence[float], weight_N: Sequence[float]) -> Metrics:
    """Weight per unit of reward difference in nearly unanimous groups over that in balanced ones: 1 is no bias, above 1
    questions that are too easy or too hard count more.

    A group's weight is the sum of its answers' mean |advantage|, that is |c| over the averaging's weight, which removes the
    length bias; its reward difference is the sum of |R - mean R|. Groups of equal rewards are left out. Absent without a
    group of each kind.
    """
    ratios: tuple[list[float], list[float]] = ([], [])  # balanced, nearly unanimous
    start = 0
    for group in groups:
        rows = range(start, start + len(group.verdicts))
        start = rows.stop
        mean = fmean(v.reward for v in group.verdicts)
        weighted = [(n, v) for n, v in zip(rows, group.verdicts, strict=True) if weight_N[n] > 0]
        spread = sum(abs(v.reward - mean) for _, v in weighted)
        if len({v.reward for v in group.verdicts}) == 1 or spread == 0:
            continue
        right = fmean(v.correct for v in group.verdicts)
        ratios[min(right, 1 - right) <= UNANIMOUS].append(sum(push_N[n] / weight_N[n] for n, _ in weighted) / spread)
    balanced, unanimous = ratios
    if not unanimous or not sum(balanced) > 0:
        return {}
    return {"difficulty_bias": fmean(unanimous) / fmean(balanced)}


def _answers(groups: Sequence[Group]) -> list[tuple[int, bool, bool, int, float]]:
    """(group, correct, long, tokens, reward) of each of the N answers; long is above the median length. Tokens are those that
    the policy sampled."""
    both = [(p, c, v) for p, group in enumerate(groups) for c, v in zip(group.completions, group.verdicts, strict=True)]
    middle = median(c.length for _, c, _ in both)
    return [(p, v.correct, c.length > middle, max(c.length, 1), v.reward) for p, c, v in both]

"""Our losses against TRL's own code (make check-trl, in its own environment with trl==1.16.0): one line a comparison.

Every comparison goes two ways. *Same log-probabilities*, in float64: both losses on the same random log-probabilities,
advantages and masks; value and gradient by log-probability. *Whole step*, in float32: a small random Qwen2, ragged
responses and rewards; TRL's own `training_step` pads, scores, masks, makes advantages, accumulates and differentiates; our
batching, algorithm and TorchLearner do the same; gradient by parameter. Both at the policy that made the samples and at one
that has moved, so that clips bite. TRL's sampling is replaced by the given responses, nothing else of it.

Differences are relative: of losses to the sum of |weight x advantage|, of gradients to their largest entry. A comparison is
"equal", or "differs" with the reason, and then it must be equal once the reason is accounted for. Exit code 1 otherwise, also
if a difference has gone or no clip binds. About 90 CPU seconds.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.peers.sides import (
    Case,
    G,
    P,
    Sums,
    Variant,
    initial_policy,
    our_algorithm,
    our_steps,
    rollout,
    same_logprobs,
    their_steps,
    their_trainer,
)
from zero.algorithm import Algorithm
from zero.batching import rewards
from zero.objective import batch_whitened, group_mean, group_zscore, leave_one_out
from zero.records import Batch

EXACT = 1e-9  # largest relative difference of losses in float64


def worse(a: float, b: float) -> float:
    """The larger one; a nan is larger than everything."""
    return max(a, b) if math.isfinite(b) else math.inf


@dataclass(frozen=True)
class Apart:
    """Largest relative differences found."""

    loss: float = 0.0
    gradient: float = 0.0

    def widen(self, ours: Sums, theirs: Sums, value: bool) -> Apart:
        loss = abs(ours.loss - theirs.loss) / ours.scale if value else 0.0
        gradient = float((ours.gradient - theirs.gradient).abs().max() / theirs.gradient.abs().max())
        return Apart(worse(self.loss, loss), worse(self.gradient, gradient))

    @property
    def most(self) -> float:
        return max(self.loss, self.gradient)


# ------------------------------------------------------------------------------------------------------- reasons for differences


def kl_times_ratio(algo: Algorithm, batch: Batch, new_NT: Tensor, rows: Sequence[Tensor]) -> tuple[Algorithm, Batch]:
    """The KL times the token's ratio, through which the gradient flows; for whole batches only."""
    old_NT = batch.old_NT
    assert old_NT is not None
    return replace(algo, kl=lambda policy, reference: algo.kl(policy, reference) * (policy - old_NT).exp()), batch


def ratio_of_response(algo: Algorithm, batch: Batch, new_NT: Tensor, rows: Sequence[Tensor]) -> tuple[Algorithm, Batch]:
    """The advantage times the ratio of the whole response, and none where TRL clips that ratio to 0.8 ... 1.2."""
    assert batch.old_NT is not None and batch.advantage_NT is not None
    ratio_N1 = ((new_NT - batch.old_NT) * batch.mask_NT).sum(dim=1, keepdim=True).exp()
    advantage_NT = batch.advantage_NT
    bound_NT = ((advantage_NT > 0) & (ratio_N1 > 1.2)) | ((advantage_NT < 0) & (ratio_N1 < 0.8))
    return algo, replace(batch, advantage_NT=(advantage_NT * ratio_N1).masked_fill(bound_NT, 0.0))


def mean_of_micro_batches(
    algo: Algorithm, batch: Batch, new_NT: Tensor, rows: Sequence[Tensor]
) -> tuple[Algorithm, Batch]:
    """The mean over the tokens of each micro-batch, then over micro-batches."""
    weight_NT = torch.zeros_like(batch.mask_NT)
    for micro_batch in rows:
        weight_NT[micro_batch] = batch.mask_NT[micro_batch] / (batch.mask_NT[micro_batch].sum() * len(rows))
    return algo, replace(batch, weight_NT=weight_NT)


def first_update(
    algo: Algorithm, batch: Batch, new_NT: Tensor, rows: Sequence[Tensor], average: bool = False
) -> tuple[Algorithm, Batch]:
    """The first update alone, weighted over its own tokens, as zero.batching.mini_batches does; or divided by the tokens that
    an update of this rollout has on average."""
    (own_rows,) = rows
    weight_NT = torch.zeros_like(batch.mask_NT)
    weight_NT[own_rows] = algo.weight(batch.mask_NT[own_rows])
    if average:
        weight_NT[own_rows] = batch.mask_NT[own_rows] / (batch.mask_NT.sum() * len(own_rows) / len(batch.mask_NT))
    return algo, replace(batch, weight_NT=weight_NT)


EPS = "algo.advantage.eps=1.0e-4"  # TRL's; the table of advantages has ours as shipped
GROUP: dict[str, Any] = {"scale_rewards": "group", "use_bias_correction_kl": False}
DAPO: dict[str, Any] = {"epsilon": 0.2, "epsilon_high": 0.28, **GROUP}
GSPO: dict[str, Any] = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4, **GROUP}
RLOO: dict[str, Any] = {"trainer": "RLOO", "theirs": {"epsilon": 0.2}, "value": False}
CASES = (
    Case("grpo", ("algo=grpo", EPS), {"loss_type": "grpo", **GROUP}),
    Case("grpo, dual clip", ("algo=grpo", EPS, "+algo.surrogate.dual=3"),
         {"loss_type": "grpo", "delta": 3.0, **GROUP}, move=0.06, spread=0.8),
    Case("drgrpo", ("algo=drgrpo",), {"loss_type": "dr_grpo", **GROUP, "scale_rewards": "none"}),
    Case("dapo", ("algo=dapo", EPS), {"loss_type": "dapo", **DAPO}),
    Case("dapo as bnpo", ("algo=dapo", EPS), {"loss_type": "bnpo", **DAPO}, accumulate=(1,)),
    Case("gspo", ("algo=gspo", EPS), {"loss_type": "grpo", **GSPO}, move=1e-4, spread=1e-3),
    Case("cispo", ("algo=cispo", EPS), {"loss_type": "cispo", "epsilon_high": 3.0, **GROUP}, move=0.06, spread=0.8),
    Case("grpo, TRL's default KL", ("algo=grpo", EPS), {"loss_type": "grpo", "use_bias_correction_kl": True},
         betas=(0.04,), steps=False, adjust=kl_times_ratio,
         why="TRL multiplies the KL in the loss by the token's ratio, and differentiates both"),
    Case("dapo as bnpo, 2 micro-batches", ("algo=dapo", EPS), {"loss_type": "bnpo", **DAPO}, accumulate=(2,), logprobs=False,
         adjust=mean_of_micro_batches, why="bnpo averages within each micro-batch; ours does not depend on the cut"),
    Case("dapo, 2 updates of a rollout", ("algo=dapo", EPS), {"loss_type": "dapo", **DAPO}, accumulate=(1,), updates=2,
         logprobs=False, plain=first_update, adjust=partial(first_update, average=True),
         why="TRL divides by the tokens that an update of the rollout has on average, ours by those it has"),
    Case("rloo, at the sampler's policy", ("algo=rloo",), policies=("same",), betas=(0.0,), once=("algo.weight.length=1",),
         why="ours divides by the budget of L tokens", **RLOO),
    Case("rloo, moved", ("algo=rloo", "algo.weight.length=1"), policies=("moved",), betas=(0.0,), move=0.01, spread=0.1,
         adjust=ratio_of_response, rounding=5e-5,  # float32: TRL subtracts two sums of up to 90 nats, each rounded by 6e-6
         why="TRL weighs by the ratio of the whole response and clips it; ours ignores the move",
         **RLOO),
    Case("rloo with beta", ("algo=rloo", "algo.weight.length=1"), policies=("same",), betas=(0.04,), logprobs=False,
         once=("algo.kl_in=reward", "algo.kl._target_=zero.objective.k1"),
         why="TRL takes beta x the sum of k1 off the reward; ours, as shipped, adds k3 to the loss", **RLOO),
)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- comparisons


def compare(case: Case, folder: Path, vocabulary: int) -> bool:
    """Print one line of the table; True if all is explained."""
    plain_same, plain_step, once_same, once_step = Apart(), Apart(), Apart(), Apart()
    clipped: list[float] = []
    variants = [
        Variant(beta, accumulate, masked, 0.7 if masked else 1.0)
        for beta in case.betas
        for accumulate in case.accumulate
        for masked in (False, True)
    ]
    for seed, variant in enumerate(variants):
        groups = rollout(seed, vocabulary)
        trainer = their_trainer(case, variant, groups, folder)
        first, last = our_algorithm(case, variant, ()), our_algorithm(case, variant, case.once)
        if case.steps:
            theirs, rows = their_steps(trainer, case)
            clipped += clip_share(trainer)
            plain = our_steps(case, variant, first, groups, rows, case.plain, folder)
            once = our_steps(case, variant, last, groups, rows, case.adjust, folder) if case.why else plain
            for policy in case.policies:
                plain_step = plain_step.widen(plain[policy], theirs[policy], case.value)
                once_step = once_step.widen(once[policy], theirs[policy], case.value)
        for again in range(5 if case.logprobs else 0):
            algos = [(first, case.plain), (last, case.adjust)]
            for policy in case.policies:
                (a, b), them = same_logprobs(trainer, case, variant, algos, policy, seed=100 * seed + again)
                plain_same, once_same = plain_same.widen(a, them, case.value), once_same.widen(b, them, case.value)
            clipped += clip_share(trainer)
    return report(case, (plain_same, plain_step), (once_same, once_step), clipped)


def clip_share(trainer: Any) -> list[float]:
    """TRL's own metric of its last loss: the share of clipped tokens (of responses where the ratio is a response's)."""
    metrics = trainer._metrics["train"]
    return [metrics[name][-1] for name in ("clip_ratio/region_mean", "cispo_clip_ratio") if name in metrics]


def report(case: Case, plain: tuple[Apart, Apart], once: tuple[Apart, Apart], clipped: Sequence[float]) -> bool:
    compared = (case.logprobs, case.steps)

    def numbers(aparts: tuple[Apart, Apart]) -> str:
        cells = [(f"{a.loss:.0e}" if case.value else "-", f"{a.gradient:.0e}") for a in aparts]
        return " | ".join("{:>6} {:>6}".format(*(cell if m else "--")) for cell, m in zip(cells, compared, strict=True))

    moved = "moved" in case.policies
    share = sum(clipped) / len(clipped)
    agrees = once[0].most < EXACT and once[1].most < case.rounding
    right, verdict = agrees, "equal" if agrees else "NOT EQUAL"
    if case.why and agrees:
        right = all(a.most > 1e-3 for a, m in zip(plain, compared, strict=True) if m)
        verdict = f"differs: {case.why} (equal once that is done here: {numbers(once)})" if right else "DIFFERS NO MORE"
    if moved and not 0.02 < share < 0.98:
        right, verdict = False, "NO CLIP BINDS, or nothing else"
    settings = ", ".join(f"{key}={value}" for key, value in case.theirs.items())
    print(
        f"{case.name:29} | {numbers(plain)} | {f'{share:.2f}' if moved else '-':>7} | {verdict} | "
        f"{case.trainer}Trainer {settings}; ours {' '.join(case.ours)}",
        flush=True,
    )
    return right


def over_all(rewards_PG: Tensor) -> Tensor:
    """PPO-lite's advantage: centred by siblings, scaled by all."""
    return group_mean(rewards_PG) / (rewards_PG.std(correction=1) + 1e-4)


def whitened_leave_one_out(rewards_PG: Tensor) -> Tensor:
    return batch_whitened(leave_one_out(rewards_PG), eps=1e-4)


Advantage = Callable[[Tensor], Tensor]
ADVANTAGES: tuple[tuple[str, str, dict[str, Any], Advantage, str, Advantage | None], ...] = (
    ("group_mean", "GRPO", {"scale_rewards": "none"}, group_mean, "", None),
    ("group_zscore", "GRPO", {"scale_rewards": "group"}, group_zscore, "TRL adds 1e-4 to the standard deviation, ours 1e-8",
     partial(group_zscore, eps=1e-4)),
    ("group_mean", "GRPO", {"scale_rewards": "batch"}, group_mean,
     "TRL divides by the standard deviation of all rewards of the step + 1e-4", over_all),
    ("leave_one_out", "RLOO", {"normalize_advantages": False}, leave_one_out, "", None),
    ("leave_one_out", "RLOO", {"normalize_advantages": True}, leave_one_out,
     "TRL whitens over the responses of the step with 1e-4", whitened_leave_one_out),
)  # fmt: skip


def compare_advantages(folder: Path, vocabulary: int) -> bool:
    """Print the second table: advantages of the same rewards; True if all is explained."""
    right = True
    for name, kind, settings, ours, why, once in ADVANTAGES:
        difference, remaining = 0.0, 0.0
        for seed in range(3):
            groups = rollout(seed, vocabulary)
            trainer = their_trainer(Case("", (), settings, trainer=kind), Variant(0.0, 1, False, 1.0), groups, folder)
            scored = trainer._generate_and_score_completions([{"prompt": "q"} for _ in range(P * G)])
            theirs = scored["advantages"].double().view(P, G)
            plain, done = ours(rewards(groups)), (once or ours)(rewards(groups))
            difference = worse(difference, float((plain - theirs).abs().max() / theirs.abs().max()))
            remaining = worse(remaining, float((done - theirs).abs().max() / theirs.abs().max()))
        explained = remaining < 1e-6 and bool(why) == (difference > 1e-4)
        verdict = f"differs: {why} (equal once that is done here: {remaining:.0e})" if why else "equal"
        setting = ", ".join(f"{key}={value}" for key, value in settings.items())
        verdict = verdict if explained else "NOT EXPLAINED"
        print(f"{name:29} | {difference:6.0e} | {verdict} | {kind}Trainer {setting}", flush=True)
        right &= explained
    return right


def main() -> None:
    try:
        import trl
    except ModuleNotFoundError:
        sys.exit("trl is not installed here: make check-trl")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    print("largest relative differences on the same log-probabilities (float64) and of a whole step (float32)")
    with tempfile.TemporaryDirectory() as name:
        vocabulary = initial_policy(Path(name))
        print(f"\n{'loss':29} | same: loss, gradient | step: loss, gradient | clipped | verdict | settings")
        right = [compare(case, Path(name), vocabulary) for case in CASES]
        print(f"\n{'advantage, as shipped':29} | differ | verdict | TRL's setting")
        right.append(compare_advantages(Path(name), vocabulary))
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()

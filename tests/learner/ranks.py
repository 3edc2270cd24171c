"""One rank of tests/learner/test_ranks.py: `python -m tests.learner.ranks RANK SIZE FOLDER` runs every case
and saves how it ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_config
from tests.learner.setups import setup_of
from tests.learner.test_torch import groups_of
from tests.test_algorithm import NAMES
from tests.test_algorithm import load as load_algo
from tests.test_turns import episodes
from zero.algorithm import Algorithm
from zero.batching import make_batch, mini_batches, rewards, turn_rewards
from zero.critic.value_model import ValueModel
from zero.distributed import World
from zero.learner import Learner
from zero.learner.lora import Lora
from zero.learner.optimizer import Optimizer
from zero.learner.torch import TorchLearner
from zero.objective import turn_group_mean
from zero.records import Batch, Completion, Group, Metrics, Outcome, Prompt, Question, Verdict

# A clip that binds, weight decay and momentum: with each, ranks that do not act as one would differ.
OPTIM = Optimizer(1e-3, (0.9, 0.95), 0.1, 0.05, 0, "linear", 0.1)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """An algorithm on the groups of each step, in micro-batches of about `rows` rows."""

    algo: Algorithm
    rows: int
    steps: Sequence[Sequence[Group]]
    updates: int = 2
    lora: Lora | None = None


@dataclass
class Ended:
    """The end of a rank."""

    start: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    logprobs: list[Tensor] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)
    learning: list[list[bool]] = field(default_factory=list)  # of each update, which of this rank's rows learn


def group(worths: Sequence[float], lengths: Sequence[int], seed: int, finished: bool = True) -> Group:
    """Siblings with these rewards, of these lengths together with their prompt of 3 tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = lambda n: tuple(torch.randint(8, 400, (n,), generator=generator).tolist())  # noqa: E731
    completions = tuple(Completion(ids(n - 3), (-1.0,) * (n - 3), "", finished) for n in lengths)
    verdicts = tuple(Verdict(r, Outcome.WRONG, Outcome.WRONG, None, "") for r in worths)
    return Group(Prompt(Question("", ("",), ""), "", ids(3), (0, seed)), completions, verdicts)


def cases() -> dict[str, Case]:
    usual = [groups_of(0)]
    drgrpo, ppo = load_algo("drgrpo"), load_algo("ppo")
    cases_by_name = {f"{name}, 4 rows": Case(load_algo(name), 4, usual) for name in NAMES}
    options = {
        "kl": replace(drgrpo, beta=0.1),
        "kl in the reward": replace(drgrpo, beta=0.1, kl_in="reward"),
        "entropy": replace(drgrpo, entropy=0.05),
        "gspo": load_algo("gspo"),
        "dapo": load_algo("dapo"),
        "ppo": ppo,
    }
    cases_by_name |= {
        f"{name}, {rows} rows": Case(algo, rows, usual) for name, algo in options.items() for rows in (1, 2, 4, 12)
    }
    cases_by_name |= {
        f"lora, {rows} rows": Case(options["kl"], rows, usual, lora=Lora(4, 8, "all-linear")) for rows in (1, 12)
    }
    # Of several turns, half of which begin with a whole new prompt
    turns = replace(options["kl"], turn_advantage=partial(turn_group_mean, gamma=0.9))
    for name, algo in (("turns", turns), ("ppo", ppo)):
        cases_by_name[f"{name}, episodes"] = Case(algo, 2, [episodes(4), episodes(5)])
    # Longest first the rows go to ranks 0 1 1 0 0 1: only rank 0 has siblings that differ.
    one_sided = [group((1, 0), (20, 14), 1), group((0, 0), (18, 16), 2), group((1, 1), (13, 8), 3)]
    silent = [replace(g, verdicts=(g.verdicts[0],) * len(g.verdicts)) for g in groups_of(1)]
    cut = [replace(g, completions=tuple(replace(c, finished=False) for c in g.completions)) for g in groups_of(2)]
    masked = load_algo("drgrpo", mask_truncated="true")
    for name, algo in (("drgrpo", drgrpo), ("ppo", ppo)):
        cases_by_name[f"{name}, one rank learns"] = Case(algo, 2, [one_sided] * 2, updates=1)
        cases_by_name[f"{name}, nobody learns after a step"] = Case(algo, 2, [groups_of(0), silent], updates=1)
    cases_by_name["nobody may learn after a step"] = Case(masked, 2, [groups_of(0), cut], updates=1)
    cases_by_name["ppo, nobody may learn after a step"] = Case(
        replace(ppo, mask_truncated=True), 2, [groups_of(0), cut], updates=1
    )
    alone = [group((1,), (9,), 4)]
    for name in ("reinforce", "ppo", "sft"):
        cases_by_name[f"{name}, one row"] = Case(load_algo(name), 1, [alone] * 2, updates=1)
    return cases_by_name


def play(case: Case, world: World, learner_class: Any = TorchLearner, **settings: Any) -> Ended:
    """A run's steps without its sampling, as in zero/loop.py."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("qwen2", 500))
    algo, ended = case.algo, Ended()
    micro_tokens = case.rows * max(
        len(g.prompt.ids) + len(c.ids) for gs in case.steps for g in gs for c in g.completions
    )
    critic = value_model(algo, model, world, micro_tokens)
    learner = learner_class(
        setup_of(model, OPTIM, keep_reference=algo.needs_reference, world=world),
        micro_tokens=micro_tokens,
        gradient_checkpointing=False,
        lora=case.lora,
        **settings,
    )
    ended.start = weights_of(learner, critic)
    for t, groups in enumerate(case.steps):
        batch = make_batch(groups, algo, pad_id=7)
        if algo.needs_reference:
            batch = replace(batch, reference_NT=learner.logprobs(batch, reference=True))
        batch = replace(batch, old_NT=learner.logprobs(batch))
        values = critic.values(groups, batch) if critic else made_up(batch)
        ended.logprobs += [batch.old_NT, values[0]]  # type: ignore[list-item]
        batch = algo.with_advantages(batch, rewards(groups), values, turn_rewards(groups))
        for mini_batch in mini_batches(batch, algo, case.updates, 1, key=(0, t)):
            ended.learning.append(algo.trained_rows(mini_batch)[world.balanced_rows(mini_batch.length_N)].tolist())
            ended.metrics.append(learner.update(mini_batch, algo) | (critic.update(mini_batch) if critic else {}))
    ended.logprobs.append(learner.logprobs(batch))
    ended.weights = weights_of(learner, critic)
    return ended


def weights_of(learner: Learner, critic: ValueModel | None) -> dict[str, Tensor]:
    parts_of_run = [("policy", learner.weights()), ("critic", critic.trained.parameters() if critic else ())]
    return {f"{owner} {name}": w.detach().clone() for owner, weights in parts_of_run for name, w in weights}


def value_model(algo: Algorithm, model: Any, world: World, micro_tokens: int) -> ValueModel | None:
    """The algorithm's critic if it learns."""
    if getattr(algo.critic, "func", None) is not ValueModel:
        return None
    settings: dict[str, Any] = dict(optimizer=OPTIM, clip=0.05, micro_tokens=micro_tokens)
    return ValueModel(model, total_updates=10, seed=0, autocast=False, device=CPU, world=world, **settings)


def made_up(batch: Batch) -> tuple[Tensor, Tensor]:
    """Values in the place of those that a critic would sample."""
    return torch.rand(batch.mask_NT.shape, generator=torch.Generator().manual_seed(9)), batch.mask_NT.bool()


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    world = World(rank, size)
    torch.save({name: vars(play(case, world)) for name, case in cases().items()}, folder / f"rank_{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""One rank of tests/engines/test_deepspeed.py: `python -m tests.engines.zero_ranks RANK SIZE FOLDER` plays every case on
DeepSpeed, one process group for all, and saves how it ended. Where FOLDER has checkpoints it goes on from them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_config
from tests.learner.ranks import OPTIM, Case, cases, play
from tests.learner.setups import setup_of
from tests.learner.test_torch import batch_of, make_learner
from tests.test_algorithm import load as load_algo
from zero.algorithm import Algorithm
from zero.distributed import World
from zero.errors import InputError
from zero.learner import Learner
from zero.learner import deepspeed_setup as zero_engine
from zero.learner.deepspeed import DeepSpeedLearner
from zero.learner.lora import Lora
from zero.learner.torch import TorchLearner
from zero.records import Batch, Metrics

LORA = Lora(4, 8, "all-linear")
OFFLOADED = {2: {"offload_optimizer": True}, 3: {"offload_optimizer": True, "offload_parameters": True}}
# For each number of ranks what is played on which stages; the expensive stage 3 everywhere that ranks could part ways.
PLAYED: dict[int, dict[str, tuple[int, ...]]] = {
    1: {"kl, 4 rows": (3,)},
    2: {
        "kl, 1 rows": (3,),
        "kl, 4 rows": (1, 2, 3),
        "entropy, 4 rows": (3,),
        "gspo, 4 rows": (3,),
        "lora, 12 rows": (2,),
        "turns, episodes": (2, 3),
        "drgrpo, one rank learns": (2, 3),
        "drgrpo, nobody learns after a step": (1, 2, 3),
        "nobody may learn after a step": (3,),
        "reinforce, one row": (3,),
    },
}


@dataclass
class TrainingRecord:
    """Five updates of one learner."""

    gradient: dict[str, Tensor] = field(default_factory=dict)  # of the first update, before clipping
    metrics: list[Metrics] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # an update, after the first


def kl() -> Algorithm:
    return replace(load_algo("drgrpo"), beta=0.1)


def make(learner_class: Any, world: World, *, family: str = "qwen2", **changes: Any) -> Any:
    """A learner around a random model, the same in every process; the reference is kept."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, 500))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    setup = setup_of(model, OPTIM, keep_reference=True, world=world)
    return make_learner(learner_class, setup, {"micro_tokens": 60, "gradient_checkpointing": False} | changes)


def referred(learner: Learner) -> Batch:
    batch = batch_of(kl())
    return replace(batch, reference_NT=learner.logprobs(batch, reference=True))


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in learner.weights()}


def train(learner: Any, updates: int = 5, head_tokens: int | None = None) -> TrainingRecord:
    """What so many updates with a KL, a clip that binds and weight decay do."""
    policy = learner.engine.module if isinstance(learner, DeepSpeedLearner) else learner.policy
    policy.head_tokens = head_tokens or policy.head_tokens
    batch, ended, began = referred(learner), TrainingRecord(), 0.0
    for u in range(updates):
        if u == 0:
            catch(learner, ended.gradient)
        if u == 1:
            began = time.perf_counter()
        ended.metrics.append(learner.update(batch, kl()))
    ended.seconds = (time.perf_counter() - began) / max(1, updates - 1)
    ended.weights = weights(learner)
    return ended


def catch(learner: Any, into: dict[str, Tensor]) -> None:
    """Keep the gradient of the next update before it is clipped."""
    if isinstance(learner, DeepSpeedLearner):
        from deepspeed.utils import safe_get_full_grad

        step = learner.engine.step

        def seen() -> None:
            into.update(
                {name: safe_get_full_grad(p).detach().clone() for name, p in learner.shards.trainable_parameters()}
            )
            learner.engine.step = step
            step()

        learner.engine.step = seen
    else:
        share = learner.trained._share_gradients

        def summed(parameters: Any) -> None:
            share(parameters)
            into.update({name: p.grad.clone() for name, p in learner.trained.parameters()})
            learner.trained._share_gradients = share

        learner.trained._share_gradients = summed


def variants(world: World) -> Iterator[tuple[str, TrainingRecord]]:
    """Five updates of every kind of learner."""
    yield "torch", train(make(TorchLearner, world))
    for stage in (1, 2, 3):
        yield f"stage {stage}", train(make(DeepSpeedLearner, world, stage=stage))
    yield "rows", train(make(DeepSpeedLearner, world, stage=2, micro_tokens=1))
    yield "chunks", train(make(DeepSpeedLearner, world, stage=3, micro_tokens=100), head_tokens=7)
    if world.size == 1:
        return
    yield "untied", train(make(DeepSpeedLearner, world, stage=3, family="llama"), head_tokens=5)
    for stage in (2, 3):
        yield (
            f"offload {stage}",
            train(make(DeepSpeedLearner, world, stage=stage, reference_offload=True, **OFFLOADED[stage])),
        )
        yield f"checkpointing {stage}", train(make(DeepSpeedLearner, world, stage=stage, gradient_checkpointing=True))
    for stage in (1, 2, 3):
        yield f"bfloat16 {stage}", train(make(DeepSpeedLearner, world, stage=stage, autocast=True))
    both = {"autocast": True, "gradient_checkpointing": True}
    yield "bfloat16 3, checkpointing", train(make(DeepSpeedLearner, world, stage=3, **both))


def on(learner: Learner, updates: int) -> dict[str, Tensor]:
    batch = referred(learner)
    for _ in range(updates):
        learner.update(batch, kl())
    return weights(learner)


def save_and_export(world: World, folder: Path, name: str, learner: Learner) -> None:
    """Save and export what a learner is."""
    for what in ("checkpoint", "model"):
        if world.is_main:
            (folder / f"{name} {what}").mkdir()
        world.any_rank(False)  # all wait until the folder is there
        (learner.save if what == "checkpoint" else learner.export)(folder / f"{name} {what}")
    world.any_rank(False)


def resumptions(world: World, folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Two updates, a checkpoint, two more; then from each checkpoint that is there two updates."""
    for name, settings in kinds(world).items():
        learner = make(DeepSpeedLearner, world, **settings)
        on(learner, 2)
        save_and_export(world, folder, f"{name}, {world.size} ranks", learner)
        yield f"{name}: straight", on(learner, 2)
        again = make(DeepSpeedLearner, world, **settings)
        again.load(folder / f"{name}, {world.size} ranks checkpoint")
        yield f"{name}: resumed", on(again, 2)
    for path in sorted(folder.glob("* checkpoint")):
        if path.name.startswith(("bfloat16", "lora")):
            continue
        for stage in (1,) if world.size == 1 else (3,) if path.name.startswith("stage 2") else (2,):
            learner = make(DeepSpeedLearner, world, stage=stage)
            learner.load(path)
            yield f"{path.name} -> {stage}", on(learner, 2)
    for path in sorted(folder.glob("lora*2 ranks checkpoint")):
        learner = make(DeepSpeedLearner, world, stage=3, lora=LORA)
        learner.load(path)
        yield f"{path.name} -> 3", on(learner, 2)


def kinds(world: World) -> dict[str, dict[str, Any]]:
    """The kinds of learners that save checkpoints."""
    if world.size == 1:
        return {"stage 1": {"stage": 1}}
    return {
        "stage 2": {"stage": 2},
        "stage 3": {"stage": 3},
        "bfloat16": {"stage": 3, "autocast": True},
        "lora": {"stage": 2, "lora": LORA},
        "lora 3": {"stage": 3, "lora": LORA},
        "offloaded": {"stage": 3, **OFFLOADED[3]},
    }


def disturbed() -> list[str]:
    """What starting a learner and two updates change outside of it."""
    batch = batch_of(kl())

    def seen() -> dict[str, Any]:
        return {
            "torch's random numbers": torch.get_rng_state().tolist(),
            "random": random.getstate(),
            "numpy's random numbers": str(np.random.get_state()),
            "arguments": list(sys.argv),
            "signals": [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
            "environment": {k: v for k, v in os.environ.items() if k != "LOCAL_RANK"},
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "gradients on": torch.is_grad_enabled(),
        }

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("qwen2", 500))
    before = seen()
    learner = DeepSpeedLearner(
        setup_of(model, OPTIM, keep_reference=True),
        micro_tokens=60,
        gradient_checkpointing=False,
        stage=3,
    )
    batch = replace(batch, reference_NT=learner.logprobs(batch, reference=True))
    learner.update(batch, kl())
    dict(learner.weights())
    after = seen()
    return [name for name, value in before.items() if after[name] != value]


def exploded(world: World) -> dict[str, bool]:
    """For each stage: a gradient that is no number is skipped, and no weight has moved."""
    batch = batch_of(load_algo("drgrpo"))
    assert batch.advantage_NT is not None
    broken, unchanged = replace(batch, advantage_NT=batch.advantage_NT * float("inf")), {}
    for name, changes in {"1": {}, "2": {}, "3": {}, "2 bfloat16": {"autocast": True}}.items():
        learner = make(DeepSpeedLearner, world, stage=int(name[0]), **changes)
        before = weights(learner)
        skipped = "loss/skipped_updates" in learner.update(broken, load_algo("drgrpo"))
        unchanged[name] = skipped and all(torch.equal(w, before[k]) for k, w in weights(learner).items())
    return unchanged


def probed(world: World) -> dict[str, Any]:
    """The lens on each learner, and what it says at stage 3."""
    batch = batch_of(load_algo("drgrpo"))
    slopes = lambda rows, logprob, entropy: (logprob[None] * 0 + 1.0, None)  # noqa: E731
    results: dict[str, Any] = {}
    for name, learner in {
        "torch": make(TorchLearner, World()),
        "stage 2": make(DeepSpeedLearner, world, stage=2),
        "stage 3": make(DeepSpeedLearner, world, stage=3),
    }.items():
        try:
            results[name] = learner.probe(batch, slopes, 1, entropy=False).gradient_AHH
        except InputError as error:
            results[name] = str(error)
    return results


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    world = World(rank, size)
    if size > 1:
        zero_engine.PERSISTENT = 0  # or nothing in so small a model would be cut at stage 3
    results: dict[str, Any] = {}
    if size == 1:
        results["disturbed"] = disturbed()  # first: DeepSpeed makes the process group of one process itself
        results["exploded"], results["probed"] = exploded(world), probed(world)
    else:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(seconds=120)
        )
    results["trained"] = {name: vars(ended) for name, ended in variants(world)}
    known: dict[str, Case] = cases()
    results["played"] = {
        f"{name}, stage {stage}": vars(play(known[name], world, DeepSpeedLearner, stage=stage))
        for name, stages in PLAYED[size].items()
        for stage in stages
    }
    results["resumed"] = dict(resumptions(world, folder))
    torch.save(results, folder / f"rank_{rank}_of_{size}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""python -m launch.plan experiment=fig6_length size=paper --node 8xA100-40G: does a cell fit, and what will it take? On paper.

Takes what zero.train -m takes. Nothing runs and nothing is fetched: architectures are those of launch/shapes.py. Memory of a
GPU of P parameters, L layers, width H, in the time of the update: weights, gradients, masters and moments as the learner cuts
them (below), and the activations of one micro-batch; in the time of sampling: the learner's state, for what it does not
offload stays, beside the share that the engine takes. Time of a step: sampling, update and weight sync in turn:

    decode step   max((2P/tp + rows x context x cache) / bandwidth, 2P x rows / flops), as often as the mean response has tokens
    tail          the longest response alone, once the others have ended: (longest - mean) x 2P/tp / bandwidth
    update        (6P + 2P if recomputed) x tokens / (MFU x flops)

Exit code: 0 if every cell fits, 1 if not, 2 for bad input. The numbers are formulas, good to a factor of about two; what a node
really does is told by debug=probe.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch import sweep as records
from launch.shapes import SHAPES, Shape
from zero.errors import InputError
from zero.tables import as_text

GB, TERA = 1e9, 1e12
MFU = 0.4  # of the update, at best about what public trainers reach on these cards
DECODING = 0.6  # of the bandwidth, in decoding
PROMPT = 200  # tokens of a prompt
MEAN = 1 / 3  # of the token budget that a response takes, if --mean does not say
SPARE = 0.05  # of a card, for the context of CUDA and the allocator's gaps


@dataclass(frozen=True)
class Card:
    """A GPU: memory in GB, bandwidth in bytes/s, dense bfloat16 flops/s."""

    memory: float
    bandwidth: float
    flops: float


CARDS = {
    "A100-40G": Card(40, 1.555 * TERA, 312 * TERA),
    "A100-80G": Card(80, 2.039 * TERA, 312 * TERA),
    "H100": Card(80, 3.35 * TERA, 989 * TERA),
    "H200": Card(141, 4.8 * TERA, 989 * TERA),
}


@dataclass(frozen=True)
class Plan:
    """One cell on one node. GB of one GPU; seconds of one step; `misfit`: what does not fit and what to change, or ""."""

    state: float  # what the learner keeps while the engine samples
    update: float  # the most it takes in an update
    engine: float  # the engine's share
    misfit: str
    sampling: float
    tail: float
    training: float
    sync: float
    steps: int

    @property
    def hours(self) -> float:
        """Of the whole cell, without evaluation."""
        return self.steps * (self.sampling + self.tail + self.training + self.sync) / 3600


def node_of(text: str) -> tuple[int, Card]:
    """8xA100-40G as (8, card). InputError names the cards."""
    match = re.fullmatch(r"(?:(\d{1,5})x)?([\w-]+)", text, re.ASCII)
    if not match or match[2] not in CARDS or match[1] == "0":
        raise InputError("--node", text, f"must be COUNTxCARD with a card of {', '.join(CARDS)}")
    return int(match[1] or 1), CARDS[match[2]]


def plan(config: Mapping[str, Any], shape: Shape, gpus: int, card: Card, mean: float | None = None) -> Plan:
    """What a checked config takes on `gpus` cards, one process each. `mean`: tokens of a response (None: a third of the
    budget)."""
    budget = config["sampling"]["max_tokens"]
    mean = min(budget, mean or MEAN * budget)
    state, update = learner_gb(config["learner"], shape, gpus, reference=bool(config["algo"]["beta"]))
    update += critic_gb(config["algo"]["critic"], shape, gpus)
    share, parallel = engine_gb(config["rollout"], shape, card)
    rows = math.ceil(config["prompts"] * config["group_size"] / gpus)  # of a GPU
    context = PROMPT + mean / 2
    live = min(rows, rows_that_fit(share, shape, parallel, PROMPT + budget)) or 1
    decode = decode_seconds(shape, card, live, context, parallel)
    alone = decode_seconds(shape, card, 1, PROMPT + budget, parallel)
    samples = "form" not in config["rollout"]  # reference solutions are there already
    tokens = config["prompts"] * config["group_size"] * (PROMPT + mean) * config["epochs"]
    work = (6 + 2 * config["learner"]["gradient_checkpointing"]) * shape.parameters
    return Plan(
        state=state,
        update=update,
        engine=share,
        misfit=misfit(config, card, state, update, share, rows_that_fit(share, shape, parallel, PROMPT + budget)),
        sampling=samples * math.ceil(rows / live) * mean * decode,
        tail=samples * (budget - mean) * alone,
        training=tokens / gpus * work / (MFU * card.flops),
        sync=0.0
        if parallel == 1 and gpus == 1
        else 2 * shape.parameters / 50e9,  # gathered and cast over the node's links
        steps=config["steps"],
    )


def learner_gb(learner: Mapping[str, Any], shape: Shape, gpus: int, reference: bool) -> tuple[float, float]:
    """(what stays between updates, the most in an update), GB of one GPU: bytes of a parameter as zero/models.py and ZeRO
    (arXiv 1910.02054) count them, and the activations of a micro-batch."""
    stage = learner.get("stage", 0)
    cut = [gpus if stage >= least else 1 for least in (1, 2, 3)]  # of the optimizer's state, gradients, weights
    if stage:
        weights, gradients, masters = 2 / cut[2], 4 / cut[1], 12 / cut[0]
        masters = 0.0 if learner.get("offload_optimizer") else masters
        weights = 0.0 if learner.get("offload_parameters") else weights
        copies = 2.0 * (stage == 3) * 2 * 1e9 / shape.parameters  # two gathered layers and their prefetch: about 2 GB
    else:
        mixed = learner["precision"] == "bfloat16"
        weights, gradients, masters, copies = 4.0, 4.0, 8.0, 2.0 * mixed
    kept = weights + masters + (0 if learner["reference_offload"] or not reference else 2 / cut[2])
    used = kept + gradients + copies
    per_token = shape.hidden * 2 * (2 * shape.layers + 34 if learner["gradient_checkpointing"] else 34 * shape.layers)
    chunk = 1024 * shape.vocabulary * 4 * 3  # logits of a chunk of the head, their softmax and gradient
    activations = (learner["micro_tokens"] * per_token + chunk) / GB
    return kept * shape.parameters / GB, used * shape.parameters / GB + activations


def critic_gb(critic: Any, shape: Shape, gpus: int) -> float:
    """A critic is a second model of the same size, not cut over ranks."""
    return 16 * shape.parameters / GB if isinstance(critic, Mapping) and "optim" in critic else 0.0


def engine_gb(rollout: Mapping[str, Any], shape: Shape, card: Card) -> tuple[float, int]:
    """(GB that the engine takes of a GPU, GPUs that hold one engine together)."""
    inner = rollout.get("engine") or rollout
    if "memory" in inner:
        return inner["memory"] * card.memory, inner["tensor_parallel"]
    if inner.get("url") is not None or "transport" in inner:
        return 0.0, 1  # elsewhere
    return (4 * shape.parameters + inner.get("max_rows", 256) * 1000 * shape.cached) / GB, 1


def rows_that_fit(share: float, shape: Shape, parallel: int, context: int) -> int:
    """Whole responses that the engine's cache holds at once."""
    if share == 0.0:
        return 1 << 30
    free = share * GB - 2 * shape.parameters / parallel
    return max(0, int(free * parallel / (context * shape.cached)))


def decode_seconds(shape: Shape, card: Card, rows: int, context: float, parallel: int) -> float:
    """One token of each of `rows` responses."""
    read = 2 * shape.parameters / parallel + rows * context * shape.cached / parallel
    return max(read / (DECODING * card.bandwidth), 2 * shape.parameters * rows / parallel / card.flops)


def misfit(config: Mapping[str, Any], card: Card, state: float, update: float, share: float, rows: int) -> str:
    """What does not fit, with the setting to change; "" if all does."""
    room = card.memory * (1 - SPARE)
    less = "raise learner.stage, add GPUs, or learner.offload_optimizer=true"
    if update > room:
        return f"an update takes {update:.0f} of {card.memory:.0f} GB: lower learner.micro_tokens, {less}"
    if state + share > room:
        return f"beside the engine the learner keeps {state:.0f} of {card.memory:.0f} GB: lower rollout.memory, {less}"
    if rows < 1:
        return "the engine's share holds no whole response: raise rollout.memory or rollout.tensor_parallel"
    return ""


# ------------------------------------------------------------------------------------------------------------------ lines


def planned(overrides: Sequence[str], gpus: int, card: Card, mean: float | None) -> list[tuple[str, Plan | str]]:
    """(cell, its plan) of every training cell; those that are alike, seeds for instance, are one. In place of a plan: why there
    is none."""
    from launch.cells import plan as cells_of

    found: dict[tuple[str, Plan | str], None] = {}
    for cell in cells_of(overrides).cells.values():
        if cell.root != "train" or cell.config is None:
            continue
        name = " ".join(cell.choices[axis] for axis in ("algo", "template", "questions", "model"))
        shape = SHAPES.get(cell.choices["model"].partition("+")[0])
        made = plan(cell.config, shape, gpus, card, mean) if shape else "the shape of this model is not known"
        found[name, made] = None
    return list(found)


def rows(of: Sequence[tuple[str, Plan | str]]) -> list[dict[str, Any]]:
    """A row for each cell, for a table."""
    table = []
    for name, made in of:
        if isinstance(made, str):
            table.append({"cell": name, "fits": made})
            continue
        seconds = made.sampling + made.tail + made.training + made.sync
        table.append({
            "cell": name, "update GB": f"{made.update:.0f}", "beside engine GB": f"{made.state + made.engine:.0f}",
            "s/step": f"{seconds:.0f}", "sampling": f"{made.sampling:.0f}", "tail": f"{made.tail:.0f}",
            "update": f"{made.training:.0f}", "sync": f"{made.sync:.1f}", "hours": f"{made.hours:.1f}",
            "fits": made.misfit or "yes",
        })  # fmt: skip
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser("python -m launch.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="as for python -m zero.train -m")
    parser.add_argument(
        "--node", default="8xA100-40G", help=f"COUNTxCARD (default 8xA100-40G); cards: {', '.join(CARDS)}"
    )
    parser.add_argument("--mean", type=float, help="tokens of a response, mean (default: a third of the budget)")
    options = parser.parse_intermixed_args(arguments)
    try:
        gpus, card = node_of(options.node)
        made = planned(options.overrides, gpus, card, options.mean)
        if not made:
            raise InputError("command line", " ".join(options.overrides), "holds no training cell")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT
    print(as_text(rows(made)))
    return int(any(isinstance(of, str) or bool(of.misfit) for _, of in made))


if __name__ == "__main__":
    sys.exit(main())

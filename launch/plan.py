"""python -m launch.plan experiment=fig6_length size=paper --node 8xA100-40G: does a cell fit, and what will it take? On paper.

Takes what zero.train -m takes. Nothing runs and nothing is fetched: architectures are those of launch/cost/shapes.py. Memory of a
GPU of P parameters, L layers, width H, in the time of the update: weights, gradients, masters and moments as the learner cuts
them (below), and the activations of one micro-batch; in the time of sampling: the learner's state, for what it does not
offload stays, beside the share that the engine takes. Time of a step: sampling, update and weight sync in turn:

    decode step   max((2P/tp + rows x context x cache) / bandwidth, 2P x rows / flops), as often as the mean response has tokens
    tail          the longest response alone, once the others have ended: (longest - mean) x 2P/tp / bandwidth
    update        (6P + 2P if recomputed) x tokens / (MFU x flops)
    links         gradients summed over the GPUs once an optimizer step; weights gathered once for the engine and, under ZeRO-3, in
                  every pass of a micro-batch (2, or 3 if recomputed); each (n - 1) / n of its bytes over the node's links or,
                  from the ninth GPU on, the network; nothing of it hidden behind the update

`--scale` tells one cell on 1 to 64 of the cards: what grows with them is the share of a step that is tail and links.

Memory of a node's host, once: each of its ranks loads the model, and a critic, in float32, and holds what is offloaded.

Exit code: 0 if every cell fits, 1 if not, 2 for bad input. The numbers are formulas, good to a factor of about two; what a node
really does is told by debug=probe.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.cost.shapes import SHAPES, Shape
from launch.sweep import files as records
from zero.errors import InputError
from zero.monitoring.preflight import settings_doubts
from zero.tracking.text_table import as_text

GB, TERA = 1e9, 1e12
MFU = 0.4  # of the update, at best about what public trainers reach on these cards
DECODING = 0.6  # of the bandwidth, in decoding
PROMPT = 200  # tokens of a prompt
MEAN = 1 / 3  # of the token budget that a response takes, if --mean does not say
KEPT_OF_CRITIC = 0.75  # of its memory in an update: all but the gradients
SPARE = 0.05  # of a card, for the context of CUDA and the allocator's gaps
NODE = 8  # GPUs
NODE_LINK, NETWORK = 150e9, 20e9  # bytes/s of a GPU within a node (NVLink) and between nodes (200 Gbit/s)
LEGEND = """\
update GB: the most that a GPU holds in an update; beside engine GB: what it holds while the engine samples;
host GB: CPU memory of a node; tail: the longest responses alone; links: between GPUs; hours: without evaluation"""
SCALE = (1, 2, 4, 8, 16, 32, 64)


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
    host: float  # GB of a node's CPU memory
    misfit: str
    sampling: float
    tail: float
    training: float
    links: float
    steps: int

    @property
    def seconds(self) -> float:
        """Of one step."""
        return self.sampling + self.tail + self.training + self.links

    @property
    def hours(self) -> float:
        """Of the whole cell, without evaluation."""
        return self.steps * self.seconds / 3600


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
    critic = critic_gb(config["algo"]["critic"], shape)
    state, update = state + critic * KEPT_OF_CRITIC, update + critic
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
        host=host_gb(config, shape, gpus),
        misfit=misfit(
            config, card, state, update, share, rows_that_fit(share, shape, parallel, PROMPT + budget), critic
        ),
        sampling=samples * math.ceil(rows / live) * mean * decode,
        tail=samples * (budget - mean) * alone,
        training=tokens / gpus * work / (MFU * card.flops),
        links=links_seconds(config, shape, gpus, tokens),
        steps=config["steps"],
    )


def links_seconds(config: Mapping[str, Any], shape: Shape, gpus: int, tokens: float) -> float:
    """What a step sends between GPUs, one after another."""
    learner = config["learner"]
    stage = learner.get("stage", 0)
    ways = 1 if stage >= 2 else 2  # reduced, and without ZeRO-2 shared again
    gradients = 4 * shape.parameters * config["updates"] * config["epochs"] * ways
    micro = max(1.0, tokens / gpus / learner["micro_tokens"])
    passes = (2 + bool(learner["gradient_checkpointing"])) * micro if stage == 3 else 0.0
    weights = 2 * shape.parameters * (passes + 1)
    return (gradients + weights) * (gpus - 1) / gpus / (NODE_LINK if gpus <= NODE else NETWORK)


def learner_gb(learner: Mapping[str, Any], shape: Shape, gpus: int, reference: bool) -> tuple[float, float]:
    """(what stays between updates, the most in an update), GB of one GPU: bytes of a parameter as zero/models/load.py and ZeRO
    (arXiv 1910.02054) count them, and the activations of a micro-batch."""
    stage, lora = learner.get("stage", 0), learner.get("lora")
    trained = shape.adapters(lora["rank"]) if lora else shape.parameters
    cut = [gpus if stage >= least else 1 for least in (1, 2, 3)]  # of the optimizer's state, gradients, weights
    if stage:
        weights, gradients, masters = 2 / cut[2], 4 / cut[1], 12 / cut[0]
        masters = 0.0 if learner.get("offload_optimizer") else masters
        weights = 0.0 if learner.get("offload_parameters") else weights
        copies = 2.0 * (stage == 3) * 2 * 1e9 / shape.parameters  # two gathered layers and their prefetch: about 2 GB
    else:
        mixed = learner["precision"] != "float32"  # auto: on a GPU that is bfloat16
        weights, gradients, masters, copies = 4.0, 4.0, 8.0, 2.0 * mixed
    copied = reference and not lora and not learner["reference_offload"]  # adapters off are the reference
    kept = (weights + copied * 2 / cut[2]) * shape.parameters + masters * trained
    used = kept + gradients * trained + copies * shape.parameters
    per_token = shape.hidden * 2 * (2 * shape.layers + 34 if learner["gradient_checkpointing"] else 34 * shape.layers)
    chunk = 1024 * shape.vocabulary * 4 * 3  # logits of a chunk of the head, their softmax and gradient
    activations = (learner["micro_tokens"] * per_token + chunk) / GB
    return kept / GB, used / GB + activations


def critic_gb(critic: Any, shape: Shape) -> float:
    """A learned critic is a second model of the same size, in float32, not cut over ranks."""
    return 16 * shape.parameters / GB if isinstance(critic, Mapping) and "optim" in critic else 0.0


def host_gb(config: Mapping[str, Any], shape: Shape, gpus: int) -> float:
    """What the ranks of a node hold in its CPU memory at the start, when each has loaded the model, and later."""
    learner, ranks = config["learner"], min(gpus, NODE)
    models = 2 if critic_gb(config["algo"]["critic"], shape) else 1
    offloaded = 12 / gpus * bool(learner.get("offload_optimizer")) + 2 / gpus * bool(learner.get("offload_parameters"))
    offloaded += 4.0 * bool(learner["reference_offload"] and config["algo"]["beta"])
    return ranks * shape.parameters * (4 * models + offloaded) / GB


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


def misfit(
    config: Mapping[str, Any], card: Card, state: float, update: float, share: float, rows: int, critic: float = 0.0
) -> str:
    """What does not fit, with the setting to change; "" if all does."""
    room = card.memory * (1 - SPARE)
    if (update > room and update - critic <= room) or critic > room / 2:
        return (
            f"an update takes {update:.0f} of {card.memory:.0f} GB, the critic {critic:.0f} of them on every GPU, however many: "
            "take larger cards or an algorithm without a learned critic (algo=vineppo, grpo, ...)"
        )
    stage = config["learner"].get("stage")
    if stage is None:
        less = "learner=deepspeed over several GPUs, or learner=lora"
    else:
        raised = "raise learner.stage, " if stage < 3 else ""
        less = f"{raised}add GPUs, or learner.offload_optimizer=true"
    if update > room:
        return f"an update takes {update:.0f} of {card.memory:.0f} GB: lower learner.micro_tokens, {less}"
    if state + share > room:
        return f"beside the engine the learner keeps {state:.0f} of {card.memory:.0f} GB: lower rollout.memory, {less}"
    if rows < 1:
        return "the engine's share holds no whole response: raise rollout.memory or rollout.tensor_parallel"
    return ""


# ------------------------------------------------------------------------------------------------------------------ lines


UNKNOWN = (
    "the shape of this model is not known: plan with an option of conf/model of its size, such as model=qwen2_5_1_5b"
)
Cells = list[tuple[str, Mapping[str, Any], Shape | None]]


def distinct(cells: Iterable[records.Cell]) -> Cells:
    """(name, config, shape) of every training cell; those of one plan, seeds for instance, are one."""
    found: dict[Any, tuple[str, Mapping[str, Any], Shape | None]] = {}
    for cell in cells:
        if cell.root != "train" or cell.config is None:
            continue
        name = " ".join(cell.choices[axis] for axis in ("algo", "template", "questions", "model"))
        shape = SHAPES.get(cell.choices["model"].partition("+")[0])
        alike = (name, plan(cell.config, shape, 1, CARDS["H200"]) if shape else None)
        found.setdefault(alike, (name, cell.config, shape))
    return list(found.values())


def planned(cells: Cells, gpus: int, card: Card, mean: float | None = None) -> list[tuple[str, Plan | str]]:
    """(name, plan) of each; in place of a plan: why there is none."""
    return [(name, plan(config, shape, gpus, card, mean) if shape else UNKNOWN) for name, config, shape in cells]


def scaled(cells: Cells, card: Card, mean: float | None = None) -> list[dict[str, Any]]:
    """A row for each cell and number of GPUs. Efficiency: of the GPUs' time, against the fewest on which the cell fits."""
    table = []
    for name, config, shape in cells:
        plans = [(n, plan(config, shape, n, card, mean)) for n in SCALE] if shape else []
        first = next(((n, made) for n, made in plans if not made.misfit), None)
        for n, made in plans:
            share = first[0] * first[1].seconds / (n * made.seconds) if first and not made.misfit else None
            table.append({
                "cell": name, "GPUs": str(n), "s/step": f"{made.seconds:.0f}", "sampling": f"{made.sampling:.0f}",
                "tail": f"{made.tail:.0f}", "update": f"{made.training:.0f}", "links": f"{made.links:.1f}",
                "efficiency": f"{share:.0%}" if share else "-", "fits": made.misfit or "yes",
            })  # fmt: skip
    return table


def on_paper(cells: Iterable[records.Cell], gpus: int) -> list[str]:
    """Lines for a sweep's dry run: on which cards each kind of cell fits, and for how long. None where no shape is known."""
    known = [(name, config, shape) for name, config, shape in distinct(cells) if shape]
    table = [
        {"cell": name} | {
            card: "no" if made.misfit else f"{made.hours:.1f} h, {made.seconds:.0f} s/step"
            for card, made in ((card, plan(config, shape, gpus, CARDS[card])) for card in CARDS)
        }
        for name, config, shape in known
    ]  # fmt: skip
    if not table:
        return []
    return [
        f"on paper, {gpus} GPUs a cell, without evaluation (python -m launch.plan says more):",
        *as_text(table).splitlines(),
    ]


def rows(of: Sequence[tuple[str, Plan | str]]) -> list[dict[str, Any]]:
    """A row for each cell, for a table."""
    table = []
    for name, made in of:
        if isinstance(made, str):
            table.append({"cell": name, "fits": made})
            continue
        table.append({
            "cell": name, "update GB": f"{made.update:.0f}", "beside engine GB": f"{made.state + made.engine:.0f}",
            "s/step": f"{made.seconds:.0f}", "sampling": f"{made.sampling:.0f}", "tail": f"{made.tail:.0f}",
            "update": f"{made.training:.0f}", "links": f"{made.links:.1f}", "host GB": f"{made.host:.0f}",
            "hours": f"{made.hours:.1f}", "fits": made.misfit or "yes",
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
    parser.add_argument("--scale", action="store_true", help=f"on {', '.join(map(str, SCALE))} of the node's cards")
    options = parser.parse_intermixed_args(arguments)
    try:
        from launch.sweep.cells import plan as cells_of

        gpus, card = node_of(options.node)
        cells = distinct(cells_of(options.overrides).cells.values())
        if not cells:
            raise InputError("command line", " ".join(options.overrides), "holds no training cell")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT
    for name, config, shape in cells:
        for doubt in settings_doubts(config, shape.parameters) if shape else ():
            print(f"warning  {name}: {doubt}", file=sys.stderr)
    if options.scale and (table := scaled(cells, card, options.mean)):
        print(as_text(table))
        return int(all(row["fits"] != "yes" for row in table))
    made = planned(cells, gpus, card, options.mean)
    print(as_text(rows(made)))
    print(LEGEND)
    return int(any(isinstance(of, str) or bool(of.misfit) for _, of in made))


if __name__ == "__main__":
    sys.exit(main())

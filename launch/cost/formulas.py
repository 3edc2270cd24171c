"""What a cell takes, by formulas: memory of a GPU and of a node's host, seconds of a step. Good to a factor of about two.

A GPU of P parameters, L layers, width H. Its memory in an update: weights, gradients, master weights and moments as the
learner shards them, and the activations of one micro-batch. While the engine samples: what of the learner's state is not
offloaded, and the engine's share. A step is sampling, update and weight sync, one after another:

    decode step   max((2P/tp + rows x context x cache) / bandwidth, 2P x rows / flops), once for each token of a mean response
    tail          the longest response alone, after the others have ended: (longest - mean) x 2P/tp / bandwidth
    update        (6P + 2P if recomputed) x tokens / (MFU x flops)
    prefill       2P x tokens of the environment / (MFU x flops)
    links         gradients summed over the GPUs once an optimizer step; weights gathered once for the engine and, under ZeRO-3,
                  in every pass of a micro-batch (2, or 3 if recomputed); each (n - 1) / n of its bytes over the node's links
                  or, from the ninth GPU on, the network; none of it overlapped with the update

An episode in an environment takes all its turns (`environment.turns`). Before each but the first PROMPT tokens of the
environment are read, whether it goes on, with what was before in the engine's cache, or begins anew. What all turns say
together is as long as a response of that budget, and so are, added up, the longest turns of all rounds, for which the
others wait.

A question with an image shows one, of the size that its set draws, else of IMAGE pixels; so does each observation, but not that of
a wrong try, unless it asks the question again. It takes its
tokens of a prompt, and in each pass of its row 2 x parameters of the tower for each of its patches; three times as much, and a pass
more if recomputed, where the tower learns. A frozen tower has neither gradients nor moments. An engine encodes an image once.

A node's host: each of its ranks loads the model, and a critic, in float32, and holds what is offloaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.cost.shapes import Shape
from zero.environments.tries import QUESTION
from zero.errors import InputError
from zero.questions.drawn_cards import COLUMN

GB, TERA = 1e9, 1e12
MFU = 0.4  # of the update; at best what public trainers reach on these cards
DECODING = 0.6  # of the bandwidth, in decoding
PROMPT = 200  # tokens of a prompt, and of what an environment says between two turns
IMAGE = (448, 448)  # pixels of an image whose set does not say
MEAN = 1 / 3  # of the token budget that a mean response takes, unless --mean says otherwise
CRITIC_STATE = 0.75  # of a critic's memory in an update: all but the gradients
SPARE = 0.05  # of a card, for CUDA's context and the allocator's gaps
NODE = 8  # GPUs
NODE_LINK, NETWORK = 150e9, 20e9  # bytes/s of a GPU within a node (NVLink) and between nodes (200 Gbit/s)


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
class CellCost:
    """What one cell takes: GB of one GPU, seconds of one step. `misfit`: what does not fit and what to change, or ""."""

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
        """Seconds of one step."""
        return self.sampling + self.tail + self.training + self.links

    @property
    def hours(self) -> float:
        """Hours of the whole cell, without evaluation."""
        return self.steps * self.seconds / 3600


def parse_node(text: str) -> tuple[int, Card]:
    """8xA100-40G as (8, card). InputError for others, with the known cards."""
    match = re.fullmatch(r"(?:(\d{1,5})x)?([\w-]+)", text, re.ASCII)
    if not match or match[2] not in CARDS or match[1] == "0":
        raise InputError("--node", text, f"must be COUNTxCARD with a card of {', '.join(CARDS)}")
    return int(match[1] or 1), CARDS[match[2]]


def cell_cost(config: Mapping[str, Any], shape: Shape, gpus: int, card: Card, mean: float | None = None) -> CellCost:
    """What a cell with this config takes on `gpus` cards, one process each. `mean`: tokens of a mean response (None: a third of
    the budget)."""
    turns, budget = episode(config)
    mean = min(budget, mean or MEAN * budget)
    patches, image_tokens = seen(config, shape)
    prompt = PROMPT + image_tokens
    again = shows_again(config)
    observed = (turns - 1) * (PROMPT + image_tokens * again)
    encodings = 1 + (turns - 1) * again  # images of a response
    vision = config["model"]["vision"]
    state, update = learner_gb(config["learner"], shape, gpus, bool(config["algo"]["beta"]), vision)
    critic = critic_gb(config["algo"]["critic"], shape)
    state, update = state + critic * CRITIC_STATE, update + critic
    share, parallel = engine_gb(config["rollout"], shape, card)
    rows = math.ceil(config["prompts"] * config["group_size"] / gpus)  # for each GPU
    context = prompt + (observed + mean) / 2
    fit = rows_that_fit(share, shape, parallel, prompt + observed + budget)
    live = min(rows, fit) or 1
    decode = decode_seconds(shape, card, live, context, parallel)
    decode_last = decode_seconds(shape, card, 1, prompt + observed + budget, parallel)
    samples = "form" not in config["rollout"]  # rollout=gold reads its responses
    encoded = 2 * (shape.parameters - shape.decoder) * patches  # operations of an image
    images = rows / config["group_size"] + rows * (encodings - 1)
    prefill = (2 * shape.decoder * rows * observed + images * encoded) / (MFU * card.flops)
    responses = config["prompts"] * config["group_size"] * config["epochs"]
    tokens = responses * (prompt + observed + mean)
    passes = 3 + bool(config["learner"]["gradient_checkpointing"])  # forward, backward twice as much, and forward again
    work = tokens * passes * 2 * shape.decoder
    work += responses * encodings * encoded * (1 if vision == "frozen" else passes)
    return CellCost(
        state=state,
        update=update,
        engine=share,
        host=host_gb(config, shape, gpus),
        misfit=misfit(config, card, state, update, share, fit, critic),
        sampling=samples * (math.ceil(rows / live) * mean * decode + prefill),
        tail=samples * (budget - mean) * decode_last,
        training=work / gpus / (MFU * card.flops),
        links=links_seconds(config, shape, gpus, tokens),
        steps=config["steps"],
    )


def episode(config: Mapping[str, Any]) -> tuple[int, int]:
    """(turns of a response, tokens that the policy says in them), at most; one turn outside environments."""
    environment, budget = config["environment"], config["sampling"]["max_tokens"]
    turns = environment["turns"] if environment["make"] else 1
    return turns, min(budget, turns * (environment.get("turn_tokens") or budget))


def seen(config: Mapping[str, Any], shape: Shape) -> tuple[int, int]:
    """(patches, tokens) of an image of a question; 0 without images. InputError for a model that sees none."""
    questions = config["questions"]
    rows = questions.get("rows") or {}
    if rows.get("city"):
        size = (rows["pixels"], rows["pixels"])
    elif "suits" in rows or "height" in rows:
        size = (rows["cards"] * COLUMN * rows["scale"], rows["height"] * rows["scale"])
    elif questions.get("images"):
        size = IMAGE
    else:
        return 0, 0
    if shape.tower is None:
        raise InputError(
            "questions", questions["name"], "has images, and the model sees none; choose a model that does"
        )
    return shape.tower.patches(*size), shape.tower.tokens(*size)


def shows_again(config: Mapping[str, Any]) -> bool:
    """Whether each observation shows an image: of several tries (conf/environment/tries.yaml) only one that asks again does."""
    turn = (config["environment"]["make"] or {}).get("turn")
    return turn is None or QUESTION in turn


def links_seconds(config: Mapping[str, Any], shape: Shape, gpus: int, tokens: float) -> float:
    """Seconds that a step spends on communication between GPUs."""
    learner = config["learner"]
    stage = learner.get("stage", 0)
    ways = 1 if stage >= 2 else 2  # reduced, and without ZeRO-2 shared again
    gradients = 4 * shape.parameters * config["updates"] * config["epochs"] * ways
    micro = max(1.0, tokens / gpus / learner["micro_tokens"])
    passes = (2 + bool(learner["gradient_checkpointing"])) * micro if stage == 3 else 0.0
    weights = 2 * shape.parameters * (passes + 1)
    return (gradients + weights) * (gpus - 1) / gpus / (NODE_LINK if gpus <= NODE else NETWORK)


def learner_gb(
    learner: Mapping[str, Any], shape: Shape, gpus: int, reference: bool, vision: str = "frozen"
) -> tuple[float, float]:
    """(between updates, at most in an update), GB of one GPU: bytes of a parameter as in zero/models/load.py and ZeRO (arXiv
    1910.02054), and the activations of a micro-batch."""
    stage, lora = learner.get("stage", 0), learner.get("lora")
    trained = shape.adapters(lora["rank"]) if lora else shape.decoder if vision == "frozen" else shape.parameters
    optimizer_shards, gradient_shards, weight_shards = (gpus if stage >= minimum else 1 for minimum in (1, 2, 3))
    if stage:
        weights, gradients, masters = 2 / weight_shards, 4 / gradient_shards, 12 / optimizer_shards
        masters = 0.0 if learner.get("offload_optimizer") else masters
        weights = 0.0 if learner.get("offload_parameters") else weights
        copies = 2.0 * (stage == 3) * 2 * 1e9 / shape.parameters  # two gathered layers and their prefetch: about 2 GB
    else:
        mixed = learner["precision"] != "float32"  # auto: on a GPU that is bfloat16
        weights, gradients, masters, copies = 4.0, 4.0, 8.0, 2.0 * mixed
    # a model with adapters is its own reference without them
    copied = reference and not lora and not learner["reference_offload"]
    resident = (weights + copied * 2 / weight_shards) * shape.parameters + masters * trained
    update = resident + gradients * trained + copies * shape.parameters
    per_token = shape.hidden * 2 * (2 * shape.layers + 34 if learner["gradient_checkpointing"] else 34 * shape.layers)
    chunk = 1024 * shape.vocabulary * 4 * 3  # logits of a chunk of the head, their softmax and gradient
    activations = (learner["micro_tokens"] * per_token + chunk) / GB
    return resident / GB, update / GB + activations


def critic_gb(critic: Any, shape: Shape) -> float:
    """A learned critic is a second model of the same size, in float32, not sharded."""
    return 16 * shape.parameters / GB if isinstance(critic, Mapping) and "optimizer" in critic else 0.0


def host_gb(config: Mapping[str, Any], shape: Shape, gpus: int) -> float:
    """CPU memory that the ranks of a node take: each loads the model at the start, and holds what is offloaded."""
    learner, ranks = config["learner"], min(gpus, NODE)
    models = 2 if critic_gb(config["algo"]["critic"], shape) else 1
    offloaded = 12 / gpus * bool(learner.get("offload_optimizer")) + 2 / gpus * bool(learner.get("offload_parameters"))
    offloaded += 4.0 * bool(learner["reference_offload"] and config["algo"]["beta"])
    return ranks * shape.parameters * (4 * models + offloaded) / GB


def engine_gb(rollout: Mapping[str, Any], shape: Shape, card: Card) -> tuple[float, int]:
    """(GB that the engine takes of a GPU, tensor-parallel size)."""
    inner = rollout.get("engine") or rollout
    if "memory" in inner:
        return inner["memory"] * card.memory, inner["tensor_parallel"]
    if inner.get("url") is not None or "transport" in inner:
        return 0.0, 1  # on other machines
    return (4 * shape.parameters + inner.get("max_rows", 256) * 1000 * shape.cached) / GB, 1


def rows_that_fit(share: float, shape: Shape, parallel: int, context: int) -> int:
    """The number of whole responses that the engine's cache holds at once."""
    if share == 0.0:
        return 1 << 30
    free = share * GB - 2 * shape.parameters / parallel
    return max(0, int(free * parallel / (context * shape.cached)))


def decode_seconds(shape: Shape, card: Card, rows: int, context: float, parallel: int) -> float:
    """Seconds to decode one token of each of `rows` responses."""
    read = 2 * shape.decoder / parallel + rows * context * shape.cached / parallel
    return max(read / (DECODING * card.bandwidth), 2 * shape.decoder * rows / parallel / card.flops)


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

"""What a single setting may be, known before anything is built: its range, its type, the package that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import isfinite
from typing import Any

from zero.errors import InputError

LARGEST = 2**63 - 1
_positive = (lambda v: v > 0, "must be above 0")
_natural = (lambda v: v >= 0, "must be 0 or more")
_share = (lambda v: 0 <= v <= 1, "must lie between 0 and 1")
# What a number may be, for settings whose default does not say it. Types are those of the defaults.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        "steps prompts group_size updates epochs threads n sampling.max_tokens evaluation.n evaluation.max_tokens "
        "algo.correction.cap algo.largest_advantage algo.critic.clip algo.critic.samples algo.critic.every "
        "algo.critic.micro_tokens algo.critic.optim.lr learner.lora.rank learner.lora.alpha rollout.tries rollout.least "
        "optim.lr learner.micro_tokens rollout.max_rows rollout.batched_tokens rollout.cache_gib rollout.tensor_parallel "
        "rollout.timeout rollout.concurrency benchmarks.limit at_once checkpoint.keep model.context tracker.lens_every "
        "length sequences micro_sequences log_every tokenizer.size tokenizer.documents warmup".split(),
        _positive,
    ),
    **dict.fromkeys(
        "seed rollout.retries canary.every evaluation.every checkpoint.every samples.every samples.groups "
        "sampling.temperature sampling.top_k evaluation.temperature optim.weight_decay optim.clip optim.warmup "
        "algo.refills algo.entropy algo.beta algo.surrogate.low algo.surrogate.high clip".split(),
        _natural,
    ),
    "sampling.top_p": (lambda v: 0 < v <= 1, "must be above 0 and at most 1"),
    "optim.floor": _share,
    "floor": _share,
    "decay_from": (lambda v: 0 <= v < 1, "must be 0 or more and below 1"),
    **dict.fromkeys(
        ("dtype", "model.dtype"),
        (lambda v: v in ("float32", "bfloat16", "float16"), "must be float32, bfloat16 or float16"),
    ),
    "algo.kl_in": (lambda v: v in ("loss", "reward"), "must be loss or reward"),
    "algo.credit.gamma": _share,
    "algo.credit.lam": _share,
    "optim.schedule": (lambda v: v in ("constant", "linear", "cosine"), "must be constant, linear or cosine"),
    **dict.fromkeys(
        ("learner.precision", "rollout.precision"),
        (lambda v: v in ("float32", "bfloat16", "auto"), "must be float32, bfloat16 or auto"),
    ),
    "rollout.memory": (lambda v: 0 < v <= 1, "must be above 0 and at most 1"),
    "rollout.staleness": (lambda v: v in (0, 1), "must be 0 or 1"),
    "canary.tolerance": _positive,
    "reward.truncated": (lambda v: v in ("incorrect", "grade"), "must be incorrect or grade"),
}


# What conf/algo and conf/rollout name: advantages of every response whatever it earned; those that are 0 where all earn the
# same, beside those of algorithms with a `min_group`; the engine whose responses are reference solutions
IMITATING, COMPARING = ("zero.objective.every_response",), ("zero.objective.batch_whitened",)
SOLUTIONS = "zero.rollout.gold.GoldEngine"

# Settings that may be null although their default is a value, and those under which a user may add names of his own
NULLABLE = (
    "run_dir",
    "model.context",
    "model.dtype",
    "model.revision",
    "benchmarks.limit",
    "algo.critic.clip",
    "algo.critic.separator",
    "corpus.tokens",
    "corpus.epochs",
    "corpus.stages.text.tokens",
    "corpus.stages.questions.epochs",
)
OPEN = (
    "algo.correction",
    "algo.surrogate.",
    "reward.parts.",
    "benchmarks.sets.",
    "questions.parts.",
    "questions.where",
    "questions.hub.",
    "corpus.stages.",
    "rollout.extra",
)

# Parts that need a package which is no dependency of ours: the package, and our extra that brings it
EXTRAS = {
    "zero.rollout.vllm.": ("vllm", "vllm"),
    "zero.learner.deepspeed.": ("deepspeed", "deepspeed"),
}


def check_value(key: str, value: Any, default: Any = None) -> None:
    """InputError if the value has not the default's type (None: any) or lies outside the setting's range."""
    _check_type(key, value, default)
    if isinstance(value, float) and not isfinite(value):
        raise InputError(key, value, "must be a finite number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(key, value, f"is too large for the machine's whole numbers; at most {LARGEST}")
    known = key.replace("rollout.engine.", "rollout.")  # an engine inside another
    if known in RANGES and value is not None and not RANGES[known][0](value):
        raise InputError(key, value, RANGES[known][1])


def check_installed(flat: Mapping[str, Any]) -> None:
    """InputError if a part of the config (flat dotted keys) needs a package that is not installed; nothing is imported."""
    for key, target in flat.items():
        for prefix, (package, extra) in EXTRAS.items():
            if key.endswith("_target_") and str(target).startswith(prefix) and find_spec(package) is None:
                group = key.removesuffix("._target_")
                raise InputError(group, extra, f"{package} is not installed: pip install 'r1-zero-suite[{extra}]'")


def _check_type(key: str, value: Any, default: Any) -> None:
    if default is None or default == "???" or (value is None and key in NULLABLE):
        return
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(type(default))
    right = kinds is None or (isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool))
    if isinstance(default, float) and isinstance(value, float | int) and value != value:
        right = False
    if not right:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(default)]
        raise InputError(key, value, f"must be {words}, like the default {default}")

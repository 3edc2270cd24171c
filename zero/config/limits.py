"""Checks of single settings before anything is built: limits, types, and the packages that they need.

The limits are in one table, in the order of the groups, and not beside the classes that they limit: the check runs before
torch is imported, and other code builds the same classes with other limits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import isfinite
from typing import Any, NamedTuple

from zero.errors import PASSWORD, InputError
from zero.paths import pip_install

INF = float("inf")
LARGEST = 2**63 - 1
MOST_ROWS = 10_000_000  # responses of a step: more is a typing error, and fits into no memory


class Limit(NamedTuple):
    """A condition on a value, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def one_of(*values: Any) -> Limit:
    """One of these values."""
    *most, last = map(str, values)
    return Limit(lambda value: value in values, f"must be {', '.join(most)} or {last}")


# More than a machine has any use for; the cells of a sweep are checked where it is submitted, which may have fewer cores.
MOST_THREADS = max(1024, 4 * (os.cpu_count() or 1))
POSITIVE = Limit(lambda value: value > 0, "must be above 0")
NOT_NEGATIVE = Limit(lambda value: value >= 0, "must be 0 or more")
SHARE = Limit(lambda value: 0 <= value <= 1, "must lie between 0 and 1")
SHARE_ABOVE_0 = Limit(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
SHARE_BELOW_1 = Limit(lambda value: 0 <= value < 1, "must be 0 or more and below 1")
FLOATS = one_of("float32", "bfloat16", "float16")
PRECISIONS = one_of("float32", "bfloat16", "auto")


def _under(group: str, **limits: Limit) -> dict[str, Limit]:
    return {f"{group}.{name}": limit for name, limit in limits.items()}


OPTIMIZER = {
    **dict.fromkeys(("weight_decay", "clip", "warmup"), NOT_NEGATIVE),
    "lr": POSITIVE,
    "floor": SHARE,
    "decay_from": SHARE_BELOW_1,
    "schedule": one_of("constant", "linear", "cosine", "wsd"),
}
# Limits of numbers and words, by group. Types are those of the defaults.
LIMITS: dict[str, Limit] = {
    **dict.fromkeys("steps prompts group_size updates epochs n at_once".split(), POSITIVE),
    "threads": Limit(
        lambda value: 0 < value <= MOST_THREADS, f"must be 1 to {MOST_THREADS}; 1 is fastest with several runs"
    ),
    "seed": NOT_NEGATIVE,
    "split": one_of("heldout", "train"),
    **_under("evaluation", every=NOT_NEGATIVE, n=POSITIVE, max_tokens=POSITIVE, temperature=NOT_NEGATIVE),
    **_under("checkpoint", every=NOT_NEGATIVE, keep=POSITIVE),
    **_under("samples", every=NOT_NEGATIVE, groups=NOT_NEGATIVE),
    **_under("sync_check", every=NOT_NEGATIVE, tolerance=POSITIVE),
    **_under("lens", every=NOT_NEGATIVE),
    **_under("benchmarks", limit=POSITIVE),
    **_under("curriculum", low=SHARE, high=SHARE, memory=SHARE, unseen=NOT_NEGATIVE),
    **_under("questions", weight_by=one_of("rows", "tokens")),
    **_under("model", context=POSITIVE, dtype=FLOATS, vision=one_of("frozen", "trained", "lora")),
    **_under("reward", truncated=one_of("incorrect", "grade")),
    **_under("environment", turns=POSITIVE, turn_tokens=POSITIVE, least=POSITIVE),
    **_under("environment.make", attempts=POSITIVE, turns=POSITIVE, tries=POSITIVE),
    **_under("sampling", max_tokens=POSITIVE, temperature=NOT_NEGATIVE, top_k=NOT_NEGATIVE, top_p=SHARE_ABOVE_0),
    **_under("algo", beta=NOT_NEGATIVE, kl_in=one_of("loss", "reward"), entropy=NOT_NEGATIVE),
    **_under("algo", advantage_clip=POSITIVE, resample_rounds=NOT_NEGATIVE),
    **_under("algo.surrogate", low=NOT_NEGATIVE, high=NOT_NEGATIVE),
    **_under("algo.correction", cap=POSITIVE),
    **_under("algo.estimator", gamma=SHARE, lam=SHARE),
    "algo.turn_advantage.gamma": SHARE,
    **_under("algo.critic", steps=one_of("token", "turn")),
    **_under("algo.critic", clip=POSITIVE, samples=POSITIVE, every=POSITIVE, micro_tokens=POSITIVE),
    **_under("optimizer", **OPTIMIZER),
    **_under("optimizer.others", lr=POSITIVE, weight_decay=NOT_NEGATIVE),
    **_under("algo.critic.optimizer", **OPTIMIZER),
    **_under("algo.critic.optimizer.others", lr=POSITIVE, weight_decay=NOT_NEGATIVE),
    **_under("learner", micro_tokens=POSITIVE, precision=PRECISIONS),
    **_under("learner.lora", rank=POSITIVE, alpha=POSITIVE),
    **_under("rollout", max_rows=POSITIVE, batched_tokens=POSITIVE, cache_gib=POSITIVE, precision=PRECISIONS),
    **_under("rollout", tensor_parallel=POSITIVE, memory=SHARE_ABOVE_0, staleness=one_of(0, 1)),
    **_under(
        "rollout", timeout=POSITIVE, concurrency=POSITIVE, retries=NOT_NEGATIVE, attempts=POSITIVE, least=POSITIVE
    ),
    # zero.pretrain
    **dict.fromkeys("length sequences micro_sequences log_every".split(), POSITIVE),
    **_under("tokenizer", size=POSITIVE, documents=POSITIVE),
    "dtype": FLOATS,
}

# Limits of lists, by the last word of the setting's name
LISTS: dict[str, Limit] = {
    "betas": Limit(
        lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
        "must be two numbers, each 0 or more and below 1, such as [0.9,0.95]",
    ),
    "k": Limit(
        lambda value: bool(value) and all(each >= 1 for each in value),
        "must be numbers of answers, each 1 or more, such as [1,8]",
    ),
    **dict.fromkeys(
        ("counts", "digits"),
        Limit(lambda value: bool(value) and min(value) > 0, "must be whole numbers above 0, such as [3,4]"),
    ),
}

# Advantages that ignore the reward; those that are 0 if all rewards are equal, besides those of algorithms with a `min_group`;
# the engine whose responses are reference solutions
IMITATING, COMPARING = ("zero.objective.ones",), ("zero.objective.batch_whitened",)
COMPARING_TURNS = ("zero.objective.turn_group_mean", "zero.objective.turn_leave_one_out")
SOLUTIONS = "zero.rollout.solutions.GoldEngine"
# Learners that cut all parameters into flat pieces, and the one optimizer that does not mind
CUTTING, ELEMENTWISE = "zero.learner.deepspeed.", "zero.learner.optimizer.adamw"

# Settings that may be null although their default is a value; and those under which users may add names of their own
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
    "environment.make.",
    "reward.terms.",
    "benchmarks.sets.",
    "questions.sources.",
    "questions.where",
    "questions.hub.",
    "questions.sandbox.",
    "curriculum.schedule",
    "curriculum.pools.",
    "questions.gym.config.",
    "corpus.stages.",
    "rollout.extra",
    "template.variables.",
)
# Types of settings that are null by default, by the last word of their names; a function is a mapping with `_target_`
OPTIONAL: dict[str, str] = {
    **dict.fromkeys("context limit tokens max_rows train turn_tokens".split(), "a whole number"),
    **dict.fromkeys("advantage_clip tolerance epochs cap lr weight_decay".split(), "a number"),
    **dict.fromkeys(
        "run_dir run name out path folder uri url sweep revision split config id answer_after images published model dtype".split(),
        "text",
    ),
    **dict.fromkeys("correction estimator turn_advantage critic row lora".split(), "a function"),
    **dict.fromkeys("where columns variables".split(), "a mapping"),
}
EITHER = ("targets", "target", "heldout", "train")  # last words of settings that may be of several types
EITHER_ENDS = (".gym.name",)  # and the ends of others

# Components that need a package which is no dependency of ours: the package, and our extra that installs it
EXTRAS = {
    "zero.rollout.vllm.": ("vllm", "vllm"),
    "zero.learner.deepspeed.": ("deepspeed", "deepspeed"),
    "zero.grading.gym.": ("reasoning_gym", "gym"),
}


SECRETS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the variable of key_env, instead"


def check_value(key: str, value: Any, default: Any = None) -> None:
    """InputError if the value does not have the default's type (None: that in OPTIONAL) or is beyond the setting's limits."""
    _check_type(key, value, default)
    if isinstance(value, float) and not isfinite(value):
        raise InputError(key, value, "must be a finite number")
    if isinstance(value, int if not isinstance(default, int) else int | float) and abs(value) > LARGEST:
        raise InputError(key, value, f"is too large for the machine's whole numbers; at most {LARGEST}")
    if isinstance(value, str) and PASSWORD.search(value):
        remedy = "names a user with a password, which would lie in every file of the run; " + SECRETS
        raise InputError(key, value, remedy)
    known = key.replace("rollout.engine.", "rollout.")  # an engine inside another
    if known in LIMITS and value is not None:
        _check_limit(key, value, LIMITS[known])


def check_tree(key: str, value: Any, default: Any, unknown: Callable[[str, Any], InputError]) -> None:
    """InputError where a config differs in shape or type from `default`, the config of its choices alone; `unknown(key, value)`
    makes the error for a setting that does not exist."""
    if value == "???" or (default == "???" and value in (None, "")):
        raise InputError(key, value, f"is required; add {key}=VALUE")
    if isinstance(default, Mapping) and default:
        if not isinstance(value, Mapping):
            if value is None and (key in NULLABLE or key.startswith(OPEN)):
                return
            first = next((name for name in default if not name.startswith("_")), next(iter(default)))
            raise InputError(
                key, typed(value), f"holds settings of its own; give one of them, such as {key}.{first}=..."
            )
        for name in default.keys() - value.keys():
            below = f"{key}.{name}" if key else name
            if not below.startswith(OPEN):
                raise InputError(f"~{below}", "", "is needed and cannot be taken away; give it another value")
        for name, entry in value.items():
            below = f"{key}.{name}" if key else str(name)
            if name in default:
                check_tree(below, entry, default[name], unknown)
            elif below.startswith(OPEN):
                check_tree(below, entry, None, unknown)
            else:
                raise unknown(below, entry)
    elif isinstance(default, list):
        if not isinstance(value, list):
            raise InputError(key, typed(value), f"is a list; {key}=[{typed(value) if value else 'VALUE'}]")
        sample = default[0] if default else ""
        for i, item in enumerate(value):
            if isinstance(item, str | int | float | None) or isinstance(sample, Mapping | list):
                check_tree(f"{key}.{i}", item, sample, unknown)
        check_list(key, value)
    elif isinstance(value, Mapping | list):
        if isinstance(default, Mapping) and not isinstance(value, Mapping):
            raise InputError(key, value, f"must be a mapping: '{key}={{NAME: VALUE}}'")
        if default is not None and not isinstance(default, Mapping) and not _of_any_type(key):
            kind = "several settings" if isinstance(value, Mapping) else "a list"
            raise InputError(key, value, f"must be {TYPES.get(type(default), 'one value')}, not {kind}")
        if default is None:
            _check_optional(key, value)
        for name, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            check_tree(f"{key}.{name}", entry, None, unknown)
    else:
        check_value(key, value, default)


def check_list(key: str, value: Any) -> None:
    """InputError if a list does not have the length or the numbers that its setting needs."""
    if (last := key.rpartition(".")[2]) in LISTS and isinstance(value, list):
        _check_limit(key, value, LISTS[last])


def check_installed(flat: Mapping[str, Any]) -> None:
    """InputError if a component of the config (flat dotted keys) needs a package that is not installed; imports nothing."""
    for key, target in flat.items():
        for prefix, (package, extra) in EXTRAS.items():
            if key.endswith("_target_") and str(target).startswith(prefix) and find_spec(package) is None:
                group = key.removesuffix("._target_")
                raise InputError(group, extra, f"{package} is not installed: {pip_install(extra)}")


def check_turn_rewards(config: Mapping[str, Any]) -> None:
    """InputError for a reward of what an environment gives where there is none: it would be 0 for every response."""
    for name, term in (config["reward"].get("terms") or {}).items():
        if str(term.get("function")) == "zero.grading.rewards.episode_return" and not config["environment"]["make"]:
            remedy = "sums what an environment gives for turns; choose one of environment=..., or another reward"
            raise InputError(f"reward.terms.{name}", term["function"], remedy)


def check_turn_credit(config: Mapping[str, Any]) -> None:
    """InputError for a credit of turns where there are none, or where nothing would come of it."""
    algo, key = config["algo"], "algo.turn_advantage"
    if algo["turn_advantage"] is None:
        return
    name = str(algo["turn_advantage"].get("_target_", ""))
    if not config["environment"]["make"]:
        raise InputError(
            key, name, "gives credit to the turns of episodes; choose one of environment=..., or leave it out"
        )
    if algo["estimator"]:
        raise InputError(key, name, "this algorithm has an estimator, which gives the credit; leave one of them out")
    if config["group_size"] == 1 and name in COMPARING_TURNS:
        raise InputError("group_size", 1, f"{key} compares siblings; it must be at least 2")


def check_vision(vision: str, adapters: bool) -> None:
    """InputError for a vision tower that cannot learn as it should beside what the learner trains."""
    if vision == ("trained" if adapters else "lora"):
        why, kind = ("trains adapters alone", "lora") if adapters else ("is what adapters come with", "trained")
        raise InputError("model.vision", vision, f"learner=lora {why}; take {kind} or frozen")


TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _of_any_type(key: str) -> bool:
    return key.rpartition(".")[2] in EITHER or key.endswith(EITHER_ENDS)


def typed(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_limit(key: str, value: Any, limit: Limit) -> None:
    try:
        holds = limit.holds(value)
    except TypeError:
        holds = False
    if not holds:
        raise InputError(key, typed(value), limit.words)


def _check_type(key: str, value: Any, default: Any) -> None:
    if default is None:
        return _check_optional(key, value)
    if default == "???" or (value is None and key in NULLABLE) or _of_any_type(key):
        return None
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(type(default))
    right = kinds is None or (isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool))
    if isinstance(default, float) and isinstance(value, float | int) and value != value:
        right = False
    if not right:
        raise InputError(key, typed(value), f"must be {TYPES[type(default)]}, like the default {typed(default)}")
    return None


def _check_optional(key: str, value: Any) -> None:
    """Check a setting that is null by default, or one that the user has added."""
    last = key.rpartition(".")[2]
    kind = OPTIONAL.get(last, "")
    if value is None or not kind or _of_any_type(key) or (last == "name" and key != "name"):
        return
    if key.startswith(OPEN) and key not in OPEN:  # the user's own
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    fits = {
        "a whole number": number and isinstance(value, int),
        "a number": number and abs(value) != INF,
        "text": isinstance(value, str),
        "a function": isinstance(value, Mapping) and "_target_" in value,
        "a mapping": isinstance(value, Mapping),
    }
    if not fits[kind]:
        words = {
            "a function": f"must be null or a function: '{key}={{_target_: MODULE.FUNCTION, _partial_: true}}'",
            "a mapping": f"must be null or a mapping: '{key}={{NAME: VALUE}}'",
        }
        raise InputError(key, typed(value), words.get(kind, f"must be null or {kind}"))

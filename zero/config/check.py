"""From a command line's settings to a checked, resolved config, and from config nodes to objects.

Impossible values are refused before torch is imported. zero/config/overrides.py parses what was typed,
zero/config/compose.py composes it. Used by the entry points only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from zero.config import limits
from zero.config.compose import (
    canonical,
    choices_among,
    compose_config,
    composing,
    defaults,
    model_folder,
    no_such,
    plain,
    refuse_no_options,
    select,
)
from zero.config.functions import check_partials
from zero.config.identity import flatten
from zero.config.naming import AXES, run_name
from zero.config.overrides import (
    DOTTED,
    TERMS,
    cells,
    is_choice,
    key_of,
    options_of,
    parsed,
    plain_value,
    quoted,
    tidied,
)
from zero.config.suggest import nearest_names
from zero.errors import Broken, InputError
from zero.files import write_atomically
from zero.paths import CONF, conf_file

__all__ = [
    "AXES",
    "CONF",
    "canonical",
    "cells",
    "check",
    "compose_config",
    "model_folder",
    "parsed",
    "quoted",
    "run_name",
    "tidied",
]
LIGHT = ("template", "reward", "curriculum", "environment")  # parts of a run that need no torch
_WRONG_CALL = re.compile(r"unexpected keyword argument|missing \d+ required|takes .* positional|multiple values for")


def check(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config NAME under these overrides, as plain containers. InputError for unknown keys, wrong types and impossible
    values."""
    typed = canonical(name, overrides)
    refuse_no_options(name, typed)
    config = plain(compose_config(name, typed))
    base, flat = defaults(name, choices_among(typed)), flatten(config)
    values = {key_of(text): plain_value(text) for text in tidied(overrides, several=False) if not is_choice(text)}

    def unknown(key: str, value: Any) -> InputError:
        word = next((word for word in values if f"{key}.".startswith(f"{word}.") or word.startswith(f"{key}.")), key)
        return InputError(word, values.get(word, value), no_such(name, word, values.get(word, ""), base))

    try:
        for key in values:  # typed settings first: they are to blame, not the settings that refer to them
            if key in flat and (default := select(base, key)) is not None:
                limits.check_tree(key, flat[key], default, unknown)
        limits.check_tree("", config, base, unknown)
    except InputError as error:
        if error.key in values:
            raise InputError(error.key, values[error.key], error.remedy) from None
        raise
    check_reward(config.get("reward") or {})
    check_together(config)
    return config


def check_reward(reward: Mapping[str, Any]) -> None:
    """InputError unless each term of the reward has a function's dotted path and a weight; nothing is imported."""
    terms = reward.get("terms")
    if not isinstance(terms, Mapping):
        return
    for name, term in terms.items():
        key = f"{TERMS}{name}"
        if not isinstance(term, Mapping) or "function" not in term:
            setting, value = next(iter(term.items()), ("", "{}")) if isinstance(term, Mapping) else ("", term)
            defined = [known for known, each in terms.items() if isinstance(each, Mapping) and "function" in each]
            close = nearest_names(name, defined)[:1] if setting else []
            hint = f"; did you mean {TERMS}{close[0]}.{setting}?" if close else ""
            remedy = f"no such term of this reward{hint}; {key}.function=MODULE.FUNCTION adds one"
            raise InputError(f"{key}.{setting}" if setting else key, limits.typed(value), remedy)
        weight, function = term.get("weight", 1.0), term["function"]
        if not isinstance(function, str) or not DOTTED.fullmatch(function):
            remedy = f"must be the dotted path of a function: {key}.function=MODULE.FUNCTION"
            raise InputError(f"{key}.function", limits.typed(function), remedy)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < limits.INF:
            raise InputError(f"{key}.weight", limits.typed(weight), "must be a finite number")


def check_together(config: Mapping[str, Any]) -> None:
    """InputError for settings that are possible alone, but not together."""
    if "algo" in config:
        fewest, group = config["algo"]["min_group"], config["group_size"]
        if group < fewest:
            raise InputError("group_size", group, f"this algorithm compares siblings; it must be at least {fewest}")
        rows = config["prompts"] * group
        if rows > limits.MOST_ROWS:
            key = "prompts" if config["prompts"] >= group else "group_size"
            raise InputError(key, config[key], f"makes {rows} responses a step; at most {limits.MOST_ROWS}")
        if rows % config["updates"]:
            raise InputError("updates", config["updates"], f"must divide the {rows} responses of a step")
        if not takes_weights(config["rollout"]):
            remedy = "takes no weights, so it cannot sample for training: python -m zero.evaluate alone, or rollout=vllm_server"
            raise InputError("rollout", _engine(config["rollout"]), remedy)
        if config["rollout"].get("staleness") and config["algo"]["resample_rounds"]:
            remedy = "this algorithm resamples after grading, so no step ahead; algo.resample_rounds=0, or staleness 0"
            raise InputError("rollout.staleness", config["rollout"]["staleness"], remedy)
        limits.check_turn_rewards(config)
        limits.check_turn_credit(config)
        if config["sampling"]["temperature"] == 0:
            raise InputError("sampling.temperature", 0, "training samples must differ; it must be above 0")
        for key, off in (("top_p", 1.0), ("top_k", 0)):
            if config["sampling"][key] != off and renormalizes(config["rollout"]):
                remedy = "this engine does not say how much that keeps, and the learner must know"
                remedy += f"; set it to {off:g}, or take rollout=native"
                raise InputError(f"sampling.{key}", config["sampling"][key], remedy)
        check_optimizer(config["optimizer"], config["learner"])
        limits.check_vision(config["model"]["vision"], bool(config["learner"].get("lora")))
        check_budgets(config["questions"].get("sources"), config["sampling"]["max_tokens"])
    questions = config.get("questions") or {}
    hub = questions.get("hub")
    if hub is not None and not (questions["path"] or hub["id"]):
        raise InputError(
            "questions.path", "null", "is required; give questions.path=FILE or questions.hub.id=OWNER/NAME"
        )
    if config["model"].get("path") == "":
        raise InputError("model.path", "", "is empty; give a Hugging Face model folder or a hub id")
    path = str(config["model"].get("path", ""))
    place = Path(path).expanduser()
    if place.is_file() or (path.startswith(("/", ".", "~")) and not place.is_dir()):
        reason = "is a file" if place.is_file() else "no such folder"
        raise InputError("model.path", path, f"{reason}; give a Hugging Face model folder or a hub id")
    folder = Path(model_folder(path))
    if folder.is_dir() and path and not (folder / "config.json").is_file():
        raise InputError(
            "model.path", path, "holds no model (no config.json); give a Hugging Face model folder or a hub id"
        )
    for k in config.get("k", ()):
        if k > config["n"] or k < 1:
            raise InputError("k", k, f"pass@k needs 1 <= k <= n; n is {config['n']}")


def check_budgets(sources: Mapping[str, Any] | None, max_tokens: int) -> None:
    """InputError for a source of a mixture with a larger token budget than the run's, which is the largest of all."""
    for name, source in (sources or {}).items():
        own = source.get("max_tokens") if isinstance(source, Mapping) else None
        if isinstance(own, int) and own > max_tokens:
            remedy = f"is more than sampling.max_tokens, {max_tokens}, the largest budget of a run; raise that one too"
            raise InputError(f"questions.sources.{name}.max_tokens", own, remedy)


def check_optimizer(optimizer: Mapping[str, Any], learner: Mapping[str, Any]) -> None:
    """InputError for an optimizer that a learner which cuts parameters into flat pieces cannot have."""
    if not str(learner["_target_"]).startswith(limits.CUTTING):
        return
    if (make := optimizer["make"]["_target_"]) != limits.ELEMENTWISE:
        remedy = "DeepSpeed cuts matrices into flat pieces, and this optimizer needs them whole; optimizer=adamw, or learner=torch"
        raise InputError("optimizer", make.rpartition(".")[2], remedy)
    for name, value in optimizer["others"].items():
        if value is not None:
            remedy = "DeepSpeed's pieces hold parameters of every kind, so all share one setting; leave it out, or learner=torch"
            raise InputError(f"optimizer.others.{name}", value, remedy)


def check_imitation(config: Mapping[str, Any]) -> None:
    """InputError if a config to be run imitates every response but samples them, or compares reference solutions, which all
    have the same reward."""
    if "algo" not in config:
        return
    algo, rollout = config["algo"], config["rollout"]
    imitates = algo["advantage"]["_target_"] in limits.IMITATING
    engines = [rollout["_target_"], (rollout.get("engine") or {}).get("_target_", "")]
    reads = limits.SOLUTIONS in engines
    if imitates and not reads and all(name.startswith("zero.rollout.") for name in filter(None, engines)):
        remedy = (
            "this algorithm imitates every response, right or wrong: add rollout=gold (solutions), or take algo=rft"
        )
        raise InputError("rollout", _engine(rollout), remedy)
    if imitates and reads and config["sampling"]["temperature"] != 1:
        remedy = "solutions are learned as they are, at temperature 1; leave it out (evaluation.temperature is another)"
        raise InputError("sampling.temperature", config["sampling"]["temperature"], remedy)
    compares = algo["min_group"] > 1 or algo["advantage"]["_target_"] in limits.COMPARING
    if reads and (compares or algo["critic"]):
        trait = "compares responses" if compares else "has a critic to predict that"
        remedy = f"reference solutions all earn the same, so an algorithm that {trait} learns nothing; algo=sft"
        raise InputError("rollout", _engine(rollout), remedy)


def _engine(rollout: Mapping[str, Any]) -> str:
    """The name of this engine's option in conf/rollout, else of its class."""
    line = f"_target_: {rollout['_target_']}\n"
    options = [option for option in options_of("rollout") if line in conf_file(f"rollout/{option}.yaml").read_text()]
    return options[0] if options else str(rollout["_target_"]).rpartition(".")[2]


def takes_weights(rollout: Mapping[str, Any]) -> bool:
    """Whether an engine samples with the learner's weights; an engine around another (`rollout.engine`) does if that one does."""
    inner = rollout.get("engine")
    return bool(rollout.get("takes_weights", True)) and (inner is None or takes_weights(inner))


def renormalizes(rollout: Mapping[str, Any]) -> bool:
    """Whether an engine's log-probabilities are renormalized after top-p and top-k, by an amount that it does not report."""
    inner = rollout.get("engine")
    return bool(rollout.get("renormalizes", False)) or (inner is not None and renormalizes(inner))


def without_facts(rollout: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's settings without those that only describe it to this check."""
    settings = {key: value for key, value in rollout.items() if key != "renormalizes"}
    return settings | ({"engine": without_facts(settings["engine"])} if settings.get("engine") else {})


def instantiate(config: Any, key: str = "") -> Any:
    """Hydra's instantiate with plain containers. InputErrors from inside are raised unwrapped, and a dotted path that cannot be
    imported becomes one. `key` is the config's place, for errors."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build

    check_partials(config, key)
    getLogger("hydra.utils").setLevel(CRITICAL)  # it logs the errors that it raises
    try:
        return build(_plain_functions(config), _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError | Broken):
                raise cause from None
            cause = cause.__cause__
        text = str(error)
        lost = re.search(r"Error locating target '([^']*)'|Error loading '([^']*)'", text.replace("\\'", "'"))
        place = re.search(r"full_key: (\S+)", text)
        where = ".".join(word for word in (key, place[1] if place else "") if word) or "config"
        if lost:
            remedy = "nothing of that name can be imported; give the dotted path of a function or class"
            raise InputError(f"{where}._target_", lost[1] or lost[2], remedy) from None
        if uncallable := re.search(r"(?:Expected a callable target, got '.*'|non-callable) of type '(\w+)'", text):
            target = _target(config, place[1] if place else "")
            raise InputError(f"{where}._target_", target, f"is no function but of type {uncallable[1]}") from None
        if isinstance(error.__cause__, TypeError) and "unexpected keyword argument 'where'" in text.replace("\\'", "'"):
            given = select(config, f"{place[1]}.where" if place else "where")
            remedy = (
                "these questions have no columns to choose rows by; path, low and high are of questions.where alone"
            )
            raise InputError(f"{where}.where", given, remedy) from None
        if isinstance(error.__cause__, TypeError) and _WRONG_CALL.search(str(error.__cause__)):
            hint = "; add _partial_: true if it is a function to be called later" if "missing" in text else ""
            raise InputError(where, _target(config, place[1] if place else ""), f"{error.__cause__}{hint}") from None
        raise


def _plain_functions(config: Any) -> Any:
    """The config with get_method in place of each partial without settings, which would check its target at every call."""
    if isinstance(config, Mapping):
        if config.get("_recursive_") is False:
            return config
        if config.keys() == {"_target_", "_partial_"} and config["_partial_"] is True:
            return {"_target_": "hydra.utils.get_method", "path": config["_target_"]}
        return {key: _plain_functions(value) for key, value in config.items()}
    return [_plain_functions(value) for value in config] if isinstance(config, list) else config


def _target(config: Any, place: str) -> str:
    """The _target_ at a place of a config."""
    chosen = select(config, place) if place else config
    return str(chosen.get("_target_", "")) if isinstance(chosen, Mapping) else str(chosen)


def options(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of conf/GROUP, by name, resolved within this checked config. Does not disturb a running Hydra task."""
    resolved = {}
    with composing():
        for name in options_of(group):
            # An option that overrides other groups needs the whole config
            whole = "override /" in conf_file(f"{group}/{name}.yaml").read_text()
            composed = compose("train", [f"{group}={name}"]) if whole else compose(f"{group}/{name}")
            option = OmegaConf.create({**config, group: composed[group]})
            resolved[name] = plain(option)[group]
    return resolved


def refuse_unwritable(path: Path, key: str = "run_dir") -> None:
    """InputError if a folder cannot be created or written to; creates nothing."""
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(key, path, f"cannot be written ({existing}); choose another")


def writable_folder(path: Path) -> Path:
    """Create the folder and test that files can be written there; InputError on run_dir if not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise InputError("run_dir", path, f"cannot be written ({error.strerror}); choose another") from error
    return path


def keep(config: Mapping[str, Any], path: Path) -> None:
    """Write a config as yaml, atomically."""
    write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def read_config(path: Path) -> Any:
    """What `keep` wrote. OSError or an error of OmegaConf or yaml if it cannot be read."""
    return OmegaConf.to_container(OmegaConf.load(path))


def choices_of_run() -> tuple[dict[str, str], list[str]]:
    """Inside a Hydra task: the option chosen for each group, and the overrides as typed."""
    hydra = HydraConfig.get()
    return {k: str(v) for k, v in hydra.runtime.choices.items()}, list(hydra.overrides.task)

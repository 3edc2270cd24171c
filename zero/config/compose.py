"""Compose configs from conf/ with Hydra: a config, its defaults, its options, and Hydra's errors in one line."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from zero.config import limits, recipes
from zero.config.aliases import TARGETS
from zero.config.identity import flatten
from zero.config.overrides import in_quotes, is_choice, key_of, options_of, parsed, pieces, plain_value, tidied
from zero.config.suggest import nearest, nearest_names, suggestion
from zero.errors import InputError
from zero.paths import CONF, ROOT, conf_file

ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError)  # of a composition
ROOTS = ("train", "evaluate", "pretrain")  # the configs of our commands
MANY = 24  # options that a message lists
MERGED = "benchmarks"  # the group of which several options may be taken at once


def model_folder(path: str) -> str:
    """The folder of a model path, absolute or within the repository (the embedded models); a hub id is returned as it is."""
    for candidate in (Path(path).expanduser(), ROOT / path):
        if candidate.is_dir():
            return str(candidate)
    return path


OmegaConf.register_new_resolver(
    "recipe", lambda path, key: recipes.recipe_setting(path and model_folder(str(path)), key), replace=True
)


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config `conf/NAME.yaml` under command-line overrides. InputError names the problem and the nearest names."""
    typed = [text for text in tidied(overrides, several=False) if not key_of(text).startswith("hydra")]
    for text in typed:
        if parsed(text).is_sweep_override():
            raise InputError(key_of(text), text.partition("=")[2], "several values are a sweep; add -m")
    try:
        config, _ = unresolved(name, typed)
        OmegaConf.resolve(config)
    except ERRORS as error:
        raise explained(name, typed, error) from error
    return config


def unresolved(name: str, typed: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config NAME under tidy overrides with its interpolations, and the option of each group. The composition of the
    choices alone is cached; Hydra's own function applies the other overrides to it, in a sixth of the time."""
    base = _composed(name, tuple(text for text in typed if is_choice(text)))
    config = copy.deepcopy(base.config)
    ConfigLoaderImpl._apply_overrides_to_config([parsed(text) for text in typed if not is_choice(text)], config)
    return config, base.choices


@contextmanager
def composing() -> Iterator[None]:
    """Initialize Hydra with conf/ inside, and restore a running Hydra task after."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if running is not None:
            GlobalHydra.instance().initialize(running)


def canonical(name: str, overrides: Sequence[str]) -> list[str]:
    """Each override, tidy, with its value converted to the setting's type: 3e3 for a whole number to 3000, k=2 for a list to
    [2]."""
    typed = tidied(overrides, several=False)
    try:
        base = defaults(name, choices_among(typed))
    except InputError:  # a choice is wrong; the check says so
        return typed
    return [text if is_choice(text) else _as_its_type(text, base) for text in typed]


def _as_its_type(text: str, base: Mapping[str, Any]) -> str:
    head, equals, value = text.partition("=")
    key = key_of(text)
    default = select(base, key)
    words = default is None and limits.OPTIONAL.get(key.rpartition(".")[2]) == "text" and key in flatten(base)
    if not equals or (default is None and not words) or default == "???" or key.rpartition(".")[2] in limits.EITHER:
        return text
    return head + equals + ",".join(_one_value(piece, default) for piece in pieces(value))


def _one_value(text: str, default: Any) -> str:
    """One value, of a sweep or alone, converted to the default's type."""
    value = parsed(f"x={text}").value()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, list):
        return f"[{text}]" if isinstance(value, int | float) or (isinstance(value, str) and value) else text
    if isinstance(default, bool) or not number:
        return in_quotes(text.strip()) if isinstance(default, str | None) and isinstance(value, bool) else text
    if isinstance(default, int) and isinstance(value, float) and value.is_integer() and abs(value) < limits.LARGEST:
        return str(int(value))
    if isinstance(default, float) and isinstance(value, int) and abs(value) < limits.LARGEST:
        return str(float(value))
    return in_quotes(text.strip()) if isinstance(default, str | None) else text


@dataclass(frozen=True)
class Composed:
    """A config under choices of options alone: Hydra's object, resolved, with interpolations, and the option of each group.
    Read-only."""

    config: DictConfig
    resolved: dict[str, Any]
    raw: dict[str, Any]
    choices: dict[str, str]


@lru_cache(maxsize=256)
def _composed(name: str, choices: tuple[str, ...]) -> Composed:
    with composing():
        config = compose(name, overrides=list(choices), return_hydra_config=True)
    picked = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    raw: Any = OmegaConf.to_container(config, resolve=False)
    return Composed(config, _resolved(config, raw), raw, picked)


def _resolved(config: DictConfig, raw: Any) -> dict[str, Any]:
    """A config as plain containers; settings that refer to a required one (???) become ??? too."""
    try:
        return plain(config)
    except InterpolationToMissingValueError:
        placeholder = "<to be given>"
        filled = plain(OmegaConf.create(_replaced(raw, "???", placeholder)))
        return _replaced(filled, placeholder, "???")


def _replaced(value: Any, old: str, new: str) -> Any:
    """Nested containers with one text replaced wherever it is a whole value."""
    if isinstance(value, Mapping):
        return {key: _replaced(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, old, new) for inner in value]
    return new if value == old else value


def defaults(name: str, choices: Sequence[str] = (), raw: bool = False) -> dict[str, Any]:
    """The config NAME under choices of options alone, read-only. `raw`: with its interpolations."""
    try:
        composed = _composed(name, tuple(choices))
    except ERRORS as error:
        raise explained(name, choices, error) from error
    return composed.raw if raw else composed.resolved


def default_choices(name: str, choices: Sequence[str] = ()) -> dict[str, str]:
    """The option of each group of the config NAME, "None" where there is none."""
    return {
        key: value for key, value in _composed(name, tuple(choices)).choices.items() if not key.startswith("hydra/")
    }


def choices_among(overrides: Sequence[str]) -> list[str]:
    """The overrides that choose an option; of a sweep its first value."""
    chosen = [text for text in overrides if is_choice(text) and not text.startswith("~")]
    return [f"{head}={pieces(value)[0]}" for head, _, value in (text.partition("=") for text in chosen)]


@lru_cache(maxsize=8)
def groups_of(name: str) -> dict[str, tuple[str, ...]]:
    """The groups that a command line of NAME may choose from, with their options."""
    groups = [key for key in default_choices(name) if "@" not in key]
    groups += ["experiment", "hydra/launcher"] if "algo" in groups or "benchmarks" in groups else []
    groups += ["critic"] if "algo" in groups else []
    groups += ["questions"] if "corpus" in groups else []  # of corpus=questions
    return {group: options_of(group) for group in sorted(groups)}


def refuse_no_options(name: str, overrides: Sequence[str]) -> None:
    """InputError for an option that conf/ does not have, in one line instead of Hydra's many."""
    groups = groups_of(name)
    for text in overrides:
        if not is_choice(text):
            continue
        override, group = parsed(text), key_of(text)
        options, typed = options_of(group), plain_value(text)
        given = default_choices(name).get(group, "None")
        if override.is_sweep_override():
            raise InputError(group, typed, "several values are a sweep; add -m")
        value = override.value()
        if isinstance(value, list) and not any(option is not None for option in value):
            value = None  # no option, as null
        if group.startswith("hydra") or (group not in groups and override.package is None):
            known = {k: v for k, v in groups.items() if k != group}
            hint = suggestion(group, typed, [], known) or _of_another_command(name, group, typed)
            raise InputError(group, typed, f"is no choice of this command{hint}")
        if value is None and given == "None":
            raise InputError(group, typed or "null", "is what it is by itself; leave it out")
        if override.is_delete() or value is None:
            raise InputError(group, typed or "null", f"is needed; there are {', '.join(options)}")
        if isinstance(value, list) and group != MERGED:
            raise InputError(group, typed, f"takes one option; there are {', '.join(options)}")
        for option in value if isinstance(value, list) else [value]:
            if str(option) not in options:
                where = _instead(group, str(option)) or (nearest(str(option), options) if option != "" else "")
                listed = ", ".join(options) if len(options) <= MANY else f"{len(options)}, which --help lists"
                raise InputError(group, typed, f"no such option{where}; there are {listed}")


def _instead(group: str, value: str) -> str:
    """'; type ...' for a function, a file or an id given in place of an option's name, or ''."""
    path = "/" in value or re.search(r"\.(jsonl?|parquet|csv|tsv|txt)$", value)
    remedies = {
        "reward": f"reward.terms.mine.function={value}" if re.fullmatch(r"\w+(\.\w+)+", value) else "",
        "model": f"model=hf model.path={value}" if path else "",
        "questions": f"questions=file questions.path={value}" if path else "",
        "corpus": f"corpus=text corpus.path={value}" if path else "",
    }
    return f"; type {remedies[group]}" if remedies.get(group) else ""


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers, its interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def select(config: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for word in key.split("."):
        if isinstance(config, Mapping) and word in config:
            config = config[word]
        elif isinstance(config, list) and word.isdigit() and config:
            config = config[0]
        else:
            return None
    return config


def no_such(name: str, key: str, value: str, known: Mapping[str, Any]) -> str:
    """The remedy for a setting that the config NAME does not have; `known` is its config."""
    groups = {group: options for group, options in groups_of(name).items() if group != key}
    if key in groups_of(name) or key in flatten(known):
        return "no such setting; --help lists all"
    if isinstance(select(known, key), Mapping):
        return f"has no such setting; +{key}.NAME=VALUE adds one"
    benchmark = re.match(r"benchmarks\.sets\.(\w+)\.", key)
    if benchmark and benchmark[1] in options_of("benchmarks"):
        return f"is a setting of a benchmark that is not chosen here; add benchmarks={benchmark[1]}"
    if key.startswith(limits.OPEN):
        beside = [known_key for known_key in flatten(known) if known_key.rpartition(".")[0] == key.rpartition(".")[0]]
        close = nearest_names(key.rpartition(".")[2], [each.rpartition(".")[2] for each in beside])[:1]
        hint = f"did you mean {key.rpartition('.')[0]}.{close[0]}? " if close else ""
        return f"is new; {hint}+{key}=VALUE adds it"
    group, _, below = key.partition(".")
    first = below.partition(".")[0]
    # as a setting of its own, or as a choice in its defaults
    line = re.compile(rf"^{re.escape(first)}:|@{re.escape(first)}:", re.MULTILINE)
    elsewhere = bool(first) and group in default_choices(name) and select(known, f"{group}.{first}") is None
    having = [
        o
        for o in (groups_of(name)[group] if elsewhere else ())
        if line.search(conf_file(f"{group}/{o}.yaml").read_text())
    ]
    if having:
        names = " and ".join(f"{group}={option}" for option in having[:3])
        return f"no such setting of this option; {names} {'has' if len(having) == 1 else 'have'} it"
    hint = suggestion(key, value, list(flatten(known)), groups)
    return f"no such setting{hint or _of_another_command(name, key, value) or '; --help lists all'}"


def _of_another_command(name: str, key: str, value: str) -> str:
    """'; python -m zero.OTHER has it' for a setting of another command, under our name or an alias, or ''."""
    for other in ROOTS:
        known = list(flatten(defaults(other))) if other != name else []
        if key in known or (known and key in groups_of(other)):
            return f"; python -m zero.{other} has it"
        if known and key in TARGETS and (hint := suggestion(key, value, known, groups_of(other))):
            return f" of this command; python -m zero.{other}{hint.replace('; did you mean', ' has', 1).rstrip('?')}"
    return ""


def explained(name: str, overrides: Sequence[str], error: Exception) -> InputError:
    """Hydra's message as one line, with the nearest names."""
    text = " ".join(str(error).split())
    cause = error.__cause__ or error
    values = {key_of(entry): plain_value(entry) for entry in overrides}
    if missing := re.search(r"Could not find '([\w/]+)/(\S*?)'", text):
        group, option = missing.groups()
        names = options_of(group)
        return InputError(group, option, f"no such option{nearest(option, names)}; there are {', '.join(names)}")
    if unknown := re.search(
        r"Could not (?:override|delete from config\.) '([^']+)'|Key '([^']+)' is not in struct", text
    ):
        key = unknown.group(1) or str(getattr(cause, "full_key", "") or unknown.group(2))
        known = _known(name, overrides)
        if key.rpartition(".")[0] and not isinstance(select(known, key.rpartition(".")[0]), Mapping | list | None):
            return InputError(key, values.get(key, ""), f"{key.rpartition('.')[0]} is one value and holds no settings")
        return InputError(key, values.get(key, ""), no_such(name, key, values.get(key, ""), known))
    if double := re.search(
        r"An item is already at '([^']+)'|Multiple values for ([\w/@.]+)|force-add of config groups .*'\+\+([^=]+)=",
        text,
    ):
        key = next(group for group in double.groups() if group).rstrip(".")
        twice = sum(key_of(entry) == key for entry in overrides) > 1
        return InputError(
            key, values.get(key, ""), "is given twice" if twice else f"exists already; {key}=VALUE without +"
        )
    if required := re.search(r"Missing mandatory value: (\S+)", text):
        return InputError(required.group(1), "???", f"is required; add {required.group(1)}=VALUE")
    if several := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*?)'", text):
        return InputError(several.group(1).lstrip("+"), several.group(2), "several values are a sweep; add -m")
    if reads := re.search(r"Interpolation key '([^']*)' not found", text):
        key = str(getattr(error, "full_key", "") or next((k for k, v in values.items() if reads[1] in v), name))
        return InputError(key, values.get(key, ""), f"${{{reads[1]}}} names no setting")
    if mixed := re.search(r"Cannot merge DictConfig with ListConfig\s+full_key: (\S+)", f"{text} {cause}"):
        return InputError(mixed[1], values.get(mixed[1], ""), f"is a list; {mixed[1]}=[VALUE]")
    key = str(getattr(cause, "full_key", "") or "")
    entry = re.search(r"merging override '?([^=\s]+)=", text)
    key = entry.group(1).lstrip("+~") if entry else key or next((k for k in values if k and k in text), "command line")
    reason = re.sub(r"\s*(full_key|object_type|reference_type)(:|=)\S*", "", " ".join(str(cause).split()))
    return InputError(key, values.get(key, " ".join(overrides)), f"cannot be ({reason})")


def _known(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return _composed(name, tuple(choices_among(overrides))).resolved
    except ERRORS:  # a choice is wrong too; its own error comes once this one is mended
        return _composed(name, ()).resolved

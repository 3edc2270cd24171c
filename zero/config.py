"""From settings to a checked, resolved config. Hydra composes; this file adds what Hydra leaves to the application:

the nearest valid names in its errors, impossible values refused before torch is imported, every cell of a multirun
checked before the first one starts, and the name of a run's folder. Used by the composition roots only.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zero import recipes, settings
from zero.errors import InputError
from zero.identity import PLACE, PLACES, flatten

LENS = ("lens", "lens_every")  # settings of conf/tracker that are none of a tracker's own
CONF = Path(__file__).resolve().parent.parent / "conf"  # absolute: a relative path depends on how main was started
AXES = ("algo", "template", "questions", "model")
OmegaConf.register_new_resolver(
    "recipe", lambda path, key: recipes.of_path(path and model_folder(str(path)), key), replace=True
)


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config `conf/NAME.yaml` under command-line overrides. InputError names what is wrong and the nearest names."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose(name, overrides=list(overrides))
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise explained(name, overrides, error) from error
    return config


def check(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose, then refuse keys that do not exist, wrong types and impossible values. Returns plain containers."""
    chosen = [o for o in overrides if _is_choice(o)]
    config = _plain(compose_config(name, overrides))
    flat = flatten(config)
    defaults = flat if len(chosen) == len(overrides) else flatten(_plain(compose_config(name, chosen)))
    for key, value in flat.items():
        if value == "???":
            raise InputError(key, value, f"is required; add {key}=VALUE")
        item = re.sub(r"\.\d+$", ".0", key)  # lists may have any length; their items are like the first one
        if not key.startswith(settings.OPEN) and not any(
            item == known or key.startswith(known + ".") for known in defaults
        ):
            raise InputError(key, value, "no such setting" + _nearest(key, list(defaults)))
        settings.check_value(key, value, defaults.get(item))
    check_together(config)
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def check_together(config: Mapping[str, Any]) -> None:
    """What two settings must agree on."""
    if "algo" in config:
        fewest, group = config["algo"]["min_group"], config["group_size"]
        if group < fewest:
            raise InputError("group_size", group, f"this algorithm compares siblings; it must be at least {fewest}")
        rows = config["prompts"] * group
        if rows % config["updates"]:
            raise InputError("updates", config["updates"], f"must divide the {rows} responses of a step")
        if not takes_weights(config["rollout"]):
            remedy = "takes no weights, so it cannot sample for training: python -m zero.evaluate alone, or rollout=vllm_server"
            raise InputError("rollout", config["rollout"]["_target_"].rpartition(".")[2], remedy)
        if config["rollout"].get("staleness") and config["algo"]["refills"]:
            remedy = "this algorithm draws again after grading, which cannot be done a step ahead; algo.refills=0 or staleness 0"
            raise InputError("rollout.staleness", config["rollout"]["staleness"], remedy)
        if config["sampling"]["temperature"] == 0:
            raise InputError("sampling.temperature", 0, "training samples must differ; it must be above 0")
        for key, off in (("top_p", 1.0), ("top_k", 0)):
            if config["sampling"][key] != off and renormalizes(config["rollout"]):
                remedy = "this engine does not say how much that keeps, and the learner must know"
                remedy += f"; set it to {off:g}, or take rollout=native"
                raise InputError(f"sampling.{key}", config["sampling"][key], remedy)
    questions = config.get("questions") or {}
    hub = questions.get("hub")
    if hub is not None and not (questions["path"] or hub["id"]):
        raise InputError(
            "questions.path", "null", "is required; give questions.path=FILE or questions.hub.id=OWNER/NAME"
        )
    path = str(config["model"].get("path", ""))
    if path.startswith(("/", ".", "~")) and not Path(path).expanduser().is_dir():
        raise InputError("model.path", path, "no such folder; give a Hugging Face model folder or a hub id")
    folder = Path(model_folder(path))
    if folder.is_dir() and path and not (folder / "config.json").is_file():
        raise InputError(
            "model.path", path, "holds no model (no config.json); give a Hugging Face model folder or a hub id"
        )
    for k in config.get("k", ()):
        if k > config["n"] or k < 1:
            raise InputError("k", k, f"pass@k needs 1 <= k <= n; n is {config['n']}")


def check_solutions(config: Mapping[str, Any]) -> None:
    """An algorithm that imitates every response wants reference solutions, in their own distribution; one that compares
    responses can learn nothing from those: they all earn the same. InputError for a config that is about to be run."""
    if "algo" not in config:
        return
    algo, rollout = config["algo"], config["rollout"]
    imitates = algo["advantage"]["_target_"] in settings.IMITATING
    engines = [rollout["_target_"], (rollout.get("engine") or {}).get("_target_", "")]
    reads = settings.SOLUTIONS in engines
    if imitates and not reads and all(name.startswith("zero.rollout.") for name in filter(None, engines)):
        remedy = (
            "this algorithm imitates every response, right or wrong: add rollout=gold (solutions), or take algo=rft"
        )
        raise InputError("rollout", rollout["_target_"].rpartition(".")[2], remedy)
    if imitates and reads and config["sampling"]["temperature"] != 1:
        remedy = "solutions are learned as they are, at temperature 1; leave it out (evaluation.temperature is another)"
        raise InputError("sampling.temperature", config["sampling"]["temperature"], remedy)
    if reads and (algo["min_group"] > 1 or algo["advantage"]["_target_"] in settings.COMPARING):
        remedy = (
            "reference solutions all earn the same, so an algorithm that compares responses learns nothing; algo=sft"
        )
        raise InputError("rollout", rollout["_target_"].rpartition(".")[2], remedy)


def takes_weights(rollout: Mapping[str, Any]) -> bool:
    """Whether an engine samples from the weights it is given; one around another (`rollout.engine`) asks that one."""
    inner = rollout.get("engine")
    return bool(rollout.get("takes_weights", True)) and (inner is None or takes_weights(inner))


def renormalizes(rollout: Mapping[str, Any]) -> bool:
    """Whether an engine's log-probabilities are of what top-p and top-k keep, without a word of how much that is."""
    inner = rollout.get("engine")
    return bool(rollout.get("renormalizes", False)) or (inner is not None and renormalizes(inner))


def without_facts(rollout: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's settings without what its option says about it."""
    kept = {key: value for key, value in rollout.items() if key != "renormalizes"}
    return kept | ({"engine": without_facts(kept["engine"])} if kept.get("engine") else {})


def instantiate(config: Any, key: str = "") -> Any:
    """Hydra's instantiate to plain containers; an InputError from inside a part comes out as itself, and a dotted path
    that leads nowhere is one. `key` is where the config stands."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build

    getLogger("hydra.utils").setLevel(CRITICAL)  # it logs what it also raises
    try:
        return build(config, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__cause__
        text = str(error)
        lost = re.search(r"Error locating target '([^']*)'|Error loading '([^']*)'", text.replace("\\'", "'"))
        place = re.search(r"full_key: (\S+)", text)
        if lost:
            where = ".".join(part for part in (key, place[1] if place else "") if part)
            remedy = "nothing of that name can be imported; give the dotted path of a function or class"
            raise InputError(where or "config", lost[1] or lost[2], remedy) from None
        raise


def options(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of conf/GROUP, by name, as it would stand in this checked config. A running Hydra task is left alone."""
    found, running = {}, GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            for path in sorted((CONF / group).glob("*.yaml")):
                option = OmegaConf.create({**config, group: compose(f"{group}/{path.stem}")[group]})
                found[path.stem] = _plain(option)[group]
    finally:
        if running is not None:
            GlobalHydra.instance().initialize(running)
    return found


def tracker(config: Mapping[str, Any]) -> Any:
    """The tracker that a checked config names, not opened; the lens in its settings is the loop's."""
    return instantiate({key: value for key, value in config["tracker"].items() if key not in LENS}, "tracker")


def benchmark_set(key: str, config: Any) -> Any:
    """The question set of conf/benchmarks under `key`; its InputErrors name the setting where it stands."""
    try:
        return instantiate(config)
    except InputError as error:
        raise InputError(
            error.key.replace("questions", f"benchmarks.sets.{key}", 1), error.value, error.remedy
        ) from error


def model_folder(path: str) -> str:
    """A model path as given, or under the repository, where the embedded model lies; a hub id stays as it is."""
    for candidate in (Path(path).expanduser(), CONF.parent / path):
        if candidate.is_dir():
            return str(candidate)
    return path


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """One override, parsed once. InputError if it is none."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise InputError("command line", text, str(error).splitlines()[0]) from error


def run_name(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """What distinguishes a run, as a folder name: its axes, its seed, then every other setting that was changed."""
    values = {o.key_or_group: str(o.get_value_element_as_str()) for o in map(parsed, overrides)}
    seed = values.pop("seed", "0")
    kept = {
        k: v
        for k, v in values.items()
        if k not in (*AXES, *PLACES) and k.split(".")[0] not in PLACE and not k.startswith("hydra")
    }
    parts = [choices[axis] for axis in AXES if axis in choices] + [f"s{seed}"]
    parts += [f"{key}={value}" for key, value in sorted(kept.items())]
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", "-".join(parts))
    return name if len(name) <= 120 else f"{name[:107]}-{sha256(name.encode()).hexdigest()[:12]}"


def writable_folder(path: Path) -> Path:
    """Create the folder and prove that files can be written there, or an InputError on run_dir."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise InputError("run_dir", path, f"cannot be written ({error.strerror}); choose another") from error
    return path


def keep(config: Mapping[str, Any], path: Path) -> None:
    """Write a config as yaml, whole or not at all: a kill half-way must not leave a torn one that the next start reads."""
    partial = path.with_suffix(".partial")
    OmegaConf.save(OmegaConf.create(dict(config)), partial)
    partial.replace(path)


def quoted(argument: str) -> str:
    """run=FOLDER with the folder in quotes if its name holds `=`, as the names of runs do: Hydra wants it so."""
    key, _, value = argument.partition("=")
    if key == "resume_with" and value[:1] not in ("'", '"', "{", "[") and "'" not in value:  # settings in themselves
        return f"{key}='{value}'"
    plain = not set(value) & set("'\"\\,")
    return f"{key}='{value}'" if key in ("run", "run_dir", "model.path") and "=" in value and plain else argument


def cells(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of a multirun, without Hydra's own settings; a single run is one cell."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise InputError("command line", " ".join(overrides), str(error).splitlines()[0]) from error
    ours = [o for o in parsed if not o.key_or_group.startswith("hydra")]
    sweeping = [o for o in ours if o.is_sweep_override()]
    if not sweeping:
        return [[o.input_line or "" for o in ours]]
    return [list(cell) for batch in BasicSweeper.split_arguments(ours, max_batch_size=None) for cell in batch]


def choices_of_run() -> tuple[dict[str, str], list[str]]:
    """Inside a Hydra task: the option chosen for each group, and the overrides as typed."""
    hydra = HydraConfig.get()
    return {k: str(v) for k, v in hydra.runtime.choices.items()}, list(hydra.overrides.task)


def _is_choice(text: str) -> bool:
    return (CONF / parsed(text).key_or_group).is_dir()


def explained(name: str, overrides: Sequence[str], error: Exception) -> InputError:
    """Hydra's message as one line, with the nearest names."""
    text = " ".join(str(error).split())
    if missing := re.search(r"Could not find '([\w]+)/(\S+?)'", text):
        group, option = missing.groups()
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return InputError(group, option, f"no such option{_nearest(option, options)}; there are {', '.join(options)}")
    if unknown := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        key = unknown.group(1) or unknown.group(2)
        known = list(flatten(_plain_unresolved(name, [text for text in overrides if _is_choice(text)])))
        value = next((text.partition("=")[2] for text in overrides if text.partition("=")[0] == key), "")
        return InputError(key, value, "no such setting" + _nearest(key, known) + "; --help lists all")
    if required := re.search(r"Missing mandatory value: (\S+)", text):
        return InputError(required.group(1), "???", f"is required; add {required.group(1)}=VALUE")
    return InputError("config", name, text)


def _plain_unresolved(name: str, choices: Sequence[str]) -> Any:
    try:
        return OmegaConf.to_container(compose(name, overrides=list(choices)), resolve=False)
    except HydraException:  # a choice is wrong too; its own error comes once this one is mended
        return OmegaConf.to_container(compose(name), resolve=False)


def _nearest(key: str, known: Sequence[str]) -> str:
    """'; did you mean ...' from close spellings of the whole name or of its last part."""
    close = difflib.get_close_matches(key, known, n=3)
    leaf = {k.rsplit(".", 1)[-1]: k for k in known if "_target_" not in k}
    last = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(leaf), n=3)
    close += [leaf[name] for name in last if leaf[name] not in close]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""

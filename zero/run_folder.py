"""The files of a run folder, and the settings with which a run continues.

config.yaml       the settings that the run started with: its identity
questions.yaml    which rows it is trained and tested on
weights.txt       a fingerprint of the model that it started from
starts.jsonl      a line for each start: after which step, and what `resume_with` changed there
result.json       how it ended

The identity of a run never changes in its folder. Some settings may: `resume_with='optimizer.lr=1e-6 steps=200'` changes them
from the newest checkpoint on. Later commands keep the change, whether they repeat it or not.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from zero.config import check as configs
from zero.config import identity, limits
from zero.errors import InputError
from zero.files import step_folders, write_atomically
from zero.paths import CONF
from zero.tracking import provenance

CONFIG, QUESTIONS, WEIGHTS, RESULT = "config.yaml", "questions.yaml", "weights.txt", "result.json"
KEY = "resume_with"
# Settings that a run may change when it continues: names, or prefixes of names
ADJUSTABLE = tuple(
    "steps threads evaluation.every samples. optimizer. learner. algo.critic.optimizer. algo.critic.micro_tokens".split()
) + tuple(
    f"{engine}.{key}"
    for engine in ("rollout", "rollout.engine")
    for key in "max_rows batched_tokens cache_gib memory tensor_parallel prefix_caching eager sleep precision".split()
)
FIXED = ("learner.lora",)  # exceptions to them: which weights are trained
# Groups that may change to another option: all options compute the same numbers
GROUPS = ("learner",)
# Settings that add work to the steps and change no number
OBSERVERS = ("lens", "checkpoint", "sync_check")
SEPARATOR = re.compile(r"[\s,]+(?=[\w.]+=)")  # between the KEY=VALUE of a list


@dataclass(frozen=True)
class Settings:
    """The settings of one start of a run."""

    identity: Mapping[str, Any]  # those in config.yaml
    current: Mapping[str, Any]  # those that the run continues with
    changes: Mapping[str, Any]  # those that this start changes by `resume_with`
    before: Mapping[str, Any]  # those until now


def settings_of(config: Mapping[str, Any], run_dir: Path) -> Settings:
    """The settings of a start with this checked config: those of the folder's run, with every change that was made to it.

    InputError if the folder holds another run, or a change is not allowed.
    """
    changes = parse_changes(config.get(KEY))
    if not (run_dir / CONFIG).exists():
        if changes:
            raise InputError(KEY, as_typed(changes), f"there is no run in {run_dir} yet; give the settings themselves")
        return Settings(config, config, {}, config)
    first: Mapping[str, Any]
    original = stored_config(run_dir)
    earlier = recorded_changes(run_dir)
    if earlier and identity.science(config) == identity.science(with_changes(original, earlier)):
        first, before = original, dict(config)  # the command names the changed settings in full
    else:
        refuse_if_different(original, config, run_dir)
        first, before = config, with_changes(config, earlier)
    for key, value in changes.items():
        refuse_unless_adjustable(key, value, before, run_dir)
    current = with_changes(before, changes)
    configs.check_together(current)
    return Settings(first, current, changes, before)


def refuse_if_different(original: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path) -> None:
    """InputError that names what differs, and how to change it if that is possible."""
    new = identity.science(config)
    differing = [key for key in identity.differing(original, config) if key in new]
    remedy = ""
    if differing and all(map(adjustable, differing)):
        words = " ".join(f"{key}={new[key]}" for key in differing)
        remedy = f"; to go on with them all the same, take them out and add {KEY}='{words}'"
    identity.refuse_if_different(original, config, run_dir, remedy)


def parse_changes(value: Any) -> dict[str, Any]:
    """The changes in `resume_with` by key, from 'KEY=VALUE KEY=VALUE', a list of such, or a mapping."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return identity.flatten(value)
    texts = value if isinstance(value, list) else [str(value)]
    words = [word for text in texts for word in SEPARATOR.split(str(text))]
    changes: dict[str, Any] = {}
    for word in filter(None, (word.strip() for word in words)):
        key, equals, _ = word.partition("=")
        if not equals or not key:
            raise InputError(KEY, value, f"is no list of settings; write {KEY}='optimizer.lr=1e-6 steps=200'")
        try:
            changes[key] = OmegaConf.select(OmegaConf.from_dotlist([word]), key)
        except (OmegaConfBaseException, YAMLError) as error:
            raise InputError(KEY, word, " ".join(str(error).split())) from error
        if OmegaConf.is_config(changes[key]):
            changes[key] = OmegaConf.to_container(changes[key])
    return changes


def recorded_changes(run_dir: Path) -> dict[str, Any]:
    """All changes that were made to a run; of each setting the last one."""
    changes: dict[str, Any] = {}
    for line in provenance.starts(run_dir):
        if isinstance(line.get(KEY), dict):
            changes |= line[KEY]
    return changes


def with_changes(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the config with the changes made."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    for key, value in changes.items():
        if key in GROUPS:
            option, section = configs.options(key, plain)[value], plain[key]
            shared = {k: v for k, v in section.items() if k in option and k != "_target_"}
            plain[key] = option | shared
            continue
        *path, last = key.split(".")
        section = plain
        for name in path:
            section = section[name]
        section[last] = value
    return plain


def adjustable(key: str) -> bool:
    """Whether `resume_with` may change a setting: it is no part of the run's identity."""
    fixed = any(key == name or key.startswith(f"{name}.") for name in FIXED) or "_target_" in key
    return not fixed and (key in GROUPS or any(key == k or (k.endswith(".") and key.startswith(k)) for k in ADJUSTABLE))


def refuse_unless_adjustable(key: str, value: Any, config: Mapping[str, Any], run_dir: Path) -> None:
    """InputError if a run with this config cannot continue with this change."""
    typed, flat = as_typed({key: value}), identity.flatten(config)
    if key in GROUPS:
        options = configs.options(key, config)
        if not isinstance(value, str) or value not in options:
            raise InputError(KEY, typed, f"no such option; there are {', '.join(options)}")
        if ("lora" in options[value]) != ("lora" in config[key]):
            raise InputError(KEY, typed, f"trains other weights; {_fork(run_dir)}")
        return
    known = key in flat or any(name.startswith(f"{key}.") for name in flat)
    if known and key.split(".")[0] in identity.PLACE:
        raise InputError(KEY, typed, f"is no part of what a run is; give {typed} by itself")
    below = [name for name in flat if name.startswith(f"{key}.") and adjustable(name)]
    if below and not adjustable(key):
        raise InputError(KEY, typed, f"holds settings of its own; give those that change, such as {below[0]}=VALUE")
    if not adjustable(key) and (known or (CONF / key.split(".")[0]).is_dir()):
        raise InputError(KEY, typed, f"is part of what the run is and cannot change in its folder; {_fork(run_dir)}")
    if not known:
        close = difflib.get_close_matches(key, list(filter(adjustable, flat)), n=3)
        raise InputError(KEY, typed, "no such setting" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    for name, leaf in identity.flatten(value, key).items():
        item = re.sub(r"\.\d+$", ".0", name)  # all items of a list are checked as its first one
        if item not in flat:
            form = "one value" if key in flat else "a list, or several settings"
            raise InputError(KEY, typed, f"{key} is {form}")
        limits.check_value(name, leaf, flat[item])
    limits.check_list(key, value)


def _fork(run_dir: Path) -> str:
    return f"start another run from its weights: model.path={run_dir / 'model'} run_dir=NEW_FOLDER"


def as_typed(changes: Mapping[str, Any]) -> str:
    """Changes as a user types them."""
    return " ".join(f"{key}={value}" for key, value in changes.items())


def extension_notes(settings: Settings, done: int) -> list[str]:
    """How a run whose `steps` change after `done` steps differs from one that had them from its start."""
    old, new = settings.before, settings.current
    if old["steps"] == new["steps"]:
        return []
    lines = []
    critic = (new["algo"].get("critic") or {}).get("optimizer") or {}
    for name, optimizer in (("optimizer", new["optimizer"]), ("algo.critic.optimizer", critic)):
        if (schedule := optimizer.get("schedule", "constant")) != "constant":
            lines.append(
                f"{name}.schedule={schedule} was laid out over {old['steps']} steps; from step {max(done, 0) + 1} on it is "
                f"that of {new['steps']}"
            )
    if new["rollout"].get("staleness") and done == old["steps"]:
        lines.append(f"the samples of step {done + 1} are drawn with the newest weights, not a step ahead")
    return lines


def begin(run_dir: Path, start: provenance.Start, settings: Settings, done: int) -> None:
    """Print after which step a run continues (-1: it is new), and record this start; if it changes settings, all of them
    are written beside config.yaml."""
    if done >= 0:
        print(f"continues after step {done} of {settings.current['steps']}", file=sys.stderr)
    for note in extension_notes(settings, done):
        print(f"note: {note}", file=sys.stderr)
    if other := provenance.other_engine(run_dir, start):
        print(f"note: {other}", file=sys.stderr)
    line = start | {"after_step": max(done, 0)}
    if settings.changes:
        configs.keep(settings.current, run_dir / f"config_{max(done, 0):06d}.yaml")
        line[KEY] = dict(settings.changes)
    provenance.note(run_dir, line)


def finished_before(settings: Settings, result: Mapping[str, Any], run_dir: Path) -> str:
    """The line for a command whose run has finished before; names the settings of the command that had no effect."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((run_dir / RESULT).stat().st_mtime))
    line = f"already finished on {when} after {result.get('steps', '?')} steps; nothing was run"
    both = (stored_config(run_dir), settings.current)
    old, new = (identity.flatten({k: c.get(k) for k in OBSERVERS}) for c in both)
    ignored = [f"{key}={new[key]}" for key in new if key in old and new[key] != old[key]]
    remedy = f": {', '.join(ignored)} would need a new run_dir, or more steps ({KEY}=steps=N)" if ignored else ""
    return line + remedy


def stored_config(run_dir: Path) -> dict[str, Any]:
    """The settings in config.yaml."""
    return read_yaml(run_dir / CONFIG)


def refuse_other_model(run_dir: Path, path: str, digest: str) -> None:
    """InputError if the run started from another model than that of this fingerprint; passes if none was stored."""
    stored = run_dir / WEIGHTS
    if stored.exists() and stored.read_text().strip() != digest:
        remedy = (
            f"its model has changed since the run began in {run_dir}; restore it, or choose another name or run_dir"
        )
        raise InputError("model.path", path, remedy)


def claim(run_dir: Path, settings: Settings, questions: Mapping[str, Any], digest: str) -> None:
    """Write the run's settings, questions and fingerprint of weights: from here on the folder is that run's."""
    configs.keep(settings.identity, run_dir / CONFIG)
    configs.keep(questions, run_dir / QUESTIONS)
    (run_dir / WEIGHTS).write_text(digest + "\n")


def answers_folder(run_dir: Path, step: int | None) -> Path:
    """Where the answers of the weights after a step are kept; None: of the model itself."""
    return run_dir if step is None else run_dir / f"step_{step:06d}"


def refuse_other_weights(folder: Path, digest: str) -> None:
    """InputError if the answers in an evaluation's folder are those of other weights, such as a model trained further."""
    path = folder / WEIGHTS
    if not path.exists():
        write_atomically(path, digest)
    elif path.read_text() != digest:
        remedy = "holds answers of other weights under the same name; choose another name or run_dir or remove it"
        raise InputError("run_dir", folder, remedy)


def is_finished(result: Mapping[str, Any], settings: Settings) -> bool:
    """Whether the run has taken all its steps."""
    done = result["status"] == "finished" and result.get("steps", 0) >= settings.current["steps"]
    return done and not settings.current["probe"]


def result_of(run_dir: Path) -> dict[str, Any] | None:
    """The content of result.json; None if the run has none yet. InputError if it cannot be read."""
    path = run_dir / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
        if not isinstance(result, dict) or "status" not in result:
            raise ValueError("it has no status")
    except (OSError, ValueError) as error:
        remedy = (
            f"its {RESULT} is damaged ({error}); remove that file: the same command goes on from the last checkpoint"
        )
        raise InputError("run_dir", run_dir, remedy) from error
    return result


def refuse_without_checkpoints(result: Mapping[str, Any] | None, run_dir: Path) -> None:
    """InputError if a finished run is to continue without checkpoints: it would start over and lose its journal."""
    if result and result["status"] == "finished" and not step_folders(run_dir / "checkpoints"):
        remedy = "has finished, and its checkpoints are gone; train on from its weights"
        raise InputError("run_dir", run_dir, f"{remedy}: model.path={run_dir / 'model'} run_dir=NEW_FOLDER")


def read_yaml(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a yaml file of a run folder. InputError if it cannot be read or lacks one of `keys`."""
    try:
        stored = configs.read_config(path)
        if not isinstance(stored, dict) or not stored or any(key not in stored for key in keys):
            raise ValueError(f"it has no {', '.join(keys)}" if keys else "it holds no settings")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:120]
        remedy = f"its {path.name} is damaged ({reason}); restore it, or choose another name or run_dir"
        raise InputError("run_dir", path.parent, remedy) from error
    return {str(key): value for key, value in stored.items()}

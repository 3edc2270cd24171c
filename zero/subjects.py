"""What an evaluation measures: the model of its config, or the checkpoints of a training run with that run's settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from zero import run_folder
from zero.config import check as configs
from zero.errors import InputError
from zero.files import step_folders

if TYPE_CHECKING:
    from torch import Tensor

Config = Mapping[str, Any]


def with_run(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The composed config as plain containers. With run=FOLDER everything that the command line does not set is that of the
    run's own evaluation: model, template, benchmarks, sampling, n, seed, so that its curve can be continued."""
    if config.run is not None:
        stored = read_run(config.run)
        typed = typed_keys(overrides)
        nested = {key: OmegaConf.select(config, key) for key in typed if "." in key}
        OmegaConf.set_struct(config, False)
        evaluation = stored["evaluation"]
        groups = ("model", "template", "questions", "benchmarks", "reward", "rollout", "environment", "seed")
        sampling = stored["sampling"] | {key: evaluation[key] for key in ("temperature", "max_tokens")}
        settings_of_run = {key: stored[key] for key in groups} | {"sampling": sampling, "n": evaluation["n"]}
        for key, value in settings_of_run.items():
            if key not in typed:
                config[key] = value
        if "template" in typed and "environment" not in typed and "extract" in (config.environment.make or {}):
            # The stored value is the run's template's: interpolations are resolved in a stored config
            config.environment.make.extract = OmegaConf.select(config, "template.extract")
        for key, value in nested.items():  # typed settings within a group that is now the run's
            OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def read_run(folder: str) -> dict[str, Any]:
    """The config of a training run, with all changes by `resume_with`. InputError if the folder is not a training run's."""
    path = Path(folder).expanduser() / "config.yaml"
    stored: Any = run_folder.read_yaml(path) if path.is_file() else None
    if not isinstance(stored, dict) or not {"algo", "evaluation", "steps"} <= stored.keys():
        raise InputError("run", folder, "is no folder of a training run: its config.yaml is missing or another's")
    return run_folder.with_changes(stored, run_folder.recorded_changes(path.parent))


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """The groups and settings that the command line names."""
    return {override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))}


def paths_of(config: Config) -> dict[int | None, Path | None]:
    """The weights to measure: folder by step. A folder of None is the model itself; a step of None: no training run.

    `config["step"]` is a number of steps (0: before training), "all" checkpoints, or null: the trained model. InputError
    if there is no such step.
    """
    if config["run"] is None:
        if config["step"] is not None:
            raise InputError("step", config["step"], "belongs to a training run; add run=FOLDER")
        return {None: None}
    folder, requested = Path(config["run"]).expanduser(), config["step"]
    saved: dict[int | None, Path | None] = dict(step_folders(folder / "checkpoints").items())
    if (folder / "model").is_dir():
        saved.setdefault(read_run(config["run"])["steps"], folder / "model")
    if requested == "all":
        if not saved:
            raise InputError("step", requested, f"{folder} holds no checkpoint yet")
        return dict(sorted(saved.items(), key=lambda item: item[0] or 0))
    available = {0: None, **saved}
    chosen = max(step or 0 for step in available) if requested is None else requested
    if isinstance(chosen, bool) or chosen not in available:
        steps = ", ".join(str(step) for step in sorted(step or 0 for step in available))
        raise InputError("step", requested, f"no such step in {folder}; there are {steps} and all")
    return {chosen: available[chosen]}


def weights_at(config: Config, model: Any, path: Path | None) -> Iterable[tuple[str, Tensor]]:
    """The weights to measure: those in `path`, else the loaded model's; of a training run in the precision it trained with."""
    from zero.models.weights import as_computed, weights_of

    weights: Iterable[tuple[str, Tensor]] = ((name, p.detach()) for name, p in model.named_parameters())
    if config["run"] is None:
        return weights
    if path is not None:
        weights = weights_of(path, config["model"], read_run(config["run"])["learner"].get("lora"))
    return as_computed(weights, Path(config["run"]).expanduser())


def check(config: Config) -> None:
    """InputError for settings that cannot work with those of the training run, which the command line's check cannot see."""
    if config["at_once"] < 1:
        raise InputError("at_once", config["at_once"], "must be above 0")
    if config["run"] is not None and not configs.takes_weights(config["rollout"]):
        raise InputError(
            "run", config["run"], "its weights cannot be sent to this rollout; it answers with its server's own"
        )
    if config["n"] > 1 and config["sampling"]["temperature"] == 0:
        raise InputError(
            "n", config["n"], "at temperature 0 all answers to a question are the same; add sampling=default, or n=1"
        )
    for k in config["k"]:
        if not 1 <= k <= config["n"]:
            raise InputError("k", k, f"pass@k needs 1 <= k <= n; n is {config['n']}")

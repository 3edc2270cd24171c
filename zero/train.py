"""python -m zero.train algo=drgrpo template=qwen_math: from a config to a finished run.

Torch is imported only after the config is known to be good, so --help and errors answer at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zero import run_folder
from zero.config import check as configs
from zero.config import identity
from zero.config.cli import command_line, errors_reported
from zero.errors import Preempted
from zero.lock import owned
from zero.models.export import export_dtype, export_model
from zero.models.load import find
from zero.paths import CONF
from zero.process import gc_paused
from zero.question_sets import load_questions, manifest
from zero.run_folder import Settings
from zero.signals import LeaseLost, StopSignal
from zero.tracking import provenance
from zero.tracking.trackers import close, deliver, where_to_look

if TYPE_CHECKING:
    from zero.loop import Run
    from zero.questions import QuestionSet

Config = Mapping[str, Any]


def run(config: Config, choices: Mapping[str, str], name: str) -> dict[str, Any]:
    """Train one checked config to its end, from its newest checkpoint if there is one; returns what result.json holds.

    `choices` are the options by group, `name` is the run's. Raises InputError and Preempted.
    """
    configs.check_imitation(config)
    run_dir = Path(config["run_dir"] or Path("runs") / name).absolute()
    configs.refuse_unwritable(run_dir)
    settings, result = run_folder.settings_of(config, run_dir), run_folder.result_of(run_dir)
    is_main = os.environ.get("RANK", "0") == "0"  # torch is not imported yet
    if result is not None and run_folder.is_finished(result, settings):
        if is_main:
            deliver(settings.current, run_dir, name)
            where_to_look(run_dir, run_folder.finished_before(settings, result, run_dir))
        return result
    if not settings.current["probe"]:
        run_folder.refuse_without_checkpoints(result, run_dir)
    find(settings.identity["model"])  # a missing model fails here, within seconds
    components = {key: configs.instantiate(settings.identity[key], key) for key in configs.LIGHT}
    sets = load_questions(settings.identity, run_dir)
    with owned(configs.writable_folder(run_dir)):
        outcome = build_and_train(settings, choices, run_dir, name, sets, components)
    if outcome["status"] == "finished" and is_main:
        where_to_look(run_dir)
    return outcome


def build_and_train(
    settings: Settings,
    choices: Config,
    run_dir: Path,
    name: str,
    sets: dict[str, QuestionSet],
    components: Config,
) -> dict[str, Any]:
    """The part of `run` that needs torch; this process holds the folder's lock."""
    with gc_paused():  # torch is imported here
        from zero.build import build
        from zero.distributed import World
        from zero.failures import explain_failures
        from zero.memory_probe import probe
        from zero.runtime import device_name

    world = World.join()
    start = provenance.start(choices, device_name(), world.size)
    outcome: dict[str, Any] = {"status": "failed", "name": name, "signature": identity.signature(settings.identity)}
    with StopSignal().listening() as stop:
        with gc_paused(), explain_failures(run_dir, settings.current):
            built_run = build(settings.current, run_dir, name, sets, start, **components, world=world)
            if world.is_main:
                built_run = replace(built_run, on_start=partial(run_folder.begin, run_dir, start, settings))
        if not settings.current["probe"]:
            return train_and_close(built_run, settings, manifest(sets), outcome, stop)
    probe(built_run)
    world.shutdown()
    return {"status": "probed"}


def train_and_close(
    built_run: Run, settings: Settings, questions: Config, outcome: dict[str, Any], stop: StopSignal
) -> dict[str, Any]:
    """Train, export the model and close the trackers; returns the outcome, which is written to result.json however this ends."""
    from zero.failures import explain_failures, steps_done
    from zero.loop import train

    if built_run.world.is_main:
        run_folder.claim(built_run.dir, settings, questions, built_run.weights_fingerprint)
    folder, dtype = built_run.dir / "model", export_dtype(settings.identity["model"])  # now: the cache may lose it
    outcome["target_steps"] = built_run.steps
    start, all_ranks_stop = time.perf_counter(), True
    try:
        with explain_failures(built_run.dir, settings.current):
            results = train(built_run, stop)
            export_model(built_run.learner, built_run.tokenizer, folder, dtype, built_run.world, built_run.vision)
        outcome |= {"status": "finished", "evaluation": {r.name: r.metrics() for r in results}}
    except (Preempted, KeyboardInterrupt) as error:
        outcome["status"], all_ranks_stop = "preempted", isinstance(error, Preempted)
        raise
    except LeaseLost:
        outcome["status"] = "lease lost"
        raise
    finally:
        outcome |= {"steps": steps_done(built_run.dir), "seconds": round(time.perf_counter() - start, 1)}
        if built_run.world.is_main and outcome["status"] != "lease lost":  # then the folder is another process's
            close(built_run.dir, built_run.trackers, outcome, curves=settings.current["curves"])
        if outcome["status"] in ("finished", "preempted") and all_ranks_stop:  # else shutdown would wait for ever
            built_run.world.shutdown()
    return outcome


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def task(config: DictConfig) -> float | None:
    """One Hydra job. Returns the mean final held-out accuracy, for sweepers that optimise."""
    choices, overrides = configs.choices_of_run()
    outcome: Config = {}
    with errors_reported():
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        outcome = run(plain, choices, plain["name"] or configs.run_name("train", choices, overrides))
    accuracies = [metrics[f"eval/{name}/accuracy"] for name, metrics in outcome.get("evaluation", {}).items()]
    return sum(accuracies) / len(accuracies) if accuracies else None


def main() -> None:
    """The console entry point."""
    command_line("train", task)


if __name__ == "__main__":
    main()

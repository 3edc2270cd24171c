"""python -m zero.train algo=drgrpo template=qwen_math: from a config to a finished run. Builds each part once.

Torch is imported only after the config is known to be good, so --help and errors answer at once.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zero import run_folder
from zero.config import check as configs
from zero.config import identity
from zero.config.cli import command_line, failed
from zero.errors import Broken, InputError, Preempted
from zero.lock import owned
from zero.models.load import export_dtype, find, store_as
from zero.paths import CONF
from zero.question_sets import as_key, load_questions, manifest
from zero.signals import LeaseLost, StopSignal
from zero.tracking import provenance

if TYPE_CHECKING:
    import torch

    from zero.grading import Reward
    from zero.loop import Run
    from zero.questions import QuestionSet
    from zero.runtime import World
    from zero.template import AnyTemplate
    from zero.tracking import Trackers

EXIT_PREEMPTED = 75


def run(config: Mapping[str, Any], choices: Mapping[str, str], name: str) -> dict[str, Any]:
    """Train one checked config to its end, or from its newest checkpoint on; returns what result.json holds.

    `choices` names the option of each group, `name` the run. Raises InputError and Preempted.
    """
    configs.check_solutions(config)
    run_dir = Path(config["run_dir"] or Path("runs") / name).absolute()
    configs.refuse_unwritable(run_dir)
    settings, result = run_folder.settings_of(config, run_dir), run_folder.result_of(run_dir)
    config = settings.identity
    done = result is not None and result["status"] == "finished" and result.get("steps", 0) >= settings.current["steps"]
    if result and done and not settings.current["probe"]:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks; torch is not there yet to ask
            deliver(config, choices, run_dir, name)
            where_to_look(run_dir, run_folder.finished_before(settings, result, run_dir))
        return result
    if not settings.current["probe"]:
        run_folder.refuse_without_checkpoints(result, run_dir)
    find(config["model"])  # a model that cannot be had is known in seconds
    light = {key: configs.instantiate(config[key], key) for key in ("template", "reward")}
    sets = load_questions(config, run_dir)
    with owned(configs.writable_folder(run_dir)):
        outcome = carry_out(settings, choices, run_dir, name, sets, light)
    if outcome["status"] == "finished" and os.environ.get("RANK", "0") == "0":
        where_to_look(run_dir)
    return outcome


def carry_out(
    settings: run_folder.Settings,
    choices: Mapping[str, str],
    run_dir: Path,
    name: str,
    sets: dict[str, QuestionSet],
    light: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of `run` that needs torch: build, train, export; the folder is ours alone."""
    with gc_paused():
        import zero.loop  # noqa: F401 - torch from here on
        from zero.failures import explained
        from zero.runtime import World, device_name

    world = World.join()
    start = provenance.start(choices, device_name(), world.size)
    outcome: dict[str, Any] = {"status": "failed", "name": name, "signature": identity.signature(settings.identity)}
    with StopSignal().listening() as stop:
        with gc_paused(), explained(run_dir, settings.current):
            parts = build(
                settings.current, run_dir, name, sets, start, **light, world=world, identity=settings.identity
            )
            if world.is_main:
                parts = replace(parts, on_start=partial(run_folder.begin, run_dir, start, settings))
        if not settings.current["probe"]:
            return trained(parts, settings, manifest(sets), outcome, stop)
    probe(parts)
    world.shutdown()
    return {"status": "probed"}


def trained(
    parts: Run, settings: run_folder.Settings, questions: Mapping[str, Any], outcome: dict[str, Any], stop: StopSignal
) -> dict[str, Any]:
    """Train what is built, export the model, and close; the outcome, which result.json holds however this ends."""
    from zero.failures import explained, steps_done
    from zero.loop import train

    if parts.world.is_main:  # from here on the folder belongs to these settings, questions and weights
        configs.keep(settings.identity, parts.dir / run_folder.CONFIG)
        configs.keep(questions, parts.dir / run_folder.QUESTIONS)
        (parts.dir / run_folder.WEIGHTS).write_text(parts.model + "\n")
    stored = export_dtype(settings.identity["model"])  # now: in a week the model may be gone from the cache
    outcome["target_steps"] = parts.steps
    began, together = time.perf_counter(), True
    try:
        with explained(parts.dir, settings.current):
            results = train(parts, stop)
            export(parts, stored)
        outcome |= {"status": "finished", "evaluation": {r.name: r.metrics() for r in results}}
    except (Preempted, KeyboardInterrupt) as asked:
        outcome["status"], together = "preempted", isinstance(asked, Preempted)
        raise
    except LeaseLost:
        outcome["status"] = "gave way"
        raise
    finally:
        outcome |= {"steps": steps_done(parts.dir), "seconds": round(time.perf_counter() - began, 1)}
        if parts.world.is_main and outcome["status"] != "gave way":  # the folder is another copy's now
            close(parts, outcome)
        if outcome["status"] in ("finished", "preempted") and together:  # every rank is here, or soon will be
            parts.world.shutdown()
    return outcome


@contextmanager
def gc_paused() -> Iterator[None]:
    """Without garbage collection: what is imported and built at the start stays, and walking over it again and again takes
    two seconds of processor time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def build(
    config: Mapping[str, Any],
    run_dir: Path,
    name: str,
    sets: dict[str, QuestionSet],
    start: provenance.Start,
    template: AnyTemplate,
    reward: Reward,
    world: World | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Run:
    """Every part of a run, each from its own piece of the config; those that need no torch come made. `identity`: the
    settings that the run began with, if it goes on with others."""
    from zero import build as make
    from zero.grading import Grader
    from zero.loop import Run
    from zero.models.load import load_model
    from zero.models.weights import fingerprint
    from zero.monitoring.preflight import preflight, settings_doubts
    from zero.rollout.prefetch import Prefetch
    from zero.runtime import World, prepare
    from zero.tracking import Trackers
    from zero.tracking.terminal import Progress

    world = world or World()

    def tell(text: str) -> None:
        if world.is_main:
            print(text, file=sys.stderr)

    if config["prompts"] % world.size:
        tell(
            f"prompts={config['prompts']}: {world.size} ranks cannot share them evenly; a multiple of {world.size} wastes no time"
        )
    device = prepare(config["threads"], config["learner"]["tf32"])
    if doubt := make.precision_doubt(config, device):
        tell(f"warning  {doubt}")
    if device.type == "cpu" and not start.get("kernels", True):
        tell(
            "note: no C++ compiler here (c++, or CXX): half as much time again, and other last digits than with the kernels"
        )
    algo, optim = configs.instantiate(config["algo"]), configs.instantiate(config["optim"])
    model, tokenizer, context = load_model(config["model"])
    digest = fingerprint(model, tokenizer)  # before adapters or an engine change the model
    run_folder.refuse_other_model(run_dir, config["model"]["path"], digest)
    sampling = make.make_sampling(config["sampling"], config["model"], template, tokenizer)
    training = as_key(config["questions"])
    sets[training] = questions = make.with_room(sets[training], template, tokenizer, sampling, context)
    for note in questions.rows.notes:
        tell(f"questions {questions.name}: {note}")
    tell(preflight(template.prompt(questions.rows.train[0], tokenizer, (0,)), sampling, tokenizer))
    for doubt in settings_doubts(config, sum(p.numel() for p in model.parameters())):
        tell(f"warning  {doubt}")
    evaluation = config["evaluation"]
    greedy = replace(sampling, temperature=evaluation["temperature"], max_tokens=evaluation["max_tokens"])
    benchmarks = make.make_benchmarks(
        config["benchmarks"], template, reward, greedy, evaluation["n"], config["seed"], sets, tokenizer, context
    )
    grader = Grader(template.extract, questions.check, questions.extract_any, reward)
    engine = make.make_engine(config["rollout"], model, tokenizer, context, device)
    precision = "bfloat16" if make.autocasts(config, device) else "float32"
    tell(provenance.on_engine(start, engine, precision))
    critic = make.make_critic(  # before the learner, which may change the model it is given
        config, algo, device, world, model=model, tokenizer=tokenizer, engine=engine, grader=grader, sampling=sampling
    )
    learner = make.make_learner(config, model, tokenizer, algo, optim, device, world)
    return Run(
        dir=run_dir,
        template=template,
        questions=questions,
        algo=algo,
        sampling=sampling,
        tokenizer=tokenizer,
        grader=grader,
        engine=engine,
        learner=learner,
        critic=critic,
        lens=make.make_lens(config, start["choices"]["algo"], learner, tokenizer)
        if config["tracker"]["lens"]
        else None,
        sync_check=make.make_sync_check(config, device),
        model=digest,
        prefetch=Prefetch(world),
        benchmarks=benchmarks,
        trackers=open_trackers(identity or config, start, run_dir, name, Progress(run_dir, name, config["steps"]))
        if world.is_main and not config["probe"]
        else Trackers(None),
        world=world,
        **{key: config[key] for key in ("seed", "steps", "prompts", "group_size", "updates", "epochs")},
        evaluate_every=evaluation["every"],
        save_every=config["checkpoint"]["every"],
        keep=config["checkpoint"]["keep"],
        sample_every=config["samples"]["every"],
        sample_groups=config["samples"]["groups"],
    )


def probe(parts: Run) -> None:
    """Say what the longest possible step takes; nothing is kept of it."""
    from zero.memory_probe import longest_step

    longest_step(parts, print if parts.world.is_main else lambda line: None)
    if parts.world.is_main:
        print("the longest step fits; nothing was trained: the same command without debug=probe does it")


def export(parts: Run, dtype: torch.dtype) -> None:
    """The trained model as a Hugging Face folder in `dtype`, complete or absent. Called by every rank."""
    import shutil

    final, partial = parts.dir / "model", parts.dir / ".model_partial"
    if parts.world.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    parts.world.barrier()
    parts.learner.export(partial)
    parts.world.barrier()  # each rank may have written its part
    if parts.world.is_main:
        store_as(partial, dtype)
        parts.tokenizer.save_pretrained(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)


def close(parts: Run, outcome: Mapping[str, Any]) -> None:
    """Write result.json and curves.png, and let the trackers deliver what they hold."""
    from zero.tracking.curves_png import draw

    result = parts.dir / "result.json"
    try:
        result.with_suffix(".partial").write_text(json.dumps(outcome, indent=1))
        result.with_suffix(".partial").rename(result)
        for path in (parts.dir / "config.yaml", result, draw(parts.dir)):
            parts.trackers.artifact(path)
    except OSError as error:  # the run's own error, if any, says more
        print(f"{parts.dir}: {error}", file=sys.stderr)
    parts.trackers.close(outcome["status"])


def open_trackers(
    config: Mapping[str, Any], start: provenance.Start, run_dir: Path, name: str, view: Any = None
) -> Trackers:
    """The journal of a run, what is shown of it, and whatever tracker the config names."""
    from zero.tracking import Trackers

    return Trackers.open(
        config=config,
        start=start,
        run_dir=run_dir,
        name=name,
        signature=identity.signature(config),
        tracker=configs.tracker(config),
        view=view,
    )


def deliver(config: Mapping[str, Any], choices: Mapping[str, str], run_dir: Path, name: str) -> None:
    """Hand a finished run to its tracker, if that could not be reached when the run ended."""
    from zero.tracking import delivered

    if not delivered(run_dir):
        on_start = [{"choices": dict(choices)}, *provenance.starts(run_dir)]  # a full disk may have cost the line
        open_trackers(config, on_start[-1], run_dir, name).close("finished")


def where_to_look(run_dir: Path, before: str = "") -> None:
    """The last lines of a run; `before`: of one that had finished already."""
    from zero.tracking import dashboard_command, stored_in

    if before:
        print(before)
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    print(f"finished: {shown}")
    print(f"  curves        {shown / 'curves.png'}")
    print(f"  model         {shown / 'model'}")
    print(f"  all metrics   {shown / 'metrics.jsonl'}")
    print(f"  compare runs in MLflow:  {dashboard_command(stored_in(run_dir))}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def task(config: DictConfig) -> float | None:
    """One Hydra job. Returns the mean final held-out accuracy, for sweepers that optimise."""
    choices, overrides = configs.choices_of_run()
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        outcome = run(plain, choices, plain["name"] or configs.run_name("train", choices, overrides))
    except (InputError, Broken) as error:
        failed(error)
        return None
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    accuracies = [v for r in outcome.get("evaluation", {}).values() for k, v in r.items() if k.endswith("/accuracy")]
    return sum(accuracies) / len(accuracies) if accuracies else None


def main() -> None:
    """The console entry point."""
    command_line("train", task)


if __name__ == "__main__":
    main()

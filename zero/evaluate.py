"""python -m zero.evaluate model=... template=... benchmarks=...: measure a model, or the checkpoints of a training run,
through training's own engine, template and grader. After a kill the same command goes on where it was.

RUN_DIR/completions_NAME.jsonl   every answer, a row each, in the order of the questions
        result.json              all numbers, under the glossary's names
        weights.txt              a fingerprint of the weights that gave the answers
With run=FOLDER the answers to each step's checkpoint stand in RUN_DIR/step_NNNNNN/.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from zero import run_folder
from zero.config import check as configs
from zero.config import identity
from zero.config.cli import command_line, failed
from zero.errors import Broken, InputError, Preempted
from zero.lock import owned
from zero.models.load import find
from zero.paths import CONF
from zero.questions import refuse_namesakes
from zero.signals import StopSignal
from zero.tracking import provenance

if TYPE_CHECKING:
    from torch import Tensor

    from zero.benchmark import Result
    from zero.questions import QuestionSet

Config = Mapping[str, Any]
DISPLAY = ("k", "published")  # settings that change what is shown of the answers, not the answers


def run(config: Config, name: str, choices: Mapping[str, str]) -> dict[str, Any]:
    """Evaluate one checked config (see `with_run`); writes the run folder and returns what result.json holds. `choices`:
    the option of each group that was chosen here, not by a training run."""
    run_dir = Path(config["run_dir"] or Path("runs") / "evaluate" / name).absolute()
    known = run_dir / "config.yaml"
    if known.exists():
        stored = run_folder.read_yaml(known)
        identity.refuse_if_different(_of_answers(stored), _of_answers(config), run_dir)
    _check(config)
    find(config["model"])
    light = {key: configs.instantiate(config[key], key) for key in ("template", "reward")}
    sets = load_questions(config)
    subjects = steps_of(config)
    configs.writable_folder(run_dir)
    configs.keep(config, known)

    from zero.checkpoint import disk_is_full, no_space
    from zero.runtime import device_name

    start = provenance.start(choices, device_name(), ranks=1)
    try:
        with owned(run_dir), StopSignal("these questions").listening() as stop:
            results = measure(config, run_dir, sets, subjects, start, stop, **light)
        outcome = outcome_of(config, results)
        (run_dir / "result.partial").write_text(json.dumps(outcome, indent=1))
        (run_dir / "result.partial").rename(run_dir / "result.json")
    except OSError as error:
        if disk_is_full(error):
            raise no_space(run_dir, "its answers") from error
        raise
    show(config, results, light["template"].name)
    print(f"written to {run_dir}")
    return outcome


def measure(
    config: Config,
    run_dir: Path,
    sets: dict[str, QuestionSet],
    subjects: Mapping[int | None, Path | None],
    start: provenance.Start,
    stop: StopSignal,
    template: Any,
    reward: Any,
) -> dict[int | None, list[Result]]:
    """The results of every benchmark, by step (None: the model itself). Preempted, every answer kept, if `stop` says so."""
    from zero import build
    from zero.benchmark import evaluate_in_parts
    from zero.models.load import load_model
    from zero.models.weights import as_computed, watched, weights_of
    from zero.monitoring.preflight import preflight
    from zero.runtime import prepare

    device = prepare(config["threads"])
    theirs = not configs.takes_weights(config["rollout"])  # a server's own model, whatever weights lie here
    model, tokenizer, context = load_model(config["model"], weights=not theirs)
    sampling = build.make_sampling(config["sampling"], config["model"], template, tokenizer)
    benchmarks = build.make_benchmarks(
        config["benchmarks"], template, reward, sampling, config["n"], config["seed"], sets, tokenizer, context
    )
    first = benchmarks[0].questions.rows.heldout[0]
    print(preflight(template.prompt(first, tokenizer, (0,)), sampling, tokenizer), file=sys.stderr)
    engine = build.make_engine(config["rollout"], model, tokenizer, context, device)
    print(provenance.on_engine(start, engine), file=sys.stderr)
    provenance.note(run_dir, start)
    results: dict[int | None, list[Result]] = {}
    stop.started = True
    for step, path in subjects.items():
        folder = run_dir if step is None else run_dir / f"step_{step:06d}"
        folder.mkdir(exist_ok=True)
        fingerprint = hashlib.sha256()
        weights: Iterable[tuple[str, Tensor]] = ()
        if theirs:
            fingerprint.update(str(config["rollout"].get("model")).encode())
        else:
            own = ((n, p.detach()) for n, p in model.named_parameters())
            lora = read_run(config["run"])["learner"].get("lora") if config["run"] else None
            weights = own if path is None else weights_of(path, config["model"], lora)
            weights = as_computed(weights, Path(config["run"]).expanduser()) if config["run"] else weights
        engine.sync(watched(weights, fingerprint), version=step or 0)
        refuse_other_weights(folder, fingerprint.hexdigest())
        results[step] = [
            evaluate_in_parts(
                bench, template, tokenizer, engine, config["k"],
                path=folder / f"completions_{bench.questions.name}.jsonl",
                at_once=config["at_once"],
                told=partial(tell, stop, ("" if step is None else f"step {step}, ") + bench.questions.name),
            )
            for bench in benchmarks
        ]  # fmt: skip
    return results


def load_questions(config: Config) -> dict[str, QuestionSet]:
    """The question sets of the benchmarks by their config, before torch is imported."""
    wanted = config["benchmarks"]["sets"]
    for name, entry in wanted.items():
        if entry is None:
            remedy = (
                "takes the held-out rows of a question set: name one (questions=...) or a training run (run=FOLDER)"
            )
            raise InputError(f"benchmarks.sets.{name}", "null", remedy)
    sets = {json.dumps(entry, sort_keys=True): configs.benchmark_set(name, entry) for name, entry in wanted.items()}
    refuse_namesakes(sets.values())
    return sets


def steps_of(config: Config) -> dict[int | None, Path | None]:
    """What to measure: the folder of weights by step; None as folder is the model itself, None as step no run.

    `step` is a number of steps (0: before training), "all" checkpoints, or null: the trained model. InputError if there
    is no such step.
    """
    if config["run"] is None:
        if config["step"] is not None:
            raise InputError("step", config["step"], "belongs to a training run; add run=FOLDER")
        return {None: None}
    folder, wanted = Path(config["run"]).expanduser(), config["step"]
    paths = sorted((folder / "checkpoints").glob("step_*"))
    saved: dict[int | None, Path | None] = {int(path.name.removeprefix("step_")): path for path in paths}
    if (folder / "model").is_dir():
        saved.setdefault(read_run(config["run"])["steps"], folder / "model")
    if wanted == "all":
        if not saved:
            raise InputError("step", wanted, f"{folder} holds no checkpoint yet")
        return dict(sorted(saved.items(), key=lambda item: item[0] or 0))
    there = {0: None, **saved}
    chosen = max(step or 0 for step in there) if wanted is None else wanted
    if isinstance(chosen, bool) or chosen not in there:
        listed = ", ".join(str(step) for step in sorted(step or 0 for step in there))
        raise InputError("step", wanted, f"no such step in {folder}; there are {listed} and all")
    return {chosen: there[chosen]}


def refuse_other_weights(folder: Path, digest: str) -> None:
    """InputError if the answers in the folder are those of other weights: a model that was trained further."""
    path = folder / "weights.txt"
    if not path.exists():
        path.with_suffix(".partial").write_text(digest)
        path.with_suffix(".partial").rename(path)
    elif path.read_text() != digest:
        remedy = "holds answers of other weights under the same name; choose another run_dir or remove it"
        raise InputError("run_dir", folder, remedy)


def tell(stop: StopSignal, label: str, done: int, all_: int) -> None:
    """One line on what is done, as long as something is left."""
    if stop:
        raise Preempted(f"{stop.received} after {label}, {done} of {all_} questions: saved; the same command continues")
    if done < all_:
        print(f"{label}: {done} of {all_} questions", file=sys.stderr, flush=True)


def outcome_of(config: Config, results: Mapping[int | None, Sequence[Result]]) -> dict[str, Any]:
    """What result.json holds; `evaluation` and `macro` are those of the last step."""
    from zero.benchmark import macro

    entries = {
        step: {
            "evaluation": {r.name: r.metrics() | {"questions": r.questions, "n": r.n} for r in of_step},
            "macro": macro(of_step),
        }
        for step, of_step in results.items()
    }
    outcome: dict[str, Any] = {"status": "finished", "signature": identity.signature(config)}
    outcome |= list(entries.values())[-1]
    return outcome | ({} if None in entries else {"steps": {str(step): entry for step, entry in entries.items()}})


def show(config: Config, results: Mapping[int | None, Sequence[Result]], template: str) -> None:
    """The tables, and where the published scores come from."""
    from zero.benchmark import macro
    from zero.published import figures
    from zero.tracking.terminal import benchmark_tables, make_console, steps_table

    console = make_console()
    plain = console.options.ascii_only
    numbers = {
        step: {key: value for r in of_step for key, value in r.metrics().items()}
        | (macro(of_step) if len(of_step) > 1 else {})
        for step, of_step in results.items()
    }
    if len(numbers) > 1:
        console.print(steps_table({step or 0: values for step, values in numbers.items()}, plain))
    model = config["published"] or (config["model"]["path"] if config["run"] is None else "")
    tables: Any = OmegaConf.to_container(OmegaConf.load(CONF / "published.yaml"))
    ours = {key: config["sampling"][key] for key in ("temperature", "max_tokens")} | {"n": config["n"]}
    names = [result.name for result in list(results.values())[-1]]
    found = figures(tables["tables"], model, template, ours, names)
    scores = {name: figure.score for name, figure in found.items()}
    last = list(numbers.values())[-1]
    if len(numbers) > 1:
        console.print(f"after {list(numbers)[-1]} steps:")
    console.print(benchmark_tables(last, config["n"], config["k"], scores, plain))
    for source, differs in dict.fromkeys((figure.source, figure.differs) for figure in found.values()):
        print(f"published: {source}; " + (", ".join(differs) if differs else "the same protocol"))


def with_run(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The composed config as plain containers. With run=FOLDER everything that the command line does not choose is that
    of the run's own evaluation: model, template, benchmarks, sampling, n, seed, so that its curve can be continued."""
    if config.run is not None:
        stored = read_run(config.run)
        typed = chosen(overrides)
        below = {key: OmegaConf.select(config, key) for key in typed if "." in key}
        OmegaConf.set_struct(config, False)
        evaluation = stored["evaluation"]
        taken = ("model", "template", "questions", "benchmarks", "reward", "rollout", "seed")
        theirs = {key: stored[key] for key in taken}
        sampling = {key: evaluation[key] for key in ("temperature", "max_tokens")}
        for key, value in (theirs | {"sampling": stored["sampling"] | sampling, "n": evaluation["n"]}).items():
            if key not in typed:
                config[key] = value
        if "template" in typed and "rollout" not in typed and "extract" in config.rollout:
            for key, default in (("extract", None), ("variables", None), ("prefill", "")):  # the run's are resolved
                config.rollout[key] = OmegaConf.select(config, f"template.{key}", default=default)
        for key, value in below.items():  # typed below a group that is now the run's
            OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def read_run(folder: str) -> dict[str, Any]:
    """The config of a training run as it has gone on. InputError if the folder is none."""
    path = Path(folder).expanduser() / "config.yaml"
    stored: Any = run_folder.read_yaml(path) if path.is_file() else None
    if not isinstance(stored, dict) or not {"algo", "evaluation", "steps"} <= stored.keys():
        raise InputError("run", folder, "is no folder of a training run: its config.yaml is missing or another's")
    return run_folder.changed(stored, run_folder.recorded(path.parent))


def chosen(overrides: Sequence[str]) -> set[str]:
    """The groups and settings that the command line names."""
    return {override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))}


def _of_answers(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in DISPLAY}


def _check(config: Config) -> None:
    """What the check of the command line could not see: it knew neither the run's settings nor these keys."""
    if config["at_once"] < 1:
        raise InputError("at_once", config["at_once"], "must be above 0")
    if config["run"] is not None and not configs.takes_weights(config["rollout"]):
        raise InputError(
            "run", config["run"], "its weights cannot be sent to this rollout; it answers with its server's own"
        )
    for k in config["k"]:
        if not 1 <= k <= config["n"]:
            raise InputError("k", k, f"pass@k needs 1 <= k <= n; n is {config['n']}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def task(config: DictConfig) -> None:
    """One Hydra job."""
    choices, overrides = configs.choices_of_run()
    try:
        typed = chosen(overrides)
        named = {k: v for k, v in choices.items() if v != "None" and (config.run is None or k in typed)}
        run(with_run(config, overrides), config.name or configs.run_name("evaluate", named, overrides), named)
    except (InputError, Broken) as error:
        failed(error)
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(75)  # EX_TEMPFAIL


def main() -> None:
    """The console entry point."""
    command_line("evaluate", task)


if __name__ == "__main__":
    main()

"""python -m zero.evaluate model=... template=... benchmarks=...: evaluate a model, or the checkpoints of a training run,
with the engine, template and grader of training. After a kill the same command continues.

RUN_DIR/completions_NAME.jsonl   every answer, a row each, in the order of the questions
        pass_rates_NAME.json     the share of right answers to each question, for questions.where.path
        result.json              all numbers, under the glossary's names
        weights.txt              a fingerprint of the weights that gave the answers
With run=FOLDER the answers of each step's checkpoint are in RUN_DIR/step_NNNNNN/.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from zero import run_folder, subjects
from zero.config import check as configs
from zero.config import identity
from zero.config.cli import command_line, errors_reported
from zero.errors import Preempted
from zero.files import write_json
from zero.lock import owned
from zero.models.load import find
from zero.paths import CONF
from zero.question_sets import load_benchmarks
from zero.signals import StopSignal
from zero.tracking import provenance

if TYPE_CHECKING:
    from zero.benchmark import Result
    from zero.questions import QuestionSet

Config = Mapping[str, Any]
DISPLAY = ("k", "published")  # settings of the printed tables: they do not change the answers


def run(config: Config, name: str, choices: Mapping[str, str]) -> dict[str, Any]:
    """Evaluate one checked config (see `subjects.with_run`); writes the run folder and returns what result.json holds.
    `choices`: the options that this command chose, without those of a training run."""
    run_dir = Path(config["run_dir"] or Path("runs") / "evaluate" / name).absolute()
    config_file = run_dir / run_folder.CONFIG
    if config_file.exists():
        both = (run_folder.read_yaml(config_file), config)
        stored, new = ({k: v for k, v in c.items() if k not in DISPLAY} for c in both)
        identity.refuse_if_different(stored, new, run_dir)
    subjects.check(config)
    find(config["model"])
    components = {key: configs.instantiate(config[key], key) for key in ("template", "reward", "environment")}
    sets, paths = load_benchmarks(config), subjects.paths_of(config)
    configs.writable_folder(run_dir)
    configs.keep(config, config_file)

    from zero.checkpoint import disk_is_full, no_space
    from zero.runtime import device_name
    from zero.scores import outcome_of, show, write_pass_rates

    start = provenance.start(choices, device_name(), ranks=1)
    try:
        with owned(run_dir), StopSignal("these questions").listening() as stop:
            results = measure(config, run_dir, sets, paths, start, stop, **components)
        write_pass_rates(run_dir, results)
        outcome = outcome_of(config, results)
        write_json(run_dir / run_folder.RESULT, outcome)
    except OSError as error:
        if disk_is_full(error):
            raise no_space(run_dir, "its answers") from error
        raise
    show(config, results, components["template"].name)
    print(f"written to {run_dir}")
    return outcome


def measure(
    config: Config,
    run_dir: Path,
    sets: dict[str, QuestionSet],
    paths: Mapping[int | None, Path | None],
    start: provenance.Start,
    stop: StopSignal,
    **components: Any,
) -> dict[int | None, list[Result]]:
    """The results of every benchmark, by step (None: the model itself). Raises Preempted after a stop request, with all
    answers so far saved."""
    from zero.benchmark import evaluate_in_parts
    from zero.build import build_evaluation
    from zero.models.weights import hash_weights

    model, tokenizer, engine, benchmarks = build_evaluation(config, sets, start, **components)
    provenance.note(run_dir, start)
    remote = not configs.takes_weights(config["rollout"])  # the server answers with its own model
    results: dict[int | None, list[Result]] = {}
    stop.started = True
    for step, path in paths.items():
        folder, label = run_folder.answers_folder(run_dir, step), "" if step is None else f"step {step}, "
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(str(config["rollout"].get("model")).encode() if remote else b"")
        weights = () if remote else subjects.weights_at(config, model, path)
        engine.sync(hash_weights(weights, digest), version=step or 0)
        run_folder.refuse_other_weights(folder, digest.hexdigest())
        results[step] = [
            evaluate_in_parts(
                bench,
                components["template"],
                tokenizer,
                engine,
                config["k"],
                path=folder / f"completions_{bench.questions.name}.jsonl",
                at_once=config["at_once"],
                on_progress=partial(progress, stop, label + bench.questions.name),
            )
            for bench in benchmarks
        ]
    return results


def progress(stop: StopSignal, label: str, done: int, total: int) -> None:
    """Print one progress line, unless all is done. Raises Preempted after a stop request."""
    count = f"{done} of {total} questions"
    if stop:
        raise Preempted(f"{stop.received} after {label}, {count}: saved; the same command continues")
    if done < total:
        print(f"{label}: {count}", file=sys.stderr, flush=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def task(config: DictConfig) -> None:
    """One Hydra job."""
    choices, overrides = configs.choices_of_run()
    with errors_reported():
        typed = subjects.typed_keys(overrides)
        named = {k: v for k, v in choices.items() if v != "None" and (config.run is None or k in typed)}
        name = config.name or configs.run_name("evaluate", named, overrides)
        run(subjects.with_run(config, overrides), name, named)


def main() -> None:
    """The console entry point."""
    command_line("evaluate", task)


if __name__ == "__main__":
    main()

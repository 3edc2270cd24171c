"""The scores of an evaluation: for result.json, and as printed tables beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from zero.benchmark import Result, macro
from zero.config import identity
from zero.files import write_json
from zero.paths import CONF
from zero.published import figures
from zero.run_folder import answers_folder
from zero.tracking.tables import benchmark_tables, steps_table
from zero.tracking.terminal import make_console

Config = Mapping[str, Any]
Results = Mapping[int | None, Sequence[Result]]  # by step of the training run; None: the model itself


def outcome_of(config: Config, results: Results) -> dict[str, Any]:
    """The content of result.json; `evaluation` and `macro` are those of the last step."""
    entries = {
        step: {
            "evaluation": {r.name: r.metrics() | {"questions": r.questions, "n": r.n} for r in results_of_step},
            "macro": macro(results_of_step),
        }
        for step, results_of_step in results.items()
    }
    outcome: dict[str, Any] = {"status": "finished", "signature": identity.signature(config)}
    outcome |= list(entries.values())[-1]
    return outcome | ({} if None in entries else {"steps": {str(step): entry for step, entry in entries.items()}})


def write_pass_rates(run_dir: Path, results: Results) -> None:
    """The share of right answers to each question by its id, beside the answers, as zero.questions.pass_rates reads it."""
    for step, results_of_step in results.items():
        for r in results_of_step:
            ids = [row["id"] for row in r.rows[:: r.n]]
            content = {"questions": r.name, "n": r.n, "rates": dict(zip(ids, r.shares, strict=True))}
            write_json(answers_folder(run_dir, step) / f"pass_rates_{r.name}.json", content)


def show(config: Config, results: Results, template: str) -> None:
    """Print the tables, and where the published scores come from."""
    console = make_console()
    plain = console.options.ascii_only
    metrics = {
        step: {key: value for r in results_of_step for key, value in r.metrics().items()}
        | (macro(results_of_step) if len(results_of_step) > 1 else {})
        for step, results_of_step in results.items()
    }
    if len(metrics) > 1:
        console.print(steps_table({step or 0: values for step, values in metrics.items()}, plain))
        console.print(f"after {list(metrics)[-1]} steps:")
    model = config["published"] or (config["model"]["path"] if config["run"] is None else "")
    tables: Any = OmegaConf.to_container(OmegaConf.load(CONF / "published.yaml"))
    sampling = {key: config["sampling"][key] for key in ("temperature", "max_tokens")} | {"n": config["n"]}
    names = [result.name for result in list(results.values())[-1]]
    published = figures(tables["tables"], model, template, sampling, names)
    scores = {name: figure.score for name, figure in published.items()}
    console.print(benchmark_tables(list(metrics.values())[-1], config["n"], config["k"], scores, plain))
    for source, differs in dict.fromkeys((figure.source, figure.differs) for figure in published.values()):
        print(f"published: {source}; " + (", ".join(differs) if differs else "the same protocol"))

"""python -m zero.evaluate model=... template=... benchmarks=...: measure a model through training's own engine,
template and grader."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zero import config as configs
from zero import identity
from zero.errors import InputError


def run(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Evaluate one checked config; writes result.json and completions to the run folder and returns the result."""
    run_dir = configs.writable_folder(Path(config["run_dir"] or Path("runs") / "evaluate" / name).absolute())
    configs.keep(config, run_dir / "config.yaml")

    from zero import build
    from zero.evaluation import evaluate, rows
    from zero.progress import evaluation_table, make_console
    from zero.runtime import prepare

    device = prepare(config["threads"])
    template, reward = (configs.instantiate(config[key]) for key in ("template", "reward"))
    model, tokenizer, context = build.load_model(config["model"])
    sampling = build.make_sampling(config["sampling"], config["model"], template, tokenizer)
    benchmarks = build.make_benchmarks(
        config["benchmarks"], template, reward, sampling, config["n"], config["seed"], {}
    )
    engine = build.make_engine(config["rollout"], model, tokenizer, context, device)
    engine.sync(((name, p.detach()) for name, p in model.named_parameters()), version=0)
    results = []
    for bench in benchmarks:
        build.check_context(bench.questions, template, tokenizer, sampling, context)
        results.append(evaluate(bench, template, tokenizer, engine, config["k"]))
        lines = (json.dumps(row) + "\n" for row in rows(results[-1].groups))
        (run_dir / f"completions_{results[-1].name}.jsonl").write_text("".join(lines))
    measured = {key: value for result in results for key, value in result.metrics().items()}
    make_console().print(evaluation_table([(f"avg@{config['n']}", measured)]))
    for result in results:
        if result.n > 1:
            print(f"{result.name}: " + "  ".join(f"pass@{k} {share:.1%}" for k, share in result.pass_at.items()))
    outcome: dict[str, Any] = {
        "status": "finished",
        "signature": identity.signature(config),
        "evaluation": {
            r.name: r.metrics() | {f"eval/{r.name}/pass@{k}": v for k, v in r.pass_at.items()}
            | {"questions": r.questions, "n": r.n}
            for r in results
        },
    }  # fmt: skip
    (run_dir / "result.json").write_text(json.dumps(outcome, indent=1))
    print(f"written to {run_dir}")
    return outcome


@hydra.main(version_base="1.3", config_path=str(configs.CONF), config_name="evaluate")
def task(config: DictConfig) -> None:
    """One Hydra job."""
    choices, overrides = configs.choices_of_run()
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        run(plain, configs.run_name(choices, overrides))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """The console entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    configs.command_line("evaluate", task)


if __name__ == "__main__":
    main()

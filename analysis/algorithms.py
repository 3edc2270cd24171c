"""The page of algorithms: what the code does, and what experiment=algorithms gave.

    python -m zero.train -m experiment=algorithms hydra.launcher.name=algorithms
    python -m analysis.algorithms runs/sweeps/algorithms     docs/algorithms.md, algorithms.png and algorithms.json

What an algorithm is comes from its yaml and from docstrings (analysis/algorithm_cards.py). Finished runs replace the stored
numbers of their algorithm; an algorithm without runs keeps those that were measured under the same budget.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import ArgumentParser, InputError
from zero.files import read_regular
from zero.paths import CONF, ROOT
from zero.tracking.journal import benchmarks

if TYPE_CHECKING:
    from analysis.curves import Curve, Group
    from analysis.reader.records import Run, Runs

PAGE = ROOT / "docs"
# Settings in which the runs of an algorithm must differ from the others, and why. The responses of a step stay 128.
OWN: dict[str, tuple[tuple[str, ...], str]] = {
    "sft": (
        ("rollout=gold", "group_size=1", "prompts=128"),
        "it learns from one reference solution of each question: 128 questions a step instead of 16 x 8 samples",
    ),
}
BUDGET = (  # settings that must be the same in all runs of a page
    "steps",
    "sampling",
    "evaluation",
    "optimizer",
    "updates",
    "epochs",
    "model",
    "questions",
    "template",
    "benchmarks",
)
CURVES = ("accuracy", "length", "length_incorrect")  # of the held-out questions, under eval/NAME/


def algorithms() -> list[str]:
    """The options of conf/algo."""
    return sorted(path.stem for path in (CONF / "algo").glob("*.yaml") if not path.stem.startswith("_"))


def collect(runs: Runs, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What algorithms.json holds: the budget, and of every algorithm its curves over steps with intervals over seeds.

    Finished runs replace what is `stored` about their algorithm. The others keep theirs if it was measured under the same
    budget, else it goes. InputError if the runs themselves differ in their budget.
    """
    from analysis.curves import grouped

    finished = [run for run in runs.runs if run.status == "finished" and run.path and run.axes["algo"] in algorithms()]
    budgets = {json.dumps(budget(run), sort_keys=True): run for run in finished}
    if len(budgets) > 1:
        one, other = list(budgets.values())[:2]
        raise InputError("FOLDER", " ".join(runs.places), f"{one.name} and {other.name} differ in their budget")
    if not finished:
        return dict(stored)
    shared = json.loads(next(iter(budgets)))
    numbers = dict(stored.get("algorithms", {})) if stored.get("budget") == shared else {}
    chosen = runs.restricted_to([run.path.name for run in finished if run.path])
    for group in grouped(chosen, ["algo"]):
        numbers[group.key["algo"]] = summary(chosen, group)
    return {"budget": shared, "algorithms": {name: numbers[name] for name in sorted(numbers) if name in algorithms()}}


def budget(run: Run) -> dict[str, Any]:
    """What runs must share to be compared. A response counts the same wherever its prompt comes from."""
    import yaml

    assert run.path is not None
    config = yaml.safe_load(read_regular(run.path / "config.yaml"))
    return {"responses": config["prompts"] * config["group_size"], **{key: config[key] for key in BUDGET}}


def summary(runs: Runs, group: Group) -> dict[str, Any]:
    """The numbers of one algorithm. Tokens are those of all steps of a run, the mean over runs."""
    from analysis.curves import curve

    benchmark = benchmarks(dict.fromkeys(runs.metrics))[0]
    curves = {name: curve(runs, group, f"eval/{benchmark}/{name}") for name in CURVES}
    steps = [int(step) for step in curves["accuracy"].x_T]
    entry: dict[str, Any] = {"seeds": sorted(map(int, set(group.seeds))), "steps": steps}
    entry |= {name: points(curves[name], group.seeds, steps) for name in CURVES}
    own_steps = runs.steps[runs.steps["run"].isin([run.name for run in group.runs])]
    for key, metric in (("tokens", "tokens/generated"), ("critic_tokens", "critic/tokens")):
        entry[key] = round(float(own_steps[metric].sum()) / len(group.runs)) if metric in own_steps else 0
    seconds = [own_steps[name].sum() for name in ("time/step", "time/evaluate") if name in own_steps]
    return entry | {"seconds": round(float(sum(seconds)) / len(group.runs), 1) if seconds else None}


def points(curve: Curve, seeds: Sequence[str], steps: Sequence[int]) -> dict[str, list[float | None]]:
    """Mean and ends of the interval at each of the steps, and the last value of each seed; None where there is none."""
    from analysis.stats.intervals import by_seed

    row = {int(step): i for i, step in enumerate(curve.x_T)}
    columns = {"mean": curve.mean_T, "low": curve.low_T, "high": curve.high_T}
    out = {
        key: [rounded(values[row[step]]) if step in row else None for step in steps] for key, values in columns.items()
    }
    each = by_seed(curve.runs_RT, seeds)
    return out | {"final": [rounded(value) for value in each[:, row[steps[-1]]]] if steps[-1] in row else []}


def rounded(value: float) -> float | None:
    """Four decimals: far below what a seed changes. None for no number."""
    return round(float(value), 4) if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------- the command line


def write(runs: Runs, folder: Path) -> None:
    """Write algorithms.json, algorithms.png and algorithms.md into a folder."""
    from analysis.algorithm_cards import cards
    from analysis.algorithm_page import draw, markdown

    numbers_file = folder / "algorithms.json"
    numbers = collect(runs, json.loads(numbers_file.read_text()) if numbers_file.exists() else {})
    every = cards(algorithms())
    numbers_file.write_text(as_json(numbers))
    draw(every, numbers, folder / "algorithms.png")
    (folder / "algorithms.md").write_text(markdown(every, numbers, OWN))


def as_json(numbers: Mapping[str, Any]) -> str:
    """The text of algorithms.json: a line for each algorithm, so that a change shows whose numbers changed."""
    rows = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in numbers.get("algorithms", {}).items()]
    if not rows:
        return "{}\n"
    return f'{{\n "budget": {json.dumps(numbers["budget"])},\n "algorithms": {{\n' + ",\n".join(rows) + "\n }\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    from analysis.cli import exit_code

    parser = ArgumentParser(prog="python -m analysis.algorithms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("places", nargs="+", metavar="FOLDER", help="the sweep that experiment=algorithms has made")
    parser.add_argument("--out", type=Path, default=PAGE, help="folder of the page (default: docs)")
    options = parser.parse_args(arguments)

    def work() -> None:
        from analysis.reader.runs import read

        write(read(options.places), options.out)
        print(f"written: {options.out / 'algorithms.md'}, algorithms.png and algorithms.json")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

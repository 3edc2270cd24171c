"""conf/experiment: every experiment composes in both sizes, says what it costs and expects, and claims what its cells can show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.reader.folders import as_typed
from analysis.stats.claims import parse
from launch.sweep import cells
from launch.sweep.files import Cell
from tests.conftest import ROOT
from zero.config import experiments
from zero.errors import InputError
from zero.paths import CONF
from zero.tracking.glossary import describe

NAMES = experiments.with_claims()
# What the sizes may differ in, besides conf/size: model, questions, engine, budget, and the published hyper-parameters
OF_SIZE = re.compile(
    r"(model|template|questions|benchmarks|rollout|learner|optimizer|sampling|evaluation|steps|prompts|group_size|updates|seed|n|k"
    r"|algo\.(beta|entropy|kl_in|kl\._target_|critic\.optimizer\.lr))\b"
)
MEASURED = re.compile(r"eval/[^/]+/(pass|maj)@\d+")


def plain(value: str | None) -> str:
    """A value as an analysis shows it: 1.0 is shown as 1."""
    try:
        return as_typed(float(value or ""))
    except ValueError:
        return str(value)


def planned(name: str, size: str = experiments.NANO, *typed: str) -> list[Cell]:
    return list(cells.plan([f"experiment={name}", f"size={size}", *typed]).cells.values())


@pytest.mark.parametrize("size", experiments.SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_composes(name: str, size: str) -> None:
    planned_cells = planned(name, size)
    assert planned_cells and all(cell.root == experiments.read(name).root for cell in planned_cells)
    if size == experiments.NANO:
        paths = {str((cell.config or {})["model"]["path"]) for cell in planned_cells}
        assert all(path.startswith(("zero/nano/", "after:")) for path in paths)
        seeds = {cell.axes["seed"] for cell in planned_cells}
        assert len(seeds) >= 5, "claims need seeds"
    elif experiments.read(name).root == "train":
        assert all((cell.config or {})["learner"]["gradient_checkpointing"] is not None for cell in planned_cells)
        assert {(cell.config or {})["model"]["path"].startswith("zero/nano") for cell in planned_cells} == {False}


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_command_cost_and_what_is_expected(name: str) -> None:
    head = (CONF / "experiment" / f"{name}.yaml").read_text().partition("\ntitle:")[0]
    root = experiments.read(name).root
    for word in (
        f"# Command:  python -m zero.{root} -m experiment={name}\n",
        "# Cost:     nano: ",
        " paper: ",
        "# Expected: ",
    ):
        assert word in head, word


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_differ_in_model_questions_engine_and_budget(name: str) -> None:
    import yaml

    stored = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    for size in experiments.SIZES:
        for text in stored[size].get("base", []):
            assert OF_SIZE.match(text), text
    shared = stored.get("base", []) or [text for line in stored[size].get("cells", []) for text in line]
    assert shared, "an experiment varies or fixes something in both sizes"


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_about_what_the_cells_measure(name: str) -> None:
    experiment, planned_cells = experiments.read(name), planned(name)
    claims = parse(experiment.claims, name)
    assert claims and not experiments.read(name, "paper").claims
    for claim in claims:
        metric = claim.statistic.metric
        assert MEASURED.fullmatch(metric) or describe(metric), metric
        axes = {**claim.where} | ({claim.statistic.axis: claim.statistic.values[0]} if claim.statistic.axis else {})
        for axis, value in axes.items():
            assert value in {plain(cell.axes.get(axis, cell.choices.get(axis))) for cell in planned_cells}, (
                axis,
                value,
            )
        if metric.startswith("eval/"):
            benchmark = metric.split("/")[1]
            known = {s["name"] for cell in planned_cells for s in (cell.config or {})["benchmarks"]["sets"].values()}
            assert benchmark in known | {"macro"}, benchmark
        if metric.startswith("reward/"):
            assert all(metric[7:] in (cell.config or {})["reward"]["terms"] for cell in planned_cells), metric
        assert len({cell.axes["seed"] for cell in planned_cells} - set(claim.seen)) >= claim.fewest, (
            "too few seeds to decide"
        )
        assert not claim.every or len({cell.axes.get(claim.every) for cell in planned_cells}) > 1
    for metric in experiment.figures:
        assert describe(metric), metric
        assert not metric.startswith("reward/") or any(
            metric[7:] in (cell.config or {})["reward"]["terms"] for cell in planned_cells
        ), metric


def test_what_is_typed_replaces_what_an_experiment_sets() -> None:
    planned_cells = planned("fig6_length", "nano", "seed=0,1", "steps=4")
    experiment = cells.plan(["experiment=fig6_length", "hydra/launcher=local", "steps=4"]).experiments["fig6_length"]
    assert list(experiment["typed"]) == ["steps=4"], "what a report marks its claims with"
    assert {(c.axes["algo"], c.axes["seed"], c.steps) for c in planned_cells} == {
        ("grpo", "0", 4),
        ("grpo", "1", 4),
        ("drgrpo", "0", 4),
        ("drgrpo", "1", 4),
    }
    alone = cells.plan(
        ["algo=grpo", "seed=5", "template=r1", "questions=nano_math", "steps=80", "sampling.max_tokens=160"]
    ).cells
    typed_cells = cells.plan(["experiment=fig6_length", "algo=grpo", "seed=5"]).cells
    assert {c.signature for c in alone.values()} == {c.signature for c in typed_cells.values()}, (
        "an experiment adds nothing of its own"
    )


def test_experiments_share_their_common_cells() -> None:
    plan = cells.plan(["experiment=fig6_length,biases"])
    lengths, biases = (set(plan.experiments[name]["cells"]) for name in ("fig6_length", "biases"))
    assert lengths < biases == set(plan.cells) and len(biases) == 20 and not plan.notes
    assert plan.experiments["biases"]["claims"] and plan.experiments["biases"]["title"]


def test_a_cell_may_start_from_the_model_of_another(tmp_path: Path) -> None:
    planned_cells = cells.plan(["experiment=open_r1", "seed=0,1"]).cells
    second = [cell for cell in planned_cells.values() if cell.model_from]
    assert len(planned_cells) == 6 and len(second) == 2
    for cell in second:
        first = planned_cells[cell.model_from or ""]
        assert cell.after == first.name and first.choices["algo"] == "sft" and first.axes["seed"] == cell.axes["seed"]
        assert cell.choices["model"] == cell.axes["model"] == "nano+sft" and "nano+sft" in cell.name
        assert list(planned_cells).index(first.name) < list(planned_cells).index(cell.name)
        placed = cells.with_run_dir(cell, tmp_path, None)
        assert (placed.config or {})["model"]["path"] == str(tmp_path / first.name / "model")
    assert len({cell.signature for cell in planned_cells.values()}) == 6, (
        "where a cell starts from is part of what it is"
    )
    again = cells.plan(["experiment=open_r1", "seed=0,1"]).cells
    assert list(again) == list(planned_cells), "an identity does not depend on where or when"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["experiment=fig6"], "experiment=fig6: no such experiment; did you mean fig6_length?"),
        (["experiment=fig6_length", "size=large"], "size=large: must be one of nano, paper"),
        (["experiment=transfer", "size=paper"], "size=paper: experiment=transfer has no such size: leave out size="),
        (["experiment=fig6_length", "algo=grpoo"], "algo=grpoo: no such option; did you mean"),
    ],
)
def test_bad_input_is_one_line(typed: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        cells.plan(typed)
    assert str(error.value).startswith(message)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_single_run_takes_one_cell_of_an_experiment() -> None:
    several = command("-m", "zero.train", "experiment=fig6_length")
    assert (
        several.returncode == 2 and "has 10 cells; add -m for all of them, or choose one, such as: " in several.stderr
    )
    one = command("-m", "zero.train", "experiment=fig6_length", "algo=grpo", "seed=5", "--cfg", "job")
    assert one.returncode == 0 and "steps: 80" in one.stdout and "seed: 5" in one.stdout, one.stderr
    other = command("-m", "zero.train", "experiment=fig5_templates", "template=r1", "seed=0", "model=nano")
    assert other.returncode == 2 and "is one of python -m zero.evaluate" in other.stderr
    stage = command("-m", "zero.train", "experiment=open_r1", "seed=0")
    assert stage.returncode == 2 and "add -m" in stage.stderr


def test_figures_are_drawn_against_steps_or_what_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.yaml"
    monkeypatch.setattr(experiments, "conf_file", lambda name: file)
    for text, x in (("", "step"), ("x: flops\n", "flops")):
        file.write_text(f"title: T\nfigures: [train/reward]\n{text}")
        assert experiments.read("own").x == x
    file.write_text("title: T\nx: wall\n")
    with pytest.raises(InputError, match="x: wall: must be one of step, tokens, flops, seconds"):
        experiments.read("own")
    assert all(describe(metric) for metric in experiments.X.values() if metric)

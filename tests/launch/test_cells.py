"""Lines of overrides become checked cells: quickly, and to the same configs as Hydra gives."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.sweep import cells, compose
from launch.sweep.compose import Bases
from tests.conftest import ROOT
from zero.config import check as configs
from zero.config import identity
from zero.errors import InputError

LINES = {
    "choices alone": ["algo=grpo", "template=r1"],
    "plain values": ["seed=3", "optimizer.lr=1e-6", "checkpoint.every=7", "evaluation.temperature=0"],
    "a value that others read": ["sampling.max_tokens=40"],
    "below a group that others read": ["questions.rows.train=64"],
    "text, quoted and not": ["tracker.experiment=x", "tracker.sweep='a b'"],
    "null": ["benchmarks.limit=null", "model.context=null"],
    "a list and a mapping": ["samples={every: 5, groups: 2}"],
    "an interpolation": ["prompts=${group_size}"],
    "added": ["reward.terms.mine.function=os.getcwd", "reward.terms.mine.weight=0.1"],
    "added by force": ["++steps=9"],
    "the same key twice": ["steps=4", "steps=5"],
    "required, given by a value": ["model=hf", f"model.path={ROOT / 'zero' / 'nano' / 'base'}"],
    "mended by a value": ["algo=grpo", "group_size=2", "prompts=4"],
    "mixture of all": ["seed=1", "algo=dapo", "optimizer.lr=2e-6", "sampling.max_tokens=50", "learner=lora"],
}


@pytest.mark.parametrize("typed", LINES.values(), ids=LINES)
def test_the_short_way_gives_what_hydra_gives(typed: list[str]) -> None:
    config, choices = Bases("train").resolve(configs.canonical("train", typed))
    expected = configs.check("train", typed)
    assert config == expected
    flat, theirs = identity.flatten(config), identity.flatten(expected)
    assert {key: type(value) for key, value in flat.items()} == {key: type(value) for key, value in theirs.items()}
    assert identity.signature(config) == identity.signature(expected)
    named = {o.partition("=")[0]: o.partition("=")[2] for o in typed if o.partition("=")[0] in configs.AXES}
    assert {axis: choices[axis] for axis in named} == named


def test_configs_of_cells_share_nothing() -> None:
    bases = Bases("train")
    one, _ = bases.resolve(["seed=1"])
    one["optimizer"]["lr"] = 99.0
    two, _ = bases.resolve(["seed=2"])
    assert two["seed"] == 2 and two == configs.check("train", ["seed=2"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["algo=grpo,drgpo"], "did you mean drgrpo"),
        (["seed=0,x"], "must be a whole number"),
        (["steps=10,0"], "must be above 0"),
        (["stpes=1,2"], "did you mean steps"),
        (["prompts=3", "group_size=5", "updates=1,2"], "must divide"),
        (["run_dir=a,b"], "belongs to single runs"),
        (["seed=1,,2"], "a value is missing"),
        (["model=hf", "seed=0,1"], r"is required; add model\.path=VALUE"),
        (["learner=null", "seed=0,1"], "is needed; there are"),
        (["algo=grpo,sft", "seed=0,1"], "imitates every response, right or wrong: add rollout=gold"),
    ],
)
def test_one_bad_cell_refuses_the_whole_plan(typed: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells.plan(typed)


def test_the_product_of_axes_with_names_that_show_what_differs() -> None:
    planned = cells.plan(["algo=grpo,drgrpo", "seed=0,1", "optimizer.lr=1e-6", "hydra/launcher=local"])
    assert [(c.axes["algo"], c.axes["seed"]) for c in planned.cells.values()] == [
        ("grpo", "0"),
        ("grpo", "1"),
        ("drgrpo", "0"),
        ("drgrpo", "1"),
    ]
    for name, cell in planned.cells.items():
        assert name == cell.name and name.endswith("-" + cell.signature[:6])
        assert cell.signature == identity.signature(configs.check("train", cell.overrides))
        assert cell.axes["optimizer.lr"] == "1e-06" and cell.steps == 100
    other = cells.plan(["algo=drgrpo,grpo", "seed=0,1", "optimizer.lr=1e-6"])
    assert set(other.cells) == set(planned.cells)


def test_the_order_of_a_line_does_not_matter_to_its_sweep() -> None:
    names = {cells.plan(line).name for line in (["algo=grpo", "seed=0,1"], ["seed=0,1", "algo=grpo"])}
    assert len(names) == 1


def test_a_rehearsal_of_experiments_holds_back_what_trains_alone() -> None:
    planned = cells.plan(["experiment=fig5_templates,table4_recipe", "seed=0"], smoke=True).cells
    (smoke, *others) = planned.values()
    assert smoke.name.startswith("smoke-") and smoke.root == "train"
    assert {(cell.root, cell.after) for cell in others} == {("train", smoke.name), ("evaluate", None)}
    with pytest.raises(InputError, match="none of these cells trains"):
        cells.plan(["experiment=fig5_templates"], smoke=True)


def test_a_note_says_what_differs_from_an_experiment_as_written() -> None:
    def notes(*typed: str) -> tuple[str, ...]:
        return cells.plan(["experiment=biases", *typed]).notes

    (note,) = notes("seed=7")
    assert note == "seed=7 in place of what experiment=biases sets; the claims were written for other runs"
    assert not notes() and not notes("lens=every10")


def test_equal_settings_are_one_cell() -> None:
    planned = cells.plan(["steps=100,50", "seed=0"])
    twice = cells.plan(["seed=0,0,1"])
    assert len(planned.cells) == 2 and not planned.notes
    assert len(twice.cells) == 2 and "it runs once" in twice.notes[0]


def test_a_grid_is_a_list_of_lines(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text('base: [steps=5]\ncells:\n  - [algo=grpo, template=r1]\n  - [algo=drgrpo, "seed=1,2"]\n')
    planned = cells.plan(["template=none"], grid=str(grid))
    assert [(c.axes["algo"], c.axes["seed"], c.steps) for c in planned.cells.values()] == [
        ("grpo", "0", 5),
        ("drgrpo", "1", 5),
        ("drgrpo", "2", 5),
    ]
    assert {c.axes["template"] for c in planned.cells.values()} == {"none"}, "what is typed counts last"
    assert planned.name.startswith("mine-")
    for bad in ("cells: 3", "[]", "cells: [algo=grpo]", "{", "cells: []"):
        grid.write_text(bad)
        with pytest.raises(InputError, match="--grid"):
            cells.plan([], grid=str(grid))
    with pytest.raises(InputError, match="no such file"):
        cells.plan([], grid="nowhere")


def test_a_rehearsal_goes_first_and_evaluations_follow() -> None:
    planned = cells.plan(["seed=0,1"], evaluate=["benchmarks=nano"], smoke=True).cells
    smoke, *others = planned.values()
    assert smoke.steps == 2 and smoke.after is None
    trained = [c for c in others if c.root == "train"]
    evaluated = [c for c in others if c.root == "evaluate"]
    assert [c.after for c in trained] == [smoke.name] * 2
    assert [c.after for c in evaluated] == [c.name for c in trained]
    assert len({c.signature for c in evaluated}) == 2
    with pytest.raises(InputError, match="benchmarks"):
        cells.plan(["seed=0,1"], evaluate=["benchmarks=nowhere"])


def test_a_cell_runs_in_its_folder_and_opens_no_shared_file(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    trained, evaluated = cells.plan(["seed=1"], evaluate=["step=all"]).cells.values()
    alone = cells.with_run_dir(trained, folder, None)
    assert alone.config and alone.config["run_dir"] == str(folder / trained.name)
    assert alone.config["tracker"] == {}
    assert identity.signature(alone.config) == trained.signature
    served = cells.with_run_dir(trained, folder, "http://host:5000").config
    assert served and served["tracker"]["uri"] == "http://host:5000" and served["tracker"]["sweep"] == "a=b"
    other = replace(trained, config=trained.config | {"tracker": {"_target_": "my.Tracker"}})  # type: ignore[operator]
    for server in (None, "http://host:5000"):
        assert cells.with_run_dir(other, folder, server).config["tracker"] == {"_target_": "my.Tracker"}  # type: ignore[index]
    typed = cells.with_run_dir(evaluated, folder, None).overrides
    assert typed == (f"run='{folder / trained.name}'", f"run_dir='{folder / evaluated.name}'", "step=all")


@pytest.mark.parametrize(
    ("typed", "settings"),
    [
        (["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.nodes=2"], {"partition": "gpu", "nodes": 2}),
        (["hydra/launcher=slurm", "hydra.launcher.additional_parameters={reservation: r}", "algo=grpo,x"],
         {"additional_parameters": {"reservation": "r"}}),
        (["hydra/launcher=slurm", "+hydra.launcher.additional_parameters.exclusive=true"],
         {"additional_parameters": {"exclusive": True}}),
        (["hydra.launcher.at_once=5"], {"at_once": 5}),
    ],
)  # fmt: skip
def test_settings_of_the_launcher_are_read_from_hydra(typed: list[str], settings: dict[str, object]) -> None:
    composed = compose.launcher_settings(typed, default="local")
    assert {key: composed[key] for key in settings} == settings


def test_an_unknown_launcher_is_one_line() -> None:
    with pytest.raises(InputError, match="there are local, slurm"):
        compose.launcher_settings(["hydra/launcher=lsf"], default="local")


def test_a_thousand_cells_are_planned_in_ten_seconds() -> None:
    began = time.process_time()  # of this process alone: the machine may be busy
    planned = cells.plan(
        [
            "algo=grpo,drgrpo",
            "template=none,qwen_math,r1",
            "questions=nano_math,nano_gsm",
            "seed=range(0,21)",
            "optimizer.lr=1e-6,2e-6,3e-6,4e-6",
        ]
    )
    assert len(planned.cells) == 1008
    assert time.process_time() - began < 10


def test_a_setting_whose_default_refers_to_another_is_set_directly() -> None:
    """optimizer.lr is ${model.recipe.lr}: a typed value replaces it, and no other setting refers to optimizer.lr."""
    base = compose.make_base("train", ())
    paths = {
        key: compose.settable_path(base, configs.parsed(f"{key}=1"))
        for key in ("optimizer.lr", "model.recipe.lr", "seed")
    }
    assert paths == {"optimizer.lr": ["optimizer", "lr"], "model.recipe.lr": None, "seed": ["seed"]}
    assert compose.may_refer_to("questions", ["questions", "rows"]) and compose.may_refer_to("a.b.c", ["a"])
    assert not compose.may_refer_to("model.recipe.lr", ["optimizer", "lr"]) and compose.may_refer_to(
        ".lr", ["optimizer", "lr"]
    )

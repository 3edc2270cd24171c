"""The page of algorithms matches the code as it is now and the numbers of the runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from analysis import algorithm_cards as pages
from analysis import algorithms as page
from analysis.algorithm_page import draw, markdown
from analysis.reader.runs import read
from analysis.stats.intervals import over_seeds
from launch.sweep.cells import plan
from tests.conftest import ROOT
from zero.config import experiments
from zero.errors import InputError
from zero.tracking.journal import Journal

NAMES = page.algorithms()
COMMITTED = json.loads((ROOT / "docs" / "algorithms.json").read_text())


@cache
def cards() -> dict[str, pages.Card]:
    """By algorithm. Not at import: a worker collects this file whatever it runs of it, and composing all takes seconds."""
    return {card.name: card for card in pages.cards(NAMES)}


def finished_run(runs: Path, algo: str, seed: int, accuracy: float, lr: float = 2e-4, values: float = 0.0) -> None:
    """A run folder of two steps as zero.train leaves it."""
    folder = runs / f"{algo}-s{seed}"
    folder.mkdir(parents=True)
    journal = Journal(folder)
    for step in range(3):
        line = {"tokens/generated": 100.0, "critic/tokens": values, "time/step": 4.0 + seed} if step else {}
        if step != 1:
            end = accuracy * step / 2
            line |= {"eval/b/accuracy": end, "eval/b/length": 40.0 + seed, "eval/b/length_incorrect": 50.0}
        journal.append(line, step)
    config = dict.fromkeys(page.BUDGET, 2) | {
        "optimizer": {"lr": lr},
        "prompts": 4,
        "group_size": 2,
        "seed": seed,
        "algo": {},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "starts.jsonl").write_text(json.dumps({"choices": {"algo": algo}}) + "\n")
    (folder / "result.json").write_text(json.dumps({"status": "finished"}))


# --------------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_what_yaml_docstrings_and_numbers_give_now() -> None:
    text = markdown(list(cards().values()), COMMITTED, page.OWN)
    assert text == (ROOT / "docs" / "algorithms.md").read_text(), "run: python -m analysis.docs"
    assert page.as_json(COMMITTED) == (ROOT / "docs" / "algorithms.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_a_section_with_its_functions_and_sources(name: str) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text()
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##)", text, flags=re.DOTALL | re.MULTILINE)
    card = cards()[name]
    assert card.header in section
    assert {"advantage", "weight", "surrogate"} <= card.calls.keys()
    for function in card.functions:
        module, name_there = function.target.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), name_there))
        assert f"[`{function.call}`](../{module.replace('.', '/')}.py): {function.says}" in section
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        assert len(function.says) > 20
    cited = re.findall(r"\[(\w+)\]", section.rpartition("- sources:")[2])
    assert cited and all(f"\n[{key}]: " in text for key in cited)


@pytest.mark.parametrize(
    ("name", "slot", "call", "family", "extras", "papers"),
    [
        ("drgrpo", "weight", "constant_length(length=sampling.max_tokens)", "Siblings are compared, surrogate clipped",
         {"min_group": "2"}, ("DrGRPO",)),
        ("dapo", "surrogate", "clipped(low=0.2, high=0.28)", "Siblings are compared, another surrogate",
         {"min_group": "2", "resample_rounds": "3"}, ("DAPO",)),
        ("vineppo", "critic", 'MonteCarloCritic(samples=3, every=16, separator="\\n")', "A critic", {}, ("Vine",)),
        ("reinforce", "advantage", "raw_reward", "Siblings are not compared", {}, ("W92",)),
        ("sft", "surrogate", "log_likelihood", "Siblings are not compared", {}, ()),
    ],
)  # fmt: skip
def test_a_card_says_what_the_yaml_says(
    name: str, slot: str, call: str, family: str, extras: dict[str, str], papers: tuple[str, ...]
) -> None:
    card = cards()[name]
    assert card.calls[slot] == call
    assert card.family.startswith(family)
    assert {key: value for key, value, _ in card.extras} == extras
    assert card.papers == papers


def test_a_docstring_falls_into_sentences_with_their_citations() -> None:
    text = "Dr. GRPO's A_i = R_i. [DrGRPO] eq. 3; G >= 2.\n\nWith `dual` it is\nbounded. [DUAL] eq. 4\n\nLast, as in eq. 5."
    assert pages.statements(text) == [
        "Dr. GRPO's A_i = R_i. [DrGRPO] eq. 3; G >= 2.",
        "With `dual` it is bounded. [DUAL] eq. 4",
        "Last, as in eq. 5.",
    ]
    plain = pages.function("surrogate", {"_target_": "zero.objective.clipped"}, {"low": 0.2, "high": 0.2})
    bounded = pages.function(
        "surrogate", {"_target_": "zero.objective.clipped"}, {"low": 0.2, "high": 0.2, "dual": 3.0}
    )
    assert not plain.notes  # a sentence about an argument that is not given does not concern this algorithm
    assert "[DUAL]" in " ".join(bounded.notes)


# ------------------------------------------------------------------------------------------------------------ the numbers


def test_the_committed_intervals_are_those_of_the_committed_seeds() -> None:
    for entry in COMMITTED["algorithms"].values():
        for name in page.CURVES:
            ends = [entry[name][key][-1] for key in ("mean", "low", "high")]
            estimate = over_seeds(entry[name]["final"])
            assert ends == pytest.approx([estimate.mean, estimate.low, estimate.high], abs=2e-4)  # they are rounded


def test_runs_become_numbers_and_replace_what_was_stored_of_the_same_budget(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        finished_run(tmp_path / "runs", "grpo", seed, accuracy, values=7.0)
    finished_run(tmp_path / "runs", "no_such_algorithm", 0, 0.5)
    runs = read(tmp_path / "runs")
    numbers = page.collect(runs, {})
    entry = numbers["algorithms"]["grpo"]
    assert list(numbers["algorithms"]) == ["grpo"]
    assert (entry["seeds"], entry["steps"], entry["accuracy"]["final"]) == ([0, 1], [0, 2], [0.4, 0.6])
    assert entry["accuracy"]["mean"] == [0.0, 0.5]
    assert entry["accuracy"]["high"][1] == pytest.approx(0.5 + 12.7062 * 0.1, abs=1e-3)
    assert (entry["tokens"], entry["critic_tokens"], entry["seconds"]) == (200, 14, 9.0)
    before: dict[str, Any] = {"budget": numbers["budget"], "algorithms": {"dapo": entry, "grpo": {}}}
    assert list(page.collect(runs, before)["algorithms"]) == ["dapo", "grpo"]
    assert page.collect(runs, before)["algorithms"]["grpo"] == entry
    assert list(page.collect(runs, before | {"budget": {"steps": 9}})["algorithms"]) == ["grpo"]
    finished_run(tmp_path / "nothing", "no_such_algorithm", 0, 0.5)
    assert page.collect(read(tmp_path / "nothing"), before) == before
    finished_run(tmp_path / "runs", "drgrpo", 0, 0.5, lr=1e-6)
    with pytest.raises(InputError, match="differ in their budget"):
        page.collect(read(tmp_path / "runs"), {})


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    finished_run(tmp_path, "grpo", 0, 0.5)
    entry = page.collect(read(tmp_path), {})["algorithms"]["grpo"]
    assert entry["accuracy"] == {"mean": [0.0, 0.5], "low": [None, None], "high": [None, None], "final": [0.5]}


def test_the_figure_shows_every_measured_algorithm_in_both_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    entry: dict[str, Any] = {"steps": [0, 10]}
    entry |= {curve: {"mean": [0.1, 0.5], "low": [0.0, 0.4], "high": [0.2, 0.6]} for curve in page.CURVES}
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    for numbers in ({"algorithms": dict.fromkeys(NAMES, entry)}, {}):
        draw(list(cards().values()), numbers, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    for row in (0, 1):
        columns = len(figures[0].axes) // 2
        labels = {line.get_label() for axis in figures[0].axes[row * columns :][:columns] for line in axis.lines}
        assert labels == set(NAMES)
    assert not any(axis.lines for axis in figures[1].axes)


# --------------------------------------------------------------------------------------------------------- the experiment


def test_the_experiment_has_every_algorithm_with_five_seeds_under_one_budget() -> None:
    cells = plan(["experiment=algorithms"]).cells.values()
    seeds = {(cell.choices["algo"], cell.axes["seed"]) for cell in cells}
    assert seeds == {(name, str(seed)) for name in NAMES for seed in range(5)} and len(cells) == len(seeds)
    configs = [cell.config or {} for cell in cells]
    budgets = [[config["prompts"] * config["group_size"], *(config[key] for key in page.BUDGET)] for config in configs]
    assert all(one == budgets[0] for one in budgets)
    (own,) = [line.overrides for line in experiments.read("algorithms").lines if "algo=sft" in line.overrides]
    assert set(page.OWN["sft"][0]) <= set(own)
    assert "algorithms" in experiments.known() and "algorithms" not in experiments.with_claims()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: FOLDER={tmp_path}: holds no run")


def test_help_answers_at_once() -> None:
    code = "import analysis.algorithms, sys; print([m for m in ('torch', 'hydra', 'matplotlib') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "[]"

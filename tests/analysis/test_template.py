"""Templates: accuracy before training, the drop against the best template, and the step at which a run has recovered."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.reader.runs import read
from analysis.style import svg
from analysis.template import main, template
from tests.analysis.test_runs import make, note_choices
from tests.integration.runs import train_here
from zero.config.check import check
from zero.errors import InputError

BENCHMARK = "b"


def trained(home: Path, one: str, seed: int, curve: dict[int, float], formatted: float = 1.0) -> Path:
    """A run whose accuracy on the benchmark is `curve`; at step 0 of 20 questions, the first ones right."""
    run = make(home / f"{one}-{seed}", "drgrpo", seed, 10, template={"name": one})
    lines = []
    for step, value in curve.items():
        numbers = {"accuracy": value, "accuracy_low": value - 0.1, "accuracy_high": value + 0.1, "formatted": formatted}
        lines.append({"step": step, **{f"eval/{BENCHMARK}/{key}": number for key, number in numbers.items()}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in (run / "completions").glob("*"):
        path.unlink()
    answers(run / "completions" / f"eval_{BENCHMARK}_000000.jsonl", curve[0])
    return run


def answers(path: Path, accuracy: float, questions: int = 20) -> None:
    rows = [{"id": str(i), "correct": i < round(questions * accuracy), "tokens": 3} for i in range(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluated(place: Path, one: str, accuracy: float, formatted: float) -> Path:
    """An evaluation of the model itself."""
    place.mkdir(parents=True)
    config = check("evaluate", ["benchmarks=nano"]) | {"template": {"name": one}, "run_dir": str(place)}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    note_choices(place, template=one)
    numbers = {"accuracy": accuracy, "accuracy_low": 0.0, "accuracy_high": 1.0, "formatted": formatted}
    entry = {BENCHMARK: {f"eval/{BENCHMARK}/{key}": value for key, value in numbers.items()}}
    (place / "result.json").write_text(json.dumps({"status": "finished", "evaluation": entry}))
    answers(place / f"completions_{BENCHMARK}.jsonl", accuracy)
    return place


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """none begins at 0.5; qwen_math falls to 0.1 and recovers at 4, 6 and never; r1 is known by an evaluation alone."""
    home = tmp_path_factory.mktemp("templates")
    for seed in range(2):
        trained(home, "none", seed, {0: 0.5, 5: 0.6, 10: 0.7})
    for seed, curve in enumerate(
        ({0: 0.1, 2: 0.3, 4: 0.5, 6: 0.45, 10: 0.6}, {0: 0.1, 4: 0.4, 6: 0.55, 10: 0.6}, {0: 0.1, 5: 0.2, 10: 0.49})
    ):
        trained(home, "qwen_math", seed, curve, formatted=0.2)
    evaluated(home / "evaluation", "r1", 0.25, 0.4)
    return home


def kind(table: pd.DataFrame, name: str, index: str) -> pd.DataFrame:
    return table[table["kind"] == name].set_index(index)


def test_before_training_each_template_has_its_accuracy_answering_rate_and_drop(home: Path) -> None:
    answer = template(read(home))
    first = kind(answer.table, "start", "template")
    assert list(first.index) == ["none", "r1", "qwen_math"]  # the best first
    assert first["accuracy"].to_dict() == {"none": 0.5, "r1": 0.25, "qwen_math": pytest.approx(0.1)}
    assert first["formatted"].to_dict() == {"none": 1.0, "r1": 0.4, "qwen_math": pytest.approx(0.2)}
    assert first["drop"].to_dict() == {"none": 0.0, "r1": 0.25, "qwen_math": pytest.approx(0.4)}
    assert first["n"].to_dict() == {"none": 2, "r1": 1, "qwen_math": 3}
    assert first.loc["none", ["low", "high"]].tolist() == [0.4, 0.6]  # over questions: more runs would add nothing
    # paired over questions: 8 of 20 differ, so that the interval lies well above 0
    assert 0.1 < first.loc["qwen_math", "drop_low"] < 0.4 < first.loc["qwen_math", "drop_high"] < 0.65
    assert math.isnan(first.loc["none", "drop_low"])


def test_recovery_is_the_first_step_as_good_as_the_reference_was(home: Path) -> None:
    answer = template(read(home))
    single = kind(answer.table, "run", "run")
    assert single["target"].unique().tolist() == [0.5] and set(single["template"]) == {"qwen_math"}
    steps = {name: (row["step"], row["before"]) for name, row in single.iterrows()}
    assert steps["qwen_math-0"] == (4, 2) and steps["qwen_math-1"] == (6, 4)
    assert all(map(math.isnan, steps["qwen_math-2"])) and single.loc["qwen_math-2", "last"] == 10
    row = kind(answer.table, "recovery", "template").loc["qwen_math"]
    assert (row["n"], row["recovered"], row["step"], row["earliest"]) == (3, 2, 6, 4) and math.isnan(row["latest"])
    assert "2 of 3" in answer.text
    drawn = svg(answer.figure)
    assert "before training" in drawn and "qwen_math" in drawn and "no data" not in drawn


def test_another_reference_and_none_at_all(home: Path) -> None:
    lower = template(read(home), reference="r1")
    steps = kind(lower.table, "run", "run")["step"].to_dict()
    assert steps["none-0"] == 0 and steps["qwen_math-0"] == 2 and steps["qwen_math-2"] == 10
    assert "step 0: there was no drop to recover from" in lower.text
    without = template(read(home), reference="chat")
    assert set(without.table["kind"]) == {"start"}
    assert "template chat was not measured before training: no recovery" in without.text


def test_half_of_the_runs_is_not_a_median_and_lost_answers_give_no_interval(tmp_path: Path) -> None:
    trained(tmp_path, "none", 0, {0: 0.5})
    for seed, end in enumerate((0.6, 0.2)):
        run = trained(tmp_path, "r1", seed, {0: 0.25, 10: end})
        answers(run / "completions" / f"eval_{BENCHMARK}_000000.jsonl", 0.25, questions=16)
    answer = template(read(tmp_path))
    row = kind(answer.table, "recovery", "template").loc["r1"]
    assert (row["recovered"], row["earliest"]) == (1, 10) and math.isnan(row["step"])
    assert "not more than half by step 10" in answer.text
    assert math.isnan(kind(answer.table, "start", "template").loc["r1", "drop_low"])
    assert "a drop without an interval: not all answers of both templates were saved" in answer.text


def test_runs_that_begin_differently_are_noted(tmp_path: Path) -> None:
    for seed, begin in enumerate((0.5, 0.6)):
        trained(tmp_path, "none", seed, {0: begin})
    answer = template(read(tmp_path))
    assert "its 2 runs differ before training by up to 10.0 points" in answer.text
    assert answer.table["accuracy"].tolist() == [pytest.approx(0.55)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "aime"}, "no run was measured on it; there are b"),
        ({"by": ["algorithm"]}, "no such axis; there are algo"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, Any], message: str, home: Path) -> None:
    with pytest.raises(InputError, match=message):
        template(read(home), **arguments)


def test_runs_without_step_0_are_an_input_error(tmp_path: Path) -> None:
    run = trained(tmp_path, "none", 0, {0: 0.5})
    (run / "metrics.jsonl").write_text('{"step": 3, "eval/b/accuracy": 0.5}\n')
    with pytest.raises(InputError, match=r"no run was measured before training \(step 0\)"):
        template(read(run))


def real(home: Path, names: Sequence[str]) -> None:
    for name in names:
        train_here(home / name, "steps=2", "evaluation.every=2", f"template={name}")


@pytest.mark.slow
def test_real_runs_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real(tmp_path / "runs", ["none", "r1"])
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"template.svg", "template.pdf", "template.csv"}
    table = pd.read_csv(tmp_path / "out" / "template.csv")
    first = table[table["kind"] == "start"].set_index("template")
    drop = first.loc[first["accuracy"].idxmin()]  # with so few questions either template may be the worse one
    assert drop["drop"] == pytest.approx(first["accuracy"].max() - drop["accuracy"]) and drop["drop"] > 0
    assert drop["drop_low"] <= drop["drop"] < drop["drop_high"]  # from the answers that both runs saved
    assert len(table[table["kind"] == "run"]) == 1 and "answering" in capsys.readouterr().out

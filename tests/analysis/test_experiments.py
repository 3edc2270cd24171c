"""A sweep of experiments: each is judged by its own cells, and has its own section of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import experiments, paper
from analysis.curves import main as curves
from analysis.experiments import main
from analysis.reader import experiments as registered
from analysis.reader.runs import read
from analysis.report import __main__ as report
from analysis.stats.claims import parse
from analysis.stats.verdicts import judge
from tests.synthetic import write_run
from zero.config import experiments as zero_experiments

LONGER = {
    "text": "GRPO's wrong answers are longer",
    "direction": "greater",
    "smallest": 3,
    "statistic": {"metric": "length/incorrect", "axis": "algo", "values": ["grpo", "drgrpo"], "when": "last 10"},
}
BETTER = {
    "text": "r1 is better",
    "direction": "greater",
    "statistic": {"metric": "eval/x/accuracy", "axis": "template", "values": ["r1", "none"], "when": "first"},
}


def cell(home: Path, name: str, algo: str, seed: int, **axes: Any) -> str:
    """A finished cell of a sweep; `model_from` and `path` as in cells that start from another cell's model."""
    run = write_run(home / name, algo, seed, 40)
    stage = axes.pop("model_from", None)
    choices = {"algo": algo, "template": "none", "questions": "nano_math", "model": "nano", "reward": "accuracy"} | axes
    config = {
        "algo": {},
        "seed": seed,
        "steps": 40,
        "model": {"path": str(home / stage / "model") if stage else "zero/nano/base"},
    }
    record = {"name": name, "choices": choices, "config": config, "axes": {}, "model_from": stage}
    (run / "cell.yaml").write_text(json.dumps(record))
    (run / "result.json").write_text(json.dumps({"status": "finished", "steps": 40}))
    return name


def evaluation(home: Path, name: str, template: str, seed: int, accuracy: float) -> str:
    run = home / name
    run.mkdir()
    settings = {"benchmarks": {"sets": {}}, "n": 1, "template": template, "model": {"path": "m"}, "seed": seed}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    measured = {"eval/x/accuracy": accuracy, "eval/x/accuracy_low": 0.1, "eval/x/accuracy_high": 0.9}
    (run / "result.json").write_text(json.dumps({"status": "finished", "evaluation": {"x": measured}}))
    return name


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sweep")
    lengths = [cell(home, f"{algo}-{seed}", algo, seed) for algo in ("grpo", "drgrpo") for seed in range(5)]
    # another experiment's cells, of the same algorithms, in which nothing differs
    other = [cell(home, f"other-{seed}", "grpo", seed, template="r1") for seed in range(5)]
    other += [
        cell(home, f"staged-{seed}", "grpo", seed, model="nano+sft", template="r1", model_from=f"other-{seed}")
        for seed in range(5)
    ]
    # a second experiment with a stage of its own: the models of both are called nano+sft
    second = [cell(home, f"first-{seed}", "sft", seed, template="qwen_math") for seed in range(5)]
    second += [
        cell(home, f"second-{seed}", "grpo", seed, model="nano+sft", template="qwen_math", model_from=f"first-{seed}")
        for seed in range(5)
    ]
    starts = [
        evaluation(home, f"{t}-{s}", t, s, 0.5 + 0.2 * (t == "r1") + 0.01 * s) for t in ("none", "r1") for s in range(5)
    ]
    named = {
        "lengths": {"title": "Lengths <b>", "cells": lengths, "claims": [LONGER], "figures": ["length/incorrect"]},
        "other": {"title": "Two starts", "cells": [*other, "not-begun"], "claims": [], "figures": []},
        "second": {"title": "Another stage", "cells": second, "claims": [], "figures": []},
        "starts": {"title": "Step 0", "cells": starts, "claims": [BETTER], "figures": []},
        "later": {"title": "Not begun", "cells": ["nowhere"], "claims": [LONGER], "figures": []},
    }
    one = {
        name: {"name": name, "size": "nano", "registered": 1_700_000_000.0, **entry} for name, entry in named.items()
    }
    (home / "sweep.json").write_text(json.dumps({"cells": {}, "experiments": one}))
    return home


def test_each_experiment_is_judged_by_its_own_cells(sweep: Path) -> None:
    runs = read(sweep)
    every = {one.name: one for one in experiments.in_sweeps([sweep])}
    result = experiments.verdicts(runs, list(every.values()))
    [longer] = result["lengths"]
    assert longer.word == "shown" and longer.measured.n == 5
    [better] = result["starts"]
    assert better.word == "shown" and better.measured.mean == pytest.approx(0.2)
    [later] = result["later"]
    assert later.word == "undecided"
    assert {run.name for run in runs.restricted_to(every["other"].cells).runs} == {
        f"{n}-{s}" for n in ("other", "staged") for s in range(5)
    }


def test_cells_that_start_from_others_are_one_group(sweep: Path) -> None:
    other = next(one for one in experiments.in_sweeps([sweep]) if one.name == "other")
    own = read(sweep).restricted_to(other.cells)
    assert own.varying() == ["model"], "the folder of each seed's model is no axis"
    claim = {**LONGER, "statistic": {**LONGER["statistic"], "axis": "model", "values": ["nano+sft", "nano"]}}  # type: ignore[dict-item]
    [verdict] = judge(own, parse([claim | {"direction": "same"}], "x"))
    assert verdict.measured.n == 5 and verdict.measured.mean == 0


def test_all_claims_are_one_figure_and_one_table(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "\n2 shown, 0 not shown, 1 undecided\n" in output
    drawing = (tmp_path / "experiments.svg").read_text()
    for text in ("GRPO's wrong answers are longer [lengths]", "shown, n = 5", "undecided, n = 0"):
        assert text in drawing
    assert len((tmp_path / "experiments.csv").read_text().splitlines()) == 4
    assert main([str(sweep), "--experiment", "starts", "--out", str(tmp_path), "--page", str(tmp_path / "P.md")]) == 0
    written = (tmp_path / "P.md").read_text()
    assert "## starts: Step 0\n" in written and "lengths" not in written and "was planted" in written
    assert "| r1 is better | 20.0 points | 20.0 to 20.0 | 0 points | 5 | 0 | shown |" in written
    assert "\n1 shown, 0 not shown" in capsys.readouterr().out
    assert main([str(sweep), "--out", str(tmp_path), "--page", str(tmp_path / "P.md" / "P.md")]) == 2
    assert capsys.readouterr().err.startswith("error: --page=") and not (tmp_path / "P.md" / "P.md").exists()
    assert curves([str(sweep), "--experiment", "lengths", "--metrics", "length/mean", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "drgrpo" in output and "r1" not in output


def test_the_paper_in_one_picture(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = (
        paper.Panel("lengths", "length/incorrect", ("algo",), 5, "Lengths of two"),
        paper.Panel("other", "length/mean", ("algo",), 1, "Of one start", where=("model", "nano+sft")),
        paper.Panel("absent", "length/mean", ("algo",), 1, "Not there"),
    )
    monkeypatch.setattr(paper, "PANELS", panels)
    assert paper.main([str(sweep), "--out", str(tmp_path)]) == 0
    assert "Of one start: length/mean of experiment=other, 5 seeds" in capsys.readouterr().out
    drawing = (tmp_path / "paper.svg").read_text()
    assert (
        "Lengths of two" in drawing and "drgrpo" in drawing and "was planted" in drawing and "Not there" not in drawing
    )
    rows = (tmp_path / "paper.csv").read_text().splitlines()
    assert (
        sum(row.startswith("lengths,") for row in rows) == 2 * 40
        and sum(row.startswith("other,") for row in rows) == 40
    )
    monkeypatch.setattr(paper, "PANELS", panels[2:])
    assert paper.main([str(sweep)]) == 2
    assert "holds none of the experiments absent" in capsys.readouterr().err


def test_other_settings_than_those_of_the_experiment_are_marked(tmp_path: Path) -> None:
    cells = [cell(tmp_path, f"{algo}-{seed}", algo, seed) for algo in ("grpo", "drgrpo") for seed in range(5)]
    for name in cells:
        (tmp_path / name / "starts.jsonl").write_text(json.dumps({"time": 1_699_999_000.0}) + "\n")
    typed = ["seed=0,1", "steps=40", "tracker=jsonl"]
    named = {
        "name": "x",
        "title": "X",
        "size": "nano",
        "cells": cells,
        "claims": [LONGER],
        "figures": ["length/incorrect"],
        "x": "tokens",
        "typed": typed,
    }
    sweep = {"cells": {}, "experiments": {"fig6_length": named | {"registered": 1_700_000_000.0}}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    [one] = experiments.in_sweeps([tmp_path])
    assert one.changed == ("seed=0,1", "steps=40")
    assert one.command == "python -m zero.train -m experiment=fig6_length seed=0,1 steps=40 tracker=jsonl"
    assert "**Not as registered:** run with seed=0,1 steps=40" in experiments.page(read(tmp_path), [one])
    assert report.main([str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "Reproduce with: python -m zero.train -m experiment=fig6_length seed=0,1 steps=40" in html
    assert "length/incorrect against tokens" in html and "--metrics length/incorrect --x tokens" in html
    assert "Not as registered" in html and "AFTER the first start of these runs (2023-11-14 21:56 UTC)" in html


def test_the_verdicts_as_sentences_of_a_readme(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- verdicts -->\nold\n<!-- /verdicts -->\nafter\n")
    assert main([str(sweep), "--out", str(tmp_path), "--readme", str(readme)]) == 0
    written = readme.read_text()
    assert written.startswith("before\n<!-- verdicts -->\n- `later`. Undecided:") and written.endswith("-->\nafter\n")
    assert "- `starts`. Shown: r1 is better (20.0 points, 20.0 to 20.0; n = 5)." in written and "old" not in written
    assert "Shown: GRPO's wrong answers are longer (" in written
    readme.write_text("no marks")
    assert main([str(sweep), "--out", str(tmp_path), "--readme", str(readme)]) == 2
    assert "must hold a line <!-- verdicts -->" in capsys.readouterr().err


def test_a_verdict_accounts_for_all_claims_whichever_is_shown(sweep: Path) -> None:
    runs, every = read(sweep), experiments.in_sweeps([sweep])
    whole = experiments.page(runs, every)
    alone = experiments.page(runs, every, "starts")
    row = next(line for line in alone.splitlines() if line.startswith("| r1 is better"))
    assert row in whole
    assert {verdict.family for verdicts in experiments.verdicts(runs, every).values() for verdict in verdicts} == {3}


def test_a_registered_claim_is_only_made_harder_by_an_edit() -> None:
    name = "fig5_templates"
    today = zero_experiments.read(name).claims[-1]
    before = {key: value for key, value in today.items() if key not in ("every", "seen")} | {"text": "as it was"}
    [claim] = registered.corrected(name, [before])
    assert (claim["every"], claim["seen"], claim["text"]) == ("template", [0], today["text"])
    [other] = registered.corrected(name, [before | {"smallest": 0.5}])
    assert "every" not in other and other["text"] == "as it was"
    assert registered.corrected("no such experiment", [before]) == (before,)


def test_bad_input_is_one_line(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curves([str(sweep), "--experiment", "fig9", "--out", str(tmp_path)]) == 2
    assert (
        "error: --experiment=fig9: is none of these sweeps; there are later, lengths, other, second, starts"
        in capsys.readouterr().err
    )
    cell(tmp_path, "alone", "grpo", 0)
    assert main([str(tmp_path)]) == 2
    assert "holds no experiment with claims" in capsys.readouterr().err


def test_the_report_gives_each_experiment_a_section(sweep: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert report.main([str(sweep), "--out", str(page)]) == 0
    html = page.read_text()
    assert "could not be made" not in html and "Lengths &lt;b&gt;" in html
    order = [
        html.index(f'id="{name}"') for name in ("claims", "experiment-lengths", "experiment-starts", "samples", "costs")
    ]
    assert order == sorted(order)
    assert "The claims were written down 2023-11-14 22:13 UTC, before the first start" in html
    assert "None of its cells has started." in html
    assert "analysis.curves" in html and "--experiment lengths" in html

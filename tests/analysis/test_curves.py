"""Curves: the numbers of the table, the notes below it, and files that any browser shows."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import curves as curves_module
from analysis.curves import Curve, curves, ends, grouped, select
from analysis.reader.records import Runs
from analysis.reader.runs import read
from analysis.reader.units import interval
from analysis.report.figures import results
from analysis.report.page import Request
from analysis.stats.intervals import band, over_seeds
from analysis.style import caption, figure, finish, legend, line, svg
from tests.analysis.test_runs import make
from tests.conftest import ROOT
from zero.errors import InputError
from zero.tracking import journal
from zero.tracking.palette import COLOURS, line_style, line_styles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    for algo, seeds in (("grpo", 3), ("drgrpo", 1)):
        for seed in range(seeds):
            make(home / f"{algo}-{seed}", algo, seed, done=12 if (algo, seed) == ("grpo", 2) else None)
    return home


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    return read(folder)


def value(folder: Path, name: str, metric: str, step: int) -> float:
    steps, values = journal.series(journal.read(folder / name), metric)
    return dict(zip(steps, values, strict=True))[step]


def test_the_table_is_mean_and_interval_of_each_group(folder: Path, runs: Runs) -> None:
    answer = curves(runs, ["train/reward", "eval/*/accuracy"])
    assert list(answer.table.columns) == ["group", "algo", "metric", "step", "mean", "low", "high", "n"]
    at = answer.table.set_index(["algo", "metric", "step"]).sort_index()
    seeds = [value(folder, f"grpo-{seed}", "train/reward", 7) for seed in range(3)]
    row = at.loc[("grpo", "train/reward", 7)]
    assert (row["mean"], row["n"]) == (pytest.approx(np.mean(seeds)), 3)
    one = over_seeds(seeds)
    assert (row["low"], row["high"]) == (pytest.approx(one.low), pytest.approx(one.high))
    assert at.loc[("grpo", "train/reward", 20)]["n"] == 2  # a run that ended early is missing, and a note tells it
    alone = at.loc[("drgrpo", "eval/nano_math/accuracy", 20)]
    assert alone["mean"] == value(folder, "drgrpo-0", "eval/nano_math/accuracy", 20)
    assert alone["n"] == 1 and math.isnan(alone["low"]) and math.isnan(alone["high"])
    assert "drgrpo (n = 1)" in answer.text and "one seed: none" in answer.text
    assert "n = 1 is one seed" in answer.text
    assert "fewer than 5 seeds" in answer.text


def test_smoothing_spans_steps_not_lines_and_is_stated(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0, steps=6)
    (run / "metrics.jsonl").write_text(
        "".join(f'{{"step": {s}, "train/reward": {v}}}\n' for s, v in ((0, 1), (1, 2), (5, 9), (6, 5)))
    )
    answer = curves(read(run), ["train/reward"], window=3)
    assert list(answer.table["mean"]) == [1.5, 1.5, 7.0, 7.0]
    drawing = svg(answer.figure)
    assert "reward, running mean over 3 steps" in drawing
    assert "no smoothing" in svg(curves(read(run), ["train/reward"]).figure)


def test_guessing_is_a_dotted_line_under_an_accuracy_for_which_it_is_known(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = make(tmp_path / f"s{seed}", "grpo", seed, steps=2, questions={"name": "nano_countdown"})
        lines = [
            {
                "step": s,
                "train/accuracy": 0.1,
                "eval/b/accuracy": 0.1 + s / 9,
                "eval/b/chance": 0.0625,
                "eval/b/chance_p": 0.5,
            }
            | {"eval/other/accuracy": 0.3, "eval/nano_math/accuracy": 0.3, "eval/nano_math/chance": 0.04}
            for s in (0, 2)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = read(tmp_path)
    answer = curves(runs, ["eval/b/accuracy", "eval/other/accuracy", "train/accuracy", "eval/b/chance"])
    known, unknown, training, _ = answer.figure.axes
    assert [line.get_ydata()[0] for line in known.lines if line.get_linestyle() == ":"] == [0.0625]
    assert [text.get_text() for text in known.texts] == ["guessing 6.2 %"] and not unknown.texts
    assert [text.get_text() for text in training.texts] == ["guessing 4.0 %"], "of the held-out rows of its questions"
    assert "dotted: what guessing scores" in svg(answer.figure).replace("\n", " ")
    assert "dotted" not in svg(curves(runs, ["eval/other/accuracy"]).figure)
    assert curves_module.main([str(tmp_path), "--metrics", "eval/b/accuracy", "--out", str(tmp_path)]) == 0
    assert "guessing 6.2 %" in (tmp_path / "curves.svg").read_text(), "the line is read beside any metrics"


def test_the_report_sets_guessing_beside_the_results_with_p_at_the_first_measurement(tmp_path: Path) -> None:
    for seed, p in ((0, 0.93), (1, 0.5)):
        run = make(tmp_path / f"s{seed}", "grpo", seed, steps=2)
        known = {"eval/b/chance": 0.0625, "eval/other/accuracy": 0.1}
        lines = [
            {"step": 0, "eval/b/accuracy": 0.04, "eval/b/chance_p": p, **known},
            {"step": 2, "eval/b/accuracy": 0.17, "eval/b/chance_p": 1e-5, **known},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = str(results(read(tmp_path), Request((str(tmp_path),))))
    assert "p against guessing" in page and ">6.2 %</td>" in page and ">0.5 to 0.93</td>" in page
    assert "1e-05" not in page


def test_notes_name_what_a_group_mixes_and_what_changes_together(tmp_path: Path) -> None:
    for algo, prompts in (("grpo", 8), ("drgrpo", 16)):
        for seed, lr in ((0, 1e-6), (1, 2e-6)):
            make(
                tmp_path / f"{algo}-{seed}",
                algo,
                seed,
                prompts=prompts,
                optimizer={"lr": lr},
                checkpoint={"every": seed},
            )
    runs = read(tmp_path)
    assert runs.varying() == ["algo", "optimizer.lr", "prompts"]  # not where or how often a run is saved
    groups = grouped(runs, ["algo", "prompts"])
    assert [group.label for group in groups] == ["drgrpo (n = 2)", "grpo (n = 2)"]
    text = "\n".join(curves_module.remarks(groups))
    assert "prompts: not the same in all groups, but changing together with algo" in text
    assert "grpo (n = 2): its runs differ in optimizer.lr too" in text
    # two algorithms with one seed are one seed
    assert [group.label for group in grouped(runs, ["optimizer.lr"])] == [
        "lr=1e-06 (n = 1)",
        "lr=2e-06 (n = 1)",
    ]
    assert [group.label for group in grouped(runs, [])] == ["all runs (n = 2)"]


def test_n_counts_seeds_whatever_runs_a_group_has(tmp_path: Path) -> None:
    for template in ("none", "r1"):
        for seed in range(3):
            make(tmp_path / f"{template}-{seed}", "grpo", seed, steps=4, template={"name": template})
    make(tmp_path / "again", "grpo", 0, steps=4, template={"name": "none"})
    (tmp_path / "r1-2" / "config.yaml").unlink()
    (tmp_path / "r1-2" / "metrics.jsonl").unlink()
    runs = read(tmp_path)
    [group] = grouped(runs, [])
    assert group.label == "all runs (n = 3)" and len(group.runs) == 6
    answer = curves(runs, ["train/reward"], by=[])
    means = [
        np.mean([value(tmp_path, f"{t}-{s}", "train/reward", 3) for t in ("none", "r1") if f"{t}-{s}" != "r1-2"])
        for s in (1, 2)
    ]
    first = [value(tmp_path, name, "train/reward", 3) for name in ("none-0", "r1-0", "again")]
    row = answer.table.set_index("step").loc[3]
    assert (row["n"], row["mean"]) == (3, pytest.approx(np.mean([np.mean(first), *means])))
    assert "6 runs; those of one seed are averaged first, n counts seeds" in answer.text
    assert "seed 2 lacks runs that others have" in answer.text


def test_bad_input_is_one_line(runs: Runs) -> None:
    for call, text in (
        (lambda: curves(runs, ["train/rewards"]), "did you mean train/reward"),
        (lambda: curves(runs, ["turn/K/reward"]), r"did you mean turn/\*/reward"),
        (lambda: curves(runs, ["nothing/*"]), "no run has one of these yet"),
        (lambda: curves(runs, by=["alg"]), "there are algo, template"),
        (lambda: curves(runs, window=4), "odd number"),
        (lambda: curves(runs, window=0), "odd number"),
    ):
        with pytest.raises(InputError, match=text):
            call()
    assert select(runs, ["length/*", "length/mean"]) == [
        f"length/{n}" for n in ("mean", "correct", "incorrect", "truncated")
    ]


def test_the_drawing_is_a_vector_without_scripts_and_twice_the_same(runs: Runs) -> None:
    text = svg(curves(runs).figure)
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    assert {"train/reward", "grpo (n = 3)"} <= {
        (node.text or "").strip() for node in root.iter() if node.tag.endswith("text")
    }
    assert "<image" not in text and "<script" not in text and "http" not in text.replace("http://www.w3.org", "")
    assert text == svg(curves(runs).figure)
    other = svg(curves(runs, ["length/mean"]).figure)
    ids = [{node.get("id") for node in ET.fromstring(one).iter()} - {None} for one in (text, other)]
    assert not ids[0] & ids[1]  # both can stand on one page
    for one, names in ((text, ids[0]), (other, ids[1])):
        referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
        assert referred and referred <= names


def test_empty_and_odd_panels_are_drawn(tmp_path: Path) -> None:
    panels = figure(2, 1)
    finish(panels.axes[0], "step", "tokens")
    odd = "price=$5 \\frac{ & <b> \x00 $"  # no mathematics, no markup
    line(
        panels.axes[1], [0, 1, 2], [1.0, math.nan, 2.0], line_style(0), odd, [0.5, math.nan, 1.0], [1.5, math.nan, 3.0]
    )
    finish(panels.axes[1], "step", "tokens", odd)
    legend(panels, line_styles(["a", odd]))
    caption(panels, odd)
    texts = [
        "".join(node.itertext()).strip() for node in ET.fromstring(svg(panels)).iter() if node.tag.endswith("}text")
    ]
    assert "no data" in texts
    assert sum(text == odd.replace("\x00", "?") for text in texts) >= 3
    kinds = line_styles([f"group {i}" for i in range(24)])
    assert len({(k.colour, str(k.dashes), k.marker) for k in kinds.values()}) == 24
    assert len({k.colour for k in list(kinds.values())[:8]}) == len(COLOURS)


def test_from_a_command_line_to_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    assert curves_module.main([str(tmp_path / "runs"), "--metrics", "train/reward", "--window", "3"]) == 0
    text = capsys.readouterr()
    assert "grpo (n = 3)" in text.out
    assert "note: grpo-2: holds 12 of 20 steps" in text.err
    assert "different numbers of steps: 20 (3 runs), 12 (1 run)" in text.err
    written = {path.name for path in (tmp_path / "runs").iterdir() if path.is_file()}
    assert written == {"curves.svg", "curves.pdf", "curves.csv"}
    assert len(pd.read_csv(tmp_path / "runs" / "curves.csv")) == 40
    assert (tmp_path / "runs" / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert curves_module.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["curves", "lengths"])
def test_help_is_quick(name: str) -> None:
    code = f"import sys; sys.argv = ['x', '--help']; import runpy; runpy.run_module('analysis.{name}', run_name='__main__')"
    heavy = (
        "import sys; print(sorted({'pandas', 'matplotlib', 'numpy', 'torch', 'hydra', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import atexit; atexit.register(lambda: exec({heavy!r})); {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("[]\n")
    assert f"python -m analysis.{name}" in done.stdout


def test_an_interval_of_a_share_is_printed_within_its_bounds() -> None:
    two = np.array([[0.2], [1.0]])
    values = Curve(np.array([1]), two, *band(two))
    assert values.low_T[0] < 0 and values.high_T[0] > 1, "Student's t knows no bounds"
    assert ends("train/accuracy", values)["interval (95 %)"] == "0.0 to 100.0"
    assert ends("length/mean", values)["interval (95 %)"].startswith("-4.")
    assert interval(-1.7, 0.3, "points") == "-100.0 to 30.0" and interval(-1.7, 0.3, "tokens") == "-1.7 to 0.3"

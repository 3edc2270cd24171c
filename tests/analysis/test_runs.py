"""The reader of runs: folders, sweeps, evaluations and MLflow stores give one table, and every fault is noted."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.reader import journals
from analysis.reader import mlflow as stored
from analysis.reader.benchmarks import completions, evaluations
from analysis.reader.records import AXES, Runs
from analysis.reader.runs import read
from tests.synthetic import answer, empty_store, write_run
from zero.config.check import check
from zero.errors import InputError
from zero.tracking import journal as zero_journal
from zero.tracking import provenance
from zero.tracking.mlflow import MlflowTracker


@cache
def composed(algo: str) -> dict[str, Any]:
    return check("train", [f"algo={algo}"])


def make(place: Path, algo: str, seed: int, steps: int = 20, done: int | None = None, **settings: Any) -> Path:
    """A finished run with the settings that matter here."""
    write_run(place, algo, seed, steps, done)
    config = composed(algo) | {"seed": seed, "steps": steps, "run_dir": str(place)} | settings
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "result.json").write_text(json.dumps({"status": "finished", "steps": steps}))
    note_choices(place, algo=algo, template=config["template"]["name"])
    return place


def note_choices(place: Path, **choices: str) -> None:
    """A start of a run or of an evaluation, as the program records it."""
    usual = {"algo": "grpo", "template": "none", "questions": "nano_math", "model": "nano", "reward": "accuracy"}
    provenance.note(place, start() | {"choices": usual | choices})


@cache
def start() -> provenance.Start:
    return provenance.start({}, "cpu", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    for algo in ("grpo", "drgrpo"):
        for seed in (0, 1):
            make(home / f"{algo}-{seed}", algo, seed, optimizer={"lr": 1e-6 if algo == "grpo" or seed else 2e-6})
    return home


def notes(runs: Runs, name: str = "") -> str:
    return "; ".join(note.text for note in runs.notes if not name or note.run == name)


def test_the_table_holds_what_the_journals_hold(folder: Path) -> None:
    runs = read([folder])
    assert not runs.notes
    assert [run.name for run in runs.runs] == ["drgrpo-0", "drgrpo-1", "grpo-0", "grpo-1"]
    assert list(runs.steps.columns[:9]) == ["run", "step", *AXES, "optimizer.lr"]
    assert runs.varying() == ["algo", "optimizer.lr"]
    assert runs.run("drgrpo-0").axes == {
        "algo": "drgrpo",
        "template": "none",
        "questions": "nano_math",
        "model": "nano",
        "reward": "accuracy",
        "seed": "0",
        "optimizer.lr": "2e-06",
    }
    for axis in ("run", *AXES, "optimizer.lr"):
        assert isinstance(runs.steps[axis].dtype, pd.CategoricalDtype)
    for run in runs.runs:
        rows = runs.steps[runs.steps["run"] == run.name].set_index("step")
        assert run.path is not None
        lines = zero_journal.read(run.path)
        assert list(rows.index) == [line["step"] for line in lines]
        for line in lines:
            got = {name: rows.at[line["step"], name] for name in runs.metrics}
            assert {name: value for name, value in got.items() if not math.isnan(value)} == {
                name: value for name, value in line.items() if name != "step"
            }


def test_the_long_table_is_tidy_and_metrics_can_be_chosen(folder: Path) -> None:
    tidy = read([folder]).long(["length/*", "eval/nano_math/accuracy"])
    assert list(tidy.columns) == ["run", "step", *AXES, "optimizer.lr", "metric", "value"]
    assert set(tidy["metric"]) == {f"length/{n}" for n in ("mean", "correct", "incorrect", "truncated")} | {
        "eval/nano_math/accuracy"
    }
    assert len(tidy) == 4 * (4 * 20 + 5)
    few = read([folder], ["train/reward", "time/*"])
    assert set(few.metrics) == {
        "train/reward",
        "time/unix",
        "time/rollout",
        "time/update",
        "time/step",
        "time/evaluate",
    }


LINE = '{"step": %d, "train/reward": %s}\n'
DAMAGE = [
    ("torn", LINE % (0, 1) + LINE % (1, 2) + '{"step": 2, "tr', [0, 1], [1, 2], "last line of metrics.jsonl is half written"),
    ("gap", LINE % (0, 1) + LINE % (3, 2), [0, 3], [1, 2], "2 steps missing: 1 to 2"),
    ("null", LINE % (0, 1) + LINE % (1, "null"), [0, 1], [1, None], "not a finite number: train/reward at 1 step"),
    ("nan", LINE % (0, "NaN") + LINE % (1, "-Infinity"), [0, 1], [None, None], "train/reward at 2 steps"),
    ("huge", LINE % (0, "9" * 400) + LINE % (1, 1), [0, 1], [None, 1], "train/reward at 1 step"),
    ("words", LINE % (0, '"high"') + LINE % (1, 1), [0, 1], [None, 1], "train/reward at 1 step"),
    ("middle", LINE % (0, 1) + '{"st\n' + LINE % (1, 2), [0, 1], [1, 2], "line 2 damaged and left out"),
    ("zeros", LINE % (0, 1) + "\0\0\0\n" + LINE % (1, 2), [0, 1], [1, 2], "line 2 damaged"),
    ("no step", '{"train/reward": 1}\n' + LINE % (1, 2), [1], [2], "line 1 damaged"),
    ("no object", "[1, 2]\n7\n" + LINE % (1, 2), [1], [2], "lines 1, 2 damaged"),
    ("deep", "[" * 100_000 + "\n" + LINE % (1, 2), [1], [2], "line 1 damaged"),
    ("twice", LINE % (0, 1) + LINE % (1, 2) + LINE % (1, 3), [0, 1], [1, 3], "holds step 1 more than once; the later"),
    ("disorder", LINE % (1, 2) + LINE % (0, 1), [0, 1], [1, 2], "were not in order"),
    ("blank", "\n\n", [], [], "has no line yet"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "steps", "values", "note"), [case[1:] for case in DAMAGE], ids=[c[0] for c in DAMAGE])
def test_a_damaged_journal_is_read_as_far_as_it_goes_and_named(
    tmp_path: Path, text: str, steps: list[int], values: list[Any], note: str
) -> None:
    make(tmp_path / "fine", "grpo", 0, steps=2)
    make(tmp_path / "odd", "grpo", 1, steps=2)
    (tmp_path / "odd" / "metrics.jsonl").write_text(text)
    runs = read([tmp_path])
    rows = runs.steps[runs.steps["run"] == "odd"]
    assert list(rows["step"]) == steps
    got = [None if math.isnan(value) else value for value in rows["train/reward"]]
    assert got == values
    assert note in notes(runs, "odd")
    assert not notes(runs, "fine")


def test_both_ways_through_a_journal_give_the_same(folder: Path) -> None:
    data = (folder / "grpo-0" / "metrics.jsonl").read_bytes()
    fast, slow = journals._fast(data, lambda name: True), journals._slow(data, lambda name: True)
    assert fast is not None
    assert fast.columns.keys() == slow.columns.keys()
    assert np.array_equal(fast.steps, slow.steps)
    for name, values in fast.columns.items():
        assert np.array_equal(values, slow.columns[name], equal_nan=True), name


def test_the_status_of_a_run(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, str]] = {
        "done": ("finished", ""),
        "going": ("running", "still going: at step 5 of 20"),
        "killed": ("unknown", "ended without a result, at step 5 of 20"),
        "stopped": ("preempted", "ended as preempted"),
        "broken": ("failed", "failed: CUDA out of memory"),
        "resumed": ("running", "still going"),
        "torn": ("unknown", "result.json is damaged"),
        "empty": ("unknown", "has no metrics.jsonl yet"),
    }
    old = time.time() - 86400
    for name in cases:
        run = make(tmp_path / name, "grpo", 0, done=20 if name == "done" else 5)
        if name in ("going", "killed", "empty"):
            (run / "result.json").unlink()
        if name in ("stopped", "resumed", "broken"):
            (run / "result.json").write_text('{"status": "preempted"}')
        if name == "torn":
            (run / "result.json").write_text('{"stat')
        if name not in ("going", "resumed"):
            os.utime(run / "metrics.jsonl", (old, old))
    (tmp_path / "broken" / "error.json").write_text('{"line": "CUDA out of memory"}')
    os.utime(tmp_path / "resumed" / "result.json", (old, old))
    (tmp_path / "empty" / "metrics.jsonl").unlink()
    runs = read([tmp_path])
    for name, (status, text) in cases.items():
        assert runs.run(name).status == status, name
        assert text in notes(runs, name)
        assert bool(notes(runs, name)) == (name != "done")
    assert "different numbers of steps: 5 (6 runs), 20 (1 run), 0 (1 run)" in notes(runs)


def sweep_cell(folder: Path, name: str, root: str, config: dict[str, Any], **axes: str) -> dict[str, Any]:
    choices = {"algo": "drgrpo", "template": "r1", "questions": "nano_gsm", "model": "nano", "reward": "orz"} | axes
    cell = {
        "name": name,
        "root": root,
        "choices": choices,
        "axes": axes,
        "overrides": [],
        "signature": name,
        "wanted": True,
    }
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "cell.yaml").write_text(json.dumps(cell | {"config": config}))
    return cell


def test_a_sweep_its_evaluations_and_its_missing_cells(tmp_path: Path) -> None:
    cells = {}
    for algo in ("grpo", "drgrpo"):
        run = make(tmp_path / algo, algo, 3)
        config = yaml.safe_load((run / "config.yaml").read_text()) | {"optimizer": {"lr": 1e-6}}
        cells[algo] = sweep_cell(tmp_path, algo, "train", config, algo=algo, seed="3")
    config = {
        "benchmarks": {"limit": 8},
        "n": 4,
        "run": "../grpo",
        "step": "all",
        "template": {"name": "r1"},
        "seed": 0,
    }
    cells["eval-grpo"] = sweep_cell(tmp_path, "eval-grpo", "evaluate", config, algo="grpo", seed="3")
    numbers = {
        str(step): {"evaluation": {"math500": {"eval/math500/accuracy": step / 100, "n": 4}}, "macro": {}}
        for step in (0, 20)
    }
    result = {"status": "finished", "evaluation": numbers["20"]["evaluation"], "steps": numbers}
    (tmp_path / "eval-grpo" / "result.json").write_text(json.dumps(result))
    cells["never"] = cells["grpo"] | {"name": "never"}
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": cells, "overrides": []}))
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "metrics.jsonl").write_text(LINE % (0, 1))

    runs = read(tmp_path)
    assert [run.name for run in runs.runs] == ["drgrpo", "grpo"]
    assert runs.run("grpo").axes["reward"] == "orz"
    assert runs.varying() == ["algo"]
    assert [run.name for run in runs.evaluated] == ["eval-grpo"]
    assert notes(runs, "never") == "is a cell of the sweep that has no folder yet"
    table = evaluations(runs)
    ours = table[(table["kind"] == "evaluate") & (table["metric"] == "accuracy")]
    assert list(zip(ours["benchmark"], ours["step"], ours["value"], strict=True)) == [
        ("math500", 0, 0.0),
        ("math500", 20, 0.2),
    ]
    assert set(ours["algo"]) == {"grpo"} and set(ours["seed"]) == {"3"}
    trained = table[(table["kind"] == "train") & (table["metric"] == "accuracy")]
    assert sorted(set(trained["step"])) == [0, 5, 10, 15, 20] and len(trained) == 10


@pytest.mark.parametrize(("folder", "seed"), [("b/run", "2"), ("elsewhere/run", "7")])
def test_of_two_runs_of_one_name_the_one_that_was_evaluated_counts(tmp_path: Path, folder: str, seed: str) -> None:
    for home, algo, own in (("a", "grpo", 1), ("b", "drgrpo", 2)):
        make(tmp_path / home / "run", algo, own)
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    config = {"benchmarks": {"limit": 8}, "n": 1, "run": str(tmp_path / folder), "step": 20, "seed": 7}
    (evaluation / "config.yaml").write_text(yaml.safe_dump(config))
    numbers = {"status": "finished", "evaluation": {"math500": {"eval/math500/accuracy": 0.5}}}
    (evaluation / "result.json").write_text(json.dumps(numbers))
    table = evaluations(read(tmp_path))
    assert set(table[table["kind"] == "evaluate"]["seed"]) == {seed}


def test_result_json_fills_in_where_the_journal_has_nothing(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0)
    entry = {"nano_math": {"eval/nano_math/accuracy": -1.0}, "other": {"eval/other/accuracy": 0.25}}
    (run / "result.json").write_text(json.dumps({"status": "finished", "steps": 20, "evaluation": entry}))
    table = evaluations(read(run))
    last = table[(table["step"] == 20) & (table["metric"] == "accuracy")].set_index("benchmark")["value"]
    assert last["other"] == 0.25
    assert last["nano_math"] > 0


def test_completions_are_read_lazily_in_order_and_damage_is_noted(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0)
    rows = run / "completions" / "step_000010.jsonl"
    rows.write_text(json.dumps(answer(1, True)) + '\n{"quest\n7\n' + json.dumps(answer(2, True)) + "\n")
    runs = read(run)
    result = list(completions(runs, "run"))
    assert [(row["step"], row["benchmark"]) for row in result] == [(0, "nano_math")] * 5 + [(10, "")] * 2 + [
        (20, "nano_math")
    ] * 5
    assert result[5]["question"] == "What is 1 + 2?"
    assert "step_000010.jsonl: 2 lines damaged" in notes(runs, "run")
    with pytest.raises(InputError, match="no such run; there are run"):
        completions(runs, "x")


def test_names_stay_apart_and_a_run_given_twice_is_one(tmp_path: Path) -> None:
    for place in ("a/x", "b/x", "b/y"):
        make(tmp_path / place, "grpo", 0)
    runs = read([tmp_path / "a", tmp_path, tmp_path / "b" / "y"])
    assert sorted(run.name for run in runs.runs) == ["a/x", "b/x", "y"]


def test_the_newest_start_says_which_options_were_chosen(tmp_path: Path) -> None:
    """reward=orz and reward=accuracy have the same settings."""
    run = make(tmp_path / "run", "grpo", 0)
    (run / "config.yaml").write_text(yaml.safe_dump(check("train", ["algo=grpo", "reward=orz"])))
    assert read(run).runs[0].axes["reward"] == "accuracy"
    for reward in ("tinyzero", "orz"):
        provenance.note(run, provenance.start({"algo": "grpo", "reward": reward}, "cpu", 1))
    [read_back] = read(run).runs
    assert read_back.axes["reward"] == "orz"
    assert [start["choices"]["reward"] for start in read_back.starts] == ["accuracy", "tinyzero", "orz"]


def test_a_store_has_the_newest_start_as_the_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    run = make(tmp_path / "run", "grpo", 0)
    first = provenance.start({"algo": "grpo"}, "NVIDIA H200", 8)
    provenance.note(run, first)
    tags = MlflowTracker(run, "r").tags()
    assert tags["mlflow.user"] == "ada"
    known = stored.start_of(tags)
    assert known == {
        key: first[key] for key in ("code", "host", "processor", "device", "ranks", "versions", "commit") if first[key]
    }


def test_a_run_that_does_not_record_its_choices_has_the_names_of_its_settings(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0)
    (run / "starts.jsonl").unlink()
    runs = read(run)
    assert {axis: runs.runs[0].axes[axis] for axis in AXES} == {
        "algo": "",
        "template": "none",
        "questions": "nano_math",
        "model": "base",
        "reward": "",
        "seed": "0",
    }
    assert notes(runs) == "algo, reward: which option was chosen is not recorded"


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "no such folder"), ("", "holds no run"), ("sqlite:///nowhere/mlflow.db", "no such file")],
)
def test_nothing_there_is_one_line(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read([place if "://" in place else tmp_path / place])
    assert "\n" not in str(error.value)


# --- MLflow ---


def send(folder: Path, uri: str) -> None:
    for run in sorted(folder.glob("*-?")):
        MlflowTracker(run, run.name, uri).deliver("finished")


def same(folder: Path, uri: str) -> Runs:
    """Reads a store and compares it with the folder that it came from."""
    runs, origin = read([uri]), read([folder])
    order = ["algo", "seed", "step"]
    ours, theirs = (r.steps.sort_values(order).reset_index(drop=True) for r in (runs, origin))
    assert set(runs.metrics) == set(origin.metrics)
    for name in ("run", "step", "algo", "seed", "template", "optimizer.lr", *origin.metrics):
        left, right = ours[name].to_numpy(), theirs[name].to_numpy()
        if name in origin.metrics:
            assert np.array_equal(left, right, equal_nan=True), name
        else:
            assert list(left) == list(right), name
    assert {run.status for run in runs.runs} == {"finished"}
    return runs


@pytest.fixture(scope="module")
def sent(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = empty_store(tmp_path_factory.mktemp("store"))
    send(folder, uri)
    return uri


@pytest.mark.slow
def test_a_store_gives_the_same_table(folder: Path, sent: str) -> None:
    runs = same(folder, sent)
    assert runs.run("grpo-1").path is None
    assert not notes(runs)
    result = list(completions(runs, "grpo-1"))
    assert [(row["step"], row["benchmark"]) for row in result] == [(0, "nano_math")] * 5 + [(20, "nano_math")] * 5
    assert result[0]["question"] == "What is 0 + 0?"
    assert set(read([sent], ["train/reward"]).metrics) == {"train/reward"}


@pytest.mark.slow
def test_other_databases_are_asked_in_bulk(folder: Path, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SQLITE", "not this one")  # the path taken for every other database
    same(folder, sent)


def test_a_reply_that_was_cut_is_asked_for_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        run: [{"run_id": run, "step": s, "value": s / 2} for s in range(n)] for run, n in (("a", 3), ("b", 4), ("c", 9))
    }
    requests = []

    class Reply:
        status_code = 200

        def __init__(self, runs: list[str]) -> None:
            self.points = [point for run in runs for point in points[run]][: stored.A_REPLY]

        def json(self) -> dict[str, Any]:
            return {"metrics": self.points}

    def http_request(creds: Any, path: str, method: str, params: dict[str, Any]) -> Reply:
        requests.append(params["run_id"])
        return Reply(params["run_id"])

    class Store:
        def get_host_creds(self) -> None: ...

    class Client:
        class _tracking_client:
            store = Store()

        def get_metric_history(self, run: str, name: str) -> list[Any]:
            return [type("Point", (), point) for point in points[run]]

    import mlflow.utils.rest_utils

    monkeypatch.setattr(mlflow.utils.rest_utils, "http_request", http_request)
    monkeypatch.setattr(stored, "A_REPLY", 8)
    result = stored.fetch_points(Client(), ["a", "b", "c"], "train/reward")
    assert sorted(result) == sorted((p["run_id"], p["step"], p["value"]) for one in points.values() for p in one)
    assert requests == [["a", "b", "c"], ["a"], ["b", "c"], ["b"], ["c"]]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_gives_the_same_table(folder: Path, sent: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        sent,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 400  # on a busy machine the imports alone take a minute and more
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.3)
        same(folder, f"http://127.0.0.1:{port}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)

"""Journals of a sweep in MLflow: every point once, whichever process delivers and however often."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import status, sync
from launch.sweep import files, states
from launch.sweep.files import Cell, Sweep
from tests.conftest import ROOT
from tests.synthetic import start_run
from zero.files import append_line, read_json, write_json
from zero.tracking import provenance
from zero.tracking.mlflow import LINK


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def journal(place: Path, steps: range) -> None:
    with (place / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(
                json.dumps({"step": step, "train/reward": step / 8, "loss/kl": None, "time/unix": 1e9 + step}) + "\n"
            )


def make_sweep(tmp_path: Path, count: int) -> Path:
    """A sweep of finished cells with journals of six steps, in a runs folder of its own."""
    folder = tmp_path / "runs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    cells = {}
    for seed in range(count):
        config = {"seed": seed, "optimizer": {"lr": 1e-6}, "tracker": {"lens": False}}
        cell = Cell(
            f"a-s{seed}",
            "train",
            (),
            {"algo": "a", "model": "m"},
            f"sig{seed}",
            {"algo": "a", "seed": str(seed)},
            config=config,
        )
        cells[cell.name] = cell
        files.freeze_cell(folder, cell)
        start_run(folder / cell.name, config, cell.choices, commit="c0ffee-dirty")
        journal(folder / cell.name, range(6))
        write_json(folder / cell.name / files.RESULT, {"status": "finished"})
    files.write_sweep(folder, Sweep("mine", cells, {}, {"commit": "c0ffee-dirty"}, id=str(tmp_path)))
    return folder


def deliver(folder: Path) -> tuple[int, dict[str, str]]:
    sweep = files.read_sweep(folder)
    return sync.sync(folder, sweep, states.read_statuses(folder, sweep, {}))


def runs(folder: Path) -> Iterator[tuple[Any, dict[int, float]]]:
    """Every run of the store, with its reward by step."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("zero")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.run_name ASC"]):
        yield run, {p.step: p.value for p in client.get_metric_history(run.info.run_id, "train/reward")}


def test_flat_runs_with_all_points_and_tags_and_twice_is_once(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 2)
    assert deliver(folder) == (2, {})
    delivered = list(runs(folder))
    assert [run.info.run_name for run, _ in delivered] == ["a-s0", "a-s1"]
    for seed, (run, points) in enumerate(delivered):
        assert points == {step: step / 8 for step in range(6)} and run.info.status == "FINISHED"
        tags = run.data.tags
        assert (tags["sweep"], tags["cell"], tags["axis.seed"], tags["axis.algo"]) == (
            "mine",
            f"a-s{seed}",
            str(seed),
            "a",
        )
        assert (tags["kind"], tags["git_commit"]) == ("train", "c0ffee-dirty")
        assert "mlflow.parentRunId" not in tags, "MLflow's charts hide nested runs"
        assert (run.data.params["algo"], run.data.params["optimizer.lr"]) == ("a", "1e-06")
    assert deliver(folder) == (0, {}), "nothing is left to send"
    for name in ("a-s0", "a-s1"):
        (folder / name / LINK).unlink()  # what the previous delivery remembered is lost
    assert deliver(folder) == (2, {})
    later = list(runs(folder))
    assert [run.info.run_id for run, _ in later] == [run.info.run_id for run, _ in delivered]
    assert [points for _, points in later] == [points for _, points in delivered]


@pytest.mark.slow
def test_a_running_cell_is_brought_up_to_date_and_ends_later(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 1)
    place = folder / "a-s0"
    (place / files.RESULT).unlink()
    append_line(place / files.ATTEMPTS, {"attempt": 1, "job": "", "host": "far", "pid": 1, "time": 4e9, "restart": 0})
    assert deliver(folder) == (1, {})
    assert next(runs(folder))[0].info.status == "RUNNING"
    assert deliver(folder) == (0, {})
    journal(place, range(6, 9))
    assert deliver(folder) == (1, {})
    write_json(place / files.RESULT, {"status": "finished"})
    assert deliver(folder) == (1, {})
    ((run, points),) = runs(folder)
    assert run.info.status == "FINISHED" and sorted(points) == list(range(9))


@pytest.mark.slow
def test_a_cell_that_runs_anew_takes_the_place_of_its_deleted_run(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 2)
    assert deliver(folder) == (2, {})
    before = {run.info.run_name: run.info.run_id for run, _ in runs(folder)}
    cell = files.read_cell(folder, "a-s0")
    shutil.rmtree(folder / cell.name)
    files.freeze_cell(folder, cell)
    start_run(folder / cell.name, cell.config or {}, cell.choices, code="other")
    journal(folder / cell.name, range(3))
    write_json(folder / cell.name / files.RESULT, {"status": "finished"})
    assert deliver(folder) == (1, {})
    stored = {run.info.run_name: (run.info.run_id, sorted(points)) for run, points in runs(folder)}
    assert stored["a-s1"] == (before["a-s1"], list(range(6)))
    assert stored["a-s0"][0] != before["a-s0"] and stored["a-s0"][1] == [0, 1, 2]


def test_a_store_that_accepts_nothing_is_reported_and_left(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 5)
    (tmp_path / "file").touch()
    sweep = files.read_sweep(folder)
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    sent, failed = sync.sync(folder, sweep, states.read_statuses(folder, sweep, {}), uri)
    assert sent == 0 and 3 <= len(failed) < 5
    assert (folder / "a-s0" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_six_that_start_at_once_on_a_fresh_store_lose_nothing(tmp_path: Path) -> None:
    """Two sweeps, each delivered by three processes, all into one store that has never been opened."""
    folders = [make_sweep(tmp_path / str(i), 3) for i in range(2)]
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    commands = [
        [sys.executable, "-m", "launch.sync", str(folder), "--uri", uri] for folder in folders for _ in range(3)
    ]
    lives = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [life.wait(300) for life in lives] == [0] * 6
    delivered = list(runs(tmp_path / "runs" / "sweeps" / "x"))
    assert len(delivered) == 6 and all(points == {step: step / 8 for step in range(6)} for _, points in delivered)


def test_a_cell_that_reports_by_itself_is_left_alone_while_it_lives(tmp_path: Path) -> None:
    place = tmp_path / "c"
    cell = Cell("c", "train", (), {}, "", config={"tracker": {"_target_": "zero.tracking.mlflow.MlflowTracker"}})
    files.freeze_cell(tmp_path, cell)
    journal(place, range(2))
    running, ended = states.Status("c", "running", True, 1), states.Status("c", "finished", False, 1)
    assert not sync.needs_sync(place, cell, running, "http://host")
    assert sync.needs_sync(place, cell, ended, "http://host")


def test_the_table_writes_nothing_and_shows_what_mlflow_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(tmp_path, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert status.main([str(folder)]) == 0
    assert f"MLflow lacks 2 cells or their last steps: python -m launch.sync {folder.name}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert deliver(folder)[0] == 2
    assert status.main([str(folder)]) == 0
    assert "MLflow lacks" not in capsys.readouterr().out


def test_a_cell_that_ran_anew_in_a_new_folder_is_another_run(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, 1)
    (place,) = [path for path in folder.iterdir() if (path / "metrics.jsonl").exists()]
    assert deliver(folder) == (1, {})
    first = read_json(place / "mlflow.json")
    (place / "mlflow.json").unlink()
    assert deliver(folder)[1] == {}  # the link was lost: the run is found again by the cell and its first start
    assert read_json(place / "mlflow.json")["run_id"] == first["run_id"]
    for name in ("mlflow.json", "starts.jsonl"):  # a folder that was deleted, and a run with other code
        (place / name).unlink()
    provenance.note(place, {"time": 2.0, "choices": {}, "code": "b"})
    assert deliver(folder) == (1, {})
    assert read_json(place / "mlflow.json")["run_id"] != first["run_id"]

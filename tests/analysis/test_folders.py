"""Folders as users have them: beside runs there are MLflow's copies of them, pipes, devices and endless files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from analysis.reader.benchmarks import completions
from analysis.reader.runs import read
from analysis.report.__main__ import main as report
from tests.analysis.test_runs import make
from tests.integration.runs import train_here
from tests.synthetic import empty_store
from zero.errors import InputError
from zero.files import read_json, read_lines, read_regular

RUN_ID = "0123456789abcdef" * 2


def test_what_mlflow_keeps_of_a_run_is_no_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "grpo", 0)
    for place in (
        f"mlartifacts/{RUN_ID}/artifacts",
        f"deep/below/mlartifacts/1/{RUN_ID}/artifacts",
        f"mlruns/0/{RUN_ID}",
        f"a store of another name/1/{RUN_ID}/artifacts",
    ):
        make(tmp_path / place, "grpo", 0)
        (tmp_path / place / "metrics.jsonl").unlink()
    assert [result.path for result in read(tmp_path).runs] == [run]
    for store in (tmp_path / "mlartifacts", tmp_path / "mlartifacts" / RUN_ID / "artifacts"):
        with pytest.raises(InputError, match="holds no run"):
            read(store)


@pytest.mark.slow
def test_real_runs_of_one_folder_with_mlflow_beside_them_are_read_once(tmp_path: Path) -> None:
    empty_store(tmp_path)
    for seed in (0, 1):
        train_here(tmp_path / f"s{seed}", "tracker=mlflow", "tracker.patience=300", "steps=2", f"seed={seed}")
    assert len(list(tmp_path.glob("mlartifacts/**/config.yaml"))) == 2, "MLflow keeps the settings of a run"
    runs = read(tmp_path)
    assert [run.name for run in runs.runs] == ["s0", "s1"] and not runs.evaluated and not runs.notes


def endless(place: Path, kind: str) -> None:
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        with place.open("wb") as file:
            file.truncate(1 << 36)  # takes no room on the disk


@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.yaml", "result.json", "starts.jsonl", "completions/eval_nano_math_000000.jsonl"]
)
def test_a_file_that_never_ends_costs_that_file_alone(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        make(tmp_path / f"s{seed}", "grpo", seed)
    monkeypatch.setattr(read_regular, "__defaults__", (1 << 24,))
    monkeypatch.setattr(read_lines, "__defaults__", (1 << 20,))
    monkeypatch.setattr(read_json, "__defaults__", (1 << 20,))
    monkeypatch.setattr("analysis.reader.folders.LARGEST_RECORD", 1 << 20)
    monkeypatch.setattr("zero.tracking.provenance.LARGEST", 1 << 20)
    endless(tmp_path / "s0" / name, kind)
    runs = read(tmp_path)
    assert [run.name for run in runs.runs] == ["s0", "s1"]
    assert len(list(completions(runs, "s0"))) == (5 if name.startswith("completions") else 10)
    if (name, kind) == ("metrics.jsonl", "pipe"):
        assert report([str(tmp_path)]) == 0


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\n" + b"b" * 25 + b"\nc")
    assert list(read_lines(path, 10)) == [b"a\n", b"b" * 10] and len(read_regular(path)) == 29
    with pytest.raises(OSError, match="is larger than"):
        read_regular(path, 28)
    with pytest.raises(OSError, match="no ordinary file"):
        read_regular(tmp_path)

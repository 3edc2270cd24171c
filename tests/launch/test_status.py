"""The commands over a sweep's folder, on folders made by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import status
from launch.sweep import files, table
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status
from zero.files import write_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cells: finished, failed, stopped, never started; and an evaluation that waits for the second."""
    monkeypatch.setenv("COLUMNS", "200")
    home = tmp_path / "runs" / "sweeps" / "s"
    home.mkdir(parents=True)
    axes = [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]
    cells = {
        f"{a}-s{s}": Cell(f"{a}-s{s}", "train", (), {"algo": a}, "", {"algo": a, "seed": s}, steps=4) for a, s in axes
    }
    cells["eval"] = Cell("eval", "evaluate", (), {}, "", {"algo": "a", "seed": "1"}, after="a-s1")
    for cell in cells.values():
        files.freeze_cell(home, cell)
    files.write_sweep(home, Sweep("s", cells, {"backend": "launch.places.local.Local"}))
    for name, code in (("a-s0", 0), ("a-s1", 1), ("b-s0", 75)):
        number = files.begin_attempt(home / name, "", 0)
        files.end_attempt(home / name, number, code)
        files.log_path(home / name, number).write_text(f"line one of {name}\nlast line of {name}\n")
    result = {"status": "finished", "evaluation": {"x": {"eval/x/accuracy": 0.25, "other": 1}}}
    write_json(home / "a-s0" / files.RESULT, result)
    (home / "a-s0" / "metrics.jsonl").write_text('{"step": 4, "train/reward": 0.5, "length/mean": 33.0}\n')
    files.write_error(home / "a-s1", 1, 1, "ValueError: [bold]no[/bold]", "Traceback (most recent call last): ...")
    files.ask_to_stop(home / "b-s0", "asked")
    return home


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that are submitted from now on."""
    names_submitted: list[str] = []

    def enqueue(folder: Path, sweep: Sweep, statuses: Any, names: list[str], backend: Any) -> list[str]:
        names_submitted.extend(names)
        return names

    monkeypatch.setattr(status, "enqueue", enqueue)
    return names_submitted


def test_the_table_shows_every_cell_and_a_failure_is_an_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(folder)]) == 1
    output = capsys.readouterr().out
    for words in ("0.500", "33", "4/4", "ValueError: [bold]no[/bold]", "for a-s1 failed", "1 finished, 1 failed"):
        assert words in output
    assert status.main([str(folder), "algo=b"]) == 0
    assert "ValueError" not in capsys.readouterr().out


def test_json_is_one_object_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.main([str(folder), "seed=1", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["cell"], line["state"]) for line in lines] == [
        ("a-s1", "failed"),
        ("b-s1", "pending"),
        ("eval", "waiting"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["resume"], ["b-s0", "b-s1"]),
        (["resume", "seed=1"], ["b-s1"]),
        (["retry", "--failed"], ["a-s1", "b-s1", "eval"]),
        (["retry", "algo=a", "--failed"], ["a-s1", "eval"]),
    ],
)
def test_which_cells_are_resumed(folder: Path, submitted: list[str], words: list[str], expected: list[str]) -> None:
    assert status.main([str(folder), *words]) == 0
    assert submitted == expected
    assert (folder / "b-s0" / files.STOP).exists() == ("b-s0" not in expected)


def test_a_cancelled_cell_stays_cancelled_until_resumed(
    folder: Path, submitted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(folder), "cancel", "algo=b"]) == 2
    assert "would end 2 cells (1 stopped, 1 pending): b-s0, b-s1; say --yes" in capsys.readouterr().err
    assert status.main([str(folder), "cancel", "algo=b", "--yes"]) == 0
    statuses = status.current(folder, files.read_sweep(folder))
    assert {name: statuses[name].state for name in ("a-s0", "b-s0", "b-s1")} == {
        "a-s0": "finished",
        "b-s0": "cancelled",
        "b-s1": "cancelled",
    }
    status.main([str(folder), "retry", "--failed", "algo=b"])
    assert submitted == []
    status.main([str(folder), "resume", "algo=b"])
    assert submitted == ["b-s0", "b-s1"] and not (folder / "b-s1" / files.CANCELLED).exists()


def test_a_cell_can_be_asked_to_stop_only_while_it_lives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.main([str(folder), "stop", "b-s1"])
    assert "asked 0 cells" in capsys.readouterr().out and not (folder / "b-s1" / files.STOP).exists()


def test_logs_show_the_end_and_the_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(folder), "logs", "a-s1", "--lines", "1"]) == 0
    output = capsys.readouterr().out
    assert "last line of a-s1" in output and "line one" not in output and "Traceback" in output
    assert status.main([str(folder), "logs", "algo=a"]) == 2
    assert "name one, such as a-s1 (ValueError" in capsys.readouterr().err
    assert status.main([str(folder), "logs", "b-s1"]) == 0
    assert "nothing yet" in capsys.readouterr().out


def test_collect_is_a_row_a_cell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "deliver_states", lambda *_: 0)
    assert status.main([str(folder), "collect"]) == 0
    rows = list(csv.DictReader((folder / "collect.csv").open()))
    assert len(rows) == 5 and rows[0]["eval/x/accuracy"] == "0.25" and rows[0]["algo"] == "a"
    assert rows[0]["state"] == "finished" and rows[3]["eval/x/accuracy"] == "" and rows[0]["reward"] == "0.5"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere"], "is no sweep"), (["algo=c"], "fits no cell; axes are algo, seed"), (["retry"], "say --failed")],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    arguments = words if words == ["nowhere"] else [str(folder), *words]
    assert status.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_name_all_sweeps_are_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parents[2])
    assert status.main([]) == 0
    assert capsys.readouterr().out == "s: 1 finished, 1 failed, 1 stopped, 1 waiting, 1 pending\n"


def test_cells_of_earlier_lines_are_left_out_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = files.read_sweep(folder)
    cells = {name: replace(cell, wanted=cell.axes["algo"] == "a") for name, cell in sweep.cells.items()}
    files.write_sweep(folder, replace(sweep, cells=cells))
    status.main([str(folder)])
    output = capsys.readouterr().out
    assert "stopped" not in output and "2 cells that the last line does not ask for are not shown (--all)" in output
    status.main([str(folder), "--all"])
    assert "stopped, not wanted" in capsys.readouterr().out
    status.main([str(folder), "--all", "--json"])
    column = [json.loads(line)["wanted"] for line in capsys.readouterr().out.splitlines()]
    assert column == [True, True, False, False, True]


def test_a_halted_sweep_a_bad_node_and_a_full_queue_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "halted").write_text("3 cells failed\n")
    (folder / "slurm").mkdir()
    (folder / "slurm" / "excluded").write_text("n1 3 cells failed there\n")
    write_json(folder / "unsubmitted.json", {"cells": ["b-s1"]})
    status.main([str(folder)])
    output = capsys.readouterr().out
    for words in ("halted: 3 cells failed; ", "1 cells wait for room", "node n1 is left out: 3 cells failed there"):
        assert words in output


def test_the_cause_of_an_error_stands_in_its_line_of_the_table() -> None:
    line = f"error: run_dir=/a/{'long/' * 30}path: no space left for a checkpoint; free some"
    assert table.shorten_error(line) == "run_dir: no space left for a checkpoint; free some"
    assert table.shorten_error("error: seed=x: must be a whole number") == "error: seed=x: must be a whole number"


def test_a_file_system_that_is_full_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/x/collect.csv")

    monkeypatch.setattr(status, "enqueue", full)
    assert status.main([str(folder), "resume"]) == 2
    assert capsys.readouterr().err == "error: No space left on device: /x/collect.csv\n"


def test_following_ends_when_no_cell_is_alive(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep("s", {"c": Cell("c", "train", (), {}, "")})
    looks = [Status("c", "pending", True, 0), Status("c", "running", True, 1), Status("c", "finished", False, 1)]
    last = table.follow(sweep, lambda before: {"c": looks.pop(0)}, 0.0, lambda statuses: not statuses["c"].live)
    assert last["c"].state == "finished" and looks == []
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "1 pending",
        "1 running",
        "1 finished",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (5.4, "5s"), (150, "2m"), (7500, "2h05"), (200_000, "2d07h")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert table.format_duration(seconds) == text

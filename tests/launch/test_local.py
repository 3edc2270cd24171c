"""Cells on this machine: how many at a time, in which order, what happens to those that end early. The cells are toys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch import multirun
from launch.places import local
from launch.sweep import files, states
from launch.sweep.files import Cell, Sweep
from tests.conftest import ROOT
from zero.errors import InputError
from zero.files import read_json_lines

TOY = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from launch.sweep import files
from zero.files import append_line, write_json
folder, name = Path(sys.argv[-2]), sys.argv[-1]
place = folder / name
number = files.begin_attempt(place, "", 0)
def leave(code):
    files.end_attempt(place, number, code)
    os._exit(code)
signal.signal(signal.SIGTERM, lambda *_: leave(75))
where = {{"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "path": os.environ["PYTHONPATH"]}}
append_line(folder / "seen.jsonl", {{"cell": name}} | where)
kind = name.split("-")[0]
if kind == "fail" or "-s1-" in name:
    leave(1)
if kind == "again" and number == 1 or kind == "hopeless":
    leave(75)
if kind in ("slow", "brief"):
    time.sleep(60)
time.sleep(0.2)
write_json(place / "result.json", {{"status": "finished"}})
leave(0)
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that runs a toy cell whatever module it is given."""
    script, program = tmp_path / "toy.py", tmp_path / "python"
    script.write_text(TOY.format(root=str(ROOT)))
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    program.chmod(0o755)
    return str(program)


def make_sweep(tmp_path: Path, *names: str, after: Mapping[str, str] = {}) -> tuple[Path, Sweep]:
    folder = tmp_path / "sweep"
    folder.mkdir()
    sweep = Sweep("sweep", {n: Cell(n, "train", (), {}, "", after=after.get(n)) for n in names})
    for cell in sweep.cells.values():
        files.freeze_cell(folder, cell)
    files.write_sweep(folder, sweep)
    return folder, sweep


def state_of(folder: Path, sweep: Sweep) -> dict[str, str]:
    return {name: status.state for name, status in states.read_statuses(folder, sweep, {}).items()}


def until(fact: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_state_of_each_cell_and_the_restart_of_those_that_saved(tmp_path: Path, python: str) -> None:
    folder, sweep = make_sweep(tmp_path, "ok-1", "fail-1", "again-1", "hopeless-1", "ok-2")
    settings = local.parse_settings({"python": python, "at_once": 3, "requeues": 2})
    assert local.supervise(folder, list(sweep.cells), settings) == 0
    assert state_of(folder, sweep) == {
        "ok-1": "finished",
        "fail-1": "failed",
        "again-1": "finished",
        "hopeless-1": "preempted",
        "ok-2": "finished",
    }
    assert [len(files.read_attempts(folder / name)) for name in sweep.cells] == [1, 1, 2, 3, 1]


def test_never_more_at_once_than_allowed_and_each_on_its_device(tmp_path: Path, python: str) -> None:
    folder, sweep = make_sweep(tmp_path, *(f"ok-{i}" for i in range(5)))
    most = 0

    def poll() -> None:
        nonlocal most
        most = max(most, sum(s == "running" for s in state_of(folder, sweep).values()))

    settings = local.parse_settings({"python": python, "at_once": 2, "devices": [4, 7]})
    local.supervise(folder, list(sweep.cells), settings, poll)
    seen = read_json_lines(folder / "seen.jsonl")
    assert 1 <= most <= 2 and {line["gpu"] for line in seen} == {"4", "7"}
    assert {line["path"].split(os.pathsep)[0] for line in seen} == {str(folder / "code")}, "cells run the frozen copy"


def test_a_cell_that_waits_starts_only_after_a_success(tmp_path: Path, python: str) -> None:
    names = ("ok-1", "fail-1", "ok-after-ok", "ok-after-fail")
    folder, sweep = make_sweep(tmp_path, *names, after={"ok-after-ok": "ok-1", "ok-after-fail": "fail-1"})
    local.supervise(
        folder, ["ok-after-ok", "ok-after-fail", "ok-1", "fail-1"], local.parse_settings({"python": python})
    )
    assert state_of(folder, sweep) == dict(zip(names, ("finished", "failed", "finished", "waiting"), strict=True))


def test_asked_to_stop_it_lets_its_cells_save(tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, sweep = make_sweep(tmp_path, "slow-1", "ok-1")
    timer = threading.Thread(
        target=lambda: (until(lambda: (folder / "seen.jsonl").exists()), os.kill(os.getpid(), signal.SIGTERM))
    )
    timer.start()
    assert local.supervise(folder, list(sweep.cells), local.parse_settings({"python": python, "at_once": 1})) == 75
    timer.join()
    assert state_of(folder, sweep) == {"slow-1": "preempted", "ok-1": "pending"}
    assert files.read_attempts(folder / "slow-1")[0]["exit"] == 75
    assert "1 cells save at the end of their step" in capsys.readouterr().err


def test_a_live_cell_is_not_started_again_after_its_supervisor_was_killed(tmp_path: Path, python: str) -> None:
    folder, sweep = make_sweep(tmp_path, "slow-launch.cell")
    place = folder / "slow-launch.cell"
    backend = local.Local.parse({"python": python})
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from launch.places import local; from pathlib import Path\n"
            f"local.supervise(Path({str(folder)!r}), ['slow-launch.cell'], local.parse_settings({{'python': {python!r}}}))",
        ],
        cwd=ROOT,
    )
    try:
        until(lambda: files.read_attempts(place))
    finally:
        child.kill()
        child.wait()
    assert state_of(folder, sweep) == {"slow-launch.cell": "running"}, "cells outlive it"
    assert local.supervise(folder, list(sweep.cells), local.parse_settings({"python": python})) == 0
    assert len(files.read_attempts(place)) == 1
    backend.cancel(folder, list(sweep.cells), [])
    until(lambda: "exit" in files.read_attempts(place)[0])
    assert state_of(folder, sweep) == {"slow-launch.cell": "preempted"}


def test_cells_that_outlive_their_launcher_count_and_keep_their_device(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = make_sweep(tmp_path, "brief-launch.cell", "ok-1", "ok-2")
    settings = local.parse_settings({"python": python, "at_once": 2, "devices": [0, 1]})
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "toy.py"), "launch.sweep.attempt", str(folder), "brief-launch.cell"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": str(ROOT)},
    ) as stray:
        until(lambda: files.read_attempts(folder / "brief-launch.cell"))
        assert local.surviving_cells(folder, files.read_sweep(folder)) == {"brief-launch.cell": "0"}
        code = local.supervise(folder, ["ok-1", "ok-2"], settings)
        seen = read_json_lines(folder / "seen.jsonl")
        assert code == 0 and [line["gpu"] for line in seen] == ["0", "1", "1"], (
            "one at once beside it, on the other GPU"
        )
        stray.kill()
    assert "1 cells of an earlier launcher run on" in capsys.readouterr().out


def test_a_second_shell_says_what_it_waits_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = make_sweep(tmp_path, "ok-1")
    entered = threading.Event()

    def second() -> None:
        with local.supervisor_lock(folder):
            entered.set()

    errors: list[str] = []

    def waiting() -> bool:
        errors.append(capsys.readouterr().err)
        return f"process {os.getpid()} on " in "".join(errors)

    thread = threading.Thread(target=second)
    with local.supervisor_lock(folder):
        thread.start()
        until(waiting)
        assert not entered.is_set()
    thread.join(20)
    assert entered.is_set()


@pytest.mark.parametrize(
    "settings",
    [{"at_once": 0}, {"at_once": "x"}, {"requeues": -1}, {"devices": 3}, {"devices": []}, {"partition": "gpu"}],
)
def test_impossible_settings_are_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        local.parse_settings(settings)


def test_submitted_in_the_background_it_runs_on(tmp_path: Path, python: str) -> None:
    folder, sweep = make_sweep(tmp_path, "ok-1", "ok-2")
    (folder / "code").symlink_to(ROOT)
    files.write_sweep(folder, Sweep("sweep", sweep.cells, {"python": python, "at_once": 2}))
    local.Local.parse({"python": python}).submit(folder, "sweep", ["ok-1", "ok-2"], {})
    until(lambda: set(state_of(folder, sweep).values()) == {"finished"})
    assert json.loads((folder / "ok-2" / files.RESULT).read_text())["status"] == "finished"


@pytest.mark.parametrize(("seeds", "code"), [("0,2", 0), ("0,1,2", 1), ("0,x", 2)])
def test_a_multirun_follows_to_the_end_and_says_how_it_went(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str], seeds: str, code: int
) -> None:
    folder = tmp_path / "sweep"
    typed = [
        f"seed={seeds}",
        "hydra/launcher=local",
        f"hydra.launcher.python={python}",
        f"hydra.launcher.folder={folder}",
    ]
    assert multirun.launch(root="train", overrides=typed) == code
    output = capsys.readouterr()
    if code == 2:
        assert "must be a whole number" in output.err and not folder.exists()
        return
    sweep = files.read_sweep(folder)
    assert sorted(state_of(folder, sweep).values()) == ["failed"] * code + ["finished"] * 2
    assert ("failed: drgrpo" in output.err) == bool(code) and "2 finished" in output.out
    assert multirun.launch(root="train", overrides=typed) == code
    assert [len(files.read_attempts(folder / name)) for name in sweep.cells] == [1] * len(sweep.cells), (
        "nothing runs twice"
    )

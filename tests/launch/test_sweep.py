"""The files of a sweep: whole or absent, readable after any kill."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launch.sweep import files
from launch.sweep.files import Cell, Sweep
from zero.errors import InputError
from zero.files import write_json


def a_cell(name: str = "a-1", **values: object) -> Cell:
    return Cell(name, "train", ("algo=a",), {"algo": "a"}, "0123456789ab", {"algo": "a", "seed": "1"}, **values)  # type: ignore[arg-type]


def test_a_sweep_and_its_cells_come_back_as_they_were_written(tmp_path: Path) -> None:
    cells = {"a-1": a_cell(steps=7), "b-1": a_cell("b-1", after="a-1", wanted=False)}
    sweep = Sweep("s", cells, {"partition": "gpu", "setup": ["x"]}, {"commit": "c"}, ("algo=a,b",))
    files.write_sweep(tmp_path, sweep)
    assert files.read_sweep(tmp_path) == sweep
    configured = a_cell(config={"optimizer": {"lr": 1e-06}, "list": [1, None, "x"], "text": "${not}"})
    files.freeze_cell(tmp_path, configured)
    assert files.read_cell(tmp_path, "a-1") == configured
    files.freeze_cell(tmp_path, a_cell(config={"optimizer": {"lr": 2.0}}))
    assert files.read_cell(tmp_path, "a-1") == configured, "a cell that exists never changes"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "s"}', '{"name": "s", "cells": 3}', '{"cells": {"a": {}}}'])
def test_a_damaged_sweep_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / files.SWEEP).write_text(text)
    with pytest.raises(InputError, match="damaged") as error:
        files.read_sweep(tmp_path)
    assert "\n" not in str(error.value)


def test_attempts_are_numbered_and_end_once(tmp_path: Path) -> None:
    first = files.begin_attempt(tmp_path, "12_3", 0)
    files.end_attempt(tmp_path, first, 75)
    second = files.begin_attempt(tmp_path, "12_3", 1)
    one, two = files.read_attempts(tmp_path)
    assert (first, second) == (1, 2)
    assert (one["exit"], one["restart"], one["job"]) == (75, 0, "12_3") and one["ended"] >= one["time"]
    assert "exit" not in two and two["restart"] == 1


def test_a_group_that_shares_its_files_can_go_on_with_a_sweep(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        files.end_attempt(tmp_path, files.begin_attempt(tmp_path, "12_3", 0), 75)
        write_json(tmp_path / files.LEASE, {"token": "x"})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o060 for path in tmp_path.rglob("*")} == {0o060}


def test_two_attempts_never_have_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy on a node that does not see the first one's line yet."""
    first = files.begin_attempt(tmp_path, "12_3", 0)
    monkeypatch.setattr(files, "read_attempts", lambda place: [])
    assert files.begin_attempt(tmp_path, "12_3", 1) == first + 1


def test_the_lease_belongs_to_the_last_one_to_take_it(tmp_path: Path) -> None:
    assert files.holds_lease(tmp_path, "1.0"), "a lease that is not there belongs to whoever asks"
    for token in ("1.0", "1.1"):
        write_json(tmp_path / files.LEASE, {"token": token})
    assert not files.holds_lease(tmp_path, "1.0") and files.holds_lease(tmp_path, "1.1")


def test_every_task_of_a_cell_is_known_by_array_and_index(tmp_path: Path) -> None:
    files.add_job(tmp_path, "10", ["a", "b"], {"partition": "x"})
    files.add_job(tmp_path, "11", ["b"], {})
    assert files.task_ids(files.read_jobs(tmp_path)) == {"a": ["10_0"], "b": ["10_1", "11_0"]}


def test_the_same_line_is_the_same_sweep_in_any_order() -> None:
    name = files.default_name({"algo": ["a", "b"], "seed": ["0", "1", "2", "3"]}, ["algo=a,b", "seed=range(0,4)"])
    again = files.default_name({"algo": ["a", "b"], "seed": ["0", "1", "2", "3"]}, ["seed=range(0,4)", "algo=a,b"])
    assert name == again and name.startswith("algo-a+b-seed-")
    assert name != files.default_name({"algo": ["a", "b"]}, ["algo=a,b", "seed=range(0,5)"])
    assert files.default_name({}, ["x=1"]).startswith("sweep-")


def test_a_sweep_is_found_by_path_and_by_part_of_its_name(tmp_path: Path) -> None:
    for name in ("algo-1a", "algo-2b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / files.SWEEP).write_text(json.dumps({}))
    assert files.find_sweep(str(tmp_path / "algo-1a")) == tmp_path / "algo-1a"
    assert files.find_sweep("2b", home=tmp_path) == tmp_path / "algo-2b"
    with pytest.raises(InputError, match="several sweeps; there are algo-1a, algo-2b"):
        files.find_sweep("algo", home=tmp_path)
    (tmp_path / "algo-1a-quick").mkdir()
    (tmp_path / "algo-1a-quick" / files.SWEEP).write_text(json.dumps({}))
    assert files.find_sweep("algo-1a", home=tmp_path) == tmp_path / "algo-1a", "an exact name before a beginning"
    with pytest.raises(InputError, match=r"^SWEEP: is no sweep"):
        files.find_sweep("", home=tmp_path)

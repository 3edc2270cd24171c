"""One attempt of a cell without a cluster: which copy may start, which gives way, how its end is recorded.
Ranks come from Slurm's variables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.sweep import attempt as cells
from launch.sweep import files
from launch.sweep.process import PORTS, Process, first_node, free_port, is_newer
from tests import warm
from tests.integration.runs import SMALL
from zero.config.check import check
from zero.config.overrides import plain_value
from zero.files import read_json, write_json
from zero.signals import LeaseLost, StopSignal

NODES = {"n1": "n1", "n[1-3]": "n1", "n[3,5-7],m2": "n3", "rack2-[08-10]-ib": "rack2-08-ib", "a,b[1-2]": "a", "": ""}


@pytest.mark.parametrize("text", NODES)
def test_the_first_node_of_a_list(text: str) -> None:
    assert first_node(text) == NODES[text]


@given(st.text(alphabet="n1[]-,", max_size=12))
def test_no_list_of_nodes_breaks_it(text: str) -> None:
    assert isinstance(first_node(text), str)


def test_slurms_variables_count_only_for_a_batch_script_of_ours() -> None:
    slurm = {
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "n[7-8]",
        "SLURM_RESTART_COUNT": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    assert Process.from_environment(slurm) == Process()
    process = Process.from_environment(slurm | {"ZERO_CELL_JOB": "12_5"})
    assert process == Process("12_5", 2, 3, 4, 1, "n7") and process.token == "12_5.2" and not process.is_main
    assert process.torch_variables(15000, slurm) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "n7",
        "MASTER_PORT": "15000",
    }
    # it sees only its own GPU
    assert process.torch_variables(15000, {"CUDA_VISIBLE_DEVICES": "1"})["LOCAL_RANK"] == "0"
    assert "WORLD_SIZE" not in Process.from_environment({"ZERO_CELL_JOB": "12_5"}).torch_variables(0, {})


@pytest.mark.parametrize(
    ("token", "other", "answer"),
    [("12_5.1", "12_5.0", True), ("12_5.0", "12_5.0", False), ("13_5.0", "12_5.7", True), ("9_5.9", "12_5.0", False),
     ("host.77", "12_5.0", False), ("12_5.0", "", False), ("12_5.0", "host.12", False)],
)  # fmt: skip
def test_which_copy_is_the_newer(token: str, other: str, answer: bool) -> None:
    assert is_newer(token, other) is answer


def test_a_restart_takes_another_port() -> None:
    ports = [free_port("12_5", restart) for restart in range(4)]
    assert len(set(ports)) == 4 and all(port in PORTS for port in ports)


def attempts(*spans: tuple[float, int | None]) -> list[dict[str, Any]]:
    """Attempts of these seconds and exit codes, one after another; the last one has just begun."""
    records, now = [], 1000.0
    for i, (seconds, code) in enumerate(spans):
        records.append(
            {"attempt": i + 1, "time": now} | ({} if code is None else {"exit": code, "ended": now + seconds})
        )
        now += seconds + 1
    return [*records, {"attempt": len(spans) + 1, "time": now}]


DELAYS = {
    "first": ([], 0.0),
    "one death": ([(5, 143)], 0.0),
    "two deaths": ([(5, 137), (5, None)], 15.0),
    "four deaths": ([(5, 143)] * 4, 60.0),
    "many": ([(5, None)] * 20, 300.0),
    "a long one between": ([(5, None), (5, None), (900, None), (5, None)], 0.0),
    "saved each time": ([(5, 75)] * 5, 0.0),
    "failed and retried": ([(5, 1), (5, 1), (5, 1)], 0.0),
}


@pytest.mark.parametrize("name", DELAYS)
def test_a_cell_that_dies_quickly_waits_longer_each_time(name: str) -> None:
    spans, seconds = DELAYS[name]
    records = attempts(*spans)
    assert cells.backoff_seconds(records, len(records)) == seconds
    assert cells.backoff_seconds(records[:1], 1) == 0.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of one tiny cell."""
    config = check("train", [*SMALL, "steps=2", "tracker=jsonl", f"run_dir={tmp_path / 'c'}"])
    choices = {"algo": "drgrpo", "template": "none", "questions": "nano_math", "model": "nano"}
    files.freeze_cell(tmp_path, files.Cell("c", "train", (), choices, "0" * 12, config=config))
    return tmp_path


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return warm.Process("launch.sweep.attempt", str(folder), "c", *words, env=env, errors=True).completed()


def test_a_cell_runs_once_and_says_so(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stderr + files.log_path(folder / "c", 1).read_text()
    assert files.finished(folder / "c") and "finished: " in files.log_path(folder / "c", 1).read_text()
    assert run(folder).returncode == 0
    assert [a["exit"] for a in files.read_attempts(folder / "c")] == [0]  # the second start was none


def test_a_cell_that_raises_keeps_its_traceback(folder: Path) -> None:
    (folder / "c" / "completions").write_text("no folder")
    assert run(folder).returncode == 1
    error = read_json(folder / "c" / files.ERROR)
    assert "FileExistsError" in error["line"] and "Traceback" in error["traceback"] and error["attempt"] == 1
    (folder / "c" / "completions").unlink()
    assert run(folder).returncode == 0 and not (folder / "c" / files.ERROR).exists()
    assert [a["exit"] for a in files.read_attempts(folder / "c")] == [1, 0]


def test_an_unknown_entry_point_is_named(folder: Path) -> None:
    path = folder / "c" / files.CELL
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"root": "evaluate", "overrides": ["benchmarks=nonsense"]})
    )
    assert run(folder).returncode == 2
    assert "benchmarks=nonsense: no such option" in read_json(folder / "c" / files.ERROR)["line"]


@pytest.mark.parametrize("name", ["it's here", "a b", "x=[1],{y}", "m\u00fcller ~"])
def test_a_folder_of_any_name_is_handed_to_another_entry_point(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(cells, "import_module", lambda _: SimpleNamespace(main=lambda: seen.extend(sys.argv)))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert cells.run(tmp_path / name, files.Cell("c", "evaluate", ("n=2", "run_dir=old"), {}, "")) == 0
    assert seen[:2] == ["evaluate", "n=2"] and plain_value(seen[2]) == str(tmp_path / name)


def test_a_warning_that_comes_before_the_cell_runs_is_kept(folder: Path) -> None:
    process = Process(job="12_0", restart=3)
    files.ask_to_stop(folder / "c", "signal 12_0.2")
    cells.take_lease(folder / "c", process)
    assert not (folder / "c" / files.STOP).exists()
    files.ask_to_stop(folder / "c", "signal 12_0.3")
    cells.take_lease(folder / "c", process)
    assert (folder / "c" / files.STOP).exists() and not files.stopped_by_user(folder / "c")


def test_which_copies_may_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "FILE_DELAY", 0.0)
    cell, process = files.read_cell(folder, "c"), Process(job="12_0", restart=1)
    home = folder / "c"
    assert cells.reason_not_to_run(home, cell, process) == ("", 0)
    write_json(home / files.LEASE, {"token": "12_0.2"})
    assert cells.reason_not_to_run(home, cell, process)[1] == 76
    write_json(home / files.LEASE, {"token": "12_0.0"})
    files.ask_to_stop(home, "signal 12_0.0")  # by the batch script of the attempt before
    assert cells.reason_not_to_run(home, cell, process) == ("", 0)
    files.ask_to_stop(home, "enough")
    assert cells.reason_not_to_run(home, cell, process)[1] == 75
    files.clear_stop(home)
    (home / files.CANCELLED).touch()
    assert cells.reason_not_to_run(home, cell, process)[1] == 75
    (home / files.CANCELLED).unlink()
    waiting = files.Cell("d", "train", (), {}, "", after="c")
    assert cells.reason_not_to_run(folder / "d", waiting, process)[1] == 2
    write_json(home / files.RESULT, {"status": "finished"})
    assert (
        cells.reason_not_to_run(folder / "d", waiting, process) == ("", 0)
        and cells.reason_not_to_run(home, cell, process)[1] == 0
    )


def test_a_second_copy_on_this_machine_does_not_start(folder: Path) -> None:
    for owner, code in (
        (["launch.sweep.attempt", str(folder), "c"], 76),
        (["launch.sweep.attempt", str(folder), "d"], 0),
    ):
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *owner]) as other:
            # the owner, or another process that has its number by now
            lease = {"token": f"{os.uname().nodename}.{other.pid}", "pid": other.pid}
            write_json(folder / "c" / files.LEASE, lease)
            assert cells.reason_not_to_run(folder / "c", files.read_cell(folder, "c"), Process())[1] == code
            other.kill()
    assert cells.reason_not_to_run(folder / "c", files.read_cell(folder, "c"), Process()) == ("", 0)


@pytest.mark.parametrize(("code", "words"), [(137, "killed by SIGKILL"), (7, "exit 7"), (139, "killed by SIGSEGV")])
def test_the_batch_script_notes_a_death(code: int, words: str, folder: Path) -> None:
    home = folder / "c"
    process = Process(job="12_0", restart=1)
    cells.take_lease(home, process)
    cells.record_death(home, Process(job="12_0"), code)  # a copy that has lost the cell records nothing
    assert "exit" not in files.read_attempts(home)[-1]
    cells.record_death(home, process, code)
    assert words in read_json(home / files.ERROR)["line"] and files.read_attempts(home)[-1]["exit"] == code


SLURMS = {
    # what Slurm's programs printed, the exit code, the cell's error line
    "memory": (
        "slurmstepd: error: Step 5.0 exceeded memory limit (561 > 536), being killed\nsrun: error: n1: task 0: Killed",
        137,
        r"killed by SIGKILL, out of memory: raise launcher.mem_gb; Slurm: Step 5.0 exceeded memory limit",
    ),
    "srun alone": (
        "srun: error: Unable to confirm allocation for job 5: Unable to contact slurm controller",
        1,
        r"exit 1; Slurm: Unable to confirm allocation",
    ),
    "nothing": ("", 137, r"killed by SIGKILL, out of memory \(raise launcher.mem_gb\) or the node's end$"),
}


@pytest.mark.parametrize("name", SLURMS)
def test_a_step_that_never_began_or_was_killed_is_reported_in_slurms_words(name: str, folder: Path) -> None:
    printed, code, line = SLURMS[name]
    home, process = folder / "c", Process(job="12_0", restart=1)
    if name == "memory":
        cells.take_lease(home, process)
    text = f"srun: error: of an attempt before, memory\n2026 12_0.1 on n1: starts\n{printed}\n"
    (home / files.LOG / "slurm.out").write_text(text)
    cells.record_death(home, process, code)
    assert re.match(line, read_json(home / files.ERROR)["line"])
    assert [a["exit"] for a in files.read_attempts(home)] == [code]


def test_a_result_that_another_node_has_just_written_is_waited_for(folder: Path) -> None:
    """A shared file system may show it late. Without a scheduler nothing is waited for."""
    waiting = files.Cell("d", "train", (), {}, "", after="c")
    assert cells.reason_not_to_run(folder / "d", waiting, Process())[1] == 2
    late = threading.Timer(0.5, lambda: write_json(folder / "c" / files.RESULT, {"status": "finished"}))
    late.start()
    assert cells.reason_not_to_run(folder / "d", waiting, Process(job="12_1")) == ("", 0)
    late.join()


def test_a_stop_file_and_the_lease_are_checked_at_the_end_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = tmp_path / "lease:1.json"  # a colon does not end the path
    monkeypatch.setenv("ZERO_STOP_FILE", str(tmp_path / "stop"))
    monkeypatch.setenv("ZERO_LEASE", f"{lease}:12_0.0")
    stop = StopSignal()
    assert not stop
    lease.write_text(json.dumps({"token": "12_0.0"}))
    assert not stop
    (tmp_path / "stop").touch()
    assert stop and stop.received == "a stop file"
    lease.write_text(json.dumps({"token": "12_0.1"}))
    with pytest.raises(LeaseLost, match=r"12_0\.1"):
        bool(stop)

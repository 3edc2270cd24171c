"""A real sweep on this machine, interrupted: the bits are those of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import __main__ as report
from launch import status, submit
from launch.sweep import files
from tests.conftest import ROOT
from tests.integration.runs import SMALL, reproducible, train_here, weights
from zero.config import search_path
from zero.errors import EXIT_PREEMPTED


def until(fact: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


@pytest.mark.slow
def test_a_cell_that_is_pre_empted_ends_with_the_same_bits_and_is_evaluated_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sweeps" / "s"
    line = ["seed=3", "steps=8", *(text for text in SMALL if not text.startswith("steps="))]
    command = [*line, "launcher=local", "launcher.at_once=1", "--folder", str(folder)]
    assert submit.main([*command, "--evaluate", "benchmarks=nano benchmarks.limit=8"]) == 0
    trained, evaluated = files.read_sweep(folder).cells
    place = folder / trained

    until((place / "checkpoints" / "step_000002").exists)
    os.kill(files.read_attempts(place)[-1]["pid"], signal.SIGTERM)  # a pre-emption: it saves, and is started again
    until(lambda: len(files.read_attempts(place)) == 2)
    assert files.read_attempts(place)[0]["exit"] == EXIT_PREEMPTED
    until(lambda: (place / "checkpoints" / "step_000006").exists() or files.finished(place))
    # the same line again: nothing runs twice
    assert submit.main([*command, "--evaluate", "benchmarks=nano benchmarks.limit=8"]) == 0
    until(lambda: files.finished(folder / evaluated))
    assert len(files.read_attempts(place)) == 2 and len(files.read_attempts(folder / evaluated)) == 1
    assert status.main([str(folder)]) == 0

    undisturbed = tmp_path / "undisturbed"
    train_here(undisturbed, *line)
    assert weights(place) == weights(undisturbed)
    assert reproducible(place) == reproducible(undisturbed)


@pytest.mark.slow
def test_a_cell_starts_from_the_model_that_another_has_trained(tmp_path: Path) -> None:
    """experiment=open_r1 as a user types it, from SFT to GRPO to the report; its first evaluation is the other's last."""
    folder = tmp_path / "runs" / "sweeps" / "s"
    few = [text for text in SMALL if not text.startswith(("group_size", "checkpoint", "samples"))]
    line = ["experiment=open_r1", "seed=0", *few, "steps=2", "evaluation.every=2", "tracker=jsonl"]
    command = [sys.executable, "-m", "zero.train", "-m", *line, f"hydra.launcher.folder={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = files.read_sweep(folder).cells
    [second] = [cell for cell in cells.values() if cell.model_from]
    ends = {
        name: {k: v for k, v in reproducible(folder / name)[at].items() if k.startswith("eval/")}
        for name, at in ((second.model_from or "", -1), (second.name, 0))
    }
    first, after = ends.values()
    assert first == after and "eval/nano_math/accuracy" in first
    assert weights(folder / second.name) != weights(folder / (second.model_from or ""))
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "3 finished, 0 to start" in again.stdout, again.stdout + again.stderr
    assert report.main([str(folder)]) == 0 and "open-r1, distillation" in (folder / "report.html").read_text()


OWN = """# Mine
defaults: [_base, _self_]
advantage: {_target_: zero.objective.group_mean, _partial_: true}
weight: {_target_: zero.objective.token_mean, _partial_: true}
surrogate: {_target_: zero.objective.clipped, _partial_: true, low: 0.1, high: 0.3}
min_group: 2
"""


@pytest.mark.slow
def test_a_sweep_of_ones_own_yaml_goes_on_after_a_kill_without_that_folder(tmp_path: Path) -> None:
    """Two cells of --config-dir DIR algo=mine; one is killed, DIR is gone, and the cell resumes from what the sweep froze."""
    own, folder = tmp_path / "conf", tmp_path / "runs" / "sweeps" / "s"
    (own / "algo").mkdir(parents=True)
    (own / "algo" / "mine.yaml").write_text(OWN)
    line = ["algo=mine", "steps=4", *(text for text in SMALL if not text.startswith("steps="))]
    place_of_run = ["launcher=local", "launcher.at_once=2", "--folder", str(folder)]
    assert submit.main(["--config-dir", str(own), *line, "seed=0,1", *place_of_run]) == 0
    first, second = (folder / name for name in files.read_sweep(folder).cells)

    until((first / "checkpoints" / "step_000002").exists)
    os.kill(files.read_attempts(first)[-1]["pid"], signal.SIGKILL)
    until(lambda: files.finished(second))
    (own / "algo" / "mine.yaml").rename(tmp_path / "mine.yaml")
    search_path.use([])
    until(lambda: status.main([str(folder), "retry", "--failed"]) == 0 and len(files.read_attempts(first)) == 2)
    until(lambda: files.finished(first))
    assert status.main([str(folder)]) == 0

    (tmp_path / "mine.yaml").rename(own / "algo" / "mine.yaml")
    search_path.use([own])
    try:
        train_here(tmp_path / "undisturbed", *line, "seed=0")
    finally:
        search_path.use([])
    assert weights(first) == weights(tmp_path / "undisturbed") != weights(second)
    assert reproducible(first) == reproducible(tmp_path / "undisturbed")
    assert "high: 0.3" in (first / "config.yaml").read_text()

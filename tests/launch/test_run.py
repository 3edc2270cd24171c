"""A real sweep on this machine, disturbed: the bits are those of a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import status, submit
from launch import sweep as records
from tests.integration.runs import SMALL, reproducible, train_here, weights


def until(fact: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_cell_that_is_pre_empted_ends_with_the_same_bits_and_is_evaluated_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sweeps" / "s"
    line = ["seed=3", "steps=8", *(text for text in SMALL if not text.startswith("steps="))]
    given = [*line, "launcher=local", "launcher.at_once=1", "--folder", str(folder)]
    assert submit.main([*given, "--evaluate", "benchmarks=nano benchmarks.limit=8"]) == 0
    trained, evaluated = records.read_sweep(folder).cells
    place = folder / trained

    until((place / "checkpoints" / "step_000002").exists)
    os.kill(records.read_attempts(place)[-1]["pid"], signal.SIGTERM)  # a pre-emption: it saves, and is started again
    until(lambda: len(records.read_attempts(place)) == 2)
    assert records.read_attempts(place)[0]["exit"] == records.EXIT_PREEMPTED
    until(lambda: (place / "checkpoints" / "step_000006").exists() or records.finished(place))
    assert (
        submit.main([*given, "--evaluate", "benchmarks=nano benchmarks.limit=8"]) == 0
    )  # the same line: nothing twice
    until(lambda: records.finished(folder / evaluated))
    assert len(records.read_attempts(place)) == 2 and len(records.read_attempts(folder / evaluated)) == 1
    assert status.main([str(folder)]) == 0

    undisturbed = tmp_path / "undisturbed"
    train_here(undisturbed, *line)
    assert weights(place) == weights(undisturbed)
    assert reproducible(place) == reproducible(undisturbed)

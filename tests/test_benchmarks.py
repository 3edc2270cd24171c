"""The benchmarks: the same work every time, a ratio that fell is reported, several processes share one step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peer, scale
from benchmarks.workloads import WORKLOADS, make, read


def test_a_workload_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make(WORKLOADS["W2"], tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    workload, prompts = read(tmp_path / "one")
    assert workload == WORKLOADS["W2"] and len(prompts) >= workload.prompts * (workload.steps + 1)


def test_a_ratio_that_fell_by_more_than_15_percent_is_reported() -> None:
    before = {"W1": {"whole step": 2.0, "memory": 1.5}, "W4": {"whole step": 9.0}}
    assert peer.regressions({"W1": {"whole step": 1.71, "memory": 3.0}}, before) == []
    (line,) = peer.regressions({"W1": {"whole step": 1.69, "memory": 1.5}}, before)
    assert line == "W1, whole step: 1.69, was 2.00"


def test_the_ratios_of_a_baseline_are_those_that_a_check_makes() -> None:
    known = json.loads(peer.BASELINE.read_text())
    assert set(known) <= set(WORKLOADS) and {"W1", "W2", "W3"} <= set(known)
    assert all(set(ratios) == {*peer.RATIOS, "memory"} and min(ratios.values()) > 0 for ratios in known.values())


@pytest.mark.slow
def test_a_step_is_shared_by_processes() -> None:
    workload = replace(scale.workload_of(256), prompts=2, group=2, tokens=8, steps=1)
    measurements = scale.measure(workload, 2)
    assert 0 < measurements["tokens"] <= 2 * 2 * 8
    assert min(measurements[key] for key in ("cpu", "wall", "generation", "training", "memory")) > 0

"""debug=probe: the longest step, measured; it keeps nothing, and where memory ends it names the setting."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.runs import command, start


def probe(run_dir: Path, *overrides: str, megabytes: int | None = None) -> subprocess.CompletedProcess[str]:
    if megabytes is None:
        return start(run_dir, *overrides, "debug=probe", errors=True).completed(300)
    limit = (megabytes * 2**20,) * 2
    return subprocess.run(
        [*command(run_dir, *overrides), "debug=probe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )


def test_it_says_what_the_longest_step_takes_and_keeps_nothing(tmp_path: Path) -> None:
    done = probe(tmp_path / "run", "learner.gradient_checkpointing=true", "algo.beta=0.1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("16 responses of 48, 1 ranks") and lines[-1].startswith("the longest step fits")
    assert [line.partition(":")[0] for line in lines[1:5]] == [
        "rollout",
        "scores of old and initial policy, critic",
        "update",
        "sync",
    ]
    assert all("GiB" in line for line in lines[1:5])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_where_memory_ends_it_names_the_setting(tmp_path: Path) -> None:
    """256 responses of 400 tokens in one pass, with room for the rollout alone. Its address space is 1.4 to
    3.5 GB, depending on the processor; with the update 6 GB."""
    options = ["prompts=8", "group_size=32", "sampling.max_tokens=400", "learner.micro_tokens=1000000"]
    options.append("learner.precision=float32")
    done = probe(tmp_path / "run", *options, megabytes=3800)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: debug=probe: out of memory in update: lower learner.micro_tokens")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()

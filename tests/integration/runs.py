"""Small real runs for the tests: the shipped model, few short completions, all else by default."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.warm import Process
from zero.config.check import check
from zero.train import run

SMALL = [
    "steps=6",
    "prompts=4",
    "group_size=4",
    "sampling.max_tokens=48",
    "evaluation.every=3",
    "checkpoint.every=2",
    "benchmarks.limit=16",
    "samples.every=2",
    "curves=false",
    "questions.rows.train=64",
    "questions.rows.heldout=16",
]
CHOICES = {"algo": "drgrpo", "template": "none", "questions": "nano_math", "model": "nano", "reward": "accuracy"}


def train_here(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """In this process; the JSONL journal only unless asked otherwise."""
    config = check("train", [*SMALL, "tracker=jsonl", f"run_dir={run_dir}", *overrides])
    typed = dict(text.partition("=")[::2] for text in overrides)
    return run(config, {axis: typed.get(axis, option) for axis, option in CHOICES.items()}, run_dir.name)


def command(run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "zero.train", *SMALL, "tracker=jsonl", f"run_dir={run_dir}", *overrides]


def start(run_dir: Path, *overrides: str, errors: bool = False, **environment: str) -> Process:
    """In its own process; `errors`: with standard error captured separately."""
    return Process(*command(run_dir, *overrides)[2:], env=os.environ | environment, errors=errors)


def killed(run_dir: Path, step: int, *overrides: str) -> int:
    """A run in its own process, killed as soon as it has the checkpoint of `step`. Returns its pid."""
    child = start(run_dir, *overrides)
    while not (run_dir / "checkpoints" / f"step_{step:06d}").exists():
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.01)
    child.kill()
    child.communicate()
    return child.pid


def journal(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def reproducible(run_dir: Path) -> list[dict[str, Any]]:
    """The journal without what depends on the clock or the machine."""
    clock = ("time/", "speed/", "system/")
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in journal(run_dir)]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def texts(run_dir: Path, names: Sequence[str] = ("*.jsonl",)) -> dict[str, str]:
    return {p.name: p.read_text() for name in names for p in sorted((run_dir / "completions").glob(name))}

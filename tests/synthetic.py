"""Synthetic runs: metrics as a run would write them, for tests of their readers."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from zero.config.check import keep
from zero.files import write_json
from zero.records import Metrics
from zero.tracking import provenance
from zero.tracking.journal import Journal
from zero.tracking.store import create_schema
from zero.tracking.trackers import Trackers

START = 1_790_000_000.0  # seconds since 1970, when every synthetic run begins


def metrics(algo: str, seed: int, step: int, steps: int) -> Metrics:
    """The line of one step. Under grpo the length of incorrect answers grows, under drgrpo it does not."""
    noise = random.Random(f"{algo}-{seed}-{step}")
    done = step / max(steps, 1)
    skill = 0.2 + 0.55 / (1 + math.exp(-9 * (done - 0.35 - 0.03 * seed)))
    values: Metrics = {"time/unix": START + 1.7 * step, "system/memory": 0.9}
    if step > 0:
        accuracy = round(128 * min(1.0, max(0.0, skill + noise.gauss(0, 0.04)))) / 128
        correct = 62 + noise.gauss(0, 2)
        incorrect = 66 + (70 * done if algo == "grpo" else 6 * done) + noise.gauss(0, 4)
        length = accuracy * correct + (1 - accuracy) * incorrect
        values |= {
            "train/reward": accuracy,
            "train/accuracy": accuracy,
            "train/formatted": 1 - 0.3 * math.exp(-8 * done) * noise.random(),
            "length/mean": length,
            "length/correct": correct,
            "length/incorrect": incorrect,
            "length/truncated": 0.02 + (0.1 * done if algo == "grpo" else 0.0) + 0.01 * noise.random(),
            "reflection/share": 0.05 + 0.1 * done + 0.02 * noise.random(),
            "groups/zero_advantage": 0.1 + 0.3 * done + 0.1 * noise.random(),
            "loss/policy": noise.gauss(0, 0.02),
            "loss/entropy": 0.9 * math.exp(-2 * done) + 0.1 + noise.gauss(0, 0.02),
            "loss/clip_fraction": 0.002 + 0.002 * noise.random(),
            "loss/grad_norm": 0.5 + 0.3 * noise.random(),
            "loss/learning_rate": 1e-6 * (1 - done),
            "mismatch/logprob_gap": 1e-6 * noise.random(),
            "mismatch/logprob_gap_max": 1e-5 * noise.random(),
            "tokens/generated": round(128 * length),
            "tokens/prompt": 960.0,
            "time/rollout": 1.0 + 0.1 * noise.random(),
            "time/update": 0.5 + 0.1 * noise.random(),
            "time/step": 1.7,
            "speed/rollout": 128 * length / 1.05,
            "speed/update": 128 * length / 0.55,
        }
    if step % max(steps // 4, 1) == 0:
        held_out = skill + noise.gauss(0, 0.015)
        values |= {
            "eval/nano_math/accuracy": held_out,
            "eval/nano_math/accuracy_low": held_out - 0.055,
            "eval/nano_math/accuracy_high": held_out + 0.055,
            "eval/nano_math/formatted": 0.99,
            "eval/nano_math/length": 63.0,
            "eval/nano_math/truncated": 0.02,
            "eval/nano_math/reflection": 0.06,
            "time/evaluate": 2.5,
        }
    return values


def write_run(run_dir: Path, algo: str = "drgrpo", seed: int = 0, steps: int = 100, done: int | None = None) -> Path:
    """A run folder with a journal up to step `done` (all by default) and completions of its evaluations."""
    (run_dir / "completions").mkdir(parents=True)
    journal = Journal(run_dir)
    for step in range((steps if done is None else done) + 1):
        journal.append(metrics(algo, seed, step, steps), step)
    for step, correct in ((0, False), (steps, True)):
        rows = [answer(i, correct) for i in range(5)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run_dir / "completions" / f"eval_nano_math_{step:06d}.jsonl").write_text(text)
    return run_dir


def start_run(run_dir: Path, config: Mapping[str, Any], choices: Mapping[str, str], **more: Any) -> None:
    """What stands in a run folder once the run has started: its settings, and the line of this start."""
    run_dir.mkdir(parents=True, exist_ok=True)
    keep(config, run_dir / "config.yaml")
    provenance.note(run_dir, {"choices": dict(choices), **more})


def follower_settings(uri: str | None = None, **more: Any) -> dict[str, Any]:
    """The section of a config that names MLflow."""
    target = {"_target_": "zero.tracking.mlflow.MlflowTracker", "_partial_": True}
    return {**target, "uri": uri, "patience": 90.0, **more}


def end_run(trackers: Trackers, run_dir: Path, status: str = "finished") -> None:
    """As a run ends: its result, which tells a follower, and then the wait for that."""
    write_json(run_dir / "result.json", {"status": status})
    trackers.close(status)


def empty_store(folder: Path) -> str:
    """The uri of a fresh embedded MLflow store in `folder`: a copy, for making one takes seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_schema(), folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@cache
def _schema() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="schema-")
    _open_folders.append(folder)
    create_schema(f"sqlite:///{folder.name}/mlflow.db")
    return Path(folder.name) / "mlflow.db"


_open_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def answer(i: int, correct: bool) -> dict[str, object]:
    """One row as zero.benchmark.rows makes it."""
    value = str(3 * i + (0 if correct else 1))
    return {
        "question": f"What is {i} + {2 * i}?",
        "reference": str(3 * i),
        "prompt": f"Question: What is {i} + {2 * i}?\nAnswer:",
        "response": f" Let me think: {i} + {2 * i} = {value}. The answer is \\boxed{{{value}}}.",
        "answer": value,
        "correct": correct,
        "reward": float(correct),
        "reason": "correct" if correct else "wrong",
        "tokens": 24,
        "finished": True,
    }

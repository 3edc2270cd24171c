"""Whole runs on the emulated accelerator, built as users build them: every path of learner, critic and engine keeps the rules
of a device that is not the CPU."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.emulated.accelerator import DEVICE
from tests.integration.runs import journal, reproducible, train_here, weights
from tests.integration.test_evaluate import evaluate_here
from zero import runtime
from zero.config.check import check
from zero.pretrain import __main__ as pretrain
from zero.records import Response

TINY = [
    "steps=1",
    "curves=false",
    "prompts=2",
    "group_size=4",
    "sampling.max_tokens=10",
    "evaluation.every=1",
    "checkpoint.every=1",
    "benchmarks.limit=2",
    "samples.every=5",
    "optimizer.warmup=1",
    "optimizer.lr=1e-3",
    "debug=sync",
]
NANO = ["questions.rows.train=32", "questions.rows.heldout=8"]
MANY_UPDATES = ["updates=2", "epochs=2"]
KL = ["algo.beta=0.05", "algo.measure_kl=true"]
RUNS: dict[str, list[str]] = {
    "drgrpo, truncated sampling": ["algo=drgrpo", "sampling.top_p=0.9", "sampling.top_k=20", "sampling.temperature=0.8"],
    "grpo, its reference on the CPU, lens": ["algo=grpo", *KL, "algo.entropy=0.01", *MANY_UPDATES,
                                             "learner.reference_offload=true", "lens.every=1"],
    "dapo, which resamples": ["algo=dapo", "group_size=2"],
    "gspo, corrected, a step ahead": ["algo=gspo", *MANY_UPDATES, "steps=2", "rollout.staleness=1",
                                      "algo.correction={_target_:zero.objective.sequence_correction,_partial_:true,cap:2.0}"],
    "cispo, checkpointing, bfloat16": ["algo=cispo", *MANY_UPDATES, "learner.gradient_checkpointing=true",
                                       "learner.precision=bfloat16", "learner.micro_tokens=64"],
    "ppo in bfloat16, KL in the reward": ["algo=ppo", "updates=2", "learner.precision=bfloat16", *KL, "algo.kl_in=reward"],
    "vineppo": ["algo=vineppo", "algo.critic.every=4", "prompts=1"],
    "sft on solutions": ["algo=sft", "rollout=gold", "group_size=1"],
    "lora in bfloat16": ["learner=lora", "algo=grpo", *KL, "learner.precision=bfloat16"],
    "several attempts": ["questions=nano_countdown", "environment=tries", "sampling.max_tokens=40", "algo=ppo"],
    "layers without a fast path": ["model=hf", "algo=grpo", *KL, "learner.gradient_checkpointing=true"],
}  # fmt: skip


def odd(response: Response) -> float:
    """A reward that differs among the answers of any model."""
    return float(sum(map(ord, response.text)) % 2)


def overrides_of(name: str, models: dict[str, Path]) -> list[str]:
    overrides = RUNS[name]
    rows = [] if "questions=nano_countdown" in overrides else NANO
    family = "gpt2" if "model=hf" in overrides else "qwen2"
    return [
        *TINY,
        *rows,
        *overrides,
        f"model.path={models[family]}",
        "reward.truncated=grade",
        f"reward.terms.correct.function={odd.__module__}.odd",
    ]


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name: str, device: torch.device, models: dict[str, Path], tmp_path: Path) -> None:
    """The sync check after each update compares engine and learner; a NaN, a tensor elsewhere would end the run."""
    before = DEVICE.operations
    train_here(tmp_path / "run", *overrides_of(name, models))
    lines = journal(tmp_path / "run")
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    assert all(line["loss/grad_norm"] > 0 for line in lines[1:]) and "mismatch/canary" in lines[-1]
    assert (tmp_path / "run" / "model" / "config.json").exists()
    assert DEVICE.operations > before + 1000


def test_it_computes_what_the_cpu_computes(
    device: torch.device, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*overrides_of("grpo, its reference on the CPU, lens", models), "lens=none", "optimizer.lr=1e-4"]
    train_here(tmp_path / "there", *options)
    monkeypatch.setattr(runtime, "prepare", lambda *_: torch.device("cpu"))
    train_here(tmp_path / "here", *options)
    ours, exact = (reproducible(tmp_path / name)[-1] for name in ("there", "here"))
    assert ours.keys() == exact.keys() and ours["loss/kl"] > 0
    for key, value in exact.items():
        if not key.startswith("mismatch/"):
            assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_a_run_resumes_to_the_bit_and_is_evaluated(
    device: torch.device, models: dict[str, Path], tmp_path: Path
) -> None:
    options = [*overrides_of("ppo in bfloat16, KL in the reward", models), "steps=2"]
    run_dir = tmp_path / "run"
    train_here(run_dir, *options)
    lines, trained = reproducible(run_dir), weights(run_dir)
    (run_dir / "result.json").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "step_000002")
    train_here(run_dir, *options)
    assert (reproducible(run_dir), weights(run_dir)) == (lines, trained)
    outcome = evaluate_here(tmp_path / "evaluated", f"run='{run_dir}'", "step=2", "benchmarks.limit=2")
    assert outcome


def test_the_longest_step_is_tried(
    device: torch.device, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(tmp_path / "run", *overrides_of("drgrpo, truncated sampling", models)[:-1], "debug=probe")
    out, err = capsys.readouterr()
    assert "the longest step fits" in out
    assert err.count("learner.precision=float32") == 1  # products in full float32 on what could do better: said once


def test_pretraining_continues(
    device: torch.device, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with dropout, whose random numbers come from the device."""
    out = tmp_path / "out"
    options = [
        "length=32",
        "sequences=4",
        "micro_sequences=2",
        "log_every=1",
        "optimizer.warmup=2",
        "corpus=questions",
        "questions=nano_math",
        "questions.rows.train=24",
        "questions.rows.heldout=8",
        f"model.path={models['gpt2']}",
        "checkpoint.every=1",
        f"out={out}",
    ]

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "export", kill)
        with pytest.raises(Killed):
            pretrain.run(check("pretrain", options))
    entry = pretrain.run(check("pretrain", options))  # loads the last checkpoint, and writes the model
    assert math.isfinite(entry["loss"]) and (out / "model.safetensors").exists()
    assert json.loads((out / "pretrain.jsonl").read_text().splitlines()[-1]) == entry

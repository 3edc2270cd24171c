"""Real runs with adapters: the engine samples from what the learner trains, and a kill changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import BASE
from tests.integration.runs import journal, killed, reproducible, train_here, weights
from tests.integration.test_evaluate import evaluate_here

OPTIONS = [
    "learner=lora",
    "learner.lora.rank=4",
    "optimizer.lr=1e-2",
    "optimizer.warmup=1",
    "steps=3",
    "checkpoint.every=1",
    "sampling.max_tokens=32",
    "evaluation.every=3",
    "benchmarks.limit=4",
]


@pytest.mark.slow
def test_a_run_with_adapters_survives_a_kill_to_the_same_bits(tmp_path: Path) -> None:
    options = [*OPTIONS, "algo=grpo", "algo.beta=0.05", "updates=2"]
    train_here(tmp_path / "straight", *options)
    lines = journal(tmp_path / "straight")[1:]
    assert any(line["loss/grad_norm"] > 0 for line in lines) and lines[-1]["loss/kl"] > 0
    assert all(line["mismatch/logprob_gap"] < 1e-4 for line in lines)
    trained, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "straight" / "model", BASE))
    assert trained.keys() == base.keys()
    assert (trained["model.layers.0.mlp.up_proj.weight"] - base["model.layers.0.mlp.up_proj.weight"]).abs().max() > 1e-4
    assert (trained["model.embed_tokens.weight"] == base["model.embed_tokens.weight"]).all()
    killed(tmp_path / "cut", 1, *options)
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "straight")
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


def test_a_critic_beside_adapters_trains_all_its_parameters(tmp_path: Path) -> None:
    train_here(tmp_path / "run", *OPTIONS, "algo=ppo", "steps=1")
    checkpoint = next((tmp_path / "run" / "checkpoints").iterdir())
    policy, critic = (load_file(checkpoint / f"{name}.safetensors").keys() for name in ("policy", "critic"))
    assert all(".lora_" in name for name in policy)
    assert "body.embed_tokens.weight" in critic and not [name for name in critic if "lora" in name]


def test_a_checkpoint_of_adapters_is_evaluated_merged_into_its_base(tmp_path: Path) -> None:
    train_here(tmp_path / "run", *OPTIONS, "evaluation.every=1", "checkpoint.keep=9", "benchmarks.limit=16")
    result = evaluate_here(tmp_path / "all", f"run={tmp_path / 'run'}", "step=all")
    assert list(result["steps"]) == ["1", "2", "3"]
    curve = {
        line["step"]: {k: v for k, v in line.items() if k.startswith("eval/")} for line in journal(tmp_path / "run")
    }
    for step in (1, 2, 3):
        measured = result["steps"][str(step)]["evaluation"]["nano_math"]
        assert curve[step] and measured.items() >= curve[step].items()
    assert curve[3] != curve[0]

"""Settings come with the model: defaults suit its size, and typed values win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cost.formulas import CARDS, CellCost, cell_cost
from launch.cost.shapes import SHAPES
from tests.conftest import BASE, ROOT
from zero.config import recipes
from zero.config.check import check
from zero.monitoring.preflight import settings_doubts

MATHS = "questions=math_12k"


def cost_of(name: str, gpus: int, card: str, *typed: str) -> CellCost:
    return cell_cost(check("train", [f"model={name}", MATHS, *typed]), SHAPES[name], gpus, CARDS[card])


def test_every_published_model_has_the_recipe_of_its_size() -> None:
    for name, shape in SHAPES.items():
        (entry, _) = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())["defaults"]
        assert entry["recipe"] == recipes.recipe_for_size(shape.parameters)["name"], name


@pytest.mark.parametrize(
    ("name", "gpus", "card", "typed"),
    [
        ("qwen2_5_math_1_5b", 1, "A100-80G", []),
        ("r1_distill_qwen_1_5b", 1, "A100-80G", []),  # the largest of its recipe: its embeddings are not tied
        ("qwen3_4b_base", 1, "H200", []),
        ("llama3_1_8b", 8, "A100-40G", ["learner=deepspeed"]),
        ("llama3_1_8b", 1, "A100-80G", ["learner=lora"]),
    ],
)
def test_a_model_fits_the_machine_that_its_recipe_names(name: str, gpus: int, card: str, typed: list[str]) -> None:
    assert cost_of(name, gpus, card, *typed).misfit == ""


def test_a_model_of_billions_needs_no_further_settings() -> None:
    config = check("train", ["model=qwen2_5_math_1_5b", "template=qwen_math", MATHS])
    assert config["optimizer"]["lr"] == 1e-6 and config["sampling"]["max_tokens"] == 3000
    learner, rollout = config["learner"], config["rollout"]
    assert (learner["precision"], learner["gradient_checkpointing"], learner["micro_tokens"]) == (
        "bfloat16",
        True,
        16384,
    )
    assert rollout["_target_"] == "zero.rollout.auto.auto_engine" and rollout["precision"] == "bfloat16"
    assert settings_doubts(config, SHAPES["qwen2_5_math_1_5b"].parameters) == []
    assert check("train", ["model=llama3_2_3b", "algo=ppo"])["algo"]["critic"]["optimizer"]["lr"] == 1e-5
    assert check("train", ["model=llama3_1_8b", "learner=deepspeed"])["learner"]["stage"] == 3
    assert check("train", ["model=llama3_1_8b", "learner=deepspeed_lora"])["optimizer"]["lr"] == 1e-5


def test_what_is_typed_wins() -> None:
    typed = ["rollout=native", "learner=lora", "optimizer.lr=3e-5", "learner.micro_tokens=99", "sampling.max_tokens=7"]
    config = check("train", ["model=qwen2_5_math_7b", *typed])
    assert config["rollout"]["_target_"] == "zero.rollout.native.NativeEngine"
    assert (config["optimizer"]["lr"], config["learner"]["micro_tokens"], config["sampling"]["max_tokens"]) == (
        3e-5,
        99,
        7,
    )
    paper = check("train", ["model=qwen2_5_math_7b", "size=paper"])
    assert paper["rollout"]["_target_"] == "zero.rollout.vllm.VllmEngine" and paper["optimizer"]["lr"] == 1e-6
    other = check("train", ["model=hf", "model.path=someone/model-135M", "model/recipe=3b"])
    assert other["optimizer"]["lr"] == 1e-6, "a recipe can be chosen by name"


def test_evaluation_samples_in_the_precision_of_training() -> None:
    assert check("evaluate", ["rollout=vllm", "model=qwen2_5_math_7b"])["rollout"]["precision"] == "bfloat16"
    assert check("evaluate", ["rollout=vllm", "model=smollm2_135m"])["rollout"]["precision"] == "auto"
    nano = check("evaluate", ["rollout=vllm"])["rollout"]
    assert (nano["precision"], nano["memory"]) == ("float32", 0.85), "alone on its GPU"


def test_a_model_of_the_users_has_the_settings_of_its_size(tmp_path: Path) -> None:
    assert recipes.parameters(str(BASE)) == pytest.approx(0.6e6, rel=0.2)
    config = check("train", ["model=hf", f"model.path={BASE}"])
    plain = check("train", [])
    assert all(config[key] == plain[key] for key in ("optimizer", "learner", "sampling"))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1000, 135_000], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for shape in ({"max_position_embeddings": 512}, {"text_config": {"max_position_embeddings": 512}}):
        (tmp_path / "config.json").write_text(json.dumps(shape))
        of_folder: dict[str, Any] = check("train", ["model=hf", f"model.path={tmp_path}"])
        assert of_folder["optimizer"]["lr"] == 1e-5 and of_folder["sampling"]["max_tokens"] == 256, "half its context"
    assert check("train", ["model=hf", "model.path=someone/some-7B-chat"])["optimizer"]["lr"] == 1e-6
    unknown = check("train", ["model=hf", "model.path=someone/gpt2"])
    assert unknown["optimizer"]["lr"] == 1e-6 and recipes.parameters("someone/gpt2") is None
    (doubt,) = settings_doubts(unknown, 124e6)
    assert doubt.endswith("model/recipe=135m fits it")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 4)
    assert recipes.parameters(str(tmp_path)) is None, "a damaged file tells nothing"


@pytest.mark.parametrize(
    ("typed", "parameters", "doubt"),
    [
        (["model=smollm2_135m", "optimizer.lr=2e-4"], 135e6, "optimizer.lr=0.0002 is known to ruin"),
        (["model=qwen2_5_math_7b", "optimizer.lr=3e-5"], 7e9, "optimizer.lr=3e-05 is known to ruin"),
        (["model=qwen2_5_math_7b", "optimizer.lr=3e-4", "learner=lora"], 7e9, "ruin the adapters"),
        (["optimizer.lr=1e-6"], 6e5, "moves a model of 0.6 M parameters hardly at all"),
        (["optimizer.warmup=500", "steps=2"], 6e5, "optimizer.warmup=500 lasts for all 2 optimizer steps"),
        (
            ["model=llama3_2_3b", "algo=ppo", "algo.critic.optimizer.lr=1e-3"],
            3e9,
            "algo.critic.optimizer.lr=0.001 is far above",
        ),
        (["model=nano", "model.path=someone/large", "optimizer.lr=1e-6"], 7e9, "model/recipe=7b fits it"),
    ],
)
def test_settings_that_ruin_a_model_are_named(typed: list[str], parameters: float, doubt: str) -> None:
    (line,) = settings_doubts(check("train", typed), parameters)
    assert doubt in line and line.isascii()


@pytest.mark.parametrize(
    ("typed", "parameters"),
    [
        ([], 6e5),
        (["learner=lora"], 6e5),
        (["model=qwen2_5_math_7b", "learner=lora"], 7e9),
        (["algo=sft", "rollout=gold", "model=qwen2_5_math_7b", "optimizer.lr=4e-5"], 7e9),  # supervised: open-r1's rate
    ],
)
def test_settings_that_are_right_raise_no_doubt(typed: list[str], parameters: float) -> None:
    assert settings_doubts(check("train", typed), parameters) == []

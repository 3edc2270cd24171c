"""Odd files of a model: its end tokens, the settings it is stored with, and one line for what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.conftest import tiny_config
from zero.errors import InputError
from zero.models import load as models
from zero.models.generation import ends_of
from zero.models.load import load_model
from zero.models.weights import stored_weights
from zero.rollout import ModelSpec
from zero.rollout.solutions import GoldEngine


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(tiny_config("qwen2", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | changes))


def loaded(folder: Path) -> Any:
    return load_model({"path": str(folder), "revision": None, "context": None})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ({"do_sample": False, "top_k": 20}, {"top_k": 20, "do_sample": True}),
        (
            {"length_penalty": 2.0, "early_stopping": True, "temperature": 0.5},
            {"temperature": None, "length_penalty": None},
        ),
        ({"do_sample": True, "temperature": 0.5}, {"temperature": 0.5}),
    ],
)
def test_settings_of_sampling_that_contradict_each_other_do_not_keep_a_model_from_being_stored(
    folder: Path, tmp_path: Path, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    edit(folder / "generation_config.json", **settings)
    loaded(folder)[0].save_pretrained(tmp_path / "stored")
    stored = GenerationConfig.from_pretrained(tmp_path / "stored")
    assert {key: getattr(stored, key) for key in expected} == expected and stored.eos_token_id == 0


def test_every_end_token_in_the_files_ends_a_response(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=[0, 3])
    assert ends_of(str(folder)) == {0}  # the generation config takes precedence
    edit(folder / "generation_config.json", eos_token_id=[0, 1, 2])
    assert ends_of(str(folder)) == {0, 1, 2}
    (folder / "generation_config.json").unlink()
    assert ends_of(str(folder)) == {0, 3}
    (folder / "generation_config.json").write_text("[]")
    assert ends_of(str(folder)) == {0, 3}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "[]", "transformers cannot load it .TypeError"),
        ("config.json", "null", "transformers cannot load it"),
        ("config.json", {"hidden_size": "32"}, "'hidden_size'.* expected int, got str"),
        ("config.json", {"num_attention_heads": 0}, "ZeroDivisionError"),
        ("config.json", {"pad_token_id": 10**6}, "Padding_idx must be within"),
        ("config.json", {"dtype": "nope"}, "nope"),
        ("config.json", {"quantization_config": "x"}, "AttributeError"),
        ("config.json", {"layer_types": ["full_attention"]}, "layer_types"),
        ("config.json", {"max_position_embeddings": -1}, "model.context=null: the model's config names no limit"),
        ("generation_config.json", "[]", "TypeError"),
        ("tokenizer.json", "[]", "TypeError"),
        ("tokenizer_config.json", "[]", "AttributeError"),
        ("tokenizer_config.json", {"eos_token": 5}, "eos_token has to be"),
        ("model.safetensors.index.json", "[]", "TypeError"),
    ],
)
def test_files_that_are_no_model_are_one_line(folder: Path, file: str, content: Any, words: str) -> None:
    if file.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    if isinstance(content, str):
        (folder / file).write_text(content)
    else:
        edit(folder / file, **content)
    with pytest.raises(InputError, match=words) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_weights_of_a_model_that_names_no_context_are_read(folder: Path) -> None:
    edit(folder / "config.json", max_position_embeddings=-1)
    assert "model.norm.weight" in dict(stored_weights(folder))


def test_weights_that_stay_quantized_are_refused(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.quantization_config = SimpleNamespace(quant_method="fp8")
    with pytest.raises(InputError, match=r"quantized \(fp8\) and cannot be trained"):
        models._check_weights(model, {"missing_keys": []}, str(folder))


def test_solutions_end_with_an_existing_token(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = ModelSpec(None, tokenizer, 64, torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match="no end-of-text token"):
        GoldEngine(spec, lambda spec: SimpleNamespace(dtype=spec.dtype), "{solution}")

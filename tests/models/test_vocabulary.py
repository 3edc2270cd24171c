"""Tokenizers with holes, without files, or larger than the model's embedding; incomplete folders of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BASE, tiny_config
from zero.errors import InputError
from zero.models.load import load_model
from zero.models.vocabulary import check_ids, check_tokenizer, vocabulary_size
from zero.records import Prompt, Question, Sampling
from zero.rollout import ModelSpec
from zero.rollout.native import NativeEngine

EOS = 21  # of `holed`


@pytest.fixture(scope="module")
def holed() -> Any:
    """A tokenizer of six tokens whose highest id is 21: cl100k's descendants have such holes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "1": 1, "+": 2, "=": 5, "?": 9, "<eos>": EOS}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")


def test_every_id_up_to_the_highest_can_be_sampled(holed: Any) -> None:
    assert len(holed) < EOS
    config = tiny_config("qwen2", 32)
    assert vocabulary_size(holed, config) == EOS + 1
    assert vocabulary_size(holed, tiny_config("qwen2", 16)) == 16
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    engine = NativeEngine(ModelSpec(config, holed, 64, torch.float32, torch.device("cpu")), max_rows=64)
    engine.sync(model.named_parameters(), 0)
    prompt = Prompt(Question("1", ("1",), "q"), "1+1=", (1, 2, 1, 5), (0, 0))
    samples = engine.generate([prompt], 64, Sampling(24, stop=("?",), stop_ids=(EOS,)))[0]
    assert any(EOS in completion.ids for completion in samples)
    assert max(i for completion in samples for i in completion.ids) <= EOS


def test_a_tokenizer_beyond_the_embedding(holed: Any) -> None:
    config = tiny_config("qwen2", 16)
    with pytest.raises(InputError, match=r"model\.path=x: its end-of-text token has id 21, its embedding 16 rows"):
        check_tokenizer(holed, config, "x")
    check_ids((1, 2, 9), 16, holed)
    with pytest.raises(InputError, match="the prompt holds the token '<eos>' with id 21, the embedding has 16 rows"):
        check_ids((1, EOS, 2), 16, holed)


def test_a_padding_token_beyond_the_embedding_is_replaced(tokenizer: Any) -> None:
    import copy

    padded = copy.deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "<extra>"})
    check_tokenizer(padded, tiny_config("qwen2", len(tokenizer)), "x")
    assert padded.pad_token_id == tokenizer.eos_token_id


def whole(folder: Path) -> Path:
    shutil.copytree(BASE, folder)
    return folder


def changed(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


NAME = "model.layers.1.mlp.down_proj.weight"


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def cut(name: str) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:3000])


FAULTS = {
    "no tokenizer": (without_tokenizer, "its tokenizer knows no tokens"),
    "tokenizer cut short": (cut("tokenizer.json"), "transformers cannot load it"),
    "weights cut short": (cut("model.safetensors"), "a file of its weights is damaged or cut short"),
    "config cut short": (lambda f: (f / "config.json").write_text("{"), "transformers cannot load it"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "transformers cannot load it"),
    "a weight missing": (lambda f: changed(f, lambda w: w.pop(NAME)), f"its files lack 1 weights .{NAME}"),
    "another shape": (lambda f: changed(f, lambda w: w.update({NAME: torch.zeros(2, 2)})), "have other shapes"),
    "NaN": (lambda f: changed(f, lambda w: w[NAME].view(-1)[5].fill_(torch.nan)), f"its weight {NAME} holds NaN"),
    "infinity": (lambda f: changed(f, lambda w: w[NAME].view(-1)[5].fill_(torch.inf)), f"its weight {NAME} holds NaN"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_an_incomplete_folder_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    spoil, message = FAULTS[kind]
    spoil(folder := whole(tmp_path / "m"))
    with pytest.raises(InputError, match=message) as error:
        load_model({"path": str(folder), "context": None})
    assert error.value.key == "model.path"
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("family", ["mamba", "recurrent_gemma"])
def test_a_model_with_a_recurrent_state_is_refused(tokenizer: Any, family: str) -> None:
    from transformers import AutoConfig

    shape = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, state_size=4)
    config = AutoConfig.for_model(family, **shape, num_attention_heads=2, lru_width=32)
    with pytest.raises(InputError, match=f"{family} keeps a recurrent state .*rollout=vllm"):
        NativeEngine(ModelSpec(config, tokenizer, 64, torch.float32, torch.device("cpu")), max_rows=8)


def test_a_context_that_the_config_does_not_name_must_be_set(tmp_path: Path) -> None:
    config = json.loads((whole(tmp_path / "m") / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert load_model({"path": str(tmp_path / "m"), "context": None}, weights=False)[2] == 64
    with pytest.raises(InputError, match=r"model\.context=65: the model's own limit is 64 tokens"):
        load_model({"path": str(tmp_path / "m"), "context": 65}, weights=False)
    from zero.models.load import context_of

    class Unlimited:
        def get_text_config(self) -> Any:
            return object()

    with pytest.raises(InputError, match=r"model\.context=null: .* names no limit; give one: model\.context=2048"):
        context_of(None, Unlimited())
    assert context_of(100, Unlimited()) == 100

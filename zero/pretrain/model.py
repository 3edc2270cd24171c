"""The model that zero.pretrain trains: an existing one, or a new one with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from zero.errors import InputError
from zero.pretrain.data import Source

TOKENIZER_CHARACTERS = 10_000_000  # of text to train a tokenizer on, beyond which no more documents are read


def load(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The causal language model that the config names, in float32, and its tokenizer. Raises InputError."""
    from zero.models.load import load_model

    model, tokenizer, context = load_model(config["model"])
    if config["length"] > context:
        raise InputError("length", config["length"], f"the model's context has {context} tokens; lower it")
    if tokenizer.eos_token_id is None:
        raise InputError("model.path", config["model"]["path"], "its tokenizer has no end-of-text token; set one")
    return model, tokenizer


def create(config: Mapping[str, Any], sources: Mapping[str, Source]) -> tuple[Any, Any]:
    """A Qwen2 with random weights, and a tokenizer trained on the first stage."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from zero.nano.tokenizer import train_tokenizer

    first = next(iter(sources.values()))(seed=config["seed"])
    texts, characters = list[str](), 0
    for text, _ in islice(first, config["tokenizer"]["documents"]):
        texts.append(text)
        characters += len(text)
        if characters >= TOKENIZER_CHARACTERS:
            break
    tokenizer = train_tokenizer(texts, config["tokenizer"]["size"], config["model"]["new"]["max_position_embeddings"])
    shape = Qwen2Config(
        **config["model"]["new"],
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(shape), tokenizer

"""The token ids that a model and its tokenizer share."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import InputError

if TYPE_CHECKING:
    from zero.vision import Vision


def vocabulary_size(tokenizer: Any, config: Any) -> int:
    """The number of ids that can be sampled: up to the tokenizer's highest, within the model's embedding.

    Not the number of tokens, since ids may have gaps: an end-of-text token beyond that number could never be sampled.
    """
    return min(highest_id(tokenizer) + 1, config.get_text_config().vocab_size)


def highest_id(tokenizer: Any) -> int:
    """The highest token id of a tokenizer; -1 if it has none."""
    return max(tokenizer.get_vocab().values(), default=-1)


def check_tokenizer(tokenizer: Any, config: Any, path: str) -> None:
    """InputError for an empty tokenizer (which transformers silently makes where files are missing), or for an end-of-text token
    without a row in the model's embedding.

    A padding token beyond the embedding (added to many published tokenizers) is replaced: padding is never read.
    """
    if not tokenizer.encode("1 + 1 = ?", add_special_tokens=False):
        remedy = "its tokenizer knows no tokens (files missing?); copy tokenizer.json and tokenizer_config.json from its source"
        raise InputError("model.path", path, remedy)
    rows = config.get_text_config().vocab_size
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id >= rows:
        remedy = (
            f"its end-of-text token has id {tokenizer.eos_token_id}, its embedding {rows} rows; "
            "resize the embedding (model.resize_token_embeddings) or set another eos_token"
        )
        raise InputError("model.path", path, remedy)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def check_ids(ids: tuple[int, ...], vocabulary: int, tokenizer: Any) -> None:
    """InputError for a prompt with a token beyond the model's embedding."""
    if ids and max(ids) >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        remedy = (
            f"the prompt holds the token {token!r} with id {max(ids)}, the embedding has {vocabulary} rows; "
            "resize the embedding or take the token out of the template"
        )
        raise InputError("model.path", getattr(tokenizer, "name_or_path", ""), remedy)


def write_model(folder: Path, config: Any, tokenizer: Any, vision: Vision | None = None) -> None:
    """Write the files of a model that vLLM reads into a folder: tokenizer, image processor, and the config with the vocabulary
    cut to the tokenizer's, so that padding rows of the embedding can never be sampled."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = deepcopy(config)
    text = config.get_text_config()
    text.vocab_size = vocabulary_size(tokenizer, config)
    if (text.pad_token_id or 0) >= text.vocab_size:
        text.pad_token_id = None
    known = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if vision else MODEL_FOR_CAUSAL_LM_MAPPING).get(type(config), None)
    if isinstance(known, type):  # the config of a model that was never saved names no architecture
        config.architectures = [known.__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if vision:
        vision.save(folder)

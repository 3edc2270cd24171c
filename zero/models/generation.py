"""A model's generation config: the tokens that end a response, and settings that transformers can store again."""

from __future__ import annotations

from typing import Any


def ends_of(folder: str) -> set[int]:
    """The end tokens of a model's generation config, else those of its config, as transformers does it."""
    from transformers import AutoConfig, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except (OSError, TypeError, ValueError):
        # Missing or not an object: loading the model has ignored it too
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ends = getattr(config, "eos_token_id", None)
        ends = getattr(config.get_text_config(), "eos_token_id", None) if ends is None else ends
    return {i for i in (ends if isinstance(ends, list) else [ends]) if isinstance(i, int)}


def make_storable(model: Any) -> None:
    """Repair a generation config that transformers reads but refuses to write: many published ones set a temperature or top-p
    without `do_sample`."""
    from transformers import GenerationConfig

    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    for change in ({}, {"do_sample": True}):
        settings.update(**change)
        try:
            settings.validate(strict=True)
            return
        except ValueError:
            continue
    tokens = {key: getattr(settings, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)

"""What a model's files say of its sampling: which tokens end a response, and settings that it is to be stored with again."""

from __future__ import annotations

from typing import Any


def ends_of(folder: str) -> set[int]:
    """The end tokens of a model's generation config; where it has none, those of its config, as transformers itself takes."""
    from transformers import AutoConfig, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except (OSError, TypeError, ValueError):
        # none, or one that is no object: it was passed over when the model was loaded
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ends = getattr(config, "eos_token_id", None)
    return {i for i in (ends if isinstance(ends, list) else [ends]) if isinstance(i, int)}


def make_storable(model: Any) -> None:
    """Mend a generation config that transformers reads and does not write: many published ones set a temperature or top-p and
    not `do_sample`, and a trained model could not be stored with it."""
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

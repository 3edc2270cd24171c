"""Which models have the layers that our own decoders and packing implement: zero/rollout/decoder.py, zero/cpu/packing.py."""

from __future__ import annotations

from typing import Any

# Families whose layers are exactly: RMS norm, rotary attention (maybe with biases), RMS norm, SiLU-gated MLP.
PLAIN_FAMILIES = frozenset({"llama", "qwen2"})
STATIC_ROPE = frozenset({"default", "llama3", "linear", "yarn"})  # frequencies that do not depend on the sequence


# Families that put the features of images into the sequence of embeddings and do nothing else with them
PLAIN_VISUAL_FAMILIES = frozenset({"llava"})


def has_plain_layers(config: Any) -> bool:
    """Whether a PretrainedConfig of transformers describes a model with these layers alone, or one of images whose language model
    is."""
    if config.model_type in PLAIN_VISUAL_FAMILIES:
        config = config.text_config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in PLAIN_FAMILIES
        and rope.get("rope_type", "default") in STATIC_ROPE
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
        and config.hidden_act == "silu"
        and not getattr(config, "attention_bias", False)  # in Llama also a bias on the output projection
        and not getattr(config, "mlp_bias", False)
    )

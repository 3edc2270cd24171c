"""Random models of true size for tests, and of the architecture of any option of conf/model cut to a few layers."""

from __future__ import annotations

from typing import Any

from launch.cost.shapes import QWEN_0_5B, QWEN_1_5B, qwen_shape


def qwen2_shape(size: str) -> Any:
    """The transformers config of Qwen2.5-0.5B ("0.5b") or -1.5B ("1.5b"), or of a toy of the same kind ("tiny")."""
    from transformers import Qwen2Config

    toy = qwen_shape(2, 128, 4, 2, 32, 192, 512, vocabulary=600)  # vLLM on a CPU wants heads of 32
    shape = {"0.5b": QWEN_0_5B, "1.5b": QWEN_1_5B, "tiny": toy}[size]
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv,
        max_position_embeddings=shape.most,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )

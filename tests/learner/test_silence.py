"""Dropout of every form and a router's jitter are off: two passes over the same tokens are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MixtralConfig, OPTConfig, Starcoder2Config

from tests.learner.test_torch import batch_of, learner_of
from tests.test_algorithm import load as load_algo
from zero.errors import InputError
from zero.learner.policy import prepared

SHAPE = dict(
    vocab_size=500,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=7,
)
WIDE = dict(intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64)
FAMILIES = {  # dropout applied by a number that the model or its config holds, not by a module
    "opt": OPTConfig(
        **SHAPE,
        ffn_dim=48,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        dropout=0.3,
        attention_dropout=0.3,
        layerdrop=0.3,
    ),
    "starcoder2": Starcoder2Config(**SHAPE, **WIDE, residual_dropout=0.3, embedding_dropout=0.3, attention_dropout=0.3),
    "falcon": FalconConfig(
        **SHAPE, hidden_dropout=0.3, attention_dropout=0.3, new_decoder_architecture=False, alibi=False
    ),
    "bloom": BloomConfig(**SHAPE, hidden_dropout=0.3, attention_dropout=0.3),
    "mixtral": MixtralConfig(**SHAPE, **WIDE, num_local_experts=4, router_jitter_noise=0.3, attention_dropout=0.3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_passes_are_the_same_with_gradient_checkpointing(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(tmp_path)
    algo = load_algo("drgrpo")
    batch = batch_of(algo)
    plain, saved = learner_of(tmp_path), learner_of(tmp_path, gradient_checkpointing=True)
    first = saved.logprobs(batch)
    assert torch.equal(first, saved.logprobs(batch)) and saved.plain_head == plain.plain_head
    torch.testing.assert_close(first, plain.logprobs(batch), rtol=1e-5, atol=1e-5)
    ours, theirs = (learner.update(batch, algo) for learner in (saved, plain))
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    dropouts = {k: v for k, v in FAMILIES[family].to_dict().items() if "drop" in k or "jitter" in k}
    assert 0.3 in dropouts.values() and dropouts.items() <= saved.model.config.to_dict().items(), "what is exported"


def test_other_noise_is_refused_in_one_line(tiny_folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
    noisy = torch.nn.Module.register_forward_hook
    noisy(model.base_model, lambda module, _, out: _shaken(out) if module.training else out)
    prepared(model, gradient_checkpointing=False)
    with pytest.raises(InputError, match=r"gradient_checkpointing=True: two passes .* differ"):
        prepared(model, gradient_checkpointing=True)


def _shaken(out: Any) -> Any:
    out.last_hidden_state = out.last_hidden_state + torch.rand(out.last_hidden_state.shape)
    return out

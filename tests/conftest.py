"""Fixtures shared by all tests. One thread: the machine's cores are for pytest's workers."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "zero" / "nano" / "base"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", metavar="K/N", help="the K-th of N parts of the chosen tests, by file")


@pytest.hookimpl(trylast=True)  # after -m has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = part(items, config.getoption("--part"))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def part(items: Sequence[Any], which: str) -> list[Any]:
    """The K-th of N parts of the tests, "K/N": every N-th of their files, in alphabetical order."""
    number, parts = map(int, which.split("/"))
    files = sorted({item.path for item in items})
    return [item for item in items if files.index(item.path) % parts == number - 1]


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # the process that only hands out tests
    import torch
    import transformers.utils

    torch.set_num_threads(1)
    # As zero.models.load does: no scikit-learn, which takes seconds to import
    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


def tiny_config(family: str, vocabulary: int) -> Any:
    """A random model's config, small enough to finite-difference, with features the nano model lacks."""
    from transformers import GPT2Config, LlamaConfig, Qwen2Config

    shape = dict(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, max_position_embeddings=256
    )
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    ends = dict(bos_token_id=None, eos_token_id=0, pad_token_id=7)
    match family:
        case "qwen2":  # tied embeddings, biases, grouped queries
            return Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **ends)
        case "llama":  # untied, no biases, head size other than hidden / heads, scaled rotary frequencies
            return LlamaConfig(
                **shape,
                num_attention_heads=4,
                num_key_value_heads=4,
                head_dim=16,
                rope_parameters=rope,
                tie_word_embeddings=False,
                **ends,
            )
        case "biased":  # a Llama with biases everywhere, which the fused decoder does not support
            return LlamaConfig(
                **shape, num_attention_heads=4, num_key_value_heads=2, attention_bias=True, mlp_bias=True, **ends
            )
        case _:  # learned positions, layer norms, dropout: not supported by the fused decoder
            return GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256, **ends)


@pytest.fixture(scope="session", params=["qwen2", "llama", "biased", "gpt2"])
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A randomly initialised model of each family as a Hugging Face folder with the nano tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    # eight rows more than the tokenizer has tokens, as padded embedding matrices have
    model = AutoModelForCausalLM.from_config(tiny_config(request.param, len(tokenizer) + 8))
    with torch.no_grad():  # far from uniform, or comparisons of tokens would be random
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

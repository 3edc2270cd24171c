"""Runs whose device is the emulated accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BASE, tiny_config
from tests.emulated.accelerator import DEVICE, installed


@pytest.fixture(scope="package")
def device() -> Iterator[torch.device]:
    """The device, on which all runs compute meanwhile."""
    before = DEVICE.operations
    with installed() as emulated:
        yield emulated
    assert DEVICE.operations > before, "nothing ran on the device"


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models that take a tenth of the nano model's time: its first layer alone, and a random GPT-2."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    sources: dict[str, Any] = {
        "qwen2": AutoModelForCausalLM.from_pretrained(BASE, num_hidden_layers=1, layer_types=["full_attention"]),
        "gpt2": AutoModelForCausalLM.from_config(tiny_config("gpt2", len(tokenizer))),
    }
    folders = {name: tmp_path_factory.mktemp("models") / name for name in sources}
    for name, model in sources.items():
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders

"""rollout=auto: the engine that suits this machine."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import torch

from zero.rollout import RolloutEngine
from zero.rollout.native import NativeEngine
from zero.rollout.vllm import VllmEngine


def auto_engine(
    config: Any,
    tokenizer: Any,
    context: int,
    dtype: torch.dtype,
    device: torch.device,
    max_rows: int,
    staleness: int = 0,
    **of_vllm: Any,
) -> RolloutEngine:
    """vLLM on a CUDA device, if it is installed, with all settings of conf/rollout/vllm.yaml; else the native engine."""
    shared: dict[str, Any] = dict(
        config=config,
        tokenizer=tokenizer,
        context=context,
        dtype=dtype,
        device=device,
        max_rows=max_rows,
        staleness=staleness,
    )
    if device.type == "cuda" and find_spec("vllm") is not None:
        return VllmEngine(**shared, **of_vllm)
    if device.type == "cuda" and os.environ.get("RANK", "0") == "0":
        remedy = "pip install -e '.[vllm]', or wait for the native engine"
        print(f"rollout=auto: a GPU, and vLLM is not installed: {remedy}", file=sys.stderr)
    native: Any = NativeEngine(**shared)
    return native

"""rollout=auto: choose the engine by machine."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch

from zero.paths import pip_install
from zero.rollout import RolloutEngine
from zero.rollout.native import NativeEngine
from zero.rollout.vllm import VllmEngine


def auto_engine(device: torch.device, **settings: Any) -> RolloutEngine:
    """vLLM on a CUDA device, if it is installed, with all settings of conf/rollout/vllm.yaml; else the native engine, with
    those of the settings that it takes."""
    if device.type == "cuda" and find_spec("vllm") is not None:
        return VllmEngine(device=device, **settings)
    if device.type == "cuda" and os.environ.get("RANK", "0") == "0":
        remedy = f"{pip_install('vllm')}, or wait for the native engine"
        print(f"rollout=auto: a GPU, and vLLM is not installed: {remedy}", file=sys.stderr)
    known = signature(NativeEngine).parameters
    native: Any = NativeEngine(device=device, **{key: value for key, value in settings.items() if key in known})
    return native

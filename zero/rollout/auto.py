"""rollout=auto: choose the engine by machine."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from inspect import signature
from typing import Any

from zero.paths import pip_install
from zero.rollout import ModelSpec, RolloutEngine
from zero.rollout.native import NativeEngine
from zero.rollout.vllm import VllmEngine


def auto_engine(spec: ModelSpec, **settings: Any) -> RolloutEngine:
    """vLLM on a CUDA device, if it is installed, with all settings of conf/rollout/vllm.yaml; else the native engine, with
    those of the settings that it takes."""
    on_gpu = spec.device.type == "cuda"
    if on_gpu and find_spec("vllm") is not None:
        return VllmEngine(spec, **settings)
    if on_gpu and os.environ.get("RANK", "0") == "0":
        remedy = f"{pip_install('vllm')}, or wait for the native engine"
        print(f"rollout=auto: a GPU, and vLLM is not installed: {remedy}", file=sys.stderr)
    known = signature(NativeEngine).parameters
    native: Any = NativeEngine(spec, **{key: value for key, value in settings.items() if key in known})
    return native

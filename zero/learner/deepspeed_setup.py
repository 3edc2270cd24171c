"""Start DeepSpeed without side effects: no compiler, no log lines, no launcher, no changed global state.

AdamW is torch's: DeepSpeed's own are compiled at the first call (minutes), and differ in the last bits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zero.distributed import World
from zero.errors import InputError
from zero.learner.optimizer import Optimizer
from zero.paths import pip_install

STAGES = (1, 2, 3)
PERSISTENT = 100_000  # elements: smaller parameters are not sharded at stage 3, since gathering them costs more


def check(stage: int, offload_parameters: bool) -> None:
    """InputError for an unknown stage, for an offload that the stage does not support, or without DeepSpeed."""
    if stage not in STAGES:
        raise InputError("learner.stage", stage, "must be 1, 2 or 3; for whole copies on every rank use learner=torch")
    if offload_parameters and stage != 3:
        raise InputError("learner.offload_parameters", True, "only stage 3 cuts parameters; set learner.stage=3")
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("learner", "deepspeed", f"DeepSpeed is not installed; {pip_install('deepspeed')}")


def settings(
    stage: int, offload_optimizer: bool, offload_parameters: bool, bfloat16: bool, clip: float, device: torch.device
) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are 1: the learner counts its micro-batches itself. Gradients are accumulated
    and reduced in float32 whatever the precision of the weights."""
    offload = {"device": "cpu", "pin_memory": device.type == "cuda"}
    zero: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": PERSISTENT}
    if offload_optimizer:
        zero["offload_optimizer"] = offload
    if offload_parameters:
        zero["offload_param"] = offload
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16, "check_grad_overflow": bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }


def start(
    policy: torch.nn.Module, optimizer: Optimizer, config: Mapping[str, Any], device: torch.device, world: World
) -> Any:
    """A DeepSpeed engine around the module, its trainable parameters under AdamW."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    # DeepSpeed calls collectives by deprecated names, of which torch warns at each call.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.\w+` is deprecated")
    with _isolated(device, world):
        _ensure_process_group(world)
        import deepspeed
        import deepspeed.ops

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # It would be compiled at the start, for a call that is never made here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        [adamw] = optimizer.build(parameters)
        engine, *_ = deepspeed.initialize(
            model=policy, model_parameters=parameters, optimizer=adamw, config=dict(config), dist_init_required=False
        )
    return engine


def _ensure_process_group(world: World) -> None:
    """DeepSpeed needs a process group even for one process."""
    if world.size == 1 and not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)


@contextlib.contextmanager
def _isolated(device: torch.device, world: World) -> Iterator[None]:
    """Set the environment variables that DeepSpeed needs; at the end restore them (but for LOCAL_RANK) and all random
    states."""
    variables = {
        "DS_ACCELERATOR": device.type,
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
    }
    former = {name: os.environ.get(name) for name in variables}
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # stage 3 reads it in every pass
    state, numbers = random.getstate(), np.random.get_state()
    devices: Sequence[torch.device] = [device] if device.type == "cuda" else []
    os.environ.update(
        {name: value for name, value in variables.items() if name not in os.environ} | {"DS_ACCELERATOR": device.type}
    )
    try:
        # DeepSpeed prints its memory use
        with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

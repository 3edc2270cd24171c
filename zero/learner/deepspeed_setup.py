"""DeepSpeed started so that nothing but the learner notices: no compiler, no log lines, no launcher, no foreign state.

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
from zero.learner.optim import Optim
from zero.paths import pip_install

STAGES = (1, 2, 3)
PERSISTENT = 100_000  # numbers: a parameter this small stays whole on every rank at stage 3; gathering it costs more


def check(stage: int, offload_parameters: bool) -> None:
    """InputError for a stage that does not exist, an offload that it does not have, or if DeepSpeed is not installed."""
    if stage not in STAGES:
        raise InputError("learner.stage", stage, "must be 1, 2 or 3; for whole copies on every rank use learner=torch")
    if offload_parameters and stage != 3:
        raise InputError("learner.offload_parameters", True, "only stage 3 cuts parameters; set learner.stage=3")
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("learner", "deepspeed", f"DeepSpeed is not installed; {pip_install('deepspeed')}")


def settings(
    stage: int, offload_optimizer: bool, offload_parameters: bool, bfloat16: bool, clip: float, device: torch.device
) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are 1: the learner counts its micro-batches itself. Gradients are kept and
    summed in float32 whatever the precision of the weights."""
    place = {"device": "cpu", "pin_memory": device.type == "cuda"}
    zero: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": PERSISTENT}
    if offload_optimizer:
        zero["offload_optimizer"] = place
    if offload_parameters:
        zero["offload_param"] = place
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


def start(policy: torch.nn.Module, optim: Optim, config: Mapping[str, Any], device: torch.device, world: World) -> Any:
    """A DeepSpeed engine around the module, its trainable parameters under AdamW."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    # Its collectives have newer names; torch says so at each call.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.\w+` is deprecated")
    with _undisturbed(device, world):
        _meet(world)
        import deepspeed
        import deepspeed.ops

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # Compiled at the start where it exists, for a call that nobody here makes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        adamw = torch.optim.AdamW(parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
        engine, *_ = deepspeed.initialize(
            model=policy, model_parameters=parameters, optimizer=adamw, config=dict(config), dist_init_required=False
        )
    return engine


def _meet(world: World) -> None:
    """DeepSpeed needs a process group even for one process."""
    if world.size == 1 and not torch.distributed.is_initialized():
        both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(both, store=torch.distributed.HashStore(), rank=0, world_size=1)


@contextlib.contextmanager
def _undisturbed(device: torch.device, world: World) -> Iterator[None]:
    """Random numbers go on as if nothing had happened; the environment is DeepSpeed's inside and as before after,
    but for LOCAL_RANK."""
    here = {
        "DS_ACCELERATOR": device.type,
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
    }
    former = {name: os.environ.get(name) for name in here}
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # stage 3 looks for it in every pass
    state, numbers = random.getstate(), np.random.get_state()
    devices: Sequence[torch.device] = [device] if device.type == "cuda" else []
    os.environ.update(
        {name: value for name, value in here.items() if name not in os.environ} | {"DS_ACCELERATOR": device.type}
    )
    try:
        with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(io.StringIO()):  # it prints memory
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

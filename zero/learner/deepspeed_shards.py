"""Read and write what ZeRO shards (weights, float32 masters, moments) as whole tensors, under the same names at every stage.

Stages 1 and 2 shard the optimizer's state, stage 3 the weights as well. arXiv 1910.02054. Most methods are collective: call
them on all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import pad

from zero.distributed import World

MOMENTS = ("exp_avg", "exp_avg_sq")


class Shards:
    """The parameters of `model` inside a DeepSpeed engine and their AdamW state."""

    def __init__(self, engine: Any, model: Any, stage: int, world: World) -> None:
        self.engine, self.model, self.world = engine, model, world
        self.sharded = stage == 3  # whether the weights themselves are sharded
        self.zero = engine.optimizer

    def trainable_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Names and parameters that have a master; tied ones once. At stage 3 the parameters have no data."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def gather_for(self, modules: Mapping[Any, Sequence[Tensor]]) -> None:
        """Have stage 3 gather these parameters for the forward pass of a module, besides the module's own."""
        from deepspeed.runtime.zero.partition_parameters import register_external_parameter

        for module, parameters in modules.items():
            for parameter in parameters:
                register_external_parameter(module, parameter)

    def settle(self) -> None:
        """Release weights gathered for a forward pass, so that the next gather reads the stored ones."""
        if self.sharded:
            self.zero.parameter_offload.partition_all_parameters()

    def synchronize(self) -> None:
        """Wait until writes to the weights are complete: stage 3 gathers on a CUDA stream of its own, which does not wait for
        the writing one. Immediate on a CPU."""
        if self.sharded:
            from deepspeed.accelerator import get_accelerator

            get_accelerator().synchronize()

    @contextlib.contextmanager
    def whole(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the parameters have their data, in the precision of the forward pass."""
        if not self.sharded:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(parameters)):
            yield

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters, frozen ones too, in the precision of the forward pass."""
        self.settle()
        for name, parameter in self.model.named_parameters():
            with self.whole([parameter]):
                yield name, parameter.detach().clone() if self.sharded else parameter.detach()

    def masters(self) -> Iterator[tuple[str, Tensor]]:
        """The trained parameters in float32."""
        from deepspeed.utils import safe_get_full_fp32_param

        self.settle()
        for name, parameter in self.trainable_parameters():
            yield name, safe_get_full_fp32_param(parameter)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's state as NAME:exp_avg, NAME:exp_avg_sq, NAME:step; nothing before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self.settle()
        states = [
            self.zero.optimizer.state[flat] for flat in self._flat_parameters() if flat in self.zero.optimizer.state
        ]
        for name, parameter in self.trainable_parameters() if states else ():
            for moment in MOMENTS:
                yield f"{name}:{moment}", safe_get_full_optimizer_state(parameter, moment)
            yield f"{name}:step", states[0]["step"].clone()

    @torch.no_grad()
    def set_master(self, parameter: Parameter, value: Tensor) -> None:
        """Set this rank's shard of a float32 master; the forward pass does not use it yet."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self.sharded:
            safe_set_local_fp32_param(parameter, self._shard(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    @torch.no_grad()
    def set_weight(self, parameter: Parameter, value: Tensor) -> None:
        """Set this rank's shard of a weight of the forward pass; call `settle` before, and `synchronize` at the end."""
        if self.sharded:
            parameter.ds_tensor.data.copy_(self._shard(parameter, value))  # type: ignore[attr-defined]
        else:
            parameter.copy_(value)

    def begin_moments(self, step: Tensor | None) -> None:
        """Create moments of 0 after `step` optimizer steps; None: no moments, as before the first step."""
        state = self.zero.optimizer.state
        state.clear()
        if step is None:
            return
        for flat in self._flat_parameters():
            state[flat] = {"step": step.clone()} | {moment: torch.zeros_like(flat) for moment in MOMENTS}
        if not self.sharded:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def set_moment(self, parameter: Parameter, moment: str, value: Tensor) -> None:
        """Set this rank's shard of a moment; after `begin_moments`."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.sharded:
            safe_set_local_optimizer_state(parameter, self._shard(parameter, value), moment)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def copies(self, device: torch.device | None) -> dict[str, Tensor]:
        """Copies of this rank's shard of every weight, on `device` or by default on the weight's own."""
        self.settle()
        shards = {name: self._local(p).detach() for name, p in self.model.named_parameters()}
        copied = {name: t.clone() if device is None else t.to(device, copy=True) for name, t in shards.items()}
        self.synchronize()
        return copied

    @contextlib.contextmanager
    def with_weights(self, copies: dict[str, Tensor]) -> Iterator[None]:
        """Inside, the weights are the `copies`."""
        self.settle()
        current = {name: self._local(p).data for name, p in self.model.named_parameters()}
        try:
            for name, parameter in self.model.named_parameters():
                self._local(parameter).data = copies[name].to(current[name].device)
            self.synchronize()
            yield
        finally:
            self.settle()
            for name, parameter in self.model.named_parameters():
                self._local(parameter).data = current[name]

    def _local(self, parameter: Parameter) -> Tensor:
        local: Tensor = parameter.ds_tensor if self.sharded else parameter  # type: ignore[attr-defined]
        return local

    def _shard(self, parameter: Parameter, value: Tensor) -> Tensor:
        """This rank's shard of a whole tensor, with stage 3's padding."""
        size = self._local(parameter).numel()
        return pad(value.flatten(), (0, size * self.world.size - value.numel()))[size * self.world.rank :][:size]

    def _flat_parameters(self) -> list[Tensor]:
        """The float32 tensors that AdamW steps: shards of many parameters, flattened and concatenated."""
        names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
        return next(list(getattr(self.zero, name)) for name in names if hasattr(self.zero, name))

"""What ZeRO has cut into pieces (weights, float32 masters, moments), whole and in turn: the same names at every stage.

Stages 1 and 2 cut the optimizer's state, stage 3 the weights as well. arXiv 1910.02054. Most methods are moments at which
all ranks meet: call them on all.
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
        self.cut = stage == 3  # whether a rank holds only its part of the weights themselves
        self.zero = engine.optimizer

    def trained(self) -> Iterator[tuple[str, Parameter]]:
        """Names and parameters that have a master; tied ones once. The parameters may be without their data."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def used_by(self, modules: Mapping[Any, Sequence[Tensor]]) -> None:
        """Stage 3 gathers a module's own parameters for its pass: these too."""
        from deepspeed.runtime.zero.partition_parameters import register_external_parameter

        for module, parameters in modules.items():
            for parameter in parameters:
                register_external_parameter(module, parameter)

    def settle(self) -> None:
        """Let go of weights that were gathered for a forward pass, so that what is gathered next is what is stored."""
        if self.cut:
            self.zero.parameter_offload.partition_all_parameters()

    def written(self) -> None:
        """Wait until what was written into weights is there. Stage 3 gathers them on a stream of its own, which does not wait
        for the one that writes; on a CPU nothing is left to wait for."""
        if self.cut:
            from deepspeed.accelerator import get_accelerator

            get_accelerator().synchronize()

    @contextlib.contextmanager
    def whole(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the parameters have their data, in the precision of the forward pass."""
        if not self.cut:
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
                yield name, parameter.detach().clone() if self.cut else parameter.detach()

    def masters(self) -> Iterator[tuple[str, Tensor]]:
        """The trained parameters in float32."""
        from deepspeed.utils import safe_get_full_fp32_param

        self.settle()
        for name, parameter in self.trained():
            yield name, safe_get_full_fp32_param(parameter)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's state as NAME:exp_avg, NAME:exp_avg_sq, NAME:step; nothing before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self.settle()
        states = [self.zero.optimizer.state[flat] for flat in self._flats() if flat in self.zero.optimizer.state]
        for name, parameter in self.trained() if states else ():
            for moment in MOMENTS:
                yield f"{name}:{moment}", safe_get_full_optimizer_state(parameter, moment)
            yield f"{name}:step", states[0]["step"].clone()

    @torch.no_grad()
    def set_master(self, parameter: Parameter, value: Tensor) -> None:
        """Keep this rank's part of a float32 parameter; the forward pass does not see it yet."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self.cut:
            safe_set_local_fp32_param(parameter, self._part(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    @torch.no_grad()
    def set_weight(self, parameter: Parameter, value: Tensor) -> None:
        """Keep this rank's part of the weight that the forward pass uses; `settle` first, and `written` in the end."""
        if self.cut:
            parameter.ds_tensor.data.copy_(self._part(parameter, value))  # type: ignore[attr-defined]
        else:
            parameter.copy_(value)

    def begin_moments(self, step: Tensor | None) -> None:
        """Moments of 0 after as many optimizer steps; None: none, as before the first step."""
        state = self.zero.optimizer.state
        state.clear()
        if step is None:
            return
        for flat in self._flats():
            state[flat] = {"step": step.clone()} | {moment: torch.zeros_like(flat) for moment in MOMENTS}
        if not self.cut:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def set_moment(self, parameter: Parameter, moment: str, value: Tensor) -> None:
        """Keep this rank's part of a moment; after `begin_moments`."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.cut:
            safe_set_local_optimizer_state(parameter, self._part(parameter, value), moment)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def copies(self, place: torch.device | None) -> dict[str, Tensor]:
        """What this rank holds of every weight, copied to `place` or left where it is."""
        self.settle()
        held = {name: self._held(p).detach() for name, p in self.model.named_parameters()}
        copied = {name: t.clone() if place is None else t.to(place, copy=True) for name, t in held.items()}
        self.written()
        return copied

    @contextlib.contextmanager
    def swapped(self, copies: dict[str, Tensor]) -> Iterator[None]:
        """Inside, the weights are the `copies`; activations and gathered weights are there once."""
        self.settle()
        current = {name: self._held(p).data for name, p in self.model.named_parameters()}
        try:
            for name, parameter in self.model.named_parameters():
                self._held(parameter).data = copies[name].to(current[name].device)
            self.written()
            yield
        finally:
            self.settle()
            for name, parameter in self.model.named_parameters():
                self._held(parameter).data = current[name]

    def _held(self, parameter: Parameter) -> Tensor:
        held: Tensor = parameter.ds_tensor if self.cut else parameter  # type: ignore[attr-defined]
        return held

    def _part(self, parameter: Parameter, value: Tensor) -> Tensor:
        """This rank's piece of a whole tensor, padded as stage 3 pads."""
        size = self._held(parameter).numel()
        return pad(value.flatten(), (0, size * self.world.size - value.numel()))[size * self.world.rank :][:size]

    def _flats(self) -> list[Tensor]:
        """The float32 tensors that AdamW really steps: pieces of many parameters in a row."""
        names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
        return next(list(getattr(self.zero, name)) for name in names if hasattr(self.zero, name))

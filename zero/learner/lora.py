"""Low-rank adapters: train W + (alpha / rank) B A with W frozen. LoRA, arXiv 2106.09685, through peft.

The adapters stay inside the learner, which gives out merged weights, one matrix at a time, rounded to the precision of the
forward pass. The learner's own passes use that same rounded sum, not W and B A separately: in bfloat16 rounding loses most
of a small B A, so that the sampling policy would lag behind the trained one. Gradients ignore the rounding. A is drawn from
the run's seed and B is zero, so training starts exactly at the base model.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.autograd.function import Function
from torch.nn.functional import linear

from zero.errors import InputError

NAME = "default"  # peft's name of a model's only adapter
Whole = Callable[[Sequence[Tensor]], contextlib.AbstractContextManager[None]]
FOLDER = "adapter"  # of an exported model: the same in peft's own format


@dataclass(frozen=True)
class Lora:
    """The size and the target layers of the adapters. No dropout: sampling has none, and ratios must be 1 on policy.

    `targets` is all-linear (every linear layer but the output embedding), names of modules, or a pattern in peft's syntax.
    InputError for a size below 1.
    """

    rank: int
    alpha: int
    targets: str | Sequence[str]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError("learner.lora.rank", self.rank, "must be above 0")
        if not self.alpha > 0:
            raise InputError("learner.lora.alpha", self.alpha, "must be above 0")

    def register_adapters(self, model: Any, seed: int) -> Adapters:
        """Put adapters on a causal language model of transformers, in place, and freeze all else; what is frozen already gets no
        adapters. InputError if `targets` matches no linear layer, or one whose weight is shared."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        plain = dict(model.named_parameters())
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=targets,
            exclude_modules="|".join(rf"{re.escape(name)}(\..*)?" for name in _frozen(model)) or None,
            lora_dropout=0.0,
        )
        try:
            with warnings.catch_warnings(action="ignore"):  # about GPT-2's transposed layers, which peft handles
                inject_adapter_in_model(config, model, NAME)
        except ValueError as error:
            raise InputError("learner.lora.targets", self.targets, f"peft refuses it ({str(error)[:200]})") from error
        layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.forward = MethodType(_forward, layer)
        layer_of = {id(layer.base_layer.weight): layer for layer in layers}
        self._refuse_shared(model, layers)
        adapters = Adapters(
            model, config, plain, {name: layer_of[id(p)] for name, p in plain.items() if id(p) in layer_of}
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in adapters.layers.values():  # peft's distribution, but not from the global generator
                weight = layer.lora_A[NAME].weight
                bound = 1 / math.sqrt(weight.shape[1])
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
        return adapters

    def _refuse_shared(self, model: Any, layers: Sequence[Any]) -> None:
        """InputError for a layer with a shared weight: its adapter could not be merged without changing the other layer."""
        from transformers.pytorch_utils import Conv1D

        uses = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
        for layer in layers:
            if NAME in layer.lora_A and type(layer.base_layer) not in (torch.nn.Linear, Conv1D):
                kind = type(layer.base_layer).__name__
                raise InputError("learner.lora.targets", self.targets, f"{kind} is no linear layer; name others")
            if NAME not in layer.lora_A or uses.count(id(layer.base_layer.weight)) > 1:
                remedy = "an embedding or a weight that two layers share can have no adapter; name other layers"
                raise InputError("learner.lora.targets", self.targets, remedy)


@dataclass(frozen=True)
class Adapters:
    """A model with adapters; gives out merged weights without them."""

    model: Any
    config: Any  # a peft.LoraConfig
    plain: Mapping[str, Tensor]  # the base weights under their names without adapters
    layers: Mapping[str, Any]  # the peft layer of each adapted weight, by the weight's name in `plain`

    def weights(self, dtype: torch.dtype | None = None, whole: Whole | None = None) -> Iterator[tuple[str, Tensor]]:
        """Merged weights under their Hugging Face names, tied ones once, in `dtype` (None: each in its own). Adapted ones are new
        tensors, computed one at a time. `whole` gathers sharded parameters; then all are new tensors."""
        for name, weight in self.plain.items():
            layer = self.layers.get(name)
            with whole([weight, *_own(layer)]) if whole else contextlib.nullcontext():
                merged = _sum(weight, layer) if layer else weight.detach()
                yield name, merged.to(dtype or weight.dtype, copy=bool(whole and not layer))

    @contextlib.contextmanager
    def disable(self) -> Iterator[None]:
        """Inside, the model is the base model."""
        try:
            for layer in self.layers.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def parameters(self) -> list[Tensor]:
        """The parameters of the adapters."""
        return [parameter for layer in self.layers.values() for parameter in _own(layer)]

    def layer_parameters(self, layer: Any) -> list[Tensor]:
        """The parameters that an adapted layer's forward pass uses directly, without calling the modules that hold them."""
        return [*layer.base_layer.parameters(), *_own(layer)]

    def state(self) -> dict[str, Tensor]:
        """The adapters under the names of peft's files, on the CPU."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.model, adapter_name=NAME)
        return {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in state.items()}

    def export(self, path: Path, merged: Mapping[str, Tensor], adapters: dict[str, Tensor]) -> None:
        """Write the merged model as a Hugging Face folder, and the adapters in peft's format into its subfolder `adapter`.
        `merged` is from `weights`, `adapters` from `state`."""
        known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        buffers = {name: value for name, value in self.model.state_dict().items() if name not in known}
        self.model.save_pretrained(path, state_dict=dict(merged) | buffers)
        folder = path / FOLDER
        folder.mkdir(exist_ok=True)
        config = replace(self.config, inference_mode=True, base_model_name_or_path=self.model.name_or_path)
        config.save_pretrained(folder)
        _sort_lists(folder / "adapter_config.json")
        save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _frozen(model: Any) -> list[str]:
    """The outermost modules of which no parameter needs a gradient."""
    names: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if parameters and not inside and not any(parameter.requires_grad for parameter in parameters):
            names.append(name)
    return names


def _sort_lists(path: Path) -> None:
    """Sort the lists of peft's config, which come from sets in random order: the same adapters give the same bytes."""
    config = json.loads(path.read_text())
    config |= {key: sorted(value, key=str) for key, value in config.items() if isinstance(value, list)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _own(layer: Any) -> list[Tensor]:
    """The adapter's parameters in a peft layer."""
    return [layer.lora_A[NAME].weight, layer.lora_B[NAME].weight] if layer else []


def _scale_and_layout(layer: Any) -> tuple[float, bool]:
    """The factor of B A, and whether the weight is stored [in, out]."""
    return float(layer.scaling[NAME]), bool(layer.fan_in_fan_out)


@torch.no_grad()
def _merged(weight: Tensor, a: Tensor, b: Tensor, scale: float, transposed: bool) -> Tensor:
    """W + scale x B A in float32, also under autocast."""
    with torch.autocast(weight.device.type, enabled=False):
        change = b.float() @ a.float() * scale
        return weight.float() + (change.T if transposed else change)


def _sum(weight: Tensor, layer: Any) -> Tensor:
    a, b = _own(layer)
    return _merged(weight, a, b, *_scale_and_layout(layer))


class _Adapted(Function):
    """x [..., in] -> [..., out] with the merged weight, which is recomputed in the backward pass instead of being saved. The
    gradients of A and B are those of the unrounded sum."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, transposed: bool
    ) -> Tensor:
        kind = x.device.type
        mixed = torch.is_autocast_enabled(kind)
        ctx.dtype, ctx.scale_and_layout = torch.get_autocast_dtype(kind) if mixed else weight.dtype, (scale, transposed)
        ctx.save_for_backward(x, weight, a, b)
        merged = _merged(weight, a, b, scale, transposed).to(ctx.dtype)
        with torch.autocast(kind, enabled=False):
            y: Tensor = linear(
                x.to(ctx.dtype), merged.T if transposed else merged, None if bias is None else bias.to(ctx.dtype)
            )
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        (scale, transposed), dy = ctx.scale_and_layout, slopes[0].to(ctx.dtype)
        with torch.autocast(x.device.type, enabled=False):
            dx = None
            if ctx.needs_input_grad[0]:
                merged = _merged(weight, a, b, scale, transposed).to(ctx.dtype)
                dx = (dy @ (merged.T if transposed else merged)).to(x.dtype)
            rows, dy = x.to(ctx.dtype).flatten(0, -2), dy.flatten(0, -2)
            db = (dy.T @ (rows @ a.to(ctx.dtype).T)).to(b.dtype) * scale
            da = ((dy @ b.to(ctx.dtype)).T @ rows).to(a.dtype) * scale
        return dx, None, None, da, db, None, None


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The forward pass of a peft layer."""
    base = layer.base_layer
    if layer.disable_adapters:
        plain: Tensor = base(x)
        return plain
    y: Tensor = _Adapted.apply(x, base.weight, base.bias, *_own(layer), *_scale_and_layout(layer))
    return y

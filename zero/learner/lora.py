"""Low-rank adapters: train W + (alpha / rank) B A with W frozen. LoRA, arXiv 2106.09685, through peft.

The adapters stay inside the learner: whoever asks for weights gets plain ones, merged one matrix at a time. A is drawn
from the run's seed and B is zero, so training starts at the base model exactly.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zero.errors import InputError

NAME = "default"  # peft's name of a model's only adapter
Whole = Callable[[Sequence[Tensor]], contextlib.AbstractContextManager[None]]
FOLDER = "adapter"  # of an exported model: the same in peft's own format


@dataclass(frozen=True)
class Lora:
    """The size and the place of the adapters. There is no dropout: sampling knows none, and ratios must be 1 on policy.

    `targets` is all-linear (every linear layer but the output embedding), or names of modules, or a pattern of peft's.
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

    def onto(self, model: Any, seed: int) -> Adapters:
        """Put adapters on a causal language model of transformers, in place, and freeze the rest. InputError if `targets`
        meets no linear layer, or one whose weight is shared."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        plain = dict(model.named_parameters())
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        config = LoraConfig(
            task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, target_modules=targets, lora_dropout=0.0
        )
        try:
            with warnings.catch_warnings(action="ignore"):  # of GPT-2's transposed layers, which peft then gets right
                inject_adapter_in_model(config, model, NAME)
        except ValueError as error:
            raise InputError("learner.lora.targets", self.targets, f"peft refuses it ({str(error)[:200]})") from error
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        of_weight = {id(layer.base_layer.weight): layer for layer in layers}
        self._refuse_shared(model, layers)
        adapters = Adapters(
            model, config, plain, {name: of_weight[id(p)] for name, p in plain.items() if id(p) in of_weight}
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in adapters.layers.values():  # peft's own distribution, but not from the global generator
                weight = layer.lora_A[NAME].weight
                bound = 1 / math.sqrt(weight.shape[1])
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
        return adapters

    def _refuse_shared(self, model: Any, layers: Sequence[Any]) -> None:
        """A change of a shared weight is none of one layer alone: it cannot be merged."""
        uses = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
        for layer in layers:
            if NAME not in layer.lora_A or uses.count(id(layer.base_layer.weight)) > 1:
                remedy = "an embedding or a weight that two layers share can have no adapter; name other layers"
                raise InputError("learner.lora.targets", self.targets, remedy)


@dataclass(frozen=True)
class Adapters:
    """A model with adapters in it; what leaves it is plain."""

    model: Any
    config: Any  # a peft.LoraConfig
    plain: Mapping[str, Tensor]  # the base weights under the names that they had without adapters
    layers: Mapping[str, Any]  # the peft layer of each adapted weight, by the weight's plain name

    def weights(self, whole: Whole | None = None) -> Iterator[tuple[str, Tensor]]:
        """Merged weights under their Hugging Face names, tied ones once. An adapted one is a new tensor, made when asked
        for; the others are the base's own. `whole` gathers parameters of which each rank has a piece; then all are new."""
        for name, weight in self.plain.items():
            layer = self.layers.get(name)
            with whole([weight, *_own(layer)]) if whole else contextlib.nullcontext():
                said = _merged(weight, layer) if layer else weight.detach()
                yield name, said.clone() if whole and not layer else said

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is the base."""
        try:
            for layer in self.layers.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def parameters(self) -> list[Tensor]:
        """Those of the adapters."""
        return [parameter for layer in self.layers.values() for parameter in _own(layer)]

    def state(self) -> dict[str, Tensor]:
        """The adapters under peft's names, as they stand in its files; on the CPU."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self.model, adapter_name=NAME)
        return {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in found.items()}

    def export(self, path: Path) -> None:
        """The merged model as a Hugging Face folder, and the adapters in peft's format in its subfolder `adapter`."""
        self.export_whole(path, {name: weight.cpu() for name, weight in self.weights()}, self.state())

    def export_whole(self, path: Path, merged: Mapping[str, Tensor], adapters: dict[str, Tensor]) -> None:
        """The same from what `weights` and `state` gave."""
        known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        buffers = {name: value for name, value in self.model.state_dict().items() if name not in known}
        self.model.save_pretrained(path, state_dict=dict(merged) | buffers)
        folder = path / FOLDER
        folder.mkdir(exist_ok=True)
        config = replace(self.config, inference_mode=True, base_model_name_or_path=self.model.name_or_path)
        config.save_pretrained(folder)
        _sort_lists(folder / "adapter_config.json")
        save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _sort_lists(path: Path) -> None:
    """In peft's config lists are sets, which have another order in each process: the same adapters, the same bytes."""
    config = json.loads(path.read_text())
    config |= {key: sorted(value, key=str) for key, value in config.items() if isinstance(value, list)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def _own(layer: Any) -> list[Tensor]:
    """The adapter's parameters in a peft layer."""
    return [layer.lora_A[NAME].weight, layer.lora_B[NAME].weight] if layer else []


@torch.no_grad()
def _merged(weight: Tensor, layer: Any) -> Tensor:
    return weight + layer.get_delta_weight(NAME).to(weight.dtype)

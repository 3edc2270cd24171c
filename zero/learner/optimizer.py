"""What moves parameters: torch's optimizers, made from conf/optimizer, and the schedule of their rate.

An option of conf/optimizer names a maker, which gets two of torch's parameter groups, the matrices of the layers and all others
(embeddings, head, biases, norms), with the rate, the betas and the weight decay, and returns the optimizers that move them.
`adamw` and `muon` are such makers; your own is `make: {_target_: MODULE.FUNCTION, _partial_: true}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

ParameterGroup = dict[str, Any]  # torch's: {"params": [...]}, and the settings that are the group's own


def adamw(
    matrices: ParameterGroup, others: ParameterGroup, lr: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW, arXiv 1711.05101, for all."""
    groups = [group for group in (matrices, others) if group["params"]]
    # One kernel for the step and no temporaries, which else are a copy of the parameters. A CPU's bits stay as they are.
    fused = groups[0]["params"][0].device.type != "cpu" or None
    return [torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)]


def muon(
    matrices: ParameterGroup,
    others: ParameterGroup,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    adjust_lr_fn: str,
) -> list[torch.optim.Optimizer]:
    """Muon, https://kellerjordan.github.io/posts/muon, for the matrices; AdamW with these betas for the others."""
    optimizers: list[torch.optim.Optimizer] = []
    if matrices["params"]:
        optimizers += [torch.optim.Muon([matrices], lr=lr, weight_decay=weight_decay, adjust_lr_fn=adjust_lr_fn)]
    if others["params"]:
        nothing: ParameterGroup = {"params": []}
        optimizers += adamw(nothing, others, lr, betas, weight_decay)
    return optimizers


@dataclass(frozen=True)
class Optimizer:
    """The settings of conf/optimizer."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float  # largest norm of the whole gradient; 0 is off
    warmup: int  # optimizer steps from 0 up to lr, linearly
    schedule: str  # constant, linear, cosine or wsd (warm-up, stable, decay)
    floor: float  # the schedule ends at this share of lr
    decay_from: float = 0.0  # wsd: share of the run after which the rate falls
    others: Mapping[str, float | None] = field(default_factory=dict)  # settings of the second group, if not those above
    make: Callable[..., list[torch.optim.Optimizer]] = adamw

    def build(self, matrices: Sequence[Tensor], others: Sequence[Tensor] = ()) -> list[torch.optim.Optimizer]:
        """The optimizers of these parameters; `initial_lr` of each of their groups is its full rate."""
        own = {name: value for name, value in self.others.items() if value is not None}
        groups: list[ParameterGroup] = [{"params": list(matrices)}, {"params": list(others), **own}]
        optimizers = self.make(*groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        for group in parameter_groups(optimizers):
            group["initial_lr"] = group["lr"]
        return optimizers

    def rate(self, update: int, total: int, lr: float | None = None) -> float:
        """The learning rate of optimizer step `update` (from 0) of `total`; `lr` is the full one, if not that above."""
        full = self.lr if lr is None else lr
        if update < self.warmup:
            return full * (update + 1) / self.warmup
        return full * self.share((update - self.warmup) / max(1, total - self.warmup))

    def share(self, progress: float) -> float:
        """The share of the full rate that the schedule leaves at `progress`, from 0 to 1."""
        if self.schedule == "wsd":
            return max(self.floor, min(1.0, (1 - progress) / (1 - self.decay_from)))
        shape = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return self.floor + (1 - self.floor) * shape[self.schedule]


def parameter_groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[ParameterGroup]:
    """The parameter groups of all of them."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def is_matrix_of(module: Module) -> Callable[[Parameter], bool]:
    """Whether a parameter of the module is a matrix of its layers: no embedding, no output head, no bias, no norm."""
    from transformers import PreTrainedModel

    heads = [each.get_output_embeddings() for each in module.modules() if isinstance(each, PreTrainedModel)]
    embeddings = [each for each in module.modules() if isinstance(each, torch.nn.Embedding)]
    weights = {id(each.weight) for each in (*heads, *embeddings) if each is not None}
    return lambda parameter: parameter.ndim == 2 and id(parameter) not in weights

"""AdamW for policies and critics: gradient clipping, learning rate schedule, exact save and load."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zero.distributed import World
from zero.learner import tensor_files as store
from zero.learner.optimizer import Optimizer, is_matrix_of, parameter_groups
from zero.records import Metrics

# Updates skipped in a row for gradients that are not finite, after which the policy counts as lost: fewer may be a batch's fault
LOST = 8
BUCKET = 25 * 2**20  # bytes of gradients reduced at once


def update_metrics(kind: str, norm: float, rate: float) -> Metrics:
    """The metrics of one optimizer step, under KIND/. A step whose norm is not finite was skipped."""
    metrics = {f"{kind}/grad_norm": norm, f"{kind}/learning_rate": rate}
    return metrics if math.isfinite(norm) else metrics | {f"{kind}/skipped_updates": 1.0}


def skipped_in_a_row(before: int, norm: float, update: int, setting: str, world: World) -> int:
    """The number of updates skipped in a row after this one, `before` of them earlier: an update is skipped if its gradient
    norm is not finite. FloatingPointError if there are LOST of them."""
    if math.isfinite(norm):
        return 0
    problem = f"the gradient norm of optimizer step {update} is {norm}"
    if before + 1 >= LOST:
        raise FloatingPointError(f"{problem}, and {before} before it were not finite: lower {setting}.lr")
    if world.is_main:
        print(f"warning  {problem}: skipped, no weight moves", file=sys.stderr)
    return before + 1


def buckets(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, at most `size` bytes together, or one larger tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.nbytes for t in bucket) + tensor.nbytes > size):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def rounded_at_use(module: torch.nn.Module) -> set[torch.nn.Parameter]:
    """The parameters of linear layers alone, which autocast rounds at each use."""
    from transformers.pytorch_utils import Conv1D

    linear: set[torch.nn.Parameter] = set()
    others: set[torch.nn.Parameter] = set()
    for each in module.modules():
        kind = linear if type(each) in (torch.nn.Linear, Conv1D) else others
        kind.update(each.parameters(recurse=False))
    return linear - others


def matrix_parameters(module: torch.nn.Module) -> int:
    """The number of parameters in matrix products: not those of norms and biases, nor an embedding that is no output head too."""
    matrices: dict[int, int] = {}
    for each in module.modules():
        if not isinstance(each, torch.nn.Embedding):
            matrices |= {id(p): p.numel() for p in each.parameters(recurse=False) if p.ndim > 1}
    return sum(matrices.values())


class TrainableModule:
    """The trainable parameters of a module and their optimizers. Every rank of `world` holds all of them.

    With `rounded` the module computes with weights rounded to bfloat16. Autocast rounds those of linear layers at each use;
    all others (norms, embeddings) are stored rounded, and AdamW steps float32 copies of them, the masters.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: Optimizer,
        total_updates: int,
        world: World,
        rounded: bool = False,
        setting: str = "optimizer",
    ) -> None:
        self.setting = setting  # the config key of `optimizer`
        self.module, self.optimizer, self.total_updates, self.world = module, optimizer, total_updates, world
        self.masters: dict[torch.nn.Parameter, Tensor] = {}
        if rounded:
            at_use = rounded_at_use(module)
            others = [p for p in module.parameters() if p not in at_use]
            self.masters = {p: p.detach().clone() for p in others if p.requires_grad}
            for parameter in others:
                parameter.data.copy_(parameter.data.to(torch.bfloat16))
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        is_matrix = is_matrix_of(module)
        for _, parameter in self.parameters():
            kinds[is_matrix(parameter)].append(self.exact(parameter))
        self.optimizers = optimizer.build(matrices=kinds[True], others=kinds[False])
        self.updates, self.skipped = 0, 0  # skipped: in a row, up to now

    def exact(self, parameter: torch.nn.Parameter) -> Tensor:
        """The tensor that the optimizer steps and a checkpoint holds: the parameter, or its master."""
        return self.masters.get(parameter, parameter)

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in self.masters.items():
            parameter.copy_(master.to(torch.bfloat16))

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Names and trainable parameters; tied ones once."""
        return ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)

    def step(self) -> tuple[float, float]:
        """Sum the gradients over ranks, clip, step. Returns (norm before clipping, learning rate). No weight changes if the norm
        is not finite; the schedule continues."""
        parameters = [p for _, p in self.parameters()]
        self._share_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.optimizer.clip or math.inf))
        self.skipped = skipped_in_a_row(self.skipped, norm, self.updates, self.setting, self.world)
        rate = self.optimizer.rate(self.updates, self.total_updates)
        if not self.skipped:
            self._optimizer_step()
        for parameter in parameters:
            parameter.grad = None
        self.updates += 1
        return norm, rate

    def _optimizer_step(self) -> None:
        for group in parameter_groups(self.optimizers):
            group["lr"] = self.optimizer.rate(self.updates, self.total_updates, group["initial_lr"])
        for parameter, master in self.masters.items():
            master.grad, parameter.grad = parameter.grad, None
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._round()

    def _share_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """All-reduce the gradients. A rank without a gradient adds zeros; a parameter without one on all ranks keeps none, or
        momentum and weight decay would change it, as they do not with one process."""
        if self.world.size == 1:
            return
        has_gradient = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        self.world.all_reduce_([has_gradient])
        for parameter, ranks in zip(parameters, has_gradient.tolist(), strict=True):
            if ranks and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets([p.grad for p in parameters if p.grad is not None], BUCKET):
            flat = torch.cat([grad.flatten() for grad in bucket])  # one message for many small gradients
            self.world.all_reduce_([flat])
            for grad, total in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(total.view_as(grad))

    def save(self, path: Path, name: str) -> None:
        """Write parameters, moments and the number of updates as `name`.* into the folder `path`; rank 0 writes."""
        if not self.world.is_main:
            return
        store.write(path, name, ((k, self.exact(parameter)) for k, parameter in self.parameters()))
        moments = (
            (f"{k}:{moment}", value)
            for k, parameter in self.parameters()
            for optimizer in self.optimizers
            for moment, value in optimizer.state.get(self.exact(parameter), {}).items()
        )
        store.write(path, f"{name}_optimizer", moments)
        (path / f"{name}.json").write_text(json.dumps({"updates": self.updates, "skipped": self.skipped}))

    @torch.no_grad()
    def load(self, path: Path, name: str) -> None:
        """Continue exactly where `save` was called. InputError if the files are of another module."""
        parameters = dict(self.parameters())
        for k, value in store.read_checked(path, name, parameters):
            self.exact(parameters[k]).copy_(value)
        self._round()
        owners = {p: (o, group) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for key, value in store.read(path, f"{name}_optimizer"):
            k, _, moment = key.rpartition(":")
            optimizer, group = owners[self.exact(parameters[k])]
            on_cpu = moment == "step" and not group.get("fused")  # torch counts there
            optimizer.state[self.exact(parameters[k])][moment] = value if on_cpu else value.to(parameters[k].device)
        counts = json.loads((path / f"{name}.json").read_text())
        self.updates, self.skipped = counts["updates"], counts.get("skipped", 0)

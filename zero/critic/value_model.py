"""A learned critic: the policy's architecture with a scalar head and a learning rate of its own. PPO, arXiv 1707.06347.

As in the code of arXiv 2503.20783: a copy of the initial policy, a head initialized normally with standard deviation
1 / (hidden + 1), clipped squared error. It averages over tokens as the policy does: algo.weight decides for both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zero.cpu import packing
from zero.distributed import World
from zero.errors import InputError
from zero.learner.contexts import by_context
from zero.learner.optimizer import Optimizer
from zero.learner.trainable import TrainableModule, matrix_parameters, update_metrics
from zero.objective import clipped_value_loss
from zero.records import Batch, Group, Metrics
from zero.vision import Images, Vision


class ValueModel:
    """A Critic. `clip` is how far a value may move in one step before its loss stops falling; null: no limit. `steps`: each
    "token" is a step of a response, or each "turn" of an episode, whose value is that of its first token."""

    def __init__(
        self,
        model: Any,
        total_updates: int,
        seed: int,
        autocast: bool,
        device: torch.device,
        world: World,
        optimizer: Optimizer,
        clip: float | None,
        micro_tokens: int,
        steps: str = "token",
        vision: Vision | None = None,
    ) -> None:
        if steps not in ("token", "turn"):
            raise InputError("algo.critic.steps", steps, "must be token or turn")
        self.clip, self.micro_tokens, self.autocast, self.steps = clip, micro_tokens, autocast, steps
        self.device, self.world, self.vision = device, world, vision
        self.body = copy.deepcopy(model.base_model).to(self.device).eval()  # no dropout, as in the policy
        head = model.get_output_embeddings()  # its input may be a projection of the hidden states
        width = model.config.get_text_config().hidden_size if head is None else head.weight.shape[-1]
        self.head = torch.nn.Linear(width, 1).to(self.device)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.empty(1, width).normal_(0.0, 1 / (width + 1), generator=generator))
            self.head.bias.zero_()
        module = torch.nn.ModuleDict({"body": self.body, "head": self.head})
        self.parameters, self.tokens = matrix_parameters(module), 0
        self.trained = TrainableModule(module, optimizer, total_updates, world, setting="algo.critic.optimizer")

    @torch.no_grad()
    def values(self, groups: Sequence[Group], batch: Batch) -> tuple[Tensor, Tensor]:
        value_NT = torch.zeros_like(batch.mask_NT)
        for rows in self._micro_batches(batch):
            micro_batch = batch.rows(rows)
            value_NT[rows, : micro_batch.ids_NT.shape[1]] = self._forward(micro_batch.to(self.device)).cpu()
        self.world.all_reduce_([value_NT])
        return value_NT, self._step_starts(batch)

    def _step_starts(self, batch: Batch) -> Tensor:
        """The first token of each step, bool [N, T]: every response token, or the first one of each turn."""
        response_NT = batch.mask_NT.bool()
        if self.steps == "token":
            return response_NT
        turn_NT = response_NT.long() - 1 if batch.turn_NT is None else batch.turn_NT
        return response_NT & (turn_NT != pad(turn_NT[:, :-1], (1, 0), value=-1))

    def update(self, batch: Batch) -> Metrics:
        if self.steps == "turn":  # values of other tokens are never used
            starts_NT = self._step_starts(batch).to(batch.mask_NT.dtype)
            batch = replace(batch, mask_NT=starts_NT, weight_NT=starts_NT / starts_NT.sum().clamp(min=1))
        tokens = float(batch.mask_NT.sum().clamp(min=1))
        total = 0.0
        assert batch.value_NT is not None and batch.return_NT is not None
        for rows in self._micro_batches(batch):
            micro_batch = batch.rows(rows).to(self.device)
            assert micro_batch.value_NT is not None and micro_batch.return_NT is not None
            loss_NT = clipped_value_loss(
                self._forward(micro_batch), micro_batch.value_NT, micro_batch.return_NT, self.clip
            )
            (micro_batch.weight_NT * loss_NT).sum().backward()
            total += float((micro_batch.mask_NT * loss_NT.detach()).sum())
        norm, rate = self.trained.step()
        chosen = batch.mask_NT.bool()
        values, returns = batch.value_NT[chosen], batch.return_NT[chosen]
        variance = float(returns.var(correction=0)) if len(returns) else 0.0
        unexplained = float((returns - values).var(correction=0)) if len(returns) else 0.0
        return {
            "critic/loss": sum(sums["loss"] for sums in self.world.gather_dicts({"loss": total})) / tokens,
            "critic/value": float(values.sum()) / tokens,
            "critic/explained_variance": 1 - unexplained / variance if variance > 1e-12 else 0.0,
            **update_metrics("critic", norm, rate),
        }

    def _micro_batches(self, batch: Batch) -> list[Tensor]:
        """This rank's rows in micro-batches."""
        packs = packing.can_pack(self.body, self.device)
        return packing.split_rows(packs, batch, self.world.balanced_rows(batch.length_N), self.micro_tokens)

    def _forward(self, batch: Batch) -> Tensor:
        """Values [N, T] of the states before response tokens, 0 elsewhere: the state before token t ends with token t - 1."""
        (value_NT,) = by_context(self._values, batch)
        return value_NT

    def _values(self, ids_NT: Tensor, mask_NT: Tensor, images_N: Sequence[Images] | None) -> tuple[Tensor]:
        response = mask_NT[:, 1:].bool()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = packing.hidden_states(self.body, ids_NT, mask_NT, images_N, self.vision)
        value = self.head(hidden.float())[:, 0]
        zeros = torch.zeros(response.shape, device=self.device)
        return (pad(zeros.masked_scatter(response, value), (1, 0)),)

    def save(self, path: Path) -> None:
        self.trained.save(path, "critic")

    def load(self, path: Path) -> None:
        self.trained.load(path, "critic")

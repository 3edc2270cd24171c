"""The learner in plain torch: AdamW, gradient clipping, micro-batches under a token budget, rows divided among ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.learner import LearnerSetup
from zero.learner.contexts import by_context
from zero.learner.gradient_probe import Probed, Slopes, probe
from zero.learner.lora import Lora
from zero.learner.policy import Policy, prepared
from zero.learner.token_metrics import MetricSums
from zero.learner.trainable import TrainableModule, update_metrics
from zero.records import Batch, Metrics


class TorchLearner:
    """A Learner for any causal language model of transformers, with float32 parameters. With `lora` only adapters train,
    initialized from the seed."""

    def __init__(
        self,
        setup: LearnerSetup,
        micro_tokens: int,
        gradient_checkpointing: bool,
        lora: Lora | None = None,
        reference_offload: bool = False,
    ) -> None:
        self.setup, self.micro_tokens = setup, micro_tokens
        self.device, self.world = setup.device, setup.world
        self.dtype = torch.bfloat16 if setup.autocast else torch.float32
        self.adapters = lora.register_adapters(setup.model, setup.seed) if lora else None
        self.model = prepared(setup.model.to(setup.device), gradient_checkpointing)
        self.policy = Policy(self.model, setup.temperature, setup.vocabulary, setup.autocast, vision=setup.vision)
        self.plain_head = self.policy.plain_head
        self.trained = TrainableModule(
            self.model, setup.optimizer, setup.total_updates, setup.world, rounded=setup.autocast
        )
        self.reference_state: dict[str, Tensor] | None = None
        if setup.keep_reference and self.adapters is None:  # with adapters the base model is the initial policy
            target = torch.device("cpu") if reference_offload else setup.device
            self.reference_state = {k: v.to(target, torch.float32, copy=True) for k, v in self.weights()}

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False, as_updated: Algorithm | None = None) -> Tensor:
        out_NT = torch.zeros_like(batch.mask_NT)
        with self._initial_policy() if reference else contextlib.nullcontext():
            for rows, _ in self._micro_batches(batch, as_updated):
                micro_batch = batch.rows(rows)
                out_NT[rows, : micro_batch.ids_NT.shape[1]] = self._forward(micro_batch)[0].cpu()
        self.world.all_reduce_([out_NT])  # every rank has the rows of all
        return out_NT

    def _micro_batches(self, batch: Batch, algo: Algorithm | None) -> Iterator[tuple[Tensor, bool]]:
        """This rank's micro-batches, and whether they have a gradient. Rows without one are in micro-batches of their own: an
        update needs only their metrics, at a third of the cost."""
        shard = self.world.balanced_rows(batch.length_N)
        learns_N = torch.ones(len(batch.length_N), dtype=torch.bool) if algo is None else algo.trained_rows(batch)
        for learns in (True, False):
            for rows in self.policy.micro_batches(
                batch, shard[learns_N[shard] == learns], self.micro_tokens, self.device
            ):
                yield rows, learns

    def update(self, batch: Batch, algo: Algorithm) -> Metrics:
        metric_sums = MetricSums(batch)
        for rows, learns in self._micro_batches(batch, algo):
            micro_batch = batch.rows(rows).to(self.device)
            with torch.set_grad_enabled(learns):
                logprob_NT, entropy_NT = self._forward(micro_batch, entropy_gradient=algo.entropy != 0)
                loss, sums = algo.loss(logprob_NT, micro_batch, entropy_NT)
            if learns:
                loss.backward()
            metric_sums.add(micro_batch, logprob_NT, entropy_NT, loss, sums)
        metrics = metric_sums.metrics(self.world)
        norm, rate = self.trained.step()
        return metrics | update_metrics("loss", norm, rate)

    def probe(self, batch: Batch, slopes: Slopes, algorithms: int, *, entropy: bool) -> Probed:
        """What `algorithms` other losses would do to this policy: see zero.learner.gradient_probe.probe. Changes nothing."""
        return probe(
            self.model,
            batch,
            slopes,
            algorithms,
            entropy=entropy,
            temperature=self.setup.temperature,
            vocabulary=self.setup.vocabulary,
            micro_tokens=self.micro_tokens,
            autocast=self.setup.autocast,
            device=self.device,
            world=self.world,
            vision=self.setup.vision,
        )

    def _forward(self, batch: Batch, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [N, T] of the response tokens, 0 elsewhere."""
        logprob_NT, entropy_NT = by_context(
            lambda ids, mask, images: self.policy(ids, mask, entropy_gradient, images_N=images), batch.to(self.device)
        )
        return logprob_NT, entropy_NT

    @contextlib.contextmanager
    def _initial_policy(self) -> Iterator[None]:
        """Inside, the model has the initial weights; swapping them in needs no second model."""
        if self.adapters:
            with self.adapters.disable():
                yield
            return
        assert self.reference_state is not None, "the algorithm did not ask for a reference"
        parameters = dict(self.model.named_parameters())
        current = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.reference_state[name].to(self.device)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = current[name]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.adapters:
            return self.adapters.weights(self.dtype)
        return ((name, parameter.detach().to(self.dtype)) for name, parameter in self.model.named_parameters())

    def save(self, path: Path) -> None:
        self.trained.save(path, "policy")

    def load(self, path: Path) -> None:
        self.trained.load(path, "policy")

    def export(self, path: Path) -> None:
        if not self.world.is_main:
            return
        if self.adapters:
            merged = {name: weight.cpu() for name, weight in self.weights()}
            self.adapters.export(path, merged, self.adapters.state())
        else:
            known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
            buffers = {name: value for name, value in self.model.state_dict().items() if name not in known}
            self.model.save_pretrained(path, state_dict=dict(self.weights()) | buffers)

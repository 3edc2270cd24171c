"""The learner on DeepSpeed's ZeRO: optimizer state, gradients and, at stage 3, weights are sharded over ranks.

Departures from DeepSpeed's defaults: gradients are summed over ranks and micro-batches, not averaged; a step in which no
row has a gradient changes nothing; checkpoints have the format of the torch learner, and each reads the other's.

In bfloat16 the forward pass has bfloat16 weights; masters, gradient sums and moments are float32. `weights` and `export`
give the weights of the forward pass, `save` the masters.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from zero.algorithm import Algorithm
from zero.batching import micro_batches
from zero.distributed import World
from zero.errors import InputError
from zero.learner import LearnerSetup
from zero.learner import tensor_files as store
from zero.learner.contexts import by_context
from zero.learner.deepspeed_setup import check, settings, start
from zero.learner.deepspeed_shards import MOMENTS, Shards
from zero.learner.gradient_probe import Probed, Slopes, probe
from zero.learner.lora import Lora
from zero.learner.policy import Policy, prepared
from zero.learner.token_metrics import MetricSums
from zero.learner.trainable import skipped_in_a_row, update_metrics
from zero.records import Batch, Metrics


class DeepSpeedLearner:
    """A Learner for any causal language model of transformers. With `lora` only adapters train, initialized from the seed."""

    def __init__(
        self,
        setup: LearnerSetup,
        micro_tokens: int,
        gradient_checkpointing: bool,
        lora: Lora | None = None,
        reference_offload: bool = False,
        stage: int = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
    ) -> None:
        check(stage, offload_parameters)
        if setup.vision and stage == 3 and setup.world.size > 1:
            remedy = "ranks that show no image would not gather the vision tower's weights with the others; set learner.stage=2"
            raise InputError("learner.stage", 3, remedy)
        optimizer, autocast, device, world = setup.optimizer, setup.autocast, setup.device, setup.world
        self.optimizer, self.total_updates, self.micro_tokens = optimizer, setup.total_updates, micro_tokens
        self.device, self.world, self.updates, self.skipped = device, world, 0, 0
        self.dtype = torch.bfloat16 if autocast else torch.float32
        self.adapters = lora.register_adapters(setup.model, setup.seed) if lora else None
        self.model = prepared(setup.model, gradient_checkpointing)
        # autocast=False: the weights themselves are bfloat16
        policy = Policy(self.model, setup.temperature, setup.vocabulary, autocast=False, vision=setup.vision)
        self.plain_head = policy.plain_head
        # Weights that bfloat16 would round; most published models are stored in bfloat16, and need no such copy
        exact = {
            name: p.detach().clone()
            for name, p in setup.model.named_parameters()
            if autocast and p.requires_grad and not torch.equal(p, p.bfloat16().float())
        }
        config = settings(stage, offload_optimizer, offload_parameters, autocast, optimizer.clip, device)
        self.engine = start(policy, optimizer, config, device, world)
        self.shards = Shards(self.engine, self.model, stage, world)
        if self.adapters and stage == 3:
            self.shards.gather_for(
                {layer: self.adapters.layer_parameters(layer) for layer in self.adapters.layers.values()}
            )
        for name, parameter in self.shards.trainable_parameters() if exact else ():
            if name in exact:
                self.shards.set_master(parameter, exact.pop(name).to(device))  # DeepSpeed made its own from bfloat16
        copied = setup.keep_reference and self.adapters is None  # with adapters the base model is the initial policy
        self.reference = self.shards.copies(torch.device("cpu") if reference_offload else None) if copied else None

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False, as_updated: Algorithm | None = None) -> Tensor:
        out_NT = torch.zeros_like(batch.mask_NT)
        everyone = torch.ones(len(batch.length_N), dtype=torch.bool)
        learns_N = everyone if as_updated is None else as_updated.trained_rows(batch)
        with self._initial_policy() if reference else contextlib.nullcontext():
            for learns in (True, False):
                for rows, chunks in self._micro_batches(batch, learns_N == learns):
                    if rows is None:
                        self._empty_pass(chunks)
                        continue
                    micro_batch = batch.rows(rows).to(self.device)
                    logprob_NT, _ = self._forward(micro_batch, False, chunks)
                    out_NT[rows, : micro_batch.ids_NT.shape[1]] = logprob_NT.cpu()
        self.world.all_reduce_([out_NT])  # every rank has the rows of all
        return out_NT

    def update(self, batch: Batch, algo: Algorithm) -> Metrics:
        metric_sums = MetricSums(batch)
        learns_N = algo.trained_rows(batch)
        for learns in (True, False):  # rows without gradient are only for the metrics: a third of the cost
            plan = self._micro_batches(batch, learns_N == learns)
            for i, (rows, chunks) in enumerate(plan, 1):
                with torch.set_grad_enabled(learns):
                    if rows is None:
                        loss = self._empty_pass(chunks)
                    else:
                        micro_batch = batch.rows(rows).to(self.device)
                        logprob_NT, entropy_NT = self._forward(micro_batch, algo.entropy != 0, chunks)
                        loss, sums = algo.loss(logprob_NT, micro_batch, entropy_NT)
                        metric_sums.add(micro_batch, logprob_NT, entropy_NT, loss, sums)
                if learns:
                    self.engine.set_gradient_accumulation_boundary(i == len(plan))
                    self.engine.backward(loss * self.world.size)  # DeepSpeed takes the mean over ranks
        metrics = metric_sums.metrics(self.world)
        norm, rate = self._step(bool(learns_N.any()))
        return metrics | update_metrics("loss", norm, rate)

    def _forward(self, batch: Batch, entropy_gradient: bool, chunks: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [N, T] of the response tokens, 0 elsewhere."""
        logprob_NT, entropy_NT = by_context(
            lambda ids, mask, images: self.engine(ids, mask, entropy_gradient, chunks, images), batch
        )
        return logprob_NT, entropy_NT

    def _step(self, learned: bool) -> tuple[float, float]:
        """Returns (norm before clipping, learning rate). Without `learned` no step is taken: momentum and weight decay would
        change weights that no row trains."""
        rate = self.optimizer.rate(self.updates, self.total_updates)
        norm = 0.0
        if learned:
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            self.engine.step()
            overflow = self.engine.optimizer.overflow  # then DeepSpeed skips the step, and its norm is an older one
            norm = math.nan if overflow else float(self.engine.get_global_grad_norm())
            if not overflow and not math.isfinite(norm):
                raise FloatingPointError(
                    f"the gradient norm of optimizer step {self.updates} is {norm}: lower optimizer.lr"
                )
            self.skipped = skipped_in_a_row(self.skipped, norm, self.updates, "optimizer", self.world)
        self.updates += 1
        return norm, rate

    def _micro_batches(self, batch: Batch, chosen_N: Tensor) -> list[tuple[Tensor | None, int]]:
        """This rank's micro-batches of the chosen rows (None: an empty one), and the chunks of the head for each. Every rank has
        as many, since each pass through the model and its head is collective."""
        shards = [World(rank, self.world.size).balanced_rows(batch.length_N) for rank in range(self.world.size)]
        by_rank = [micro_batches(batch, shard[chosen_N[shard]], self.micro_tokens) for shard in shards]
        tokens_N = batch.mask_NT.sum(dim=1)
        passes = list(zip_longest(*by_rank))
        largest = [max(int(tokens_N[rows].sum()) for rows in one_pass if rows is not None) for one_pass in passes]
        chunks: list[int] = [self.engine.module.chunks(tokens) for tokens in largest]
        return [(one_pass[self.world.rank], n) for one_pass, n in zip(passes, chunks, strict=True)]

    def _empty_pass(self, chunks: int) -> Tensor:
        """A loss of 0 from a pass over two tokens, for a rank without rows."""
        ids_NT = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        logprob_NT: Tensor = self.engine(ids_NT, torch.ones(1, 2, device=self.device), False, chunks)[0]
        return logprob_NT.sum() * 0.0

    def probe(self, batch: Batch, slopes: Slopes, algorithms: int, *, entropy: bool) -> Probed:
        """What `algorithms` other losses would do to this policy: see zero.learner.gradient_probe.probe. Changes nothing."""
        if self.shards.sharded:
            remedy = "the algorithm lens needs whole weights on every rank; set learner.stage=2, or lens=none"
            raise InputError("learner.stage", 3, remedy)
        policy = self.engine.module
        return probe(
            self.model,
            batch,
            slopes,
            algorithms,
            entropy=entropy,
            temperature=policy.temperature,
            vocabulary=policy.vocabulary,
            micro_tokens=self.micro_tokens,
            autocast=False,
            device=self.device,
            world=self.world,
            vision=policy.vision,
        )

    @contextlib.contextmanager
    def _initial_policy(self) -> Iterator[None]:
        """The model holds the initial weights inside."""
        if self.adapters:
            with self.adapters.disable():
                yield
            return
        assert self.reference is not None, "the algorithm did not ask for a reference"
        with self.shards.with_weights(self.reference):
            yield

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        self.shards.settle()
        return self.adapters.weights(whole=self.shards.whole) if self.adapters else self.shards.weights()

    def save(self, path: Path) -> None:
        for name, tensors in (("policy", self.shards.masters()), ("policy_optimizer", self.shards.moments())):
            if self.world.is_main:
                store.write(path, name, tensors)
            else:
                for _ in tensors:  # gathering them is collective
                    pass
        if self.world.is_main:
            (path / "policy.json").write_text(json.dumps({"updates": self.updates, "skipped": self.skipped}))

    def load(self, path: Path) -> None:
        self.shards.settle()
        parameters = dict(self.shards.trainable_parameters())
        for name, value in store.read_checked(path, "policy", parameters):
            self.shards.set_master(parameters[name], value.to(self.device))
            self.shards.set_weight(parameters[name], value.to(self.device))
        self.shards.synchronize()
        steps = [step for _, step in store.read(path, "policy_optimizer", ":step")]
        self.shards.begin_moments(max(steps, default=None))
        for moment in MOMENTS:
            for key, value in store.read(path, "policy_optimizer", f":{moment}"):
                self.shards.set_moment(parameters[key.removesuffix(f":{moment}")], moment, value.to(self.device))
        counts = json.loads((path / "policy.json").read_text())
        self.updates, self.skipped = counts["updates"], counts.get("skipped", 0)

    def export(self, path: Path) -> None:
        """As every Learner; rank 0 holds the whole model in CPU memory meanwhile."""
        weights = {}
        for name, weight in self.weights():
            if self.world.is_main:
                weights[name] = weight.to("cpu", copy=True)
        adapters = {}
        if self.adapters:
            with self.shards.whole(self.adapters.parameters()):
                adapters = self.adapters.state()
        if not self.world.is_main:
            return
        if self.adapters:
            self.adapters.export(path, weights, adapters)
        else:
            known = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
            buffers = {name: value for name, value in self.model.state_dict().items() if name not in known}
            self.model.save_pretrained(path, state_dict=weights | buffers)

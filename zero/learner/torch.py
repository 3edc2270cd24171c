"""The learner on plain torch: AdamW, gradient clipping, micro-batches under a token budget, rows shared among ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero.algo import Algorithm
from zero.batching import micro_batches
from zero.learner.lora import Lora
from zero.learner.optim import Optim, Trained
from zero.learner.probe import Probed, Slopes, probe
from zero.objective import logprob_and_entropy
from zero.records import Batch, Metrics
from zero.runtime import World


class TorchLearner:
    """A Learner for any causal language model of transformers, its parameters in float32. With `lora` only adapters train,
    drawn from `seed`."""

    def __init__(
        self,
        model: Any,
        optim: Optim,
        temperature: float,
        total_updates: int,
        vocabulary: int,
        micro_tokens: int,
        autocast: bool,
        gradient_checkpointing: bool,
        keep_reference: bool,
        device: torch.device,
        world: World = World(),  # noqa: B008 - a frozen record
        lora: Lora | None = None,
        seed: int = 0,
    ) -> None:
        self.temperature, self.vocabulary, self.micro_tokens = temperature, vocabulary, micro_tokens
        self.autocast, self.device, self.world = autocast, device, world
        self.adapters = lora.onto(model, seed) if lora else None
        self.model = model.to(device).eval()
        for module in self.model.modules():  # sampling knows no dropout, and ratios must be 1 on policy
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if gradient_checkpointing:
            self.model.train()  # transformers checkpoints in training mode only
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        copied = keep_reference and self.adapters is None  # with adapters the initial policy is still there
        self.reference_state = {k: v.detach().clone() for k, v in self.weights()} if copied else None
        self.trained = Trained(self.model, optim, total_updates, world)
        self.plain_head = _head_is_plain(self.model)

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        out_NT = torch.zeros_like(batch.mask_NT)
        with self._initial_policy() if reference else contextlib.nullcontext():
            for rows in micro_batches(batch.length_N, self.world.share(batch.length_N), self.micro_tokens):
                part = batch.rows(rows)
                out_NT[rows, : part.ids_NT.shape[1]] = self._forward(part)[0].cpu()
        self.world.add([out_NT])  # every rank has the rows of all
        return out_NT

    def update(self, batch: Batch, algo: Algorithm) -> Metrics:
        tokens = float(batch.mask_NT.sum().clamp(min=1))  # none if all were cut, and those are masked
        sums: dict[str, float] = {}
        gap_max = 0.0
        learns_N, mine = algo.learns_from(batch), self.world.share(batch.length_N)
        for learns in (True, False):  # rows without gradient only feed the metrics: a third of the cost
            for rows in micro_batches(batch.length_N, mine[learns_N[mine] == learns], self.micro_tokens):
                part = batch.rows(rows).to(self.device)
                with torch.set_grad_enabled(learns):
                    logprob_NT, entropy_NT = self._forward(part, entropy_gradient=algo.entropy != 0)
                    loss, part_sums = algo.loss(logprob_NT, part, entropy_NT)
                if learns:
                    loss.backward()
                learner_NT = logprob_NT.detach() if part.old_NT is None else part.old_NT
                part_sums["loss/entropy"] = entropy_NT.detach().sum()
                if part.sampler_NT is not None:
                    gap_NT = (learner_NT - part.sampler_NT).abs() * part.mask_NT
                    gap_max = max(gap_max, float(gap_NT.max()))
                    part_sums["mismatch/logprob_gap"] = gap_NT.sum()
                part_sums["loss/policy"] = loss.detach() * tokens
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in part_sums.items()}
        said = self.world.every(sums | {"mismatch/logprob_gap_max": gap_max})
        metrics = {name: sum(of.get(name, 0.0) for of in said) / tokens for name in max(said, key=len)}
        metrics["mismatch/logprob_gap_max"] = max(of["mismatch/logprob_gap_max"] for of in said)
        if batch.sampler_NT is None:
            del metrics["mismatch/logprob_gap_max"]
        norm, rate = self.trained.step()
        return metrics | {"loss/grad_norm": norm, "loss/learning_rate": rate}

    def probe(self, batch: Batch, slopes: Slopes, algorithms: int, *, entropy: bool) -> Probed:
        """What `algorithms` other losses would do to this policy: see zero.learner.probe.probe. Changes nothing."""
        return probe(
            self.model,
            batch,
            slopes,
            algorithms,
            entropy=entropy,
            temperature=self.temperature,
            vocabulary=self.vocabulary,
            micro_tokens=self.micro_tokens,
            autocast=self.autocast,
            device=self.device,
            world=self.world,
        )

    def _forward(self, batch: Batch, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [N, T] of the response tokens, 0 elsewhere.

        Right padding needs no attention mask: no token looks ahead.
        """
        ids_NT = batch.ids_NT.to(self.device)
        response = batch.mask_NT[:, 1:].bool().to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if self.plain_head:
                hidden = self.model.base_model(input_ids=ids_NT[:, :-1], use_cache=False).last_hidden_state
                logits = self.model.get_output_embeddings()(hidden[response])
            else:
                logits = self.model(input_ids=ids_NT[:, :-1], use_cache=False).logits[response]
        picked, entropy = logprob_and_entropy(
            logits[:, : self.vocabulary], ids_NT[:, 1:][response], self.temperature, entropy_gradient
        )
        zeros = torch.zeros(response.shape, device=self.device)
        pad = torch.nn.functional.pad
        return pad(zeros.masked_scatter(response, picked), (1, 0)), pad(zeros.masked_scatter(response, entropy), (1, 0))

    @contextlib.contextmanager
    def _initial_policy(self) -> Iterator[None]:
        """The model holds the initial weights inside; swapping keeps one set of buffers and activations."""
        if self.adapters:
            with self.adapters.off():
                yield
            return
        assert self.reference_state is not None, "the algorithm did not ask for a reference"
        parameters = dict(self.model.named_parameters())
        current = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.reference_state[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = current[name]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.adapters:
            return self.adapters.weights()
        return ((name, parameter.detach()) for name, parameter in self.model.named_parameters())

    def save(self, path: Path) -> None:
        self.trained.save(path, "policy")

    def load(self, path: Path) -> None:
        self.trained.load(path, "policy")

    def export(self, path: Path) -> None:
        if self.adapters:
            self.adapters.export(path)
        else:
            self.model.save_pretrained(path)


@torch.no_grad()
def _head_is_plain(model: Any) -> bool:
    """Whether the logits are just the output embedding of the last hidden state (some models scale or cap them).

    Then only response positions need logits. Measured on a few tokens rather than known by name.
    """
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids = torch.arange(4, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    by_hand = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return by_hand.shape == logits.shape and bool(torch.allclose(by_hand, logits, rtol=1e-4, atol=1e-5))

"""The policy as one module, from tokens to log-probabilities, so that a backend that shards weights has one forward call.

The logits of a long batch under a large vocabulary are by far its largest tensor. Beyond `HEAD_NUMBERS` numbers the output
head runs over the response tokens in chunks, which are recomputed in the backward pass: never all logits at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from zero.cpu import layers, packing
from zero.cpu.image_features import language_model, model_inputs
from zero.errors import InputError
from zero.objective import logprob_and_entropy
from zero.records import Batch
from zero.vision import Images, Vision

HEAD_NUMBERS = 2**27  # logits that may exist at once: 512 MiB in float32, and a few temporaries of that size
LOGIT_SCALE = 1e3  # makes logits large enough to meet a cap: see _head_is_plain


class Policy(torch.nn.Module):
    """A causal language model of transformers that returns log-probabilities of given response tokens.

    `vocabulary` is the number of tokens that can be sampled; the model's embedding may have more rows. `vision` is that of a
    model that sees.
    """

    def __init__(
        self,
        model: Any,
        temperature: float,
        vocabulary: int,
        autocast: bool,
        head_numbers: int = HEAD_NUMBERS,
        vision: Vision | None = None,
    ) -> None:
        super().__init__()
        self.model, self.vision = model, vision
        self.temperature, self.vocabulary, self.autocast = temperature, vocabulary, autocast
        self.plain_head = _head_is_plain(model)
        head = model.get_output_embeddings()
        self.head_tokens = max(1, head_numbers // head.weight.shape[0]) if self.plain_head else None  # at once

    def packs(self, device: torch.device) -> bool:
        """Whether tokens on this device go through the packed forward pass."""
        return self.plain_head and packing.can_pack(self.model.base_model, device)

    def micro_batches(self, batch: Batch, rows: Tensor, tokens: int, device: torch.device) -> list[Tensor]:
        """`rows` split into micro-batches of at most `tokens` tokens, as this policy computes them on `device`."""
        return packing.split_rows(self.packs(device), batch, rows, tokens)

    def chunks(self, tokens: int) -> int:
        """The number of chunks in which the output head runs over `tokens` response tokens."""
        return 1 if self.head_tokens is None else max(1, -(-tokens // self.head_tokens))

    def forward(
        self,
        ids_NT: Tensor,
        mask_NT: Tensor,
        entropy_gradient: bool = False,
        chunks: int | None = None,
        images_N: Sequence[Images] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [N, T] of the response tokens, in nats and float32, 0 elsewhere.

        `images_N` are the images of the rows. `chunks` may be more than these tokens need: under ZeRO-3 every head call is
        collective, so all ranks need the same number. Right padding needs no attention mask, since attention is causal.
        """
        response = mask_NT[:, 1:].bool()
        next_ids = ids_NT[:, 1:][response]
        with torch.autocast(ids_NT.device.type, torch.bfloat16, enabled=self.autocast):
            if self.plain_head:
                hidden = packing.hidden_states(
                    self.model.base_model, ids_NT, mask_NT, images_N, self.vision, self.model.is_gradient_checkpointing
                )
            else:
                hidden = self._logits(ids_NT[:, :-1], mask_NT[:, :-1] == 0, images_N)[response]
        if not self.plain_head:
            picked, entropy = logprob_and_entropy(
                hidden[:, : self.vocabulary], next_ids, self.temperature, entropy_gradient
            )
        elif (chunks := chunks or self.chunks(len(hidden))) == 1:
            picked, entropy = self._head(hidden, next_ids, entropy_gradient)
        else:
            pairs = zip(hidden.tensor_split(chunks), next_ids.tensor_split(chunks), strict=True)
            outputs = [self._head_recomputed(hidden_chunk, ids, entropy_gradient) for hidden_chunk, ids in pairs]
            picked, entropy = (torch.cat(tensors) for tensors in zip(*outputs, strict=True))
        zeros = torch.zeros(response.shape, device=ids_NT.device)
        return pad(zeros.masked_scatter(response, picked), (1, 0)), pad(zeros.masked_scatter(response, entropy), (1, 0))

    def _logits(self, ids_NT: Tensor, given_NT: Tensor, images_N: Sequence[Images] | None) -> Tensor:
        ids_NT, inputs = model_inputs(self.model.base_model, ids_NT, given_NT, images_N, self.vision)
        logits: Tensor = self.model(input_ids=ids_NT, use_cache=False, **inputs).logits
        return logits

    def _head(self, hidden: Tensor, ids: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        head = self.model.get_output_embeddings()
        plain = layers.is_plain(head) and head.bias is None
        # Not under autocast, which rounds the head's weights: the compiled head does not
        packed_head = self.packs(ids.device) and plain and not self.autocast
        if packed_head and layers.can_compile(language_model(self.model.base_model)):
            picked, entropy = layers.head(hidden, head.weight, ids, self.temperature, self.vocabulary)
            return picked, entropy if entropy_gradient else entropy.detach()
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.autocast):
            logits = head(hidden)
        return logprob_and_entropy(logits[:, : self.vocabulary], ids, self.temperature, entropy_gradient)

    def _head_recomputed(self, hidden: Tensor, ids: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        """As `_head`, recomputed in the backward pass instead of saved for it."""
        if not torch.is_grad_enabled():
            return self._head(hidden, ids, entropy_gradient)
        outputs: tuple[Tensor, Tensor] = checkpoint(
            self._head, hidden, ids, entropy_gradient, use_reentrant=False, preserve_rng_state=False
        )
        return outputs


def prepared(model: Any, gradient_checkpointing: bool) -> Any:
    """The model without anything random (sampling has none, and ratios must be 1 on policy), with gradient checkpointing or not.

    InputError if two passes over the same tokens still differ.
    """
    model.eval()
    remove_dropout(model)
    if gradient_checkpointing:
        model.train()  # transformers checkpoints in training mode only
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not _repeats(model):
            remedy = "two passes of this model differ: in training mode it draws random numbers; set it to false"
            raise InputError("learner.gradient_checkpointing", True, remedy)
    return model


def remove_dropout(model: Any) -> None:
    """Turn off dropout, layer drop and router jitter: in torch's modules, in attributes of the model's own modules, and in the
    configs that these read. The model's own config, which is exported, keeps its values."""
    from transformers import PreTrainedConfig

    copies: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zero_noise(module)
        config = getattr(module, "config", None)
        if module is not model and isinstance(config, PreTrainedConfig):
            if id(config) not in copies:
                copies[id(config)] = copy.copy(config)
                _zero_noise(copies[id(config)])
            module.config = copies[id(config)]


def _zero_noise(holder: Any) -> None:
    """Set the attributes named after dropout or jitter to 0."""
    for name, value in list(vars(holder).items()):
        if ("drop" in name or "jitter" in name) and type(value) in (int, float) and value != 0:
            setattr(holder, name, type(value)(0))


@torch.no_grad()
def _repeats(model: Any) -> bool:
    """Whether two passes over the same tokens give the same logits."""
    ids = torch.arange(8, device=model.device)[None]
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        first, second = (model(input_ids=ids, use_cache=False).logits for _ in range(2))
    return torch.equal(first, second)


@torch.no_grad()
def _head_is_plain(model: Any) -> bool:
    """Whether the logits are the output embedding of the last hidden state alone (some models scale or cap them), so that only
    response positions need logits.

    Tested on a few tokens rather than decided by the model's name, with logits made large enough to meet a cap, which those
    of random weights would not.
    """
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids = torch.arange(4, device=model.device)[None]
    hook = head.register_forward_hook(lambda module, inputs, logits: logits * LOGIT_SCALE)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        expected = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    finally:
        hook.remove()
    return expected.shape == logits.shape and bool(torch.allclose(expected, logits, rtol=1e-4, atol=1e-5))

"""A gradient small enough to compute for many algorithms at once: that of one matrix put before the output head.

The head sees (I + B) h instead of h, with B = 0. With h the hidden state from which token t is predicted, and
u = d log p(t) / d h, the gradient of an algorithm's loss with respect to B is

    M = sum over response tokens t of  c_t u_t h_t^T,    c_t = d loss / d log p(t),

linear in c. So one forward pass without gradient, and one backward pass through the head alone, serve all algorithms; each
then costs one product [H, tokens] x [tokens, H]. An entropy bonus adds the same with d entropy / d h in place of u.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zero.batching import micro_batches
from zero.cpu.image_features import model_inputs
from zero.distributed import World
from zero.learner.contexts import context_rows
from zero.objective import logprob_and_entropy
from zero.records import Batch
from zero.vision import Vision

# rows [n] of the batch, their log-probabilities and entropies [n, T] (T: the longest of them)
# -> d loss / d log-probability and d loss / d entropy, each [A, n, T], the latter None if no loss of the A has an entropy
Slopes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Probed:
    """The probes of A losses, on the CPU."""

    gradient_AHH: Tensor  # float32
    push_AN: Tensor  # sum over a response's tokens of |d loss / d log-probability|, float32


def probe(
    model: Any,
    batch: Batch,
    slopes: Slopes,
    algorithms: int,
    *,
    entropy: bool,
    temperature: float,
    vocabulary: int,
    micro_tokens: int,
    autocast: bool,
    device: torch.device,
    world: World = World(),  # noqa: B008 - a frozen record
    vision: Vision | None = None,
) -> Probed:
    """The probes of `algorithms` losses on the tokens of `batch.mask_NT`, summed over all ranks; `entropy`: whether `slopes`
    returns slopes of entropies. Changes no parameters, gradients or random state.

    The model's logits must be its output head on its last hidden state (the learner's `plain_head`). Memory: A x H x H
    numbers beyond that of a forward pass of `micro_tokens` padded tokens.
    """
    width = model.get_output_embeddings().weight.shape[-1]
    gradient_AHH = torch.zeros(algorithms, width, width, device=device)
    push_AN = torch.zeros(algorithms, len(batch.length_N), device=device)
    for rows in micro_batches(batch, world.balanced_rows(batch.length_N), micro_tokens):
        micro_batch = batch.rows(rows).to(device)
        chosen = micro_batch.mask_NT[:, 1:].bool()  # entry t of the hidden states predicts token t + 1
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                ids_RL, mask_RL, images_R = context_rows(micro_batch)
                ids_RL, inputs = model_inputs(model.base_model, ids_RL[:, :-1], mask_RL[:, :-1] == 0, images_R, vision)
                body = model.base_model(input_ids=ids_RL, use_cache=False, **inputs)
                hidden = body.last_hidden_state[mask_RL[:, 1:].bool()]
            with torch.enable_grad():
                hidden.requires_grad_()
                logits = model.get_output_embeddings()(hidden)
                logprob_K, entropy_K = logprob_and_entropy(
                    logits[:, :vocabulary], micro_batch.ids_NT[:, 1:][chosen], temperature, entropy
                )
        (d_hidden_KH,) = torch.autograd.grad(logprob_K.sum(), hidden, retain_graph=entropy)
        slope_ANT, entropy_slope_ANT = slopes(rows, _scattered(logprob_K, chosen), _scattered(entropy_K, chosen))
        _add_products(gradient_AHH, slope_ANT[:, :, 1:][:, chosen], d_hidden_KH, hidden.detach())
        if entropy_slope_ANT is not None:
            (d_hidden_KH,) = torch.autograd.grad(entropy_K.sum(), hidden)
            _add_products(gradient_AHH, entropy_slope_ANT[:, :, 1:][:, chosen], d_hidden_KH, hidden.detach())
        push_AN[:, rows.to(device)] = slope_ANT.abs().sum(dim=2)
    world.all_reduce_([gradient_AHH, push_AN])
    return Probed(gradient_AHH.cpu(), push_AN.cpu())


def _scattered(values_K: Tensor, chosen: Tensor) -> Tensor:
    """Values of the K chosen tokens as [n, T], 0 elsewhere, without gradient."""
    return pad(torch.zeros(chosen.shape, device=values_K.device).masked_scatter(chosen, values_K.detach()), (1, 0))


def _add_products(total_AHH: Tensor, slope_AK: Tensor, d_hidden_KH: Tensor, hidden_KH: Tensor) -> None:
    """total[a] += sum over the K tokens of slope x d_hidden hidden^T; one algorithm at a time, to save memory."""
    d_hidden_KH, hidden_KH = d_hidden_KH.float(), hidden_KH.float()
    for total_HH, slope_K in zip(total_AHH, slope_AK, strict=True):
        total_HH.addmm_((d_hidden_KH * slope_K[:, None]).T, hidden_KH)

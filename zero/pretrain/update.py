"""One optimizer step of next-token training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from zero.pretrain.model import ImageInput


def update(
    model: Any,
    ids: Tensor,
    optimizers: Sequence[Any],
    config: Mapping[str, Any],
    autocast: bool,
    images: ImageInput | None = None,
    shown: Sequence[Sequence[ndarray]] = (),
) -> float:
    """One optimizer step on ids [sequences, length + 1] and the images `shown` in each sequence; returns the loss before it.
    FloatingPointError if that, or the gradient, is not finite."""
    import torch
    import torch.nn.functional as F

    loss, size, length = 0.0, config["micro_sequences"], config["length"]
    ids = ids.to(model.device)
    targets = images.targets(ids[:, 1:]) if images else ids[:, 1:]
    learned = int((targets >= 0).sum())  # the loss is their mean, however they are split
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        pixels = images.inputs(shown[rows], model.device) if images else {}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids[rows, :-1], use_cache=False, **pixels).logits
        mean_loss = F.cross_entropy(logits.float().flatten(0, 1), targets[rows].flatten())
        micro_loss = mean_loss * (int((targets[rows] >= 0).sum()) / length) / (learned / length)
        micro_loss.backward()
        loss += micro_loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["optimizer"]["clip"] or math.inf).item()
    if not math.isfinite(loss + norm):  # before the optimizer step, so that the weights stay finite
        raise FloatingPointError(f"loss {loss}, norm of the gradient {norm}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss

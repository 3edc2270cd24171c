"""Decoding after images, for models whose images are features in the sequence of embeddings: zero/rollout/decoder.py decodes the
text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from zero.cpu.decoder import Past
from zero.cpu.image_features import features, numbered
from zero.vision import Images, Vision


class ImageDecoder:
    """A decoder of text with the tower and connector of a model whose images are features in the sequence of embeddings."""

    goes_on = True

    def __init__(self, config: Any, text: Any, vision: Vision, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoModel

        self.text, self.vision, self.embeddings = text, vision, config.text_config.vocab_size
        config = deepcopy(config)
        config.text_config.num_hidden_layers, config.text_config.layer_types = 0, []
        self.body = AutoModel.from_config(config, dtype=dtype).to(device).eval()
        del self.body.language_model

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        own, text, parameters = "model.language_model.", {}, dict(self.body.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if name.startswith((own, "lm_head.")):
                    text[name.replace(own, "model.")] = tensor
                else:
                    parameters[name.removeprefix("model.")].copy_(tensor)
        self.text.load(text.items())

    def prefill(
        self,
        ids_PW: Tensor,
        mask_PW: Tensor,
        n: int,
        budget: int,
        past: Past | None = None,
        shown: Sequence[Images] | None = None,
    ) -> Tensor:
        if not shown or not any(shown):
            return self.text.prefill(ids_PW, mask_PW, n, budget, past)
        ids_PW, digests = numbered(ids_PW, mask_PW.bool(), shown, self.vision, self.embeddings)
        rows = features(self.body, digests, self.vision, ids_PW.device)
        return self.text.prefill(ids_PW, mask_PW, n, budget, past, rows)

    def step(self, ids: Tensor) -> Tensor:
        logits_NV: Tensor = self.text.step(ids)
        return logits_NV

    def keep(self, rows: Tensor) -> None:
        self.text.keep(rows)

    def forget(self) -> None:
        self.text.forget()

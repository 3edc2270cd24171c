"""What a new vision tower learns before a language model gets it, in place of CLIP's pretraining: which tokens the text after an
image holds (Joulin et al. 2016, arXiv 1511.02251), from the mean of its features through one linear layer, which is dropped.

A language model that is joined to a tower of random weights must find at once where to look and what the features there mean;
hands of cards were not told apart after 23,000 images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from zero.pretrain.data import Document
from zero.records import IMAGE_MARK

if TYPE_CHECKING:
    from zero.pretrain.model import ImageInput


def learn_words(
    model: Any,
    tokenizer: Any,
    images: ImageInput,
    documents: Iterator[Document],
    steps: int,
    count: int,
    lr: float,
    pause: Callable[[], None],
) -> float:
    """Train the tower for some steps of `count` images; returns the last loss. `pause` is called in between."""
    import torch
    import torch.nn.functional as F

    tower, size = model.model.vision_tower, len(tokenizer)
    head = torch.nn.Linear(tower.config.hidden_size, size).to(model.device)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr, betas=(0.9, 0.98))
    shown = ((text, pictures[0]) for text, _, *pictured in documents for pictures in pictured)
    loss = torch.zeros(())
    for _ in range(steps):
        pause()
        texts, pixels = zip(*islice(shown, count), strict=True)
        words = torch.zeros(count, size, device=model.device)
        for row, ids in zip(words, _after_the_mark(texts, tokenizer), strict=True):
            row[ids] = 1.0
        inputs = images.inputs([pixels], model.device)
        features = tower(**inputs).last_hidden_state[
            :, 1:
        ]  # without CLIP's class token, as the language model gets them
        loss = F.binary_cross_entropy_with_logits(head(features.mean(1)), words)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _after_the_mark(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    return tokenizer([text.rpartition(IMAGE_MARK)[2] for text in texts], add_special_tokens=False).input_ids

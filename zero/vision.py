"""What a model that sees needs beside its weights: images as numbers, and as tokens of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # question sets and templates use it without loading torch
    from torch import Tensor

Images = Sequence[str]  # digests of a row's images, in order


class Vision(Protocol):
    """The processor of a vision-language model: zero.models.vision has one for transformers' families.

    A prompt has one token `image_token_id` for each feature of an image, where the model puts that feature; so prompts have the
    length that the model sees. The pixels of a digest are processed once for engine and learner: they get the same numbers.
    """

    image_token: str  # stands for an image in a rendered chat
    image_token_id: int  # stands for a feature of an image in a prompt's ids
    placeholder: str  # an image outside a chat format: its token with what the family writes around it
    chat_template: str | None  # the processor's, where the tokenizer has none

    @property
    def identity(self) -> str:
        """All settings: part of the model's fingerprint."""
        ...

    def expansion(self, digest: str) -> str:
        """What replaces the image token of a rendered prompt: a token for each feature, and what the family writes around them."""
        ...

    def features(self, digest: str) -> int:
        """The number of features of an image."""
        ...

    def item(self, digest: str) -> Mapping[str, Tensor]:
        """An image's tensors, as the processor makes them."""
        ...

    def inputs(self, images_N: Sequence[Images], ids_NT: Tensor, body: Any = None) -> dict[str, Any]:
        """What the model's forward takes beside input_ids [N, T] of rows with these images, on their device. With `body`, the
        base model, the features of each distinct image are computed here, once."""
        ...

    def positions(
        self, model: Any, ids_PW: Tensor, mask_PW: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(positions, next_P): those of left-padded prompts as forward takes them, and that of the token after each prompt."""
        ...

    def step_positions(self, position_N: Tensor) -> Tensor:
        """Those of one more token for each row, as forward takes them."""
        ...

    def save(self, folder: Path) -> None:
        """Write the processor's files beside those of the model and the tokenizer."""
        ...

"""Images of rows whose language model has plain layers: their features, computed once for each distinct image, are rows of the
embedding beyond its own.

So a token id says which feature of which image stands at a place, prompts with different images have different ids, and
packing and our decoders need know nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zero.vision import Images, Vision


def language_model(body: Any) -> Any:
    """The decoder's layers with their embedding: the base model itself, or what it calls on texts with images."""
    return getattr(body, "language_model", body)


def image_places(ids_NT: Tensor, given_NT: Tensor, images_N: Sequence[Images], vision: Vision) -> Tensor:
    """Bool [N, T]: where the features of the rows' images go. `given_NT` marks the tokens that the policy did not sample: an
    image token that it samples is a token like any other."""
    places_NT = (ids_NT == vision.image_token_id) & given_NT
    expected_N = torch.tensor([sum(map(vision.features, images)) for images in images_N])
    # A response cut by the budget may have no mask at all, and be given: the images come first
    return places_NT & (places_NT.cumsum(dim=1) <= expected_N.to(ids_NT.device)[:, None])


def numbered(
    ids_NT: Tensor, given_NT: Tensor, images_N: Sequence[Images], vision: Vision, first: int
) -> tuple[Tensor, list[str]]:
    """(ids_NT, digests): at the places of images the numbers of their features, from `first` on, of the distinct images in
    the order of the digests."""
    begin: dict[str, int] = {}
    end = first
    for digest in (digest for images in images_N for digest in images):
        if digest not in begin:
            begin[digest] = end
            end += vision.features(digest)
    spans = [torch.arange(begin[d], begin[d] + vision.features(d)) for images in images_N for d in images]
    ids_NT = ids_NT.clone()
    if spans:
        ids_NT[image_places(ids_NT, given_NT, images_N, vision)] = torch.cat(spans).to(ids_NT.device)
    return ids_NT, list(begin)


def model_inputs(
    body: Any, ids_NT: Tensor, given_NT: Tensor, images_N: Sequence[Images] | None, vision: Vision | None
) -> tuple[Tensor, dict[str, Any]]:
    """(ids_NT, inputs): what the forward pass of the base model `body`, or of the model around it, takes. It refuses an image
    token that shows nothing, as one that the policy sampled: such a token is another one there."""
    if vision is None:
        return ids_NT, {}
    images_N = images_N or [()] * len(ids_NT)
    places_NT = image_places(ids_NT, given_NT, images_N, vision)
    ids_NT = ids_NT.masked_fill((ids_NT == vision.image_token_id) & ~places_NT, 0)
    return ids_NT, vision.inputs(images_N, ids_NT, body)


def features(body: Any, digests: Sequence[str], vision: Vision, device: torch.device) -> Tensor:
    """[K, H]: the features of the images, one after another, by the base model's own tower and connector."""
    pixels = torch.cat([vision.item(digest)["pixel_values"] for digest in digests])
    output = body.get_image_features(pixel_values=pixels.to(device), return_dict=True).pooler_output
    return torch.cat(list(output))


def embedded(embedding: Any, ids: Tensor, features_KH: Tensor | None) -> Tensor:
    """The embedding of ids, those beyond its rows being features."""
    if features_KH is None:
        embeddings: Tensor = embedding(ids)
        return embeddings
    is_feature = ids >= embedding.num_embeddings
    words = embedding(ids.masked_fill(is_feature, 0))
    return words.masked_scatter(
        is_feature[..., None], features_KH[ids[is_feature] - embedding.num_embeddings].to(words.dtype)
    )

"""What turning an image into features costs, from a model's modules and its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zero.learner.trainable import matrix_parameters
from zero.models.vision import FAMILIES


def _merged_side(config: Any) -> int:
    return int(config.vision_config.spatial_merge_size**2)


def _shuffled(config: Any) -> int:
    return int(config.scale_factor**2)


def _pooled(config: Any) -> int:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(side**2 // config.mm_tokens_per_image)


# The patches of the tower that make one feature; one, where a family is not named
PATCHES: dict[str, Callable[[Any], int]] = {
    "qwen2_vl": _merged_side,
    "qwen2_5_vl": _merged_side,
    "qwen3_vl": _merged_side,
    "idefics3": _shuffled,
    "smolvlm": _shuffled,
    "gemma3": _pooled,
}


def sight_cost(model: Any) -> tuple[int, int]:
    """(parameters in matrix products of what turns pixels into features, operations of the forward pass for one feature): two for
    each of them in the connector, and in the tower for each patch. (0, 0) for a text model."""
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        return 0, 0
    tower, *connectors = (getattr(model.base_model, name) for name in family.modules)
    outside = sum(map(matrix_parameters, connectors))
    inside = sum(matrix_parameters(module) for name, module in tower.named_children() if "merger" in name)
    total, connector = matrix_parameters(tower) + outside, inside + outside
    patches = PATCHES.get(model.config.model_type, lambda config: 1)(model.config)
    return total, 2 * (connector + (total - connector) * patches)

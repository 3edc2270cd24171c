"""Settings that suit a model's size: conf/model/recipe/NAME.yaml. A published model names its recipe; for one given by path
alone (model=hf) its number of parameters decides.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zero.paths import CONF

FOLDER = CONF / "model" / "recipe"
BY_SIZE = "by_size"  # the option that chooses one by size
UNKNOWN = "1b"  # of a model of unknown size: its learning rate is low and does no harm


@cache
def known() -> dict[str, dict[str, Any]]:
    """Every recipe by name, smallest first."""
    recipes = [yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml") if path.stem != BY_SIZE]
    return {recipe["name"]: recipe for recipe in sorted(recipes, key=lambda recipe: recipe["upto"])}


def recipe_for_size(parameters: float) -> dict[str, Any]:
    """The recipe of a model with this many parameters."""
    return next((recipe for recipe in known().values() if parameters <= recipe["upto"]), list(known().values())[-1])


def recipe_setting(path: str | None, key: str) -> Any:
    """A setting of the recipe of the model in a folder, or of a hub id."""
    count = parameters(path) if path else None
    recipe = known()[UNKNOWN] if count is None else recipe_for_size(count)
    if key == "max_tokens" and path and (context := _context(Path(path))):
        return min(recipe[key], context // 2)
    return recipe[key]


def parameters(path: str) -> float | None:
    """The number of a model's parameters, from the files of a folder or the name of a hub id (Qwen2.5-1.5B); None: unknown."""
    folder = Path(path)
    if folder.is_dir():
        if files := list(folder.glob("*.safetensors")):
            return float(sum(map(_in_header, files))) or None
        return sum(file.stat().st_size for file in folder.glob("*.bin")) / 2 or None  # bfloat16, or fewer
    named = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z])", path.rsplit("/", 1)[-1])
    return float(named[1]) * (1e9 if named[2] in "Bb" else 1e6) if named else None


def _in_header(path: Path) -> int:
    """The number of values in a safetensors file, from the shapes in its header; 0 if it is none."""
    try:
        with path.open("rb") as file:
            header: Mapping[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return 0


def _context(folder: Path) -> int | None:
    """The context length in the config of the model in a folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        config = config.get("text_config") or config  # of a model that sees
        length = config.get("max_position_embeddings") or config.get("n_positions")
    except (OSError, ValueError, AttributeError):
        return None
    return length if isinstance(length, int) and length > 1 else None

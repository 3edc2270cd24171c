"""Export the trained model as a Hugging Face folder, in a chosen precision, complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import InputError
from zero.files import replacing
from zero.models.load import local_path

if TYPE_CHECKING:
    import torch

    from zero.distributed import World
    from zero.learner import Learner
    from zero.vision import Vision

Config = Mapping[str, Any]
STORED = ("float32", "bfloat16", "float16")  # dtypes of an exported model


def export_model(
    learner: Learner, tokenizer: Any, folder: Path, dtype: torch.dtype, world: World, vision: Vision | None = None
) -> None:
    """Write the learner's model, the tokenizer and the image processor to `folder`, in `dtype`, complete or absent. Called by
    every rank."""
    partial = folder.with_name(f".{folder.name}_partial")
    if world.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    world.barrier()
    learner.export(partial)
    world.barrier()  # each rank may have written a shard
    if world.is_main:
        store_as(partial, dtype)
        tokenizer.save_pretrained(partial)
        if vision:
            vision.save(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def export_dtype(config: Config) -> torch.dtype:
    """The dtype of the exported model: `dtype`; if null, that of the original model's files, else float32.

    Training uses float32 in any case. Call it after the model has been loaded: it reads the cache, not the hub.
    """
    import torch
    from transformers import AutoConfig

    name = config.get("dtype")
    if name is not None and name not in STORED:
        raise InputError("model.dtype", name, f"must be {', '.join(STORED)}, or null for the model's own")
    if name is None:
        original = AutoConfig.from_pretrained(local_path(config), local_files_only=True, trust_remote_code=False)
        stored = original.dtype or original.get_text_config().dtype
        name = str(stored).removeprefix("torch.")
    return getattr(torch, name if name in STORED else "float32")


def store_as(folder: Path, dtype: torch.dtype) -> None:
    """Rewrite the weights of a Hugging Face folder in `dtype`, one file at a time, and set it in config.json.

    Files that have this dtype keep their bytes. Adapters and other files in subfolders are not changed.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata()
        cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        total += sum(tensor.nbytes for tensor in cast.values())
        if any(cast[name].dtype != tensors[name].dtype for name in tensors):
            with replacing(path) as partial:
                save_file(cast, partial, metadata)
    name = str(dtype).removeprefix("torch.")
    _rewrite(folder / "config.json", lambda config: {**config, "dtype": name})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        _rewrite(index, lambda table: {**table, "metadata": {**table.get("metadata", {}), "total_size": total}})


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    before = json.loads(path.read_text())
    after = change(before)
    if after != before:
        path.write_text(json.dumps(after, indent=2, sort_keys=True) + "\n")

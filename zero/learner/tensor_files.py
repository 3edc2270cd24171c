"""Named tensors as safetensors files of bounded size: NAME.safetensors, then NAME.1.safetensors and so on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zero.errors import InputError

LIMIT = 4 * 2**30  # bytes of a file, and in memory at once; a larger tensor has a file of its own


def write(folder: Path, name: str, tensors: Iterable[tuple[str, Tensor]], limit: int = LIMIT) -> None:
    """Write the tensors into the existing folder, in order; at least one file, even if empty."""
    buffer: dict[str, Tensor] = {}
    size = files = 0
    for key, tensor in tensors:
        if buffer and size + tensor.nbytes > limit:
            save_file(buffer, _file(folder, name, files))
            buffer, size, files = {}, 0, files + 1
        buffer[key] = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        size += tensor.nbytes
    save_file(buffer, _file(folder, name, files))


def read(folder: Path, name: str, ending: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that `write` wrote, one at a time, on the CPU; only those whose names end with `ending`."""
    files = 0
    while files == 0 or _file(folder, name, files).exists():
        with safe_open(_file(folder, name, files), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - no dictionary
                if key.endswith(ending):
                    yield key, opened.get_tensor(key)
        files += 1


def read_checked(folder: Path, name: str, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names. InputError at the end if one is missing or there are others."""
    present = set()
    for key, tensor in read(folder, name):
        present.add(key)
        if key in names:
            yield key, tensor
    if wrong := sorted(present.symmetric_difference(names)):
        remedy = f"is of another model or learner ({len(wrong)} of its tensors differ by name, such as {wrong[0]})"
        raise InputError("checkpoint", folder.name, f"{remedy}; start a new run")


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / (f"{name}.{number}.safetensors" if number else f"{name}.safetensors")

"""Stored weights of training runs as the iterators of names and tensors that engines take. Imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from zero.checkpoint import MANIFEST
from zero.config.check import instantiate
from zero.errors import InputError
from zero.models.load import load_model
from zero.tracking import provenance
from zero.vision import Vision

Config = Mapping[str, Any]
SMALL = 2**26  # values of a model up to which its fingerprint covers all of them: a fifth of a second
SAMPLED = 1024  # values of a tensor in the fingerprint of weights


def weights_of(path: Path, model_config: Config, lora: Any = None) -> Iterator[tuple[str, Tensor]]:
    """The weights that a training run stored in `path`; a checkpoint's adapters (`lora`: their config) are merged into the model
    that they were trained on. InputError if the checkpoint is damaged, or does not fit the model."""
    if lora is None or (path / "config.json").is_file():
        yield from stored_weights(path)
        return
    model = load_model(model_config)[0]
    adapters = instantiate(lora).register_adapters(model, seed=0)
    unexpected = model.load_state_dict(dict(stored_weights(path)), strict=False).unexpected_keys
    if unexpected:
        remedy = f"its adapters do not fit the model ({unexpected[0]}); choose the run's own model"
        raise InputError("step", path.name, remedy)
    yield from adapters.weights()


def stored_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a checkpoint's policy, verified by its hashes, or of a Hugging Face folder. InputError if damaged."""
    if (path / "config.json").is_file():
        model = load_model({"path": str(path), "context": 1})[0]  # any context, since some models name no limit
        yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
        return
    files = sorted(p for p in path.glob("policy*.safetensors") if not p.name.startswith("policy_optimizer"))
    try:
        digests = json.loads((path / MANIFEST).read_text())["sha256"]
        for file in files:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digests[file.name]:
                    raise ValueError(f"{file.name} has changed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("step", path.name, f"this checkpoint is damaged ({error}); choose another") from error
    if not files:
        raise InputError("step", path.name, "this checkpoint holds no policy.safetensors; choose another")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                yield name, tensors.get_tensor(name)


def as_computed(weights: Iterable[tuple[str, Tensor]], run: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights in the precision of the run's forward pass and sampling; its checkpoints hold float32 masters."""
    rounded = (provenance.starts(run) or [{}])[-1].get("precision") == "bfloat16"
    return ((name, tensor.bfloat16() if rounded else tensor) for name, tensor in weights)


def fingerprint(model: Any, tokenizer: Any, vision: Vision | None = None) -> str:
    """A hash of a loaded model: of all values of a small one, of a sample of a large one's, of its vocabulary and chat template,
    and of how it reads images."""
    digest = hashlib.sha256()
    parameters = [(name, p.detach()) for name, p in model.named_parameters()]
    if sum(p.numel() for _, p in parameters) <= SMALL:
        for name, p in parameters:
            digest.update(f"{name}{list(p.shape)}".encode() + p.float().cpu().numpy().tobytes())
    else:
        for _ in hash_weights(parameters, digest):
            pass
    words = sorted(tokenizer.get_vocab().items())
    digest.update(repr((words, getattr(tokenizer, "chat_template", None))).encode("utf-8", "surrogatepass"))
    if vision:
        digest.update(vision.identity.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_weights(weights: Iterable[tuple[str, Tensor]], fingerprint: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the same weights, and adds their names, shapes and a sample of their values to the hash `fingerprint`."""
    for name, tensor in weights:
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().numpy()
        fingerprint.update(f"{name}{list(tensor.shape)}".encode() + sample.tobytes())
        yield name, tensor

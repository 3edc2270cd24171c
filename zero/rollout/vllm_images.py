"""Prompts with images for vLLM, as its own processors would hand them to its engine.

vLLM gets the pixels that the learner gets: processed once by zero.models.vision, under the image's digest as the name in
its caches. Its own processors, which would make them anew and which need torchvision, are never made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zero.errors import InputError
from zero.records import Prompt
from zero.vision import Vision

# What the modules of vLLM and transformers that define models of these families import of it
TORCHVISION = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.v2",
    "torchvision.transforms.v2.functional",
)
SETTINGS = {
    "mm_device_do_normalize": False,  # the pixels are normalized already
    "mm_processor_cache_gb": 0,  # the pixels are cached by zero.models.vision
    "skip_mm_profiling": True,  # it would process an image of its own
}

BIDIRECTIONAL = ("Gemma3ForConditionalGeneration",)  # an image's features see each other, later ones too


def register(folder: str, device: torch.device) -> None:
    """Have vLLM's class of the model in `folder` take processed images. InputError if it has none that sees, or one that
    errs on this device."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.multimodal import MULTIMODAL_REGISTRY

    [architecture] = json.loads((Path(folder) / "config.json").read_text())["architectures"]
    if architecture in BIDIRECTIONAL and device.type == "cpu":
        remedy = (
            f"vLLM's attention on a CPU is causal, which is wrong for the images of {architecture}; set rollout=native"
        )
        raise InputError("rollout", "vllm", remedy)
    with _importable():
        known = ModelRegistry.models.get(architecture)
        try:
            model = known.load_model_cls() if known else None
        except ImportError as error:
            remedy = f"vLLM's {architecture} cannot be imported here ({error}); set rollout=native"
            raise InputError("rollout", "vllm", remedy) from error
    if model is None or not hasattr(model, "_processor_factory"):
        raise InputError("rollout", "vllm", f"vLLM has no {architecture} that sees; set rollout=native")
    ModelRegistry.register_model(architecture, model)  # itself, or vLLM imports it again in another process
    del model._processor_factory  # vLLM warns of one that is replaced
    info, dummies, processor = _processing()
    MULTIMODAL_REGISTRY.register_processor(processor, info=info, dummy_inputs=dummies)(model)


def _processing() -> tuple[Any, Any, Any]:
    """What vLLM wants to know of a processor, of one that is never used: classes of info, dummy inputs and processor."""
    from vllm.multimodal.processing import BaseDummyInputsBuilder, BaseMultiModalProcessor, BaseProcessingInfo

    class Info(BaseProcessingInfo):
        def get_supported_mm_limits(self) -> dict[str, int | None]:
            return {"image": None}

        def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Any) -> dict[str, int]:
            return {"image": seq_len}  # more do not fit into a prompt

    def unused(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("images come processed")

    class Dummies(BaseDummyInputsBuilder):
        get_dummy_text = get_dummy_mm_data = unused

    class Processor(BaseMultiModalProcessor):
        _get_mm_fields_config = _get_prompt_updates = unused

    return Info, Dummies, Processor


@contextmanager
def _importable() -> Iterator[None]:
    """Where torchvision is not installed, as beside a CPU build of torch, empty modules stand in for it: the functions that
    vLLM's models import from it are of the processors alone."""
    if find_spec("torchvision"):
        yield
        return
    from transformers.utils import is_torchvision_available

    assert not is_torchvision_available()  # and transformers remembers it
    stand_ins = {name: ModuleType(name) for name in TORCHVISION}
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def engine_input(prompt: Prompt, vision: Vision | None, dtype: torch.dtype) -> Any:
    """A prompt in the form that vLLM's engine takes, floating tensors in its dtype."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems

    if not prompt.images:
        return tokens_input(list(prompt.ids))
    assert vision, "prompts with images are of models that see"
    items = MultiModalKwargsItems({"image": [_item(vision, digest, dtype) for digest in prompt.images]})
    hashes, places = {"image": list(prompt.images)}, {"image": _places(prompt, vision)}
    return mm_input(list(prompt.ids), items, hashes, places)


def _item(vision: Vision, digest: str, dtype: torch.dtype) -> Any:
    """An image's tensors with how those of several images are joined."""
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
    )

    flat, of_each = MultiModalFlatField(slices=[]), MultiModalBatchedField(keep_on_cpu=True)
    tensors = dict(vision.item(digest))
    elements = {}
    if "image_grid_thw" in tensors:
        elements["image_grid_thw"] = MultiModalFieldElem(tensors.pop("image_grid_thw")[0], of_each)
    elif tensors["pixel_values"].ndim == 5:  # the tiles of an image are those of a row
        tensors = {name: tensor[0] for name, tensor in tensors.items()}
    if "image_grid_thw" not in elements:
        elements["num_patches"] = MultiModalFieldElem(torch.tensor(len(tensors["pixel_values"])), of_each)
    for name, tensor in tensors.items():
        elements[name] = MultiModalFieldElem(tensor.to(dtype) if tensor.is_floating_point() else tensor, flat)
    return MultiModalKwargsItem(elements)


def _places(prompt: Prompt, vision: Vision) -> list[Any]:
    """Where each image's features go. An image token beyond them was sampled, and is a token like any other."""
    from vllm.multimodal.inputs import PlaceholderRange

    at: Tensor = (torch.tensor(prompt.ids) == vision.image_token_id).nonzero()[:, 0]
    sizes = [vision.features(digest) for digest in prompt.images]
    places = []
    for positions in at[: sum(sizes)].split(sizes):
        start, length = int(positions[0]), int(positions[-1] - positions[0]) + 1
        is_feature = torch.zeros(length, dtype=torch.bool)
        is_feature[positions - start] = True
        places.append(PlaceholderRange(start, length, None if is_feature.all() else is_feature))
    return places


def run(llm: Any, requests: Sequence[tuple[Any, Any]]) -> list[Any]:
    """The outputs of (engine_input, SamplingParams), in order: `LLM.generate` takes no processed images."""
    from vllm.sampling_params import RequestOutputKind

    names: list[str] = []
    try:
        for tokens, parameters in requests:
            parameters.output_kind = RequestOutputKind.FINAL_ONLY
            names.append(llm.llm_engine.add_request(str(next(llm.request_counter)), tokens, parameters))
    except Exception:
        llm.llm_engine.abort_request(names, internal=True)
        raise
    outputs: list[Any] = llm.wait_for_completion(use_tqdm=False)
    return outputs

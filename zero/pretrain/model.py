"""The model that zero.pretrain trains: an existing one, a new one with its tokenizer, or a language model that gets a new vision
tower, as LLaVA does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import InputError
from zero.pretrain.data import CHUNK, ImageTokens, Source
from zero.records import IMAGE_MARK

if TYPE_CHECKING:
    import torch
    from numpy import ndarray
    from torch import Tensor

TOKENIZER_CHARACTERS = 10_000_000  # of text to train a tokenizer on, beyond which no more documents are read


def load(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The causal language model that the config names, in float32, and its tokenizer. Raises InputError."""
    from zero.models.load import load_model

    model, tokenizer, context = load_model(config["model"])
    if config["length"] > context:
        raise InputError("length", config["length"], f"the model's context has {context} tokens; lower it")
    if tokenizer.eos_token_id is None:
        raise InputError("model.path", config["model"]["path"], "its tokenizer has no end-of-text token; set one")
    return model, tokenizer


def create(config: Mapping[str, Any], sources: Mapping[str, Source]) -> tuple[Any, Any]:
    """A Qwen2 with random weights, and a tokenizer trained on the first stage."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from zero.nano.tokenizer import train_tokenizer

    first = next(iter(sources.values()))(seed=config["seed"])
    texts, characters = list[str](), 0
    for text, *_ in islice(first, config["tokenizer"]["documents"]):
        texts.append(text)
        characters += len(text)
        if characters >= TOKENIZER_CHARACTERS:
            break
    tokenizer = train_tokenizer(texts, config["tokenizer"]["size"], config["model"]["new"]["max_position_embeddings"])
    shape = Qwen2Config(
        **config["model"]["new"],
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(shape), tokenizer


@dataclass(frozen=True)
class ImageInput:
    """How images enter a model that reads them."""

    tokens: ImageTokens
    processor: Any  # of transformers: pixels -> what the model's forward takes
    new: bool  # whether the vision tower has learned nothing yet

    def targets(self, targets: Tensor) -> Tensor:
        """The same ids with -100, which the loss leaves out, for images and for padding."""
        import torch

        return torch.where((targets == self.tokens.id) | (targets == self.tokens.pad), -100, targets)

    def inputs(self, shown: Sequence[Sequence[ndarray]], device: torch.device) -> dict[str, Tensor]:
        """The images of some sequences as arguments of the model's forward."""
        images = [image for row in shown for image in row]
        return {"pixel_values": self.processor(images, return_tensors="pt").pixel_values.to(device)} if images else {}


def image_input(
    model: Any, tokenizer: Any, config: Mapping[str, Any], sources: Mapping[str, Source]
) -> tuple[Any, ImageInput | None]:
    """The model, and how images enter it; None without them. A language model gets a vision tower if its corpus has images."""
    from transformers import AutoImageProcessor

    new = not hasattr(model.config, "vision_config")
    if not new:
        processor = AutoImageProcessor.from_pretrained(config["model"]["path"], backend="pil")
    elif any(
        len(document) > 2 for source in sources.values() for document in islice(source(seed=config["seed"]), CHUNK)
    ):
        model, processor = with_vision(model, tokenizer, config["model"]["tower"])
    else:
        return model, None
    shape = model.config
    count = (shape.vision_config.image_size // shape.vision_config.patch_size) ** 2
    tokens = ImageTokens(shape.image_token_id, IMAGE_MARK, count, tokenizer.pad_token_id)
    return model, ImageInput(tokens, processor, new)


def with_vision(model: Any, tokenizer: Any, shape: Mapping[str, Any]) -> tuple[Any, Any]:
    """A Llava of a text model and a new CLIP vision tower, joined by a new projector; its image processor. The tokenizer gets the
    token IMAGE_MARK. The weights of the language model stay as they are."""
    import torch
    from tokenizers import AddedToken
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip import CLIPImageProcessorPil

    model.config._name_or_path = ""  # the folder of this machine that it came from
    tokenizer.add_tokens([AddedToken(IMAGE_MARK, special=True, normalized=False)])
    model.resize_token_embeddings(len(tokenizer))
    ends = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings: dict[str, Any] = ends | {"tie_word_embeddings": model.config.tie_word_embeddings}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape),
        text_config=model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_MARK),
        image_seq_length=(shape["image_size"] // shape["patch_size"]) ** 2,
        vision_feature_layer=-1,  # the tower learns with the rest, so that its last layer is of use
        **settings,
    )
    whole = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            whole.model.language_model.get_parameter(name).copy_(parameter)
    whole.tie_weights()
    side = {"height": shape["image_size"], "width": shape["image_size"]}
    return whole, CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)


def save_processor(tokenizer: Any, image_processor: Any, config: Any, folder: Path) -> None:
    """Write the files of a Llava processor, from which transformers and vLLM read how many tokens an image takes."""
    from transformers import LlavaProcessor

    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy leaves out again
        image_token=IMAGE_MARK,
    ).save_pretrained(folder)

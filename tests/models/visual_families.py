"""A tiny vision-language model of each family, with random weights, its tokenizer and its processor, as a Hugging Face folder.

The tokenizer is nano's with the family's own control tokens; chat formats are in the family's style. Sizes are such that
transformers, the native engine and vLLM all run them: heads of 32 numbers, images of up to 64 pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.conftest import BASE

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "llava", "llava_siglip", "gemma3")
CONTEXT = 512

_TURNS = """\
{%- for message in messages -%}
{{ BEFORE }}
{%- if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}{{ IMAGE }}{% else %}{{ part['text'] }}{% endif -%}
{%- endfor -%}
{%- endif -%}
{{ AFTER }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ BEGIN }}{% endif -%}
"""


def write_family(name: str, folder: Path) -> Path:
    """A model of FAMILIES in `folder`, below a million parameters, its context CONTEXT tokens."""
    from transformers import AutoModelForImageTextToText

    folder.mkdir(parents=True, exist_ok=True)
    make, tokens = _SHAPES[name]
    tokenizer = _tokenizer(tokens)
    config = make(tokenizer)
    tokenizer.save_pretrained(folder)
    _write_processor(name, tokenizer, config, folder)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    with torch.no_grad():  # far from uniform, or comparisons of tokens would be random
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
                if not parameter.any():  # Gemma's projection: every image would be black
                    parameter.normal_(std=0.1)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return folder


def _tokenizer(tokens: dict[str, str]) -> Any:
    """Nano's tokenizer with these control tokens: attribute -> token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE, extra_special_tokens=tokens)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens.values())}, replace_extra_special_tokens=False
    )
    return tokenizer


def _chat(before: str, image: str, after: str, begin: str) -> str:
    pieces = {"BEFORE": before, "IMAGE": f"'{image}'", "AFTER": f"'{after}'", "BEGIN": f"'{begin}'"}
    text = _TURNS
    for slot, piece in pieces.items():
        text = text.replace(f"{{{{ {slot} }}}}", f"{{{{ {piece} }}}}")
    return text


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The shape of a language model."""
    return (
        dict(
            vocab_size=len(tokenizer) + 8,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
        | more
    )


def _id(tokenizer: Any, token: str) -> int:
    index: int = tokenizer.convert_tokens_to_ids(token)
    return index


def _tower(**more: Any) -> dict[str, Any]:
    """The shape of a vision tower for images of 32 pixels in patches of 8."""
    return (
        dict(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        | more
    )


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    words = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{key}_token_id": _id(tokenizer, f"<|{word}|>") for key, word in words.items()}


def _mrope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]} | more


def _qwen2_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig

    tower = dict(depth=2, embed_dim=64, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=8, spatial_merge_size=2)
    text = _text(tokenizer, rope_parameters=_mrope())
    return Qwen2VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **_qwen_ids(tokenizer))


def _qwen2_5_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig

    tower = dict(
        depth=2,
        hidden_size=64,
        intermediate_size=96,
        num_heads=2,
        patch_size=8,
        window_size=32,
        fullatt_block_indexes=[1],
        out_hidden_size=64,
    )
    text = _text(tokenizer, rope_parameters=_mrope())
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **_qwen_ids(tokenizer))


def _qwen3_vl(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig

    tower = dict(
        depth=2,
        hidden_size=64,
        intermediate_size=96,
        num_heads=2,
        patch_size=8,
        out_hidden_size=64,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0],
    )
    text = _text(tokenizer, head_dim=32, rope_parameters=_mrope(mrope_interleaved=True))
    return Qwen3VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **_qwen_ids(tokenizer))


def _idefics(kind: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        from transformers import Idefics3Config, SmolVLMConfig

        text = _text(tokenizer, model_type="llama", head_dim=32)
        shared = dict(text_config=text, vision_config=_tower(), scale_factor=2, tie_word_embeddings=True)
        shared |= dict(image_token_id=_id(tokenizer, "<image>"), pad_token_id=tokenizer.pad_token_id)
        return {"idefics3": Idefics3Config, "smolvlm": SmolVLMConfig}[kind](**shared)

    return make


def _llava(tower: str, strategy: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        from transformers import LlavaConfig

        more = {"projection_dim": 64} if tower == "clip" else {"vision_use_head": False}
        return LlavaConfig(
            text_config=_text(tokenizer, model_type="qwen2"),
            vision_config=_tower(model_type=f"{tower}_vision_model", **more),
            image_token_index=_id(tokenizer, "<image>"),
            image_seq_length=16,
            vision_feature_select_strategy=strategy,
            vision_feature_layer=-2,
            tie_word_embeddings=True,
        )

    return make


def _gemma3(tokenizer: Any) -> Any:
    from transformers import Gemma3Config

    text = _text(
        tokenizer,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=_id(tokenizer, "<bos>"),
    )
    return Gemma3Config(
        text_config=text,
        vision_config=_tower(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
        image_token_index=_id(tokenizer, "<image_soft_token>"),
        eos_token_id=tokenizer.eos_token_id,
    )


def _write_processor(name: str, tokenizer: Any, config: Any, folder: Path) -> None:
    from transformers import Gemma3Processor, Idefics3Processor, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    template = _TEMPLATES[name.partition("_")[0]]
    square = {"height": 32, "width": 32}
    tiles = dict(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    if name.startswith("qwen"):
        size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
        Qwen2VLImageProcessorPil(size=size, patch_size=8, merge_size=2, temporal_patch_size=2).save_pretrained(folder)
        kind = {"qwen3_vl": "Qwen3VLVideoProcessor"}.get(name, "Qwen2VLVideoProcessor")
        video = {"video_processor_type": kind, "size": size, "patch_size": 8, "merge_size": 2}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
        (folder / "chat_template.jinja").write_text(template)
    elif name == "smolvlm":  # whose processor needs torchvision and num2words
        SmolVLMImageProcessorPil(**tiles).save_pretrained(folder)
        (folder / "processor_config.json").write_text(
            json.dumps({"image_seq_len": 4, "processor_class": "SmolVLMProcessor"})
        )
        (folder / "chat_template.jinja").write_text(template)
    elif name == "idefics3":
        pixels = Idefics3ImageProcessorPil(**tiles)
        Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=template).save_pretrained(folder)
    elif name == "gemma3":
        pixels = Gemma3ImageProcessorPil(size=square)
        Gemma3Processor(pixels, tokenizer, chat_template=template, image_seq_length=4).save_pretrained(folder)
    else:
        clip = name == "llava"
        pixels = (
            CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)
            if clip
            else SiglipImageProcessorPil(size=square)
        )
        LlavaProcessor(
            pixels,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            chat_template=template,
            num_additional_image_tokens=int(clip),
        ).save_pretrained(folder)


_QWEN_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
_IDEFICS_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    **{f"tile_{row}_{column}": f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)},
}
_GEMMA_TOKENS = {
    "bos": "<bos>",
    "turn": "<start_of_turn>",
    "turn_end": "<end_of_turn>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_SHAPES: dict[str, tuple[Callable[[Any], Any], dict[str, str]]] = {
    "qwen2_vl": (_qwen2_vl, _QWEN_TOKENS),
    "qwen2_5_vl": (_qwen2_5_vl, _QWEN_TOKENS),
    "qwen3_vl": (_qwen3_vl, _QWEN_TOKENS),
    "idefics3": (_idefics("idefics3"), _IDEFICS_TOKENS),
    "smolvlm": (_idefics("smolvlm"), _IDEFICS_TOKENS),
    "llava": (_llava("clip", "default"), {"image_token": "<image>"}),
    "llava_siglip": (_llava("siglip", "full"), {"image_token": "<image>"}),
    "gemma3": (_gemma3, _GEMMA_TOKENS),
}
_IM = "'<|im_start|>' + message['role'] + '\\n'"
_QWEN_CHAT = _chat(_IM, "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\\n", "<|im_start|>assistant\\n")
_IDEFICS_CHAT = _chat("message['role'] | capitalize + ': '", "<image>", "<end_of_utterance>\\n", "Assistant:")
_LLAVA_CHAT = _chat("message['role'] | upper + ': '", "<image>\\n", " ", "ASSISTANT:")
_GEMMA_CHAT = _chat(
    "'<start_of_turn>' + message['role'] + '\\n'", "<start_of_image>", "<end_of_turn>\\n", "<start_of_turn>model\\n"
)
_TEMPLATES = {
    "qwen2": _QWEN_CHAT,
    "qwen3": _QWEN_CHAT,
    "idefics3": _IDEFICS_CHAT,
    "smolvlm": _IDEFICS_CHAT,
    "llava": _LLAVA_CHAT,
    "gemma3": _GEMMA_CHAT,
}

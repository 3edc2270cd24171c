"""How a vision-language model of transformers reads images: the tokens that stand for one, and the tensors of its pixels.

An image stands in a rendered chat as one `image_token`. `expansion` replaces it by one feature token for each feature that
the model makes of the image, with what the family writes around them; the model's forward pass puts the features in
their places. A family's processor in transformers does the same, but some of them need torchvision, which this suite does
without: of a processor it uses the image processor alone, with Pillow, and counts features by the model's own config.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zero import images
from zero.errors import InputError

Item = Mapping[str, Tensor]

CACHE_BYTES = 2**30  # of processed images: a hundred of a megapixel
# Of a model's folder: all that transformers reads a processor from, beside the tokenizer's files
FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
TENSORS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")  # what the image processor makes for forward
TOWERS = ("clip_vision_model", "siglip_vision_model")  # of LLaVA


@dataclass(frozen=True)
class Family:
    """What the models of a type have in common. `expand` writes an image of a digest; the text depends on its size alone."""

    modules: tuple[str, ...]  # of the base model: what turns pixels into features
    expand: Callable[[Vision, str], str]
    stands: str = "image_token_id"  # the config's name of the token that stands for an image in a chat
    around: tuple[str, str] = ("", "")  # what a chat has before and after that token
    token_types: str = ""  # the argument of forward that is 1 at feature tokens
    axes: bool = False  # M-RoPE: positions are of time, height and width
    axis: int = 0  # along which the images of a batch are joined
    options: Mapping[str, Any] = field(default_factory=dict)  # of a call of the image processor


def _expand_qwen(vision: Vision, digest: str) -> str:
    width, height = images.size(digest)
    patches = vision.processor.get_number_of_image_patches(height, width)
    return vision.feature_token * (patches // vision.config.vision_config.spatial_merge_size**2)


def _expand_idefics(vision: Vision, digest: str) -> str:
    """A large image is cut into tiles, which stand row by row before a small copy of the whole."""
    tower = vision.config.vision_config
    features = (tower.image_size // tower.patch_size) ** 2 // vision.config.scale_factor**2
    tile, fake = vision.feature_token * features, "<fake_token_around_image>"
    rows, columns = _tiles(vision.processor, *images.size(digest))
    text = ""
    for row in range(1, rows + 1):
        text += "".join(f"{fake}<row_{row}_col_{column}>{tile}" for column in range(1, columns + 1)) + "\n"
    return text + ("\n" if rows else "") + f"{fake}<global-img>{tile}{fake}"


def _tiles(processor: Any, width: int, height: int) -> tuple[int, int]:
    """(rows, columns) of the tiles into which Idefics3's image processor cuts an image; (0, 0) if it stays whole.

    The processor's own get_number_of_image_patches is wrong for sizes that are no multiple of a tile's.
    """
    from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

    if not processor.do_image_splitting:
        return 0, 0
    side = processor.max_image_size["longest_edge"]
    if processor.do_resize:
        shape = np.broadcast_to(np.uint8(0), (1, height, width))  # of which the size is read
        height, width = get_resize_output_image_size(shape, processor.size["longest_edge"])
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / side)
        rows = math.ceil(int(columns * side / ratio) / side)
    else:
        rows = math.ceil(height / side)
        columns = math.ceil(int(rows * side * ratio) / side)
    return (rows, columns) if max(rows, columns) > 1 else (0, 0)


def _expand_llava(vision: Vision, digest: str) -> str:
    tower = vision.config.vision_config
    states = (tower.image_size // tower.patch_size) ** 2 + (tower.model_type == "clip_vision_model")
    return vision.feature_token * (states - (vision.config.vision_feature_select_strategy == "default"))


def _expand_gemma(vision: Vision, digest: str) -> str:
    features = vision.feature_token * vision.config.mm_tokens_per_image
    return f"\n\n{vision.image_token}{features}{vision.spell(vision.config.eoi_token_index)}\n\n"


_QWEN = Family(
    ("visual",),
    _expand_qwen,
    around=("<|vision_start|>", "<|vision_end|>"),
    token_types="mm_token_type_ids",
    axes=True,
)
_IDEFICS = Family(("vision_model", "connector"), _expand_idefics, axis=1)
_PROJECTED = ("vision_tower", "multi_modal_projector")
FAMILIES = {  # by the model_type of config.json
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "llava": Family(_PROJECTED, _expand_llava),
    "gemma3": Family(
        _PROJECTED,
        _expand_gemma,
        stands="boi_token_index",
        token_types="token_type_ids",
        options={"do_pan_and_scan": False},
    ),
}
KNOWN = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Idefics3, SmolVLM, LLaVA and Gemma 3"


class Vision:
    """Images for one model. Pixels are processed once (up to CACHE_BYTES), so that a learner and an engine in one process get
    the same tensors. Safe to use from several threads.

    `image_token` stands for an image in a rendered chat, `placeholder` outside of any chat format; `image_token_id` is the
    id of a feature token, of which an image has as many as features. `chat_template` is the processor's, if it has one.
    """

    def __init__(self, config: Any, tokenizer: Any, processor: Any, files: Mapping[str, bytes]) -> None:
        self.config, self.tokenizer, self.processor, self.files = config, tokenizer, processor, files
        self.family = FAMILIES[config.model_type]
        self.image_token = self.spell(getattr(config, self.family.stands))
        self.image_token_id: int = config.image_token_id
        self.feature_token = self.spell(self.image_token_id)
        self.placeholder = self.image_token.join(self.family.around)
        self.chat_template = _chat_template(files)
        self._lock, self._bytes = Lock(), 0
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._expansions: dict[tuple[int, int], str] = {}  # by width and height

    @property
    def identity(self) -> str:
        """All settings that change what a model sees of an image, for its fingerprint."""
        settings = self.processor.to_dict() | {"options": dict(self.family.options), "chat": self.chat_template}
        return json.dumps(settings, sort_keys=True, default=str)

    def expansion(self, digest: str) -> str:
        """The text that replaces an `image_token` that stands for this image. Replace all tokens of a text at once: the
        expansion may hold an `image_token` itself. InputError as `item`."""
        size = images.size(digest)
        if size not in self._expansions:
            with _refusal(digest):
                self._expansions[size] = self.family.expand(self, digest)
        return self._expansions[size]

    def features(self, digest: str) -> int:
        """The number of features of an image, each of which has a feature token in its expansion."""
        return self.expansion(digest).count(self.feature_token)

    def item(self, digest: str) -> Item:
        """The tensors of one image on the CPU, as `inputs` gives them for a batch of it alone. Pixels are float32. InputError
        for an image that the model's processor refuses, such as one that is far too long."""
        with self._lock:
            if digest in self._items:
                self._items.move_to_end(digest)
                return self._items[digest]
        image = images.load(digest)
        with _refusal(digest):
            processed = self.processor(images=[image], return_tensors="pt", **self.family.options)
        item = {name: processed[name] for name in TENSORS if name in processed}
        with self._lock:
            if digest not in self._items:
                self._items[digest] = item
                self._bytes += _size(item)
            while self._bytes > CACHE_BYTES and len(self._items) > 1:
                self._bytes -= _size(self._items.popitem(last=False)[1])
        return item

    def inputs(self, images_N: Sequence[Sequence[str]], ids_NT: Tensor, body: Any = None) -> dict[str, Any]:
        """Arguments of the model's forward pass beside the ids [N, T] of rows with these images (digests, in order), on the
        device of the ids; {} if no row has an image. The ids must hold a feature token for each feature, and no other one.

        With `body`, the base model, its tower runs here, once for each distinct image: rows that show the same share it.
        """
        digests = [digest for shown in images_N for digest in shown]
        if not digests:
            return {}
        inputs: dict[str, Any] = {}
        if body is None or "mm_encoder_outputs" not in signature(body.forward).parameters:
            inputs |= self._joined(digests, ids_NT.device)
        else:
            inputs |= self._joined(digests, ids_NT.device, ("image_grid_thw",))
            inputs["mm_encoder_outputs"] = {"image": self._encoded(digests, body, ids_NT.device)}
        if self.family.token_types:
            inputs[self.family.token_types] = (ids_NT == self.image_token_id).long()
        return inputs

    def _joined(
        self, digests: Sequence[str], device: torch.device, names: Sequence[str] = TENSORS
    ) -> dict[str, Tensor]:
        """The tensors of these images with these names, one after another."""
        items = [self.item(digest) for digest in digests]
        own = [name for name in names if name in items[0]]
        return {name: torch.cat([item[name] for item in items], dim=self.family.axis).to(device) for name in own}

    def _encoded(self, digests: Sequence[str], body: Any, device: torch.device) -> Any:
        """What the base model's tower and connector make of images, as its forward pass takes it."""
        distinct = list(dict.fromkeys(digests))
        output = body.get_image_features(**self._joined(distinct, device), return_dict=True)
        place = [distinct.index(digest) for digest in digests]
        pooled = output.pooler_output
        if isinstance(pooled, Tensor):  # by tiles, of which an image may have several
            tiles = [self.item(digest)["pixel_values"].shape[self.family.axis] for digest in distinct]
            output.pooler_output = pooled[_spans(tiles, place, device)]
        else:
            output.pooler_output = [pooled[i] for i in place]
        if getattr(output, "deepstack_features", None):
            output.deepstack_features = [[layer[i] for i in place] for layer in output.deepstack_features]
        return output

    def positions(self, model: Any, ids_PW: Tensor, mask_PW: Tensor, inputs: Item) -> tuple[Tensor, Tensor]:
        """(position_ids of left-padded prompts, as the model's forward pass takes them: [P, W] or, for M-RoPE, [3, P, W]; the
        next position of each [P]). `inputs` are of these prompts."""
        position_PW = (mask_PW.cumsum(dim=1) - 1).clamp(min=0)
        if not self.family.axes:
            return position_PW, position_PW[:, -1] + 1
        position_3PW = position_PW.expand(3, -1, -1)
        if "image_grid_thw" in inputs:
            grids = {name: inputs[name] for name in ("image_grid_thw", self.family.token_types)}
            position_3PW, _ = model.base_model.get_rope_index(ids_PW, attention_mask=mask_PW, **grids)
        return position_3PW, position_3PW.amax(dim=(0, 2)) + 1

    def step_positions(self, position_N: Tensor) -> Tensor:
        """position_ids of one more token in each row: [N, 1] or, for M-RoPE, [3, N, 1]."""
        return position_N[:, None].expand(3, -1, -1) if self.family.axes else position_N[:, None]

    def save(self, folder: Path) -> None:
        """Write the processor's files, as they were read, beside a model and its tokenizer."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def spell(self, token: int) -> str:
        """A token by its id."""
        word = self.tokenizer.convert_ids_to_tokens(token)
        assert isinstance(word, str)
        return word


def _spans(sizes: Sequence[int], place: Sequence[int], device: torch.device) -> Tensor:
    """The indices of consecutive spans of these sizes, in the order of their places."""
    spans = torch.arange(sum(sizes), device=device).split(list(sizes))
    return torch.cat([spans[i] for i in place])


@contextmanager
def _refusal(digest: str) -> Iterator[None]:
    """InputError for an image that the image processor refuses."""
    try:
        yield
    except ValueError as error:
        remedy = f"the image processor of this model refuses it ({str(error)[:120]}); drop its row"
        raise InputError("questions", f"image {digest[:12]}", remedy) from error


def load_vision(model: Any, tokenizer: Any, folder: str | Path) -> Vision | None:
    """How a model reads images, by the files of its folder (for one of the hub zero.models.load.local_path, once it has been
    loaded); None for a text model. InputError for files that are missing or damaged, and for a tokenizer without the image
    token."""
    return read_vision(model.config, tokenizer, folder)


def read_vision(config: Any, tokenizer: Any, folder: str | Path) -> Vision | None:
    """`load_vision` of a model of which only the config is here."""
    if config.model_type not in FAMILIES:
        return None
    from transformers import AutoImageProcessor

    tower = config.vision_config.model_type
    if config.model_type == "llava" and tower not in TOWERS:
        raise InputError("model.path", folder, f"a LLaVA with a {tower} tower is not read, only with CLIP or SigLIP")
    for token in ("image_token_id", FAMILIES[config.model_type].stands):
        if tokenizer.convert_ids_to_tokens(getattr(config, token)) is None:
            remedy = (
                f"its tokenizer lacks the token of images ({token}={getattr(config, token)}); copy the tokenizer again"
            )
            raise InputError("model.path", folder, remedy)
    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        files = {name: (Path(folder) / name).read_bytes() for name in FILES if (Path(folder) / name).is_file()}
        return Vision(config, tokenizer, processor, files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        lacking = "preprocessor_config.json or processor_config.json"
        remedy = f"its image processor cannot be read ({reason}); copy {lacking} from its source"
        raise InputError("model.path", folder, remedy) from error


def vision_parameters(model: Any) -> set[str]:
    """The names of all parameters that turn pixels into features: of the vision tower and of what connects it with the
    language model. Empty for a text model."""
    if model.config.model_type not in FAMILIES:
        return set()
    modules = FAMILIES[model.config.model_type].modules
    prefixes = tuple(f"{model.base_model_prefix}.{module}." for module in modules)
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def _chat_template(files: Mapping[str, bytes]) -> str | None:
    """The processor's chat template, from the file that transformers would take."""
    for name in ("processor_config.json", "chat_template.json"):
        template = json.loads(files[name]).get("chat_template") if name in files else None
        if isinstance(template, str):
            return template
    return files["chat_template.jinja"].decode() if "chat_template.jinja" in files else None


def _size(item: Item) -> int:
    return sum(tensor.nbytes for tensor in item.values())

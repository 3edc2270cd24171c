"""Images as a model reads them, held against transformers' own processors and forward passes, for each family."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.hub import serving
from tests.models.test_load import alone, closed
from tests.models.visual_families import CONTEXT, FAMILIES, write_family
from zero import images
from zero.errors import InputError
from zero.learner.trainable import matrix_parameters
from zero.models import vision as module
from zero.models.image_cost import sight_cost
from zero.models.load import load_model
from zero.models.vision import Vision, load_vision, read_vision, vision_parameters
from zero.models.vocabulary import write_model
from zero.models.weights import fingerprint
from zero.records import IMAGE_MARK, Question
from zero.template import SLOT, ChatTemplate, Template, last_boxed

SIZES = (
    (40, 30),
    (90, 50),
    (16, 64),
)  # width, height: one that some processors enlarge, one that they shrink, one on end


@dataclass(frozen=True)
class Family:
    name: str
    folder: Path
    model: Any
    tokenizer: Any
    vision: Vision
    digests: tuple[str, ...]

    def ids(self, text: str, shown: Sequence[str] = ()) -> list[int]:
        """Of images, each outside of a chat, and a text."""
        before = "".join(self.expanded(self.vision.placeholder, [digest]) for digest in shown)
        ids: list[int] = self.tokenizer.encode(before + text, add_special_tokens=False)
        return ids

    def expanded(self, text: str, shown: Sequence[str]) -> str:
        first, *others = text.split(self.vision.image_token)
        return first + "".join(self.vision.expansion(d) + after for d, after in zip(shown, others, strict=True))

    def logits(self, rows: Sequence[tuple[list[int], Sequence[str]]]) -> list[Tensor]:
        """[T, V] of each row, from one forward pass over all of them, padded on the right."""
        width = max(len(ids) for ids, _ in rows)
        ids_NT = torch.tensor([ids + [self.tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        inputs = self.vision.inputs([shown for _, shown in rows], ids_NT)
        with torch.no_grad():
            logits_NTV = self.model(input_ids=ids_NT, use_cache=False, **inputs).logits
        return [logits_NTV[n, : len(ids)] for n, (ids, _) in enumerate(rows)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = write_family(request.param, tmp_path_factory.mktemp(request.param))
        model, tokenizer, context = load_model({"path": str(folder), "context": None})
        assert context == CONTEXT
        vision = load_vision(model, tokenizer, folder)
        assert vision is not None
        digests = tuple(stored(*size, seed) for seed, size in enumerate(SIZES))
        yield Family(request.param, folder, model.eval(), tokenizer, vision, digests)


def stored(width: int, height: int, seed: int) -> str:
    """The digest of an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return images.add(file.getvalue())


def own_processor(family: Family, patch: pytest.MonkeyPatch) -> Any:
    """The family's processor in transformers; without videos, for which it would need torchvision."""
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.models.smolvlm import processing_smolvlm

    if family.name in ("idefics3", "llava", "llava_siglip", "gemma3"):
        return AutoProcessor.from_pretrained(family.folder)
    patch.setattr(processing_smolvlm, "num2words", str)  # for videos
    kind = PROCESSOR_MAPPING[type(family.model.config)]
    without_videos = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: list(parts))})
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(family.folder, backend="pil"),
        "tokenizer": family.tokenizer,
    }
    more = {"image_seq_len": 4} if family.name == "smolvlm" else {}
    return without_videos(**parts, video_processor=None, chat_template=family.vision.chat_template, **more)


@pytest.mark.parametrize("count", [1, 3])
def test_a_chat_with_images_is_that_of_the_familys_own_processor(
    family: Family, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = family.digests[:count]
    content = [*({"type": "image"} for _ in shown), {"type": "text", "text": "Which cards? 1 + 1 = ?"}]
    messages = [{"role": "user", "content": content}]
    template = family.vision.chat_template
    options = {"tokenize": False, "add_generation_prompt": True}
    text = family.tokenizer.apply_chat_template(messages, chat_template=template, **options)
    ids = family.tokenizer.encode(family.expanded(text, shown), add_special_tokens=False)
    assert ids.count(family.vision.image_token_id) == sum(map(family.vision.features, shown)) > 0
    ours = family.vision.inputs([shown], torch.tensor([ids]))

    pixels = [images.load(digest) for digest in shown]
    expected = own_processor(family, monkeypatch)(
        text=[text], images=[pixels], return_tensors="pt", add_special_tokens=False
    )
    assert expected.pop("input_ids").tolist() == [ids]
    theirs = {key: value for key, value in expected.items() if key not in ("attention_mask", "num_crops")}
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    assert ours["pixel_values"].dtype == torch.float32


def test_rows_of_a_batch_do_not_depend_on_the_images_of_others(family: Family) -> None:
    a, b, c = family.digests
    rows = [(family.ids("1 + 1 = ?", shown), shown) for shown in ((a, b), (), (c,))]
    for row, together in zip(rows, family.logits(rows), strict=True):
        [alone] = family.logits([row])
        assert torch.allclose(alone, together, atol=1e-5)


def test_the_model_sees_the_pixels(family: Family) -> None:
    square, other = stored(32, 32, 1), stored(32, 32, 2)
    ids = family.ids("1 + 1 = ?", [square])
    assert ids == family.ids("1 + 1 = ?", [other])
    [one], [two] = family.logits([(ids, [square])]), family.logits([(ids, [other])])
    assert (one[-1] - two[-1]).abs().max() > 1e-3


def test_prompts_padded_on_the_left_go_on_from_their_positions(family: Family) -> None:
    a, b, c = family.digests
    shown_N = [(a, b), (), (c,)]
    ids_N = [family.ids("What is it? 1 + 1 = ?", shown) for shown in shown_N]
    cut = 5  # tokens that are given one by one
    prompt_N = [ids[:-cut] for ids in ids_N]
    width = max(map(len, prompt_N))
    ids_PW = torch.tensor([[family.tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompt_N])
    mask_PW = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_N])
    inputs = family.vision.inputs(shown_N, ids_PW)
    positions, next_P = family.vision.positions(family.model, ids_PW, mask_PW, inputs)
    expected = family.logits(list(zip(ids_N, shown_N, strict=True)))
    steps = []
    with torch.no_grad():
        out = family.model(input_ids=ids_PW, attention_mask=mask_PW, position_ids=positions, use_cache=True, **inputs)
        steps.append(out.logits[:, -1])
        for t in range(-cut, 0):
            mask_PW = torch.nn.functional.pad(mask_PW, (0, 1), value=1)
            out = family.model(
                input_ids=torch.tensor([[ids[t]] for ids in ids_N]),
                attention_mask=mask_PW,
                position_ids=family.vision.step_positions(next_P),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            steps.append(out.logits[:, -1])
            next_P = next_P + 1
    for n, logits in enumerate(expected):
        ours = torch.stack([step[n] for step in steps])
        assert torch.allclose(ours, logits[-cut - 1 :], atol=2e-5)


def test_questions_without_images_are_answered_as_by_the_model_alone(family: Family) -> None:
    ids = torch.tensor([family.ids("1 + 1 = ?")])
    assert family.vision.inputs([()], ids) == {}
    family.model.train()
    try:
        trained = family.model(input_ids=ids, use_cache=False).logits
    finally:
        family.model.eval()
    assert torch.allclose(trained, family.logits([(ids[0].tolist(), ())])[0], atol=1e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_a_question_cannot_show_an_image(family: Family, chat: bool) -> None:
    vision, shown = family.vision, family.digests[:2]
    template = (
        ChatTemplate("chat", last_boxed, vision=vision) if chat else Template("none", SLOT, last_boxed, vision=vision)
    )
    tokens = f"{vision.placeholder} {vision.image_token} {vision.feature_token}"
    features = sum(map(vision.features, shown))
    for text in (f"{tokens} 1 + 1 = ?", f"{IMAGE_MARK}{tokens}{IMAGE_MARK} 1 + 1 = ?"):
        prompt = template.prompt(Question(text, ("2",), "q", images=shown), family.tokenizer, (0,))
        assert prompt.image_tokens == prompt.ids.count(vision.image_token_id) == features
        family.logits([(list(prompt.ids), shown)])  # which counts them


@pytest.mark.parametrize("size", [(8, 8), (31, 33), (64, 16), (16, 64), (100, 20), (200, 150), (33, 97)])
def test_an_image_has_as_many_places_as_features(family: Family, size: tuple[int, int]) -> None:
    digest = stored(*size, seed=3)
    item = family.vision.item(digest)
    with torch.no_grad():
        pixels = {name: value for name, value in item.items() if name != "pixel_attention_mask"}
        output = family.model.base_model.get_image_features(**pixels, return_dict=True).pooler_output
    features = sum(len(part.reshape(-1, part.shape[-1])) for part in output)
    assert family.vision.features(digest) == features > 0


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_tiles_are_counted_as_the_processor_cuts_them(kind: str) -> None:
    name = {"idefics3": "Idefics3ImageProcessorPil", "smolvlm": "SmolVLMImageProcessorPil"}[kind]
    make = getattr(importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}"), name)
    generator = np.random.default_rng(0)
    for longest, side in ((64, 32), (80, 32), (100, 30), (32, 32), (20, 32)):
        processor = make(size={"longest_edge": longest}, max_image_size={"longest_edge": side})
        for width, height in generator.integers(1, 120, (40, 2)).tolist():
            pixels = np.zeros((height, width, 3), np.uint8)
            cut = processor(images=[Image.fromarray(pixels)], return_row_col_info=True)
            rows, columns = (cut[key][0][0] for key in ("rows", "cols"))
            assert module._tiles(processor, width, height) == (rows, columns), (longest, side, width, height)
            assert len(cut["pixel_values"][0]) == rows * columns + 1


def test_an_image_that_a_processor_refuses_is_one_line(family: Family) -> None:
    thread = stored(1000, 1, seed=0)
    if "qwen" not in family.name:  # only these have a limit
        assert family.vision.features(thread) > 0
        return
    for read in (family.vision.expansion, family.vision.item):
        with pytest.raises(InputError, match=rf"questions=image {thread[:12]}: .*aspect ratio.*; drop its row"):
            read(thread)


@pytest.mark.parametrize(("content", "reason"), [(None, ""), ("nonsense", "not a valid JSON file")])
def test_a_folder_without_its_processor_is_refused(
    family: Family, content: str | None, reason: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(family.folder, tmp_path / "m")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
        if content:
            (folder / name).write_text(content)
    error = rf"its image processor cannot be read \(.*{reason}.*\); copy preprocessor_config.json .* from its source"
    with pytest.raises(InputError, match=rf"^model.path={folder}: {error}"):
        load_vision(family.model, family.tokenizer, folder)


def test_a_tokenizer_without_the_image_token_is_refused(family: Family, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"its tokenizer lacks the token of images .*; copy the tokenizer again"):
        load_vision(family.model, tokenizer, family.folder)


def test_families_that_are_not_read_are_named(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import InternVLConfig, LlavaConfig, MllamaConfig, PixtralVisionConfig

    tokenizer.save_pretrained(tmp_path)
    for config in (InternVLConfig(), MllamaConfig()):
        config.save_pretrained(tmp_path)
        error = rf"of models with images Qwen2-VL, .* and Gemma 3 are read, not {config.model_type}"
        with pytest.raises(InputError, match=rf"^model.path={tmp_path}: {error}$"):
            load_model({"path": str(tmp_path), "context": None}, weights=False)
    with pytest.raises(InputError, match="a LLaVA with a pixtral tower is not read, only with CLIP or SigLIP"):
        read_vision(LlavaConfig(vision_config=PixtralVisionConfig()), tokenizer, tmp_path)


def test_a_stored_model_reads_images_as_before(family: Family, tmp_path: Path) -> None:
    write_model(tmp_path, family.model.config, family.tokenizer, family.vision)
    model, tokenizer, _ = load_model({"path": str(tmp_path), "context": None}, weights=False)
    assert model.config.architectures == [type(family.model).__name__] == [type(model).__name__]
    again = load_vision(model, tokenizer, tmp_path)
    assert again is not None
    assert (again.identity, again.chat_template) == (family.vision.identity, family.vision.chat_template)
    for digest in family.digests:
        assert again.expansion(digest) == family.vision.expansion(digest)
        before, after = family.vision.item(digest), again.item(digest)
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_settings_of_the_processor_are_part_of_a_models_fingerprint(family: Family) -> None:
    plain = fingerprint(family.model, family.tokenizer)
    one = fingerprint(family.model, family.tokenizer, family.vision)
    assert plain != one == fingerprint(family.model, family.tokenizer, family.vision)
    mean = family.vision.processor.image_mean
    try:
        family.vision.processor.image_mean = [0.1, 0.2, 0.3]
        assert fingerprint(family.model, family.tokenizer, family.vision) != one
    finally:
        family.vision.processor.image_mean = mean


def test_what_turns_pixels_into_features_is_all_but_the_language_model(family: Family) -> None:
    names = vision_parameters(family.model)
    others = {name for name, _ in family.model.named_parameters()} - names
    assert all("language_model" in name or "text_model.layers" in name or "text_model.norm" in name or
               "text_model.embed_tokens" in name for name in others)  # fmt: skip
    assert names and not any("language_model" in name or ".text_model.layers" in name for name in names)


def test_processed_images_take_bounded_memory(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = images.load
    monkeypatch.setattr(images, "load", lambda digest: (loads.append(digest), load(digest))[1])
    a, b, _ = family.digests
    vision = load_vision(family.model, family.tokenizer, family.folder)
    assert vision is not None
    first = vision.item(a)
    assert vision.item(a) is first and loads == [a]
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    vision.item(b)
    again = vision.item(a)
    assert loads == [a, b, a] and again is not first
    assert all(torch.equal(first[key], again[key]) for key in first)


OF_THE_HUB = """
import sys
from zero.models.load import load_model, local_path
from zero.models.vision import load_vision
config = {"path": "good/seeing", "revision": None, "context": None}
model, tokenizer, _ = load_model(config)
print(load_vision(model, tokenizer, local_path(config)).identity)
"""


@pytest.mark.slow
def test_a_model_of_the_hub_comes_with_its_processor(tmp_path: Path) -> None:
    folder = write_family("llava", tmp_path / "seeing")
    with serving(folder) as (endpoint, _):
        lines, _ = alone(OF_THE_HUB, home=tmp_path / "home", endpoint=endpoint)
    again, _ = alone(OF_THE_HUB, home=tmp_path / "home", endpoint=closed(), HF_HUB_OFFLINE="1")
    model, tokenizer, _ = load_model({"path": str(folder), "context": None}, weights=False)
    vision = load_vision(model, tokenizer, folder)
    assert vision is not None and lines == again == [vision.identity]


def test_what_a_feature_costs_is_what_torch_multiplies(family: Family) -> None:
    """But for LLaVA's CLIP, which has one patch more than features."""
    [digest] = family.digests[:1]
    ids = torch.tensor([family.ids("", [digest])])
    seen, unseen = (products(family.model, ids, inputs) for inputs in (family.vision.inputs([(digest,)], ids), {}))
    features = int((ids == family.vision.image_token_id).sum())
    parameters, flops = sight_cost(family.model)
    assert features * flops == pytest.approx(seen - unseen, rel=0.1 if family.name == "llava" else 0)
    assert 0 < parameters < matrix_parameters(family.model)


def products(model: Any, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> int:
    """Operations of matrix products of a forward pass, without attention's."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=ids, use_cache=False, **inputs)
    counts = counter.get_flop_counts()["Global"].items()
    return int(sum(count for op, count in counts if "attention" not in str(op) and "bmm" not in str(op)))

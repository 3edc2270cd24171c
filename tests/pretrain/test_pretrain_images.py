"""Pretraining on documents with images: a text model gets a vision tower; an image stands whole in a sequence and is no target; a
run that is stopped ends with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from tests.conftest import ROOT
from tests.pretrain.test_pretrain import lasting, log, pretrain, stop_at
from zero import images
from zero.errors import InputError, Preempted
from zero.models.vision import load_vision
from zero.pretrain import data
from zero.pretrain.data import Batches, Document, ImageTokens, Stage, encode
from zero.pretrain.model import ImageInput

RULES = ROOT / "zero/nano/rules"
TINY = [
    "corpus=nano_vl", "length=160", "sequences=2", "micro_sequences=1", "log_every=5", "optimizer.warmup=2",
    "corpus.stages.labels.tokens=1600", "corpus.stages.skills.tokens=1600", "corpus.stages.habits.tokens=1000",
    "model.tower.hidden_size=16", "model.tower.intermediate_size=16", "model.tower.num_hidden_layers=1",
    "model.words={steps: 2, count: 4, lr: 0.001}", f"model.path={RULES}",
]  # fmt: skip
PIXELS = np.zeros((48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeing") / "a"
    pretrain(*TINY, f"out={out}")
    return out


@pytest.fixture(scope="module")
def tokenizer(seeing: Path) -> Any:
    return AutoTokenizer.from_pretrained(seeing)


@pytest.fixture(scope="module")
def tokens(tokenizer: Any) -> ImageTokens:
    return ImageTokens(tokenizer.convert_tokens_to_ids("<image>"), "<image>", 9, tokenizer.pad_token_id)


def test_the_folder_is_a_llava_that_transformers_reads(seeing: Path, tokenizer: Any) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(seeing)
    processor = AutoImageProcessor.from_pretrained(seeing, backend="pil")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(tokenizer) == model.config.text_config.vocab_size == 598
    text = "Use " + "<image>" * 9 + "."
    pixels = processor([PIXELS], return_tensors="pt").pixel_values.bfloat16()
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert model(input_ids=ids, pixel_values=pixels).logits.isfinite().all()


def test_training_sees_the_tokens_and_pixels_of_pretraining(
    seeing: Path, tokenizer: Any, tokens: ImageTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vision = load_vision(LlavaForConditionalGeneration.from_pretrained(seeing), tokenizer, seeing)
    assert vision is not None
    drawn = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    digest = images.put(drawn)
    assert (vision.image_token_id, vision.expansion(digest)) == (tokens.id, tokens.mark * tokens.count)
    assert (vision.placeholder, vision.image_token) == ("<image>", "<image>")
    here = ImageInput(tokens, vision.processor, new=False).inputs([[drawn]], torch.device("cpu"))["pixel_values"]
    assert torch.equal(here, vision.item(digest)["pixel_values"])
    processor = AutoProcessor.from_pretrained(seeing, backend="pil")
    assert processor(images=[drawn], text="Use <image>.").input_ids == [
        tokenizer("Use " + "<image>" * 9 + ".").input_ids
    ]


def test_an_image_is_never_cut_and_a_document_with_one_stands_in_one_sequence(
    tokenizer: Any, tokens: ImageTokens
) -> None:
    pictured: list[Document] = [("Use <image>. Cards J, 3, 5.", True, (PIXELS + n,)) for n in range(60)]
    texts: list[Document] = [("Start with 1.", True)] * 60
    documents = [document for pair in zip(pictured, texts, strict=True) for document in pair]
    batches = Batches([Stage("a", documents, 700, None)], [700], tokenizer, 50, 2, None, tokens)
    rows = [(ids, shown) for _, batch, shown in batches for ids, shown in zip(batch, shown, strict=True)]
    shades = [int(image[0, 0, 0]) for _, shown in rows for image in shown]
    assert shades == list(range(len(shades))) and len(shades) > 8
    assert any((ids == tokens.pad).any() for ids, _ in rows)
    for ids, shown in rows:
        text = tokenizer.decode(ids[:-1])
        assert text.count("<image>" * tokens.count + ". Cards J, 3, 5.<|endoftext|>") == len(shown)
        assert text.count("<image>") == len(shown) * tokens.count


def test_a_document_with_an_image_that_no_sequence_holds_is_refused(tokenizer: Any, tokens: ImageTokens) -> None:
    with pytest.raises(InputError, match="length=10: a document with an image has"):
        encode([("Use <image>. Cards J, 3, 5.", True, (PIXELS,))], tokenizer, tokens, 0, 10)


def test_images_and_padding_are_no_targets(tokens: ImageTokens) -> None:
    targets = torch.tensor([[5, tokens.id, tokens.id, 7, tokens.pad]])
    assert ImageInput(tokens, None, new=False).targets(targets).tolist() == [[5, -100, -100, 7, -100]]


def test_documents_without_images_are_as_before(tokenizer: Any, tokens: ImageTokens) -> None:
    documents: list[Document] = [("Use 1, 2 to make 3.", True), ("x", False)]
    assert encode(documents, tokenizer) == encode(documents, tokenizer, tokens, 7, 10)


def test_a_run_with_images_that_is_stopped_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", 8)  # so that each stage is read in several chunks
    pretrain(*TINY, f"out={tmp_path / 'whole'}")
    again, steps = stop_at(4, monkeypatch), log(tmp_path / "whole")[-1]["step"]
    for _ in range(steps // 4):
        again()
        with pytest.raises(Preempted):
            pretrain(*TINY, f"out={tmp_path / 'out'}")
    again()
    pretrain(*TINY, f"out={tmp_path / 'out'}")
    assert lasting(tmp_path / "out") == lasting(tmp_path / "whole")


def test_a_model_that_sees_is_trained_further(seeing: Path, tmp_path: Path) -> None:
    settings = [
        *TINY[:-1],
        f"model.path={seeing}",
        "corpus.stages.labels.tokens=320",
        "corpus.stages.skills.tokens=320",
    ]
    pretrain(*settings, f"out={tmp_path / 'out'}")
    before, after = (LlavaForConditionalGeneration.from_pretrained(path) for path in (seeing, tmp_path / "out"))
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(before.get_parameter(name), after.get_parameter(name))
    assert sorted(p.name for p in seeing.iterdir()) == sorted(p.name for p in (tmp_path / "out").iterdir())


def test_a_corpus_whose_images_come_late_is_refused(tokenizer: Any) -> None:
    def documents() -> Iterator[Document]:
        yield from [("x", True)] * 600
        while True:
            yield ("Use <image>.", True, (PIXELS,))

    stage = Stage("a", documents(), 2000, None)
    with pytest.raises(InputError, match="an image"):
        list(islice(Batches([stage], [2000], tokenizer, 50, 2), 30))

"""The tokenizer: lossless but for Unicode normalization, digits alone, tags kept, templates short."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from zero.nano.tokenizer import CONTROL, TAGS, train_tokenizer
from zero.nano.world import DRAWS

ROOT = Path(__file__).parents[2]
SHIPPED = AutoTokenizer.from_pretrained(ROOT / "zero/nano/base")
PIECES = st.sampled_from([*CONTROL, *TAGS, "\\boxed{", " ", "\n", "12", "3*4=12.", "</answer", "\u00e9", "\U0001f600"])
TEXT = st.one_of(st.text(max_size=80), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=20).map("".join))


def trained() -> Any:
    return train_tokenizer(["Start with 12, add 7. What is the result? 12+7=19.\nThe answer is \\boxed{19}."], 400, 64)


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_decoding_undoes_encoding(text: str) -> None:
    ids = SHIPPED.encode(text, add_special_tokens=False)
    assert SHIPPED.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == normalize("NFC", text)


NEW = trained()


@settings(max_examples=50, deadline=None)
@given(TEXT)
def test_a_newly_trained_one_is_lossless_too(text: str) -> None:
    assert NEW.decode(NEW.encode(text)) == normalize("NFC", text)


def test_training_is_deterministic() -> None:
    assert NEW.get_vocab() == trained().get_vocab()
    assert len(NEW) <= 400


@pytest.mark.parametrize("tokenizer", [SHIPPED, NEW], ids=["shipped", "new"])
def test_digits_stand_alone_and_tags_survive(tokenizer: Any) -> None:
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1907", add_special_tokens=False)] == list("1907")
    assert not any(len(token) > 1 and any(c.isdigit() for c in token) for token in tokenizer.get_vocab())
    text = "<think> 3 </think> <answer> 4 </answer>"
    ids = tokenizer.encode(text + "<|im_end|>" + tokenizer.eos_token, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for token in (*CONTROL, *TAGS):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(("name", "most"), [("none", 30), ("qwen_math", 60), ("r1", 125)])
def test_templated_prompts_are_short(name: str, most: int) -> None:
    text = OmegaConf.load(ROOT / f"conf/template/{name}.yaml").text
    question = "Start with 12, add 7, subtract 5. What is the result?"
    assert len(SHIPPED.encode(text.replace("{question}", question))) <= most


def test_auto_tokenizer_encodes_like_the_file() -> None:
    """transformers rebuilds a Qwen2 tokenizer from the entries; the file must describe the same pipeline."""
    raw = Tokenizer.from_file(str(ROOT / "zero/nano/base/tokenizer.json"))
    rng = random.Random(0)
    for draw in [*DRAWS.values()] * 25:
        text = draw(rng).text + " 12+7=19.\nThe answer is \\boxed{(1+2)*3}.\n\n <answer> x"
        assert SHIPPED.encode(text, add_special_tokens=False) == raw.encode(text, add_special_tokens=False).ids


def test_an_answer_never_changes_the_tokens_of_its_question() -> None:
    """Otherwise the base would see prompts tokenized as its corpus never was."""
    source = instantiate(OmegaConf.load(ROOT / "conf/corpus/nano.yaml").stages.skills.documents, _convert_="all")
    seen = 0
    for text, _ in islice(source(seed=0), 400):
        question = re.match(r"(Start|Use|\w+ has).*?(\?|make \d+\.)(?= )", text)
        if question and "\n" in text:
            alone = SHIPPED.encode(question.group(), add_special_tokens=False)
            assert SHIPPED.encode(text, add_special_tokens=False)[: len(alone)] == alone
            seen += 1
    assert seen > 200

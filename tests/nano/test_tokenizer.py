"""The tokenizer: lossless on any text, digits alone, tags kept, templates short."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from zero.nano.tokenizer import CONTROL, TAGS, train_tokenizer

ROOT = Path(__file__).parents[2]
SHIPPED = AutoTokenizer.from_pretrained(ROOT / "zero/nano/base")
PIECES = st.sampled_from([*CONTROL, *TAGS, "\\boxed{", " ", "\n", "12", "3*4=12.", "Wait", "User:", "</answer", "\u00e9", "\U0001f600"])
TEXT = st.one_of(st.text(max_size=80), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=20).map("".join))


def trained() -> Any:
    return train_tokenizer(["Start with 12, add 7. What is the result?\n12+7=19.\nThe answer is \\boxed{19}."] * 3, 400, 64)


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_decoding_undoes_encoding(text: str) -> None:
    ids = SHIPPED.encode(text, add_special_tokens=False)
    assert SHIPPED.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


@settings(max_examples=50, deadline=None)
@given(TEXT)
def test_a_new_one_is_lossless_too(text: str) -> None:
    assert NEW.decode(NEW.encode(text)) == text


NEW = trained()


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
    """AutoTokenizer must not swap in another pre-tokenizer because the model is a Qwen2."""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(ROOT / "zero/nano/base/tokenizer.json"))
    from zero.nano.world import draw_gsm, draw_math
    import random

    rng = random.Random(0)
    for draw in islice((d for _ in iter(int, 1) for d in (draw_gsm, draw_math)), 100):
        text = draw(rng).text + " \\boxed{12} <answer> x"
        assert SHIPPED.encode(text, add_special_tokens=False) == raw.encode(text, add_special_tokens=False).ids

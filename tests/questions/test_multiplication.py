"""Products: distinct but for the order of the factors, in fixed splits, checked as numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.questions import QuestionSet
from zero.questions.multiplication import TEXT, rows
from zero.records import Question


def pair(question: Question) -> tuple[int, int]:
    a, b = sorted(question.meta["factors"])
    return a, b


def test_the_shipped_set() -> None:
    config = OmegaConf.load(ROOT / "conf" / "questions" / "multiplication.yaml")
    assert config.rows.text == TEXT
    loaded: QuestionSet = instantiate(config, _convert_="all")
    train, heldout = loaded.rows.train, loaded.rows.heldout
    assert (len(train), len(heldout)) == (32_768, 4096)
    assert len({pair(q) for q in (*train, *heldout)}) == 32_768 + 4096 == len({q.id for q in (*train, *heldout)})
    for question in heldout:
        a, b = question.meta["factors"]
        assert question.text == f"What is {a} * {b}? Give the exact whole number."
        assert (question.answer, question.solution) == ((str(a * b),), f"{a} * {b} = {a * b}")
        assert 100 <= min(a, b) <= max(a, b) <= 999
    question, product = train[0], int(train[0].answer[0])
    assert loaded.check(f"{product:,}", question) and loaded.check(f"{product}.0", question)
    assert not loaded.check(str(product + 1), question)
    assert loaded.extract_any(f"It is {product}.") == str(product)


def test_no_seed_size_or_order_moves_a_product_to_the_other_split() -> None:
    some = [rows(digits=(1, 2), train=n, heldout=100, seed=seed) for seed in range(4) for n in (100, 1000)]
    assert {pair(q) for loaded in some for q in loaded.train}.isdisjoint(
        pair(q) for loaded in some for q in loaded.heldout
    )
    assert some[0] == rows(digits=(1, 2), train=100, heldout=100, seed=0) != some[2]


def test_levels_are_digits() -> None:
    loaded = rows(digits=(2, 5), train=200, heldout=1)
    assert all(len(str(n)) == q.meta["level"] for q in loaded.train for n in q.meta["factors"])
    assert {q.meta["level"] for q in loaded.train} == {2, 5}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"digits": []}, "digits"),
        ({"digits": [0]}, "digits"),
        ({"digits": [13]}, "digits"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
        ({"digits": [1], "train": 46, "heldout": 1}, "train"),
        ({"text": "{a}"}, "text"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"

"""Hands of cards as images: the same pixels on every machine, the hands and splits of general_points, three shifts."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zero import images
from zero.errors import InputError
from zero.grading.recognition import recognized
from zero.paths import CONF
from zero.questions import QuestionSet, drawn_cards, general_points
from zero.questions.drawn_cards import INKS, RANKS, SFTVSRL_TEXT, SHAPES, SUITS, TEXT, draw, rows, rule_shift_rows

SOME: dict[str, Any] = {"cards": 3, "target": [24], "height": 48, "scale": 1}
HAND = [("A", "spades"), ("10", "hearts"), ("K", "diamonds"), ("7", "clubs")]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def load(name: str) -> QuestionSet:
    config = OmegaConf.load(CONF / f"questions/{name}.yaml")
    parent = config.pop("defaults", [None])[0]
    if parent:
        config = OmegaConf.merge(OmegaConf.load(CONF / f"questions/{parent}.yaml"), config)
    config.rows.target = 24
    config.rows.scale = 1
    return instantiate(config, _convert_="all")


@pytest.mark.parametrize(
    ("height", "scale", "digest"),
    [
        (48, 1, "33056364d7314159ddf3aeee677d1e103d12fd8cdc6e97440fb22437b38686f2"),
        (32, 8, "ef3e9d9927aee9f53ffb1f8c7fb0879dec72c6beee4c72863cd38f3464db4383"),
    ],
)
def test_the_pixels_are_the_same_on_every_machine(height: int, scale: int, digest: str) -> None:
    assert images.put(draw(HAND, random.Random(0), height, scale)) == digest


def test_cards_lie_from_left_to_right_in_the_ink_of_their_suits() -> None:
    for seed in range(20):
        image = draw(HAND, random.Random(seed), 48)
        assert image.shape == (48, 64, 3)
        for i, (label, suit) in enumerate(HAND):
            column = image[:, 16 * i : 16 * i + 16]
            colours = {colour for colour, suits in SUITS.items() if suit in suits}
            dots = (RANKS[label] + SHAPES[suit]).count("#")
            inked = {colour: int((column == ink).all(-1).sum()) for colour, ink in INKS.items()}
            assert inked == {colour: dots * (colour in colours) for colour in INKS}


def test_every_label_and_suit_has_a_bitmap_of_its_own() -> None:
    assert list(RANKS) == list(general_points.LABELS)
    assert sorted(SHAPES) == sorted(suit for suits in SUITS.values() for suit in suits)
    for bitmaps in (RANKS, SHAPES):
        assert len(set(bitmaps.values())) == len(bitmaps)
        for bitmap in bitmaps.values():
            lines = bitmap.split()
            assert len(lines) == 7 and len({len(line) for line in lines}) == 1


def test_drawing_takes_next_to_no_time() -> None:
    rng, began = random.Random(0), time.process_time()
    for _ in range(128):
        draw(HAND[:3], rng, 48)
    assert time.process_time() - began < 0.5


def test_the_questions_are_those_of_general_points_without_their_cards() -> None:
    drawn, listed = rows(**SOME), general_points.rows(cards=3, target=[24])
    for split in ("train", "heldout"):
        pairs = list(zip(getattr(drawn, split), getattr(listed, split), strict=True))
        assert len(pairs) > 10
        for shown, listed_question in pairs:
            assert shown.id == f"{listed_question.id}-black"
            assert shown.meta.items() >= listed_question.meta.items()
            assert (shown.answer, shown.solution) == (listed_question.answer, listed_question.solution)
            assert shown.text == TEXT.replace("{faces}", general_points.FACES["ten"]).replace("{target}", "24")
            assert set(shown.meta["suits"]) <= set(SUITS["black"])
            assert images.load(shown.images[0]).size == (48, 48)
            assert recognized(shown, f"Cards {', '.join(shown.meta['cards'])}.") is True
            assert recognized(shown, "Cards Q, Q, Q.") is (shown.meta["cards"] == ["Q"] * 3)
    assert len({q.images for q in drawn.train}) == len(drawn.train)


def test_the_same_arguments_draw_the_same_images() -> None:
    assert rows(**SOME) == rows(**SOME)
    assert rows(**SOME).digest != rows(**SOME, seed=1).digest
    assert rule_shift_rows(**SOME) == rule_shift_rows(**SOME)


def test_an_image_that_was_deleted_is_drawn_again(store: Path) -> None:
    [digest] = rows(**SOME, train=1, heldout=1).train[0].images
    before = images.load(digest).tobytes()
    [path] = store.rglob(f"{digest}.png")
    path.unlink()
    rows(**SOME, train=1, heldout=1)
    assert images.load(digest).tobytes() == before


@pytest.mark.parametrize("name", ["nano_cards_vl", "general_points_vl"])
def test_the_three_tests_of_a_set(name: str) -> None:
    trained, rule, red = (load(f"{name}{shift}") for shift in ("", "_ood", "_red"))
    assert trained.rows.train and not rule.rows.train and not red.rows.train
    hands = [[(q.meta["cards"], q.meta["target"]) for q in questions.rows.heldout] for questions in (trained, red)]
    assert hands[0] == hands[1]
    assert all(set(q.meta["suits"]) <= set(SUITS["red"]) for q in red.rows.heldout)
    for question in rule.rows.heldout:
        assert set(question.meta["suits"]) <= set(SUITS["black"])
        assert max(question.meta["numbers"]) > 10 and "'11', '12', and '13'" in question.text
    used = [q.images for questions in (trained, rule, red) for q in (*questions.rows.train, *questions.rows.heldout)]
    assert len(set(used)) == len(used)
    question = trained.rows.train[0]
    assert trained.check(question.solution, question)
    pixels = np.asarray(images.load(question.images[0]))
    assert pixels.shape == ((48, 48, 3) if name == "nano_cards_vl" else (32, 64, 3))


def test_the_prompt_of_sftvsrl() -> None:
    question = rows(**SOME, train=1, heldout=1, text=SFTVSRL_TEXT, form="json").train[0]
    assert "Cards: <image>\n" in question.text
    assert recognized(question, f'{{"cards": {question.meta["cards"]}, "number": [1]}}') is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("suits", "green"), ("text", "{faces} {target}"), ("text", "<image> <image> {faces} {target}"),
        ("text", "<image> {target}"), ("form", "xml"), ("height", 20), ("height", 1000), ("scale", 0), ("scale", 100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [rows, rule_shift_rows, drawn_cards.visual_shift_rows])
def test_impossible_settings_are_refused(function: Any, key: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        function(**{key: value})
    assert error.value.key == f"questions.rows.{key}"

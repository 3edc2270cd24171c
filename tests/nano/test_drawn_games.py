"""The corpus of model=nano_vl: hands are shown and read, never a held-out one and never the tested rule; slips and red suits as
stated."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zero.errors import InputError
from zero.grading.countdown import countdown_correct
from zero.grading.recognition import recognized
from zero.nano import drawn_games, rule_games
from zero.paths import CONF
from zero.questions import drawn_cards, general_points
from zero.questions.drawn_cards import INKS
from zero.questions.wordings import EMBEDDED
from zero.template import last_boxed

STAGES = OmegaConf.load(CONF / "corpus/nano_vl.yaml").stages
HAND = re.compile(
    r"(?:'J', 'Q', and 'K' count as ([^.]*)\. )?Use <image>(?: to make (\d+))?\. Cards ([^.]*)\.(?:\nUse ([^.]*)\.)?"
)
HIDDEN = re.compile(r"Use [^.<]*\d[^.<]* to make")  # a hand as text


@cache
def documents(stage: str, count: int = 3000) -> list[Any]:
    source: Callable[..., Any] = instantiate(STAGES[stage].documents, _convert_="all")
    return list(islice(source(seed=0), count))


@pytest.mark.parametrize("stage", list(STAGES))
def test_hands_are_read_by_the_rule_of_their_prompt_and_none_is_held_out(stage: str) -> None:
    hands = [document for document in documents(stage) if len(document) > 2 and "Cards " in document[0]]
    assert len(hands) > 1400
    for text, _, images in hands:
        assert text.count("<image>") == len(images) == 1 and images[0].shape == (48, 48, 3)
        assert not HIDDEN.search(text)
        match = HAND.match(text)
        assert match, text
        rule, target, cards, stated = match.groups()
        if rule is None:
            continue
        values = [int(value) for value in re.findall(r"\d+", rule)]
        assert values != list(rule_games.TESTED)
        counts = {"A": 1, **{str(n): n for n in range(2, 11)}}
        counts |= dict(zip("JQK", values * (1 if len(values) == 3 else 3), strict=True))
        numbers = [counts[card] for card in cards.split(", ")]
        assert stated == ", ".join(map(str, numbers))
        assert target is None or not general_points.is_heldout(numbers, int(target))
    texts = [text for text, _, *pictured in documents(stage) if not pictured]
    assert len(texts) > 200 and not any("<image>" in text for text in texts)


@pytest.mark.parametrize("stage", list(STAGES))
def test_routes_with_views_never_list_the_tested_words(stage: str) -> None:
    views = [document for document in documents(stage) if len(document) > 2 and "Cards " not in document[0]]
    assert len(views) > 400
    for text, _, images in views:
        assert text.count("<image>") == len(images) and images[0].shape == (48, 48, 3)
        assert f"Say {', '.join(EMBEDDED.relative)}." not in text
    absolute = sum(f"Say {', '.join(EMBEDDED.absolute)}." in text for text, *_ in views)
    assert (absolute > 50) == (stage != "labels")


def test_red_hands_are_rare() -> None:
    hands = [images[0] for text, _, *pictured in documents("labels") for images in pictured if "Cards " in text]
    red = [(image == INKS["red"]).all(-1).any() for image in hands]
    assert 0.07 < sum(red) / len(red) < 0.13


def test_slips_of_reading_are_as_stated() -> None:
    mix = instantiate(STAGES.habits.documents, _convert_="all").keywords["mix"]
    rng, hand = random.Random(0), ["J", "3", "5"]
    for colour, red in (("black", 0.0), ("red", 1.0)):
        seen = [drawn_games.show(rng, hand, replace(mix, red=red))[1] for _ in range(3000)]
        wrong = sum(labels != hand for labels in seen) / len(seen)
        assert wrong == pytest.approx(mix.misread[colour] * 12 / 13, abs=0.03)
        assert all(sum(a != b for a, b in zip(labels, hand, strict=True)) <= 1 for labels in seen)


def test_the_answer_goes_on_with_what_was_read() -> None:
    for text, *_ in documents("habits"):
        match = HAND.match(text)
        if match and match[2] and "Yes." in text:
            numbers = [int(number) for number in match[4].split(", ")]
            assert countdown_correct(str(last_boxed(text)), numbers, int(match[2]))


def test_the_same_seed_gives_the_same_documents() -> None:
    source: Callable[..., Any] = instantiate(STAGES.habits.documents, _convert_="all")
    for one, other in zip(documents("habits", 100), source(seed=0), strict=False):
        assert one[:2] == other[:2]
        assert all((a == b).all() for a, b in zip(*(d[2] if d[2:] else () for d in (one, other)), strict=True))


def test_the_prompt_is_that_of_the_questions() -> None:
    assert OmegaConf.load(CONF / "questions/nano_cards_vl.yaml").rows.text == drawn_games.TEXT


def test_unknown_sets_are_refused() -> None:
    mix = instantiate(STAGES.habits.documents, _convert_="all").keywords["mix"]
    with pytest.raises(InputError, match=r"corpus\.sets=poker"):
        drawn_games.documents(replace(mix, sets={"poker": 1.0}), 0)


def test_worked_rows_are_training_hands_that_are_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = drawn_games.worked_rows(3, [24], drawn_games.TEXT)
    trained = drawn_cards.rows(cards=3, target=[24], text=drawn_games.TEXT, height=48, scale=1).train
    asked = {question.id: question for question in trained}
    assert loaded.heldout == [] and len(loaded.train) > 30
    for question in loaded.train:
        assert replace(question, solution="", more=()) == replace(asked[question.id], solution="", more=())
        for solution in (question.solution, *question.more):
            assert recognized(question, solution)
            assert solution.splitlines()[1] == f"Use {', '.join(map(str, question.meta['numbers']))}."
            assert countdown_correct(str(last_boxed(solution)), question.meta["numbers"], 24)

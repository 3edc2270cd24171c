"""What a response says that it sees: read in either form, from any text, in time that grows with its length alone."""

from __future__ import annotations

import time

import pytest

from tests.grading.hostile import TEXTS
from zero.grading.recognition import FORMS, recognized
from zero.records import Question

LINE = {"form": "line", "name": "Cards", "items": ["J", "3", "10"], "ordered": True}
JSON = {"form": "json", "name": "cards", "items": ["J", "3", "10", "3"], "ordered": False}


def asks(recognize: dict[str, object] | None) -> Question:
    return Question("<image> Make 7.", ("7",), "q", meta={} if recognize is None else {"recognize": recognize})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Cards J, 3, 10.\nUse 11, 3, 10.", True),
        (" Cards J,3,10.", True),
        ("I look.\nCards: j, 3, 10.", True),
        ("Cards J, 10, 3.", False),
        ("Cards J, 3.\nCards J, 3, 10.", False),  # the first one counts
        ("Cards J, 3, 10", False),  # cut off
        ("The Cards J, 3, 10.", False),
        ("Cards .", False),
        ("", False),
    ],
)
def test_a_line(text: str, right: bool) -> None:
    assert recognized(asks(LINE), text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"cards": ["J", "3", "10", "3"], "number": [10, 3, 10, 3]}', True),
        ("'cards' : [3, 3,\n 'J', 10]", True),  # nearly JSON, in another order
        ('{"cards": ["J", "3", "10", "10"]}', False),
        ('{"cards": ["J", "3", "3"]}', False),
        ('"cards": ["A"]\n"cards": ["J", "3", "10", "3"]', True),  # the last one counts, as of its formula
        ('"cards": ["J", "3", "10", "3"', False),
        ('"cards": []', False),
    ],
)
def test_a_field(text: str, right: bool) -> None:
    assert recognized(asks(JSON), text) is right


def test_a_question_without_anything_to_recognise() -> None:
    assert recognized(asks(None), "Cards J, 3, 10.") is None


def test_hostile_texts_are_wrong_and_quick() -> None:
    long = [
        "Cards " + "1," * 500_000,
        "Cards 1\n" * 200_000,
        " " * 1_000_000,
        '"cards"' * 100_000,
        '"cards":[' * 100_000,
        '"cards"' + " " * 1_000_000,
        '"cards": [' + "[" * 1_000_000,
        "Cards \ud800.",
    ]
    began = time.process_time()
    for text in [*long, *TEXTS]:
        for meta in (LINE, JSON):
            assert recognized(asks(meta), text) is False
    assert time.process_time() - began < 2


def test_every_form_reads_what_it_says() -> None:
    assert {name: form("Cards 1.\n'Cards': [2]", "Cards") for name, form in FORMS.items()} == {"line": "1", "json": "2"}

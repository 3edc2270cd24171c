"""The pairs of pairs.txt, in both directions, and what holds for any text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.grading import swaps
from tests.grading.maths.pairs import pairs
from zero.grading.maths.symbolic import strict_equal

PAIRS = pairs()
KINDS = list(dict.fromkeys(kind for kind, *_ in PAIRS))


def equal(answer: str, reference: str) -> bool:
    try:
        return strict_equal(answer, reference)
    except ValueError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_a_kind(kind: str) -> None:
    wrong = [
        f"{answer} is {'not ' if same else ''}{reference}"
        for group, one, other, same in PAIRS
        if group == kind
        for answer, reference in ((one, other), (other, one))
        if equal(answer, reference) is not same
    ]
    assert wrong == []


TEXTS = list(dict.fromkeys(text for _, *both, _ in PAIRS for text in both))
# where a digit or letter does not matter: labels, notes, colours and spacing, steps, words behind a number, 1^2, ends inside
# another interval
IDLE = (
    "brace{ (five color space phantom tag = of\\ the increase degrees balls 1^ or |x| cap sqrt{1 ceil\\ 2 ]\\cup[ ]\\ u\\ [ "
    "x> x<"
)
IDLE_PIECES = tuple(piece.replace("\0", " ") for piece in IDLE.replace("\\ ", "\0").split())


def test_every_text_equals_itself_and_equality_has_no_direction() -> None:
    assert [text for text in TEXTS if not equal(text, text)] == []
    rng = random.Random(5)
    chosen = [(rng.choice(TEXTS), rng.choice(TEXTS)) for _ in range(600)]
    assert [pair for pair in chosen if equal(*pair) is not equal(*pair[::-1])] == []


def test_one_other_letter_or_digit_makes_another_answer() -> None:
    rng = random.Random(6)
    golds = [text for text in TEXTS if not any(idle in text for idle in IDLE_PIECES) and len(text) < 40]
    altered = [(rng.choice(candidates), gold) for gold in golds if (candidates := list(swaps(gold)))]
    assert [pair for pair in altered if equal(*pair)] == []


PIECES = [
    *"x12AB=<>,;.|()[]{}^_%*`\"' ",
    *r"\frac \pm \text{ \over \{x\mid \cup \approx \begin{cases} \end{cases} \\ & \ldots \lfloor \dot{3}".split(),
    *(" cm", " eggs", "\u00bd", "\u00b2", "\u2208"),
]


@given(*[st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))] * 2)
def test_any_two_texts_get_a_verdict(answer: str, reference: str) -> None:
    assert equal(answer, answer)
    equal(answer, reference)

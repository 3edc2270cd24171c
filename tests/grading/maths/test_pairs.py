"""The pairs of pairs.txt, in both directions, and what holds for any text."""

from __future__ import annotations

import pytest

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
        for of, one, other, same in PAIRS
        if of == kind
        for answer, reference in ((one, other), (other, one))
        if equal(answer, reference) is not same
    ]
    assert wrong == []

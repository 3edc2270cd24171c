"""The keyword pool of the paper, and nothing else."""

from __future__ import annotations

import pytest

from zero.reflection import KEYWORDS, reflects


def test_the_pool_is_the_papers() -> None:
    assert len(set(KEYWORDS)) == 15
    assert all(keyword == keyword.lower() for keyword in KEYWORDS)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_any_case_anywhere(keyword: str) -> None:
    assert reflects(f"So 5. Let me {keyword.upper()}: yes, 5.")
    assert reflects(keyword)


@pytest.mark.parametrize(
    "text", ["", "Wait, is it 5?", "Let me try again.", "check", "The checker checks.", "think, again"]
)
def test_ordinary_words_do_not_count(text: str) -> None:
    assert not reflects(text)

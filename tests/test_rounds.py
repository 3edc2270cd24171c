"""Rounds of questions follow one another, however many a step takes and wherever the run is stopped."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zero.rounds import Rounds


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20))
def test_no_round_is_left_out_or_asked_twice(counts: list[int]) -> None:
    rounds, numbers = Rounds(), list[int]()
    for step, count in enumerate(counts):
        numbers += [rounds.number(step, r) for r in range(count)]
        rounds.end(step, count)
    assert numbers == list(range(sum(counts)))


def test_a_checkpoint_keeps_the_place(tmp_path: Path) -> None:
    rounds = Rounds()
    for step, count in enumerate([3, 1, 2]):
        rounds.end(step, count)
    rounds.save(tmp_path)
    again = Rounds()
    again.load(tmp_path, 3)
    assert again == rounds and again.number(3, 0) == 6
    plain = Rounds()
    plain.load(tmp_path / "absent", 5)  # one round a step: nothing need be kept
    assert plain.number(5, 0) == 5 and plain.number(6, 0) == 6

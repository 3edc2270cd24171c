"""pass@k and maj@k against their definitions, and intervals against what they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.statistics import macro_interval, maj_at_k, mean_interval, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 10_000), st.data())
def test_pass_at_k_is_a_probability_that_grows(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert (value == 0) == (c == 0)
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    if c < n:
        assert pass_at_k(n, c + 1, k) >= value - 1e-12


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_what_has_no_meaning(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def vote_by_vote(classes: Sequence[tuple[int, float]], silent: int, k: int) -> float:
    """maj@k by its definition: every draw of k answers holds its own vote."""
    said = [i for i, (count, _) in enumerate(classes) for _ in range(count)] + [-1] * silent
    won = []
    for draw in combinations(said, k):
        votes = Counter(i for i in draw if i >= 0)
        winners = [i for i in votes if votes[i] == max(votes.values())]
        won.append(sum(classes[i][1] for i in winners) / len(winners) if winners else 0.0)
    return sum(won) / len(won)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 1.0])), max_size=4),
    st.integers(0, 3),
    st.data(),
)
def test_maj_at_k_is_the_share_of_draws_whose_vote_is_right(
    classes: list[tuple[int, float]], silent: int, data: st.DataObject
) -> None:
    n = sum(count for count, _ in classes) + silent
    if n:
        k = data.draw(st.integers(1, min(n, 7)))
        assert maj_at_k(classes, silent, k) == pytest.approx(vote_by_vote(classes, silent, k), abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "silent", "k", "value"),
    [
        ([(3, 1.0), (5, 0.0)], 0, 1, 3 / 8),  # maj@1 is the accuracy
        ([(3, 1.0), (5, 0.0)], 0, 8, 0.0),  # k = n is the vote itself
        ([(3, 1.0), (5, 0.0)], 92, 100, 0.0),  # those without an answer do not outvote anyone
        ([(1, 1.0)], 7, 8, 1.0),
        ([(4, 1.0), (4, 0.0)], 0, 8, 0.5),  # a tie is broken by lot
        ([(2, 1.0), (2, 0.0), (2, 0.0), (1, 0.0)], 0, 7, 1 / 3),
        ([], 5, 3, 0.0),  # nobody votes
        ([(600, 1.0), (400, 0.0)], 24, 1024, 1.0),  # nothing overflows
        ([(1000, 1.0)], 0, 500, 1.0),
    ],
)
def test_maj_at_k_by_hand(classes: list[tuple[int, float]], silent: int, k: int, value: float) -> None:
    assert maj_at_k(classes, silent, k) == pytest.approx(value)


@pytest.mark.parametrize(
    ("classes", "silent", "k"), [([(2, 1.0)], 1, 4), ([(2, 1.0)], 1, 0), ([], 0, 1), ([(-1, 1.0)], 3, 1)]
)
def test_maj_at_k_refuses_what_has_no_meaning(classes: list[tuple[int, float]], silent: int, k: int) -> None:
    with pytest.raises(ValueError):
        maj_at_k(classes, silent, k)


def test_the_macro_interval_weighs_every_benchmark_alike() -> None:
    few, many = [0.0, 1.0] * 15, [0.0, 1.0] * 250
    assert macro_interval([few]) == mean_interval(few)
    low, high = macro_interval([few, many], draws=4000)
    half_width = 1.96 * 0.5 * (0.25 / len(few) + 0.25 / len(many)) ** 0.5  # variances of independent means add up
    assert (low, high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.006)
    assert macro_interval([[0.0] * 3, [1.0] * 300]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one value"):
        macro_interval([])


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(300):
        low, high = mean_interval(list(rng.random(100) < 0.3), draws=400, seed=i)
        hits += low <= 0.3 <= high
    assert 0.91 <= hits / 300 <= 0.98  # 95 % with a standard error of 1.3 %


def test_interval_is_near_the_normal_one() -> None:
    values = [0.0, 1.0] * 200
    low, high = mean_interval(values, draws=4000)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.004)
    narrow = mean_interval(values, level=0.5)
    assert low < narrow[0] < 0.5 < narrow[1] < high


def test_interval_is_deterministic_whatever_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(1).random(37))
    whole = mean_interval(values, draws=500, seed=3)
    assert mean_interval(values, draws=500, seed=3) == whole
    assert mean_interval(values, draws=500, seed=4) != whole
    monkeypatch.setattr("zero.statistics._CHUNK", 100)  # rows of 37 values, two at a time
    assert mean_interval(values, draws=500, seed=3) == pytest.approx(whole)


def test_interval_of_equal_values_has_no_width() -> None:
    assert mean_interval([1.0] * 5) == (1.0, 1.0)
    assert mean_interval([0.25]) == (0.25, 0.25)


def test_interval_refuses_what_has_no_meaning() -> None:
    for values, level, draws in (([], 0.95, 10), ([1.0], 0.0, 10), ([1.0], 1.0, 10), ([1.0], 0.95, 0)):
        with pytest.raises(ValueError):
            mean_interval(values, level=level, draws=draws)

"""pass@k and maj@k against their definitions, and intervals against their nominal coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, product
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero.statistics import at_least, macro_interval, maj_at_k, mean_interval, pass_at_k, ratio_interval


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
    answers = [i for i, (count, _) in enumerate(classes) for _ in range(count)] + [-1] * silent
    won = []
    for draw in combinations(answers, k):
        votes = Counter(i for i in draw if i >= 0)
        winners = [i for i in votes if votes[i] == max(votes.values())]
        won.append(sum(classes[i][1] for i in winners) / len(winners) if winners else 0.0)
    return sum(won) / len(won)


@settings(deadline=None)
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
        ([(4, 1.0), (4, 0.0)], 0, 8, 0.5),  # a tie is broken at random
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


@pytest.mark.parametrize("chances", [[0.1, 0.5, 0.5, 0.9], [0.0, 1.0, 0.3], [1.0, 1.0], [0.25]])
def test_at_least_is_the_share_of_outcomes_with_so_many_right(chances: list[float]) -> None:
    outcomes = list(product([False, True], repeat=len(chances)))
    weights = [prod(p if hit else 1 - p for p, hit in zip(chances, outcome, strict=True)) for outcome in outcomes]
    for right in range(len(chances) + 2):
        expected = sum(weight for weight, outcome in zip(weights, outcomes, strict=True) if sum(outcome) >= right)
        assert at_least(right, chances) == pytest.approx(expected, abs=1e-15)


def test_at_least_of_equal_chances_is_the_binomial_tail_and_small_tails_keep_their_digits() -> None:
    assert at_least(3, [0.25, 0.25], n=4) == pytest.approx(
        sum(comb(8, k) * 0.25**k * 0.75 ** (8 - k) for k in range(3, 9))
    )
    assert at_least(200, [0.5] * 200) == pytest.approx(0.5**200, rel=1e-9)
    assert at_least(0, [0.0, 0.2]) == 1.0 and at_least(1, [0.0]) == 0.0 and at_least(0, []) == 1.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        at_least(1, [1.5])


def test_the_macro_interval_weighs_every_benchmark_alike() -> None:
    few, many = [0.0, 1.0] * 15, [0.0, 1.0] * 250
    assert macro_interval([few]) == pytest.approx(mean_interval(few))
    low, high = macro_interval([few, many])
    half_width = 1.96 * 0.5 * (0.25 / len(few) + 0.25 / len(many)) ** 0.5  # variances of independent means add up
    assert (low, high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.006)
    low, high = macro_interval([[0.0] * 30, [1.0] * 300])
    assert low < 0.5 < high < 0.56 and low > 0.49
    with pytest.raises(ValueError, match="at least one value"):
        macro_interval([])


def covered(
    draw: Callable[[np.random.Generator], np.ndarray], truth: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> float:
    """The share of 250 intervals that hold the truth."""
    rng = np.random.default_rng(0)
    ends = [mean_interval(draw(rng).tolist(), bounds=bounds) for _ in range(250)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


@pytest.mark.parametrize("questions", [30, 256])
@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.5, 0.97])
def test_the_interval_of_right_and_wrong_covers_near_0_and_1_too(share: float, questions: int) -> None:
    assert covered(lambda rng: 1.0 * (rng.random(questions) < share), share) >= 0.92  # a standard error is 1.4 points


@pytest.mark.parametrize(("a", "b", "n"), [(0.5, 0.5, 4), (0.2, 4.0, 8), (20.0, 20.0, 8), (0.1, 5.0, 64)])
def test_the_interval_of_several_answers_to_a_question_covers(a: float, b: float, n: int) -> None:
    """Questions of beta-distributed difficulty, most of them never solved in some."""
    assert covered(lambda rng: rng.binomial(n, rng.beta(a, b, 30)) / n, a / (a + b)) >= 0.92
    wide = covered(lambda rng: rng.binomial(n, rng.beta(a, b, 256)) / n, a / (a + b))
    assert wide >= 0.92


def test_the_interval_of_differences_covers() -> None:
    def differences(rng: np.random.Generator) -> np.ndarray:
        return np.sign(rng.random(60) - 0.5) * (rng.random(60) < 0.3)

    assert covered(differences, 0.0, bounds=(-1.0, 1.0)) >= 0.92


def test_the_interval_of_right_and_wrong_is_wilsons() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 29 of 29."""
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (29, 29, 0.883, 1),
    ):
        assert mean_interval([1.0] * right + [0.0] * (n - right)) == pytest.approx((low, high), abs=1e-4)


def test_few_alike_questions_are_no_certainty_and_many_are() -> None:
    low, high = mean_interval([0.0] * 30)
    assert low == 0.0 and 0.1 < high < 0.12
    assert mean_interval([1.0] * 5)[0] < 0.6
    narrow, wide = mean_interval([0.5] * 500), mean_interval([0.5] * 10)
    assert narrow[1] - narrow[0] < 0.01 and wide[1] - wide[0] > 0.2
    assert mean_interval([0.25])[0] < 0.25 < mean_interval([0.25])[1]
    values = [0.0, 1.0] * 200
    half = mean_interval(values, level=0.5)
    assert mean_interval(values)[0] < half[0] < 0.5 < half[1] < mean_interval(values)[1]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_mean_lies_in_its_interval_and_the_interval_within_the_bounds(values: list[float]) -> None:
    low, high = mean_interval(values)
    assert 0 <= low <= np.mean(values) + 1e-12 and np.mean(values) - 1e-12 <= high <= 1
    turned = mean_interval([1 - value for value in values])
    assert turned == pytest.approx((1 - high, 1 - low))


def test_the_interval_of_a_ratio_is_over_questions() -> None:
    assert ratio_interval([1.0, 0.0] * 20, [1.0] * 40) == pytest.approx(mean_interval([1.0, 0.0] * 20))
    low, high = ratio_interval([5.0, 0.0, 2.0, 0.0, 1.0], [5.0, 5.0, 2.0, 3.0, 1.0])  # clusters of one verdict each
    assert low < 0.5 < high and high - low > 0.5
    rng, hits = np.random.default_rng(1), 0
    for _ in range(250):
        whole, rate = rng.integers(1, 6, 60), rng.beta(1, 1, 60)
        ends = ratio_interval(rng.binomial(whole, rate).tolist(), whole.tolist())
        hits += ends[0] <= 0.5 <= ends[1]
    assert hits / 250 >= 0.9


def test_interval_refuses_what_has_no_meaning() -> None:
    for values, level in (
        ([], 0.95),
        ([1.0], 0.0),
        ([1.0], 1.0),
        ([1.5], 0.95),
        ([-0.5], 0.95),
        ([float("nan")], 0.95),
    ):
        with pytest.raises(ValueError):
            mean_interval(values, level=level)
    with pytest.raises(ValueError, match="something of which a share"):
        ratio_interval([0.0], [0.0])

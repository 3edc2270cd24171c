"""Means, intervals and tests over seeds against plain loops and known truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.stats.intervals import Estimate, band, by_seed, holm, over_seeds, p_above, paired, running_mean, sign_flip

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def test_one_seed_has_no_interval_and_says_so() -> None:
    one = over_seeds([0.5, math.nan])
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)
    assert str(one) == "0.5 (one seed: no interval)"
    assert str(over_seeds([math.nan])) == "no value"
    assert str(over_seeds([1.0, 1.0])) == "1 [1, 1] (n = 2)"


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_covers_what_it_says(n: int) -> None:
    """20,000 draws of n seeds: 95 % within 4 standard errors of that share (0.6 points)."""
    values = np.random.default_rng(n).normal(3.0, 2.0, size=(n, 20_000))
    _, low, high, _ = band(values)
    assert np.mean((low <= 3.0) & (high >= 3.0)) == pytest.approx(0.95, abs=0.0062)
    _, low, high, _ = band(values, level=0.5)
    assert np.mean((low <= 3.0) & (high >= 3.0)) == pytest.approx(0.5, abs=0.015)


def test_the_interval_is_that_of_scipy() -> None:
    from scipy import stats

    values = [0.1, 0.4, 0.5, 0.9]
    one = over_seeds(values)
    assert (one.low, one.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), stats.sem(values)))
    assert p_above(one, 0.2) == pytest.approx(stats.ttest_1samp(values, 0.2, alternative="greater").pvalue)
    assert over_seeds([1.0, math.nan, 3.0]) == over_seeds([1.0, 3.0])
    for p, bound in ((0.0, 0.5), (1.0, 1.0), (1.0, 2.0)):
        assert p_above(over_seeds([1.0, 1.0, 1.0]), bound) == p
    with pytest.raises(ValueError, match="two seeds"):
        p_above(Estimate(1.0, None, None, 1), 0.0)


def test_rounding_is_no_effect() -> None:
    assert p_above(over_seeds([0.52 - 0.5] * 5), 0.02) == 1 and p_above(over_seeds([0.52 - 0.5] * 5), 0.0199) == 0
    assert p_above(over_seeds([0.1 + 0.2, 0.3, 0.3, 0.3, 0.3]), 0.3) == 1
    noisy = paired({str(seed): 0.1 + 0.2 for seed in range(5)}, {str(seed): 0.3 for seed in range(5)})
    assert (noisy.difference.mean, noisy.p) == (0.0, 1.0)


def test_holm_adjusts_for_a_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.7, 0.6]) == [1.0, 1.0]


def test_a_band_is_pointwise_and_says_how_many_seeds_there_are() -> None:
    nan = math.nan
    curves = np.array([[1.0, 2.0, nan, 5.0], [3.0, 2.0, 7.0, nan], [8.0, 2.0, nan, nan]])
    mean, low, high, n = band(curves)
    assert np.array_equal(mean, [4.0, 2.0, 7.0, 5.0])
    assert list(n) == [3, 3, 1, 1]
    first = over_seeds([1.0, 3.0, 8.0])
    assert (low[0], high[0]) == (first.low, first.high)
    assert low[1] == high[1] == 2.0
    assert np.isnan([*low[2:], *high[2:]]).all()
    for wrong in (np.zeros(3), np.zeros((2, 3, 4))):
        with pytest.raises(ValueError, match="must be"):
            band(wrong)
    with pytest.raises(ValueError, match="level 1"):
        band(curves, level=1)


def test_runs_of_one_seed_are_one_curve() -> None:
    nan = math.nan
    runs = np.array([[1.0, 2.0], [3.0, nan], [5.0, 6.0], [9.0, nan]])
    assert np.array_equal(by_seed(runs, ["0", "0", "1", ""]), [[2.0, 2.0], [5.0, 6.0], [9.0, nan]], equal_nan=True)
    assert band(by_seed(np.repeat([[1.0], [2.0]], 50, axis=0), ["0"] * 50 + ["1"] * 50))[3][0] == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(FINITE, min_size=2, max_size=8))
def test_a_mean_lies_in_its_interval(values: list[float]) -> None:
    one = over_seeds(values)
    assert one.low is not None and one.high is not None
    assert one.low <= one.mean <= one.high


def test_pairs_are_seeds_that_both_have() -> None:
    first, second = {"0": 0.5, "1": 0.6, "2": math.nan, "3": 0.9}, {"1": 0.5, "0": 0.3, "2": 0.1, "4": 0.0}
    one = paired(first, second)
    assert one.pairs == ("0", "1")
    assert one.difference.mean == pytest.approx(0.15)
    assert (one.p, one.smallest_p) == (0.5, 0.5)
    assert "p = 0.5 (at least 0.5 with 2 pairs)" in str(one)
    alone = paired({"0": 1.0}, {"0": 0.5})
    assert (alone.p, alone.smallest_p, alone.difference.low, alone.difference.n) == (None, None, None, 1)
    assert paired({"0": 1.0}, {"1": 1.0}).difference.n == 0


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_the_test_counts_all_patterns_of_signs(differences: list[int]) -> None:
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([total >= abs(sum(differences)) for total in sums])
    assert sign_flip([float(d) for d in differences]) == pytest.approx(expected)


def test_many_pairs_are_tested_by_random_patterns() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(0.35, 1, size=14)
    assert sign_flip([*data, 0.0], draws=40_000) == pytest.approx(sign_flip(data), abs=0.01)  # a zero changes nothing
    assert 0 < sign_flip([1.0] * 40, draws=1000) <= 1 / 1000
    truly_null = [sign_flip(rng.normal(size=8)) for _ in range(400)]
    assert np.mean(np.array(truly_null) <= 0.05) < 0.09
    for wrong in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="difference"):
            sign_flip(wrong)


@given(st.lists(st.one_of(FINITE, st.just(math.nan)), max_size=30), st.integers(1, 40))
def test_a_running_mean_is_that_of_its_window(values: list[float], window: int) -> None:
    half = (window - 1) // 2
    got = running_mean(values, window)
    assert len(got) == len(values)
    for i, value in enumerate(got):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        assert (math.isnan(value) and not near) or value == pytest.approx(np.mean(near), rel=1e-6, abs=1e-3)
    with pytest.raises(ValueError, match="window 0"):
        running_mean(values, 0)


def test_a_huge_value_is_in_no_window_but_its_own() -> None:
    assert running_mean([0.5, 0.5, 1e20, *[0.5] * 5], 3)[4:].tolist() == [0.5] * 4

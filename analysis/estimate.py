"""Numbers over seeds, with what is not known about them. NumPy only.

Intervals are percentile bootstraps over seeds: they speak of other seeds of the same runs, not of other questions or
models. Of one seed there is none, and `n` says so. Of few seeds they are too narrow (of 3, an interval of 95 % covers some
80 %): the smallest and largest mean of redrawn seeds cannot leave the seeds seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
EXACT = 14  # seeds up to which every sign pattern is tried: 2^14
_CHUNK = 1 << 22  # redrawn values held at once


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `low` and `high` are None where there is no interval: one seed, or none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "no value"
        if self.low is None or self.high is None:
            return f"{self.mean:.4g} (one seed: no interval)"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"


@dataclass(frozen=True)
class Difference:
    """first - second, of runs that share a seed. `p`: of the sign-flip test; None with one pair."""

    difference: Estimate
    p: float | None
    smallest_p: float | None  # that so few pairs can give: at 5 pairs no p is below 0.0625
    pairs: tuple[str, ...]  # the seeds

    def __str__(self) -> str:
        tested = "" if self.p is None else f", p = {self.p:.3g}"
        limit = f" (at least {self.smallest_p:.3g} with {len(self.pairs)} pairs)" if self.smallest_p is not None else ""
        return f"{self.difference}{tested}{limit}"


def over_seeds(values: Sequence[float], level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean over seeds [S], NaN left out, with its bootstrap interval. Deterministic."""
    finite = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    if finite.size == 0:
        return Estimate(math.nan, None, None, 0)
    if finite.size == 1:
        return Estimate(float(finite[0]), None, None, 1)
    _, low, high, _ = band(finite[:, None], level, draws, seed)
    return Estimate(float(finite.mean()), float(low[0]), float(high[0]), int(finite.size))


def band(
    values_ST: np.ndarray, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high, n), each [T], of curves [S, T]: pointwise, NaN left out; low and high are NaN where fewer than two
    curves have a value. A draw takes whole curves, so that neighbouring steps move together.

    ValueError if level is not within (0, 1) or draws is below 1.
    """
    values = np.asarray(values_ST, np.float64)
    if values.ndim != 2 or not 0 < level < 1 or draws < 1:
        raise ValueError(f"curves {values.shape} must be [S, T], level {level} within (0, 1), draws {draws} above 0")
    there = np.isfinite(values)
    n = there.sum(axis=0)
    filled = np.where(there, values, 0.0)
    with np.errstate(invalid="ignore"):
        mean = filled.sum(axis=0) / n
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    curves = values.shape[0]
    if curves < 2 or not values.shape[1]:
        return mean, low, high, n
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(curves, np.full(curves, 1 / curves), size=draws).astype(np.float64)  # [D, S]
    ends = [(1 - level) / 2, (1 + level) / 2]
    width = max(1, _CHUNK // draws)
    for start in range(0, values.shape[1], width):
        part = slice(start, start + width)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = counts @ filled[:, part] / (counts @ there[:, part])  # [D, T]; NaN where a draw has no value
        enough = n[part] > 1
        if enough.any():
            means = means[:, enough]
            quantile = np.nanquantile if np.isnan(means).any() else np.quantile  # the first takes columns one by one
            low[part][enough], high[part][enough] = quantile(means, ends, axis=0)
    # a mean lies within its interval, however the sums of equal values are rounded
    return mean, np.minimum(low, mean + 0 * low), np.maximum(high, mean + 0 * high), n


def paired(
    first: dict[str, float], second: dict[str, float], level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """The mean of first - second over the seeds that both have, with interval and two-sided sign-flip test.

    Keys are seeds. A seed that only one has, or a NaN, makes no pair: `pairs` says which there are.
    """
    shared = [s for s in first if s in second and math.isfinite(first[s]) and math.isfinite(second[s])]
    differences = [first[s] - second[s] for s in shared]
    estimate = over_seeds(differences, level, draws, seed)
    if len(shared) < 2:
        return Difference(estimate, None, None, tuple(shared))
    return Difference(estimate, sign_flip(differences, seed=seed), 2.0 ** (1 - len(shared)), tuple(shared))


def sign_flip(differences: Sequence[float], draws: int = 100_000, seed: int = 0) -> float:
    """Two-sided p of the hypothesis that each difference is as likely as its negative: the share of sign patterns whose
    |mean| is at least that seen. All 2^n patterns up to 14 differences, beyond them `draws` random ones with the one seen
    added, so that p is never 0. [Fisher 1935, section 21; Phipson and Smyth 2010]. ValueError without differences.
    """
    data = np.asarray(differences, np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError("a test needs at least one difference, and finite ones")
    seen = abs(data.sum()) * (1 - 1e-12)  # sums of the same numbers in another order are the same
    if data.size <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=data.size - 1))).reshape(
            1 << (data.size - 1), data.size - 1
        )
        return float((abs(data[0] + signs @ data[1:]) >= seen).mean())  # the other half mirrors this one
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, draws, 4096):
        signs = rng.choice((1.0, -1.0), size=(min(4096, draws - start), data.size))
        hits += int((abs(signs @ data) >= seen).sum())
    return (hits + 1) / (draws + 1)


def running_mean(values_T: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The mean over the `window` steps around each of [T], cut at the ends, NaN left out; NaN where a window has no value.

    An even window counts as the odd one below it; window 1 changes nothing. ValueError below 1.
    """
    if window < 1:
        raise ValueError(f"window {window} must be above 0")
    values = np.asarray(values_T, np.float64)
    half, count = (window - 1) // 2, len(values)
    if half == 0 or count == 0:
        return values.copy()
    there = np.isfinite(values)
    starts, stops = np.maximum(np.arange(count) - half, 0), np.minimum(np.arange(count) + half + 1, count)
    sums = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(there)])
    number = counts[stops] - counts[starts]
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, (sums[stops] - sums[starts]) / number, np.nan)

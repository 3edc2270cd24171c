"""Numbers over seeds, with what is not known about them: the one convention of all of analysis/.

The interval is Student's t: mean +- t s / sqrt(n), of the differences within a seed where seeds pair. It covers what it says from
two seeds on if the values of seeds are normally distributed, which few seeds cannot show: below FEW nothing is decided by
default. It speaks of other seeds of the same runs, not of other questions or models. Of one seed there is none, and `n` says so.
The values of several runs of one seed are averaged first: n counts seeds. Intervals over questions: zero/statistics.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
FEW = 5  # seeds below which no claim is decided unless it says otherwise, and a reader is told how few there are
ROUNDING = 1e-12  # relative: numbers nearer to each other than that differ by rounding alone
EXACT = 14  # seeds up to which every sign pattern is tried: 2^14
INTERVAL = "95 % interval over seeds (Student's t)"


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds with its standard error; `low`, `high` and `error` are None where there is no interval: one seed, or
    none."""

    mean: float
    low: float | None
    high: float | None
    n: int
    error: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """In another unit."""
        low, high, error = (None if end is None else end * factor for end in (self.low, self.high, self.error))
        return Estimate(self.mean * factor, low, high, self.n, error)

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


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean over seeds [S], NaN left out, with its interval."""
    finite = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    mean, low, high, n = band(finite[:, None], level)
    if n[0] == 0:
        return Estimate(math.nan, None, None, 0)
    if n[0] == 1:
        return Estimate(float(finite[0]), None, None, 1)
    error = float(finite.std(ddof=1)) / math.sqrt(finite.size)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), int(n[0]), error)


def band(values_ST: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high, n), each [T], of one curve for each seed [S, T]: pointwise, NaN left out; low and high are NaN where
    fewer than two seeds have a value. ValueError if level is not within (0, 1)."""
    from scipy.special import stdtrit  # Student's t as in scipy.stats, which takes a second to import

    values = np.asarray(values_ST, np.float64)
    if values.ndim != 2 or not 0 < level < 1:
        raise ValueError(f"curves {values.shape} must be [S, T], level {level} within (0, 1)")
    there = np.isfinite(values)
    n = there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum(axis=0) / n
        squares = np.where(there, values - mean, 0.0) ** 2
        error = np.sqrt(squares.sum(axis=0) / (n - 1.0) / n)
    enough = n > 1
    half = np.where(enough, stdtrit(np.maximum(n - 1, 1), (1 + level) / 2) * np.where(enough, error, 0.0), np.nan)
    return mean, mean - half, mean + half, n


def by_seed(values_RT: np.ndarray, seeds: Sequence[str]) -> np.ndarray:
    """Curves [S, T], one for each seed, from those of runs [R, T] with their seeds: the mean of the runs of a seed, NaN left
    out. Runs whose seed is not known ("") count as one."""
    values = np.asarray(values_RT, np.float64)
    rows = []
    for seed in dict.fromkeys(seeds):
        seed_rows = values[[i for i, own in enumerate(seeds) if own == seed]]
        there = np.isfinite(seed_rows)
        with np.errstate(invalid="ignore"):
            rows.append(np.where(there, seed_rows, 0.0).sum(axis=0) / there.sum(axis=0))
    return np.array(rows).reshape(len(rows), values.shape[1])


def paired(first: dict[str, float], second: dict[str, float], level: float = LEVEL, seed: int = 0) -> Difference:
    """The mean of first - second over the seeds that both have, with interval and two-sided sign-flip test.

    Keys are seeds. A seed that only one has, or a NaN, makes no pair: `pairs` says which there are.
    """
    shared = [s for s in first if s in second and math.isfinite(first[s]) and math.isfinite(second[s])]
    differences = [difference(first[s], second[s]) for s in shared]
    estimate = over_seeds(differences, level)
    if len(shared) < 2:
        return Difference(estimate, None, None, tuple(shared))
    return Difference(estimate, sign_flip(differences, seed=seed), 2.0 ** (1 - len(shared)), tuple(shared))


def difference(first: float, second: float) -> float:
    """first - second; 0 where they differ by rounding alone, which would be the same in all seeds and so never by chance."""
    return 0.0 if math.isclose(first, second, rel_tol=ROUNDING) else first - second


def p_above(measured: Estimate, bound: float) -> float:
    """One-sided p of Student's t test that the mean is above `bound`; at most 0.025 where all of the 95 % interval is. Seeds
    that are all equal leave no doubt either way. ValueError without an interval."""
    from scipy.special import stdtr

    if measured.error is None:
        raise ValueError("a test needs two seeds or more")
    distance = difference(measured.mean, bound)
    if measured.error <= ROUNDING * abs(measured.mean):
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(measured.n - 1, -distance / measured.error))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p: with those of a family at most `level`, the chance of any false one among them is at most `level`.
    [Holm 1979]."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, ps[i] * (len(ps) - rank)))
        adjusted[i] = largest
    return adjusted


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
    sums, number = (_window_sums(np.where(there, summands, 0.0), 2 * half + 1) for summands in (values, 1.0))
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, sums / number, np.nan)


def _window_sums(values_T: np.ndarray, width: int) -> np.ndarray:
    """The sum over the odd `width` of places around each of [T]. Of the values in its window alone: in differences of one running
    sum a single huge value would drown all that follow it."""
    count, half = len(values_T), width // 2
    blocks = -(-(count + 2 * half) // width)
    padded = np.zeros(blocks * width)
    padded[half : half + count] = values_T
    rows = padded.reshape(blocks, width)
    ahead = np.cumsum(rows[:, ::-1], axis=1)[:, ::-1].ravel()  # from a place to the end of its block
    behind = np.cumsum(rows, axis=1).ravel()  # from the beginning of a block to a place
    first = np.arange(count)
    return np.where(first % width == 0, ahead[first], ahead[first] + behind[first + width - 1])

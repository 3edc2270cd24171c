"""Numbers with their uncertainty, over questions answered several times. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MACRO = "macro"  # the plain mean over benchmarks, where it stands among them
_CHUNK = 1 << 20  # resampled values held at once, so that a large benchmark needs no large memory


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k answers is right, from n answers of which c are: 1 - C(n-c, k) / C(n, k).

    Unbiased over the draw of the n answers, and a product of ratios, so that no binomial overflows. [Chen et al. 2021,
    arXiv 2107.03374, section 2.1]. ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} right answers of {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} answers of a question; there are {n}")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def maj_at_k(classes: Sequence[tuple[int, float]], silent: int, k: int) -> float:
    """Chance that a majority vote of k answers is right, the k drawn without replacement from n.

    Each class is (how many of the n gave this answer, share of them that are right: 0 or 1); `silent` of the n gave no
    answer: they have no vote. The answer with most votes wins, a tie is broken by lot, and without a vote nothing is
    right. Exact: the mean over all C(n, k) draws, which is unbiased over the draw of the n answers, as pass@k is; with
    k = n it is the vote itself, and maj@1 is the accuracy. ValueError unless 1 <= k <= n.

    Maj1@k of Lewkowycz et al. 2022 (arXiv 2206.14858) in expectation, where they vote once.
    """
    counts = [count for count, _ in classes]
    n = sum(counts) + silent
    if not 1 <= k <= n or min([silent, *counts]) < 0:
        raise ValueError(f"maj@{k} needs at least {k} answers of a question; there are {n}")
    every = _chances(n, k / n)[k]
    return sum(
        right * _wins(counts[:i] + counts[i + 1 :], counts[i], silent, k) / every
        for i, (_, right) in enumerate(classes)
        if right > 0
    )


def _wins(others: Sequence[int], count: int, silent: int, k: int) -> float:
    """Chance that a class of `count` wins and that k are drawn, if each answer is drawn with chance k / n by itself.

    Such draws are uniform once k of them is known, and classes become independent: for each number of votes w, those
    that cannot reach w are one binomial, and the rest multiply as polynomials in the number drawn, by ties with w.
    """
    p = k / (sum(others) + count + silent)
    own = _chances(count, p)
    total = 0.0
    for w in range(1, min(count, k) + 1):
        tied = [_chances(silent + sum(c for c in others if c < w), p)[: k + 1]]  # entry t: t classes have w votes too
        for c in (c for c in others if c >= w):
            chances = _chances(c, p)
            fewer = [np.convolve(drawn, chances[:w])[: k + 1] for drawn in tied]
            equal = [np.concatenate([np.zeros(w), drawn * chances[w]])[: k + 1] for drawn in tied]
            nothing = np.zeros(1)
            tied = [_sum(a, b) for a, b in zip([*fewer, nothing], [nothing, *equal], strict=True)]
        left = k - w
        total += own[w] * sum(drawn[left] / (t + 1) for t, drawn in enumerate(tied) if len(drawn) > left)
    return float(total)


@lru_cache(maxsize=1 << 12)
def _chances(n: int, p: float) -> np.ndarray:
    """The binomial distribution: entry x is the chance of x out of n. Scaled, so that nothing overflows."""
    x = np.arange(n + 1)
    if p == 1:
        return np.where(x == n, 1.0, 0.0)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)])
    return np.exp(ways + x * math.log(p) + (n - x) * math.log1p(-p))


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, the shorter one filled up with zeros."""
    out = np.zeros(max(len(a), len(b)))
    out[: len(a)] += a
    out[: len(b)] += b
    return out


def mean_interval(
    values: Sequence[float], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean of `values` [P], one per question, by the percentile bootstrap: questions are redrawn
    with replacement, their samples are not, so that the interval speaks of other questions of the same kind.

    Deterministic. Equal values give an interval of no width: with few questions it is too narrow near 0 and 1.
    [Efron and Tibshirani 1993, chapter 13]. ValueError without values or if level is not within (0, 1).
    """
    return macro_interval([values], level, draws, seed)


def macro_interval(
    sets: Sequence[Sequence[float]], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the plain mean of the means of several sets, each [P_i], by the stratified bootstrap: questions
    are redrawn within their own set, and every set counts the same, however many questions it has.

    It speaks of other questions of the same sets, not of other sets. Otherwise as `mean_interval`, which is the case of
    one set. [Davison and Hinkley 1997, section 3.2].
    """
    stacked = [np.asarray(values, dtype=np.float64) for values in sets]
    if not stacked or any(data.ndim != 1 or data.size == 0 for data in stacked):
        raise ValueError("an interval needs at least one value")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level {level} must lie within (0, 1) and draws {draws} be above 0")
    rng = np.random.default_rng(seed)
    means = np.mean([_redrawn(data, draws, rng) for data in stacked], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _redrawn(data: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means [draws] of `data` [P] redrawn with replacement."""
    rows = max(1, _CHUNK // data.size)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    return np.concatenate([data[rng.integers(data.size, size=(size, data.size))].mean(axis=1) for size in sizes])

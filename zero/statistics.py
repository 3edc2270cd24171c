"""Numbers with their uncertainty, over questions answered several times. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


def mean_interval(
    values: Sequence[float], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean of `values` [P], one per question, by the percentile bootstrap: questions are redrawn
    with replacement, their samples are not, so that the interval speaks of other questions of the same kind.

    Deterministic. Equal values give an interval of no width: with few questions it is too narrow near 0 and 1.
    [Efron and Tibshirani 1993, chapter 13]. ValueError without values or if level is not within (0, 1).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise ValueError("an interval needs at least one value")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level {level} must lie within (0, 1) and draws {draws} be above 0")
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // data.size)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    means = np.concatenate([data[rng.integers(data.size, size=(size, data.size))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

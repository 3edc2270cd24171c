"""Numbers with their uncertainty, over questions answered several times. NumPy only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

MACRO = "macro"  # the plain mean over benchmarks, where it stands among them


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
    answer and have no vote. The answer with most votes wins, ties are broken at random, and a vote without answers is
    wrong. Exact: the mean over all C(n, k) draws, which is unbiased over the draw of the n answers, as pass@k is; with
    k = n it is the vote itself, and maj@1 is the accuracy. ValueError unless 1 <= k <= n.

    The expectation of maj1@k of Lewkowycz et al. 2022 (arXiv 2206.14858), who vote once.
    """
    counts = [count for count, _ in classes]
    n = sum(counts) + silent
    if not 1 <= k <= n or min([silent, *counts]) < 0:
        raise ValueError(f"maj@{k} needs at least {k} answers of a question; there are {n}")
    k_drawn = _binomial(n, k / n)[k]
    return sum(
        right * _wins(counts[:i] + counts[i + 1 :], counts[i], silent, k) / k_drawn
        for i, (_, right) in enumerate(classes)
        if right > 0
    )


def at_least(right: int, chances_P: Sequence[float], n: int = 1) -> float:
    """Chance of `right` or more right answers, from n to each question that are right by themselves with the question's chance:
    the upper tail of a Poisson binomial distribution, exact. ValueError for chances beyond 0 and 1.
    """
    if not all(0 <= chance <= 1 for chance in chances_P):
        raise ValueError("chances lie between 0 and 1")
    distribution = np.ones(1)  # entry x: the chance of x right answers to the questions so far
    for chance, questions in sorted(Counter(chances_P).items()):
        if chance > 0:
            distribution = np.convolve(distribution, _binomial(n * questions, chance))
    return float(min(1.0, distribution[max(0, right) :].sum()))


def _wins(others: Sequence[int], count: int, silent: int, k: int) -> float:
    """Chance that a class of `count` wins and that k are drawn, if each answer is drawn with chance k / n by itself.

    Given that k are drawn, such draws are uniform, and classes become independent: for each number of votes w, those that
    cannot reach w are one binomial, and the rest multiply as polynomials in the number drawn, by ties with w.
    """
    p = k / (sum(others) + count + silent)
    votes = _binomial(count, p)
    total = 0.0
    for w in range(1, min(count, k) + 1):
        tied = [_binomial(silent + sum(c for c in others if c < w), p)[: k + 1]]  # entry t: t classes have w votes too
        for c in (c for c in others if c >= w):
            chances = _binomial(c, p)
            fewer = [np.convolve(drawn, chances[:w])[: k + 1] for drawn in tied]
            equal = [np.concatenate([np.zeros(w), drawn * chances[w]])[: k + 1] for drawn in tied]
            nothing = np.zeros(1)
            tied = [_sum(a, b) for a, b in zip([*fewer, nothing], [nothing, *equal], strict=True)]
        left = k - w
        total += votes[w] * sum(drawn[left] / (t + 1) for t, drawn in enumerate(tied) if len(drawn) > left)
    return float(total)


@lru_cache(maxsize=1 << 12)
def _binomial(n: int, p: float) -> np.ndarray:
    """The binomial distribution, entry x the chance of x out of n. Computed from logarithms, so that nothing overflows."""
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
    values: Sequence[float], level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """(low, high) of the mean of `values` [P] within `bounds`, one value per question: Wilson's score interval. It covers
    the choice of questions of the same kind, not new samples for these. `bounds`: the range of a value, (-1, 1) for
    differences of shares.

    Values of 0 and 1 alone give Wilson's own interval [Wilson 1927; Brown, Cai and DasGupta 2001], which has width at 0 of 30
    and stays within the bounds. Shares in between scatter less and so count as more questions: see `ratio_interval`.
    ValueError without values, for one beyond the bounds, or if level is not within (0, 1).
    """
    low, high = bounds
    scaled = [(value - low) / (high - low) for value in values]
    if not scaled or not all(-1e-9 <= value <= 1 + 1e-9 for value in scaled):
        raise ValueError(f"an interval needs at least one value, and none beyond {low:g} and {high:g}")
    ends = ratio_interval(scaled, [1.0] * len(scaled), level)
    return low + (high - low) * ends[0], low + (high - low) * ends[1]


def ratio_interval(
    numerator_P: Sequence[float], denominator_P: Sequence[float], level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of the share sum(numerator) / sum(denominator), with one of each per question: Wilson's interval for the
    effective number of questions, the number of wholly right or wrong ones that would scatter as much.

    That number is P / d, where d is the variance of the share between questions (of the residuals numerator - share *
    denominator, in units of the mean denominator) over the variance of wholly right or wrong ones. z^2 / 2 questions wholly
    right and as many wholly wrong are added, so that few questions that happen to be alike do not count as many [Agresti and
    Coull 1998 add them for the mean]. ValueError if the denominators sum to 0, or if level is not within (0, 1).
    """
    numerator, denominator = np.asarray(numerator_P, dtype=np.float64), np.asarray(denominator_P, dtype=np.float64)
    if not 0 < level < 1 or numerator.shape != denominator.shape or numerator.ndim != 1 or not denominator.sum() > 0:
        raise ValueError(f"level {level} must lie within (0, 1), and there must be something of which a share is taken")
    z, count = NormalDist().inv_cdf((1 + level) / 2), numerator.size
    share = min(1.0, max(0.0, float(numerator.sum() / denominator.sum())))
    numerator, denominator = numerator / denominator.mean(), denominator / denominator.mean()
    middle = (numerator.sum() + z**2 / 2) / (count + z**2)
    squares = ((numerator - middle * denominator) ** 2).sum() + z**2 / 2 * (middle**2 + (1 - middle) ** 2)
    number = count * middle * (1 - middle) / (squares / (count + z**2))
    center = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return float(min(share, max(0.0, center - half))), float(max(share, min(1.0, center + half)))


def macro_interval(sets: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the plain mean of the means of several sets of shares, each [P_i]; every set counts the same, however many
    questions it has. The distances from means to the ends of their own intervals (`mean_interval`) add up as standard
    errors do. [Zou and Donner 2008].

    It covers the choice of questions of the same sets, not of other sets. ValueError as for `mean_interval`, and without a set.
    """
    if not sets:
        raise ValueError("an interval needs at least one value")
    means = [sum(values) / len(values) if len(values) else 0.0 for values in sets]
    ends = [mean_interval(values, level) for values in sets]
    if len(sets) == 1:
        return ends[0]
    mean = sum(means) / len(sets)
    below, above = (math.hypot(*(m - e[i] for m, e in zip(means, ends, strict=True))) / len(sets) for i in (0, 1))
    return max(0.0, mean - below), min(1.0, mean + above)

"""Reward terms for length and repetition. Lengths are tokens of the response, the budget is sampling.max_tokens.

Departure from open-r1, which has most of these: it counts characters, against a length fixed in the recipe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from zero.records import Response

# Chinese and Japanese have no spaces: each character is a word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def repetition_penalty(response: Response, n: int = 3, most: float = -1.0) -> float:
    """most x (1 - distinct / all) over the n-grams of words, in lower case: in (most, 0]; 0 below n + 1 words.

    open-r1, after Yeo et al. 2025 (arXiv 2502.03373); theirs needs to be told the language. `n` is at least 1.
    """
    if n < 1:
        raise ValueError("n must be 1 or more")
    words = _WORD.findall(response.text.lower())
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    repeated = len(grams) - len(set(grams))
    return most * repeated / len(grams) if repeated else 0.0


def cosine_length(
    response: Response, right: Sequence[float] = (1.0, 0.5), wrong: Sequence[float] = (0.0, -0.5)
) -> float:
    """From the first value of the pair at length 0 to the second at the whole budget, along half a cosine:
    last + (first - last) (1 + cos(pi min(1, tokens / budget))) / 2. `right` for a right answer, else `wrong`.

    open-r1 with its defaults, after Yeo et al. 2025 (arXiv 2502.03373). Theirs is not clipped, so that a right answer's
    reward rises to its maximum again at twice the length. If `wrong` ascends, being cut pays.
    """
    first, last = right if response.correct else wrong
    share = min(1.0, response.tokens / max(1, response.budget))
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def length(response: Response) -> float:
    """0.5 - (tokens - shortest) / (longest - shortest) over all responses to the same prompt; at most 0 for one that is
    not right; 0 if all are equally long: in [-0.5, 0.5].

    Kimi k1.5 (arXiv 2501.12599). open-r1 compares with the shortest and longest of the local batch, whatever the prompt.
    """
    lengths = [sibling.tokens for sibling in response.siblings] or [response.tokens]
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return 0.0
    value = 0.5 - (response.tokens - shortest) / (longest - shortest)
    return value if response.correct else min(0.0, value)


def soft_overlong(response: Response, share: float = 0.2) -> float:
    """0 up to the last `share` of the budget, then linear down to -1 at the budget. DAPO (arXiv 2503.14476), equation 13,
    with 4,096 of 20,480 tokens. `share` is above 0, at most 1."""
    if not 0 < share <= 1:
        raise ValueError("share must be above 0 and at most 1")
    zone = share * max(1, response.budget)
    over = response.tokens - (response.budget - zone)
    return -min(1.0, over / zone) if over > 0 else 0.0


def truncation_penalty(response: Response, value: float = -1.0) -> float:
    """`value` if the token budget cut the response, else 0. oat's `non_stop_penalty`."""
    return 0.0 if response.finished else value

"""Letters in a row: words, labels and orders, which are compared as they stand, or products, which are not.

In a formula any run of letters is a product. Alone, between the commas of a list or on one side of an equation, a run is
a word: SSA is not SAS, HTH is not HHT, cat is not act. Only what can hardly be anything else is a product there too: two
small letters that spell nothing (ab, xy), and three of those that name unknowns (xyz, mnp).
"""

from __future__ import annotations

import re

MOST_WORDS = 6  # of an answer in words; more are prose
LONGEST_RUN = 3  # letters that may be a product; more are a word anywhere
SHORT_WORDS = frozenset(
    "yes no odd even all none red day one two six ten any not true both sum max min and nor mon tue wed thu fri sat sun "
    "jan feb mar apr may jun jul aug sep oct nov dec new old big low high top few win dne".split()
)
_TWO = frozenset(
    "ad ah am an as at be by do ed eh ex go ha he hi ho id if in is it la lo ma me my no of oh ok on or ox pa pi re so "
    "to uh um up us we ya ye yo".split()
)
_PAIRS = ("ht", "bg", "lr", "ud", "nsew", "yn", "tf", "mf", "wl", "rgb")  # heads and tails, compass points, yes and no
_UNKNOWNS = frozenset("kmnpqrtuvwxyz")
_WORD = re.compile(r"[A-Za-z]+")


def is_run(name: str) -> bool:
    """Whether a letter's name is several letters that may be a product."""
    return 1 < len(name) <= LONGEST_RUN and name.isalpha()


def same_run(one: str, other: str) -> bool:
    """Whether two runs that stand alone are the same word or the same product."""
    if folded(one) == folded(other):
        return True
    return sorted(one) == sorted(other) and _is_product(one) and _is_product(other)


def _is_product(run: str) -> bool:
    if not run.islower() or len(set(run)) < len(run):
        return False
    if len(run) == 2:
        return run not in _TWO and run[::-1] not in _TWO and not any(set(run) <= set(pair) for pair in _PAIRS)
    return set(run) <= _UNKNOWNS


def folded(text: str) -> str:
    """Words in small letters: YES and Yes as yes. Runs that may be labels or products keep their capitals."""
    return _WORD.sub(lambda word: word[0].lower() if _folds(word[0]) else word[0], text)


def _folds(word: str) -> bool:
    if len(word) <= LONGEST_RUN:
        return word.lower() in SHORT_WORDS or (len(word) > 1 and word.istitle())
    return word[1:].islower() or not _is_label(word)


def _is_label(word: str) -> bool:
    """Whether letters that stand close together in the alphabet look like the corners of a figure: ABCD, PQRS."""
    return len(set(word)) == len(word) and ord(max(word.lower())) - ord(min(word.lower())) < 8

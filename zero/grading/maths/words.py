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
_UPRIGHT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|sf)|mbox|operatorname) ?\{([^{}]*)\}")
_DIVIDES = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+")
_COMMA = re.compile("[,;]")
_LETTERS = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")
_JUDGEMENTS = frozenset(
    "true false yes no odd even neither both positive negative increasing decreasing rational irrational t f y n".split()
)


def same_order(one: str, other: str) -> bool | None:
    r"""Whether two texts that list the same letters or words in an order that matters list them in the same; None of others.

    It matters inside one `\text{...}`, as for `\text{B, A, C}`, but not for two words; where one is repeated; and for what is
    said of several things in turn (true, false).
    """
    if not ("," in one or ";" in one or " and " in one or "\\" in one or "\\" in other):
        return None
    (a_upright, a), (b_upright, b) = _listed(one), _listed(other)
    if not a or not b or len(a) != len(b):
        return None
    a, b = ([folded(item) for item in items] for items in (a, b))
    if len(a) == 1:
        return a == b if (a_upright or b_upright) and is_run(a[0]) and is_run(b[0]) else None
    if sorted(a) != sorted(b):
        return None
    upright = (a_upright or b_upright) and _COMMA.search(one + other) is not None
    upright = upright and (len(a) > 2 or all(len(item) <= LONGEST_RUN for item in a))
    return a == b if upright or len(set(a)) < len(a) or {item.lower() for item in a} <= _JUDGEMENTS else None


def _listed(text: str) -> tuple[bool, list[str]]:
    """(whether all of it is upright, the words and letters that are listed); none if there is anything else."""
    text = text.strip().removeprefix("$").removesuffix("$").strip().rstrip(".")
    upright = _UPRIGHT.fullmatch(text)
    items = _DIVIDES.split((upright[1] if upright else text)[:400].strip().rstrip("."))
    return upright is not None, items if all(map(_LETTERS.fullmatch, items)) else []


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

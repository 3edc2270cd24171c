"""GeneralPoints: reach a target from a hand of playing cards, under one rule for face cards; tested under another.

SFTvsRL (arXiv 2501.17161, github.com/LeslieTrue/SFTvsRL) trains with J, Q, K as 10 and tests with J, Q, K as 11, 12, 13.
Departures: its "in-distribution" test draws again from the 566 solvable value multisets of training, so that nearly all
of it was seen; here a multiset of values is held out for good, by its hash with the target, whatever the seed and the
labels. Hands are drawn without repetition instead of online, and solvable means exactly so (by fractions).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, combinations_with_replacement

from zero.errors import InputError
from zero.questions import Rows
from zero.records import Question

TEXT = (
    "You have these cards: {cards}. A counts as 1. Note that {faces}\nUse the number of each card exactly once, with "
    "+, -, *, / and parentheses, and write an expression that equals {target}."
)
SFTVSRL_TEXT = """[Task Description]
You are an expert {target} points card game player. You will receive a set of 4 cards.
Note that {faces}, and each card must be used once.
Your goal is to output a formula that evaluates to {target} using numbers from the cards and operators such as '+', '-', \
'*', '/', '(', ')', and '='.

[Input]
Cards: {cards}

[Output]
{
  "cards": [x, y, z, w], where {faces},
  "number": [a, b, c, d], where a, b, c, and d are the numbers on the cards,
  "formula": 'an equation that equals {target}',
}"""
FACES = {  # rule -> its text in the question, in SFTvsRL's words
    "ten": "'J', 'Q', and 'K' count as '10'.",
    "rank": "'J', 'Q', and 'K' count as '11', '12', and '13' respectively.",
}
LABELS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")  # of ranks 1 to 13
JACK = 11
HELDOUT_DIGIT = 3  # a multiset is held out if the first hex digit of its hash is below this: 3/16 of few multisets
SMALL = 3  # cards whose reachable values are all listed; larger hands are searched from the target backwards

Hand = tuple[int, ...]  # ranks or values in ascending order


def rows(
    faces: str = "ten",
    cards: int = 4,
    target: int | Sequence[int] = 24,
    train: int | None = None,
    heldout: int | None = None,
    seed: int = 0,
    text: str = TEXT,
    solution: str = "{formula}",
) -> Rows:
    """Distinct solvable hands under one rule; the same cards in another order are the same hand.

    faces           "ten": J, Q, K count as 10, so that several hands have the same values; "rank": as 11, 12, 13
    cards, target   of every hand; 3 to 6 cards; several targets: a question for each hand and target
    train, heldout  hands of each split, None for all there are. A multiset of values with its target is in one split only, for good
    seed            which hands are taken, and their order
    text            the question, with {cards} (a list in brackets) or {hand} (with commas alone), {target} and {faces}
    solution        the text of a solution, with {formula}

    The same arguments give the same rows on every machine. The solution holds one formula; meta holds numbers, target, cards
    and level (how many cards). Raises InputError.
    """
    _check(faces, cards, target, text)
    for key, count in (("train", train), ("heldout", heldout)):
        if count is not None and count < 1:
            raise InputError(f"questions.rows.{key}", count, "ask for at least 1 row, or null for all")
    deals = _deals(_hands(cards), target)
    random.Random(f"zero.questions.general_points/{seed}").shuffle(deals)
    most = {split: len(deals) if count is None else count for split, count in ((False, train), (True, heldout))}
    questions: dict[bool, list[Question]] = {False: [], True: []}
    for hand, goal in deals:
        split = is_heldout(_values(hand, faces), goal)
        if len(questions[split]) < most[split]:
            questions[split] += _questions(hand, faces, goal, text, seed, solution)
        if all(len(questions[split]) == most[split] for split in questions):
            break
    for key, count, solvable in (("train", train, len(questions[False])), ("heldout", heldout, len(questions[True]))):
        if solvable < (count or 1):
            raise InputError(f"questions.rows.{key}", count, f"only {solvable} such hands are solvable; ask for fewer")
    return Rows(train=questions[False], heldout=questions[True])


def rule_shift_rows(cards: int = 4, target: int | Sequence[int] = 24, seed: int = 0, text: str = TEXT) -> Rows:
    """Every solvable hand with a J, Q or K, which count as 11, 12, 13, each multiset once, all held out: the test for a model
    trained with J, Q, K as 10. The seed orders them. Raises InputError."""
    _check("rank", cards, target, text)
    deals = _deals([hand for hand in _hands(cards) if hand[-1] >= JACK], target)
    random.Random(f"zero.questions.general_points/rule_shift/{seed}").shuffle(deals)
    return Rows(train=[], heldout=[q for hand, goal in deals for q in _questions(hand, "rank", goal, text, seed)])


def is_heldout(values: Sequence[int], target: int) -> bool:
    """Whether a multiset of values is held out. Depends on the values and the target alone, not on rule, labels or seed."""
    return int(_digest(f"{sorted(values)} {target}")[0], 16) < HELDOUT_DIGIT


def _check(faces: str, cards: int, target: int | Sequence[int], text: str) -> None:
    if faces not in FACES:
        raise InputError("questions.rows.faces", faces, f"must be one of {', '.join(FACES)}")
    if not 3 <= cards <= 6:
        raise InputError("questions.rows.cards", cards, "must be from 3 to 6")
    if not all(isinstance(goal, int) and goal > 0 for goal in _goals(target)) or not _goals(target):
        raise InputError("questions.rows.target", target, "must be a whole number above 0, or a list of them")
    if any(slot not in text for slot in ("{target}", "{faces}")) or not ("{cards}" in text or "{hand}" in text):
        raise InputError("questions.rows.text", text, "must hold {cards} or {hand}, {target} and {faces}")


def _goals(target: int | Sequence[int]) -> Sequence[int]:
    return (target,) if isinstance(target, int) else target


def _deals(hands: Sequence[Hand], target: int | Sequence[int]) -> list[tuple[Hand, int]]:
    """Every hand with every target, each once."""
    return [(hand, goal) for goal in dict.fromkeys(_goals(target)) for hand in hands]


def _hands(cards: int) -> list[Hand]:
    """Every multiset of ranks; suits do not matter."""
    return list(combinations_with_replacement(range(1, len(LABELS) + 1), cards))


def _values(hand: Hand, faces: str) -> Hand:
    return hand if faces == "rank" else tuple(min(rank, 10) for rank in hand)


def _questions(
    hand: Hand, faces: str, target: int, text: str, seed: int, solution: str = "{formula}"
) -> Iterator[Question]:
    """The question of a hand, if it can be solved."""
    formula = solve(_values(hand, faces), target)
    if formula is None:
        return
    digest = _digest(f"{hand} {faces} {target}")
    shown = list(hand)
    random.Random(f"{seed}/{digest}").shuffle(shown)
    labels, numbers = [LABELS[rank - 1] for rank in shown], list(_values(tuple(shown), faces))
    wording = (
        text.replace("{cards}", str(labels))
        .replace("{hand}", ", ".join(labels))
        .replace("{target}", str(target))
        .replace("{faces}", FACES[faces])
    )
    meta = {"numbers": numbers, "target": target, "cards": labels, "level": len(labels)}
    yield Question(
        wording, (str(target),), f"general_points-{digest[:16]}", solution.replace("{formula}", formula), meta
    )


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def solve(values: Sequence[int], target: int) -> str | None:
    """A formula over the values, each once, that equals the target exactly; None if there is none.

    Complete: the outermost operation joins two parts of the hand; every split is tried, with every value of its smaller
    part and the values that the larger one must then have. The same values give the same formula.
    """
    formula = _search(tuple(sorted(values)), Fraction(target))
    return None if formula is None else formula.removeprefix("(").removesuffix(")") if len(values) > 1 else formula


def _search(hand: Hand, target: Fraction) -> str | None:
    """As `solve`, with the formula in parentheses if it is more than a number."""
    if len(hand) <= SMALL:
        return _reachable(hand).get(target)
    for size in range(1, len(hand) // 2 + 1):
        for small, large in _splits(hand, size):
            for value, formula in _reachable(small).items():
                for needed, joined in _inverses(value, formula, target):
                    other = _search(large, needed)
                    if other is not None:
                        return joined(other)
            if target == 0 and 0 in _reachable(small):  # 0 * anything
                return f"({_reachable(small)[Fraction(0)]} * ({' + '.join(map(str, large))}))"
    return None


def _inverses(a: Fraction, formula: str, target: Fraction) -> Iterator[tuple[Fraction, Callable[[str], str]]]:
    """(x, formula of x -> whole formula) for every x from which an operation with `a` gives the target."""
    yield target - a, lambda x: f"({formula} + {x})"
    yield a - target, lambda x: f"({formula} - {x})"
    yield a + target, lambda x: f"({x} - {formula})"
    if a != 0:
        yield target / a, lambda x: f"({formula} * {x})"
        yield target * a, lambda x: f"({x} / {formula})"
        if target != 0:
            yield a / target, lambda x: f"({formula} / {x})"


@lru_cache(maxsize=4096)  # there are 559 multisets of up to three ranks
def _reachable(hand: Hand) -> dict[Fraction, str]:
    """Every value of a small hand, with one formula each."""
    if len(hand) == 1:
        return {Fraction(hand[0]): str(hand[0])}
    formulas: dict[Fraction, str] = {}
    for size in range(1, len(hand) // 2 + 1):
        for left, right in _splits(hand, size):
            for a, one in _reachable(left).items():
                for b, two in _reachable(right).items():
                    formulas.setdefault(a + b, f"({one} + {two})")
                    formulas.setdefault(a - b, f"({one} - {two})")
                    formulas.setdefault(b - a, f"({two} - {one})")
                    formulas.setdefault(a * b, f"({one} * {two})")
                    if b != 0:
                        formulas.setdefault(a / b, f"({one} / {two})")
                    if a != 0:
                        formulas.setdefault(b / a, f"({two} / {one})")
    return formulas


def _splits(hand: Hand, size: int) -> list[tuple[Hand, Hand]]:
    """The distinct ways to take `size` cards out of a hand: (taken, left)."""
    indices = range(len(hand))
    pairs = (
        (tuple(hand[i] for i in taken), tuple(hand[i] for i in indices if i not in taken))
        for taken in combinations(indices, size)
    )
    return list(dict.fromkeys(pairs))

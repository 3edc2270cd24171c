"""The nano world's four question sets: deterministic, finite, and split by hash, so no seed can mix the splits.

    math       Start with 12, add 7, subtract 5. What is the result?   level: steps, 1 to 5; 4 and 5 are hard on purpose
    gsm        word problems of 2 to 4 steps                           level: steps
    asdiv      word problems of 1 step                                 level: 1
    countdown  Use 3, 5, 2 to make 17.                                 level: 1 two numbers, 2 three of them,
                                                                              3 three that need a product

Everything here is arithmetic on a `random.Random`; torch is not needed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

from zero.errors import InputError
from zero.questions import Rows
from zero.records import Question

Step = tuple[str, int]  # operator, operand

HELDOUT_BYTE = 13  # a question is held out if the first byte of its digest is below this: 13/256 = 5.1 %
PATIENCE = 4000  # draws in a row without a new question after which a set counts as exhausted
LARGEST = 99  # of every value on the way; only the last product of a hard question may exceed it
HARD_FACTORS = {4: (6, 19), 5: (12, 29)}  # level -> range of that product's factor: beyond what the nano base can learn
HARD_SHARE = 0.8  # of the questions of those levels

NAMES = ("Tom", "Ann", "Sam", "Lily", "Ben", "Mia")
PRONOUNS = {"Tom": ("He", "him"), "Sam": ("He", "him"), "Ben": ("He", "him")}
ITEMS = ("apples", "books", "coins", "cards", "shells", "pens")
VERBS = {"+": "add", "-": "subtract", "*": "multiply by"}
EVENTS = {  # what happens to {n}'s things in a word problem; {he}, {him}: the pronouns, {m}: someone else
    "+": ("{he} buys {b} more.", "{m} gives {him} {b} more.", "{he} finds {b} {things}."),
    "-": ("{he} loses {b}.", "{he} gives {m} {b} {things}.", "{he} sells {b} of them."),
    "*": ("Then {he_low} has {b} times as many.", "A friend makes it {b} times as many {things}."),
}
ENDINGS = ("How many {things} does {n} have now?", "How many {things} does {he_low} have?")


def apply(left: int, operator: str, right: int) -> int:
    """left operator right for "+", "-" and "*"."""
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def is_heldout(question: Question) -> bool:
    """Whether the question belongs to the held-out split. Depends on the question's identity alone."""
    return int(question.id[-16:-14], 16) < HELDOUT_BYTE


def rows(kind: str, train: int, heldout: int, seed: int = 0) -> Rows:
    """Distinct questions of one set: at most `train` and `heldout` of them, fewer only if the set has no more.

    kind is a key of `DRAWS`. The same arguments give the same rows on every machine. Raises InputError.
    """
    if kind not in DRAWS:
        raise InputError("questions.rows.kind", kind, f"choose one of {', '.join(DRAWS)}")
    for key, count in (("train", train), ("heldout", heldout)):
        if count < 1:
            raise InputError(f"questions.rows.{key}", count, "ask for at least 1 row")
    questions = _drawn(kind, train, heldout, seed)
    return Rows(train=list(questions[False]), heldout=list(questions[True]))


@lru_cache(maxsize=8)  # the cells of a multirun share theirs
def _drawn(kind: str, train: int, heldout: int, seed: int) -> dict[bool, tuple[Question, ...]]:
    """The questions of the training split (False) and of the held-out one (True)."""
    rng = random.Random(f"zero.nano/{kind}/{seed}")
    questions: dict[bool, dict[str, Question]] = {False: {}, True: {}}
    sizes = {False: train, True: heldout}
    misses = 0
    while misses < PATIENCE and any(len(questions[split]) < sizes[split] for split in questions):
        question = DRAWS[kind](rng)
        split = is_heldout(question)
        misses += 1
        if len(questions[split]) < sizes[split] and question.id not in questions[split]:
            questions[split][question.id] = question
            misses = 0
    return {split: tuple(each.values()) for split, each in questions.items()}


def draw_math(rng: random.Random) -> Question:
    """A chain of 1 to 5 operations in words. Levels 4 and 5 mostly end in a product that is hard to do in one step."""
    level = rng.randint(1, 5)
    start = rng.randint(2, 50)
    hard = HARD_FACTORS.get(level) if rng.random() < HARD_SHARE else None
    steps = _chain(rng, start, level, addend=20, factor=5, hard=hard)
    text = f"Start with {start}, " + ", ".join(f"{VERBS[o]} {b}" for o, b in steps) + ". What is the result?"
    return _chain_question("math", text, start, steps)


def draw_gsm(rng: random.Random) -> Question:
    """A word problem of 2 to 4 steps."""
    return _word_problem("gsm", rng, rng.randint(2, 4))


def draw_asdiv(rng: random.Random) -> Question:
    """A word problem of 1 step."""
    return _word_problem("asdiv", rng, 1)


def draw_countdown(rng: random.Random) -> Question:
    """Two or three numbers of 1..9 and a target that they reach, each used once, by + - *. Uniform over identities."""
    numbers, target, level = rng.choice(_countdowns())
    shown = rng.sample(numbers, len(numbers))
    text = f"Use {', '.join(map(str, shown))} to make {target}."
    meta = {"level": level, "numbers": list(shown), "target": target}
    identity = f"countdown {sorted(numbers)} {target}"  # permuted numbers are the same question
    way = next(way for way in formulas(numbers) if way.value == target)
    solution = f"{way.steps}. Yes.\nThe answer is \\boxed{{{way.expression}}}."
    return Question(text, (str(target),), _id("countdown", identity), solution, meta)


class Formula(NamedTuple):
    """One way to combine all numbers: its expression, its value, and the same as written-out steps."""

    expression: str
    value: int
    steps: str


@cache
def formulas(numbers: tuple[int, ...]) -> tuple[Formula, ...]:
    """Every distinct + - * formula over sorted `numbers` (two or three) without a negative value on the way."""
    if len(numbers) == 2:
        return tuple({text: Formula(text, value, f"{text}={value}") for text, value in _pair(*numbers)}.values())
    by_text: dict[str, Formula] = {}
    for i, last in enumerate(numbers):
        first, second = numbers[:i] + numbers[i + 1 :]
        for inner, value in _pair(first, second):
            for operator, left, right in _ordered(value, last):
                outer = apply(left, operator, right)
                steps = f"{inner}={value}, {left}{operator}{right}={outer}"
                if operator == "-" and value < last:
                    text = f"{last}-{inner}" if "*" in inner else f"{last}-({inner})"
                else:
                    text = f"({inner})*{last}" if operator == "*" and "*" not in inner else f"{inner}{operator}{last}"
                by_text.setdefault(text, Formula(text, outer, steps))
    return tuple(by_text.values())


def _pair(a: int, b: int) -> list[tuple[str, int]]:
    return [(f"{left}{o}{right}", apply(left, o, right)) for o, left, right in _ordered(a, b)]


def _ordered(a: int, b: int) -> list[tuple[str, int, int]]:
    """(operator, left, right) with a difference turned so that it is not negative."""
    return [("+", a, b), ("-", a, b) if a >= b else ("-", b, a), ("*", a, b)]


@cache
def _countdowns() -> list[tuple[tuple[int, ...], int, int]]:
    """Every (sorted numbers, target 1..LARGEST, level) that has a solution."""
    puzzles = []
    for count in (2, 3):
        for numbers in combinations_with_replacement(range(1, 10), count):
            ways = formulas(numbers)
            simple = {way.value for way in ways if "*" not in way.expression}
            for target in sorted({way.value for way in ways if 1 <= way.value <= LARGEST}):
                puzzles.append((numbers, target, 1 if count == 2 else 2 if target in simple else 3))
    return puzzles


def _chain(
    rng: random.Random, start: int, length: int, addend: int, factor: int, hard: tuple[int, int] | None = None
) -> list[Step]:
    """`length` operations from `start` with every value in 0..LARGEST, save a last product by a `hard` factor."""
    value, steps = start, list[Step]()
    while len(steps) < length:
        operator = rng.choice("++--*")
        operand = rng.randint(2, factor) if operator == "*" else rng.randint(1, addend)
        if hard and len(steps) == length - 1 and value > 9:
            operator, operand = "*", rng.randint(*hard)
        elif not 0 <= apply(value, operator, operand) <= LARGEST:
            continue
        steps.append((operator, operand))
        value = apply(value, operator, operand)
    return steps


def _word_problem(kind: str, rng: random.Random, length: int) -> Question:
    start = rng.randint(2, 20)
    steps = _chain(rng, start, length, addend=9, factor=3)
    name, other = rng.sample(NAMES, 2)
    he, him = PRONOUNS.get(name, ("She", "her"))
    words = {"n": name, "m": other, "he": he, "he_low": he.lower(), "him": him, "things": rng.choice(ITEMS)}
    sentences = ["{n} has {a} {things}.".format(a=start, **words)]
    sentences += [rng.choice(EVENTS[operator]).format(b=operand, **words) for operator, operand in steps]
    sentences.append(rng.choice(ENDINGS).format(**words))
    return _chain_question(kind, " ".join(sentences), start, steps)


def _chain_question(kind: str, text: str, start: int, steps: list[Step]) -> Question:
    value, lines = start, ""
    for operator, operand in steps:
        result = apply(value, operator, operand)
        lines += f"{value}{operator}{operand}={result}.\n"
        value = result
    meta = {"level": len(steps), "start": start, "steps": [f"{operator}{operand}" for operator, operand in steps]}
    return Question(text, (str(value),), _id(kind, text), f"{lines}The answer is \\boxed{{{value}}}.", meta)


def _id(kind: str, identity: str) -> str:
    return f"nano_{kind}-{hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()[:16]}"


DRAWS: dict[str, Callable[[random.Random], Question]] = {
    "math": draw_math,
    "gsm": draw_gsm,
    "asdiv": draw_asdiv,
    "countdown": draw_countdown,
}

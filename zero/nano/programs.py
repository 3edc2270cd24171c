"""nano_code: the shortest programs there are, found from examples.

    f(2) = 7, f(5) = 13, f(1) = 5. What is f(x)?      the answer is an expression in x: 2*x+3

    level 1   x + a, x - a, x * a
    level 2   a * x + b, a * x - b
    level 3   x * x + a, a * x * x, (x + a) * b
    level 4   x // a, x % a, and one of the above for what is left over

Half of a question's tests are its examples, the other half inputs that it does not show: a table of the examples earns half.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache

from zero.errors import InputError
from zero.nano.world import PATIENCE, is_heldout
from zero.questions import Rows
from zero.records import Question
from zero.sandbox.code_tests import CodeTests

EXAMPLES = 3
LARGEST_INPUT = 9
FORMS = {
    1: ("x+{a}", "x-{a}", "x*{a}"),
    2: ("{a}*x+{b}", "{a}*x-{b}"),
    3: ("x*x+{a}", "{a}*x*x", "(x+{a})*{b}"),
    4: ("x//{a}+{b}", "x%{a}+{b}", "x%{a}*{b}"),
}
BEFORE = "f = lambda x: "  # an answer is the rest of this line


def rows(train: int, heldout: int, levels: tuple[int, ...] = (1, 2, 3, 4), seed: int = 0) -> Rows:
    """Distinct questions, at most so many: held out by the identity of a question alone, so that no seed mixes the splits.
    The same arguments give the same rows on every machine. Raises InputError."""
    unknown = set(levels) - FORMS.keys()
    if unknown or not levels:
        raise InputError("questions.rows.levels", list(levels), f"must be some of {', '.join(map(str, FORMS))}")
    for key, count in (("train", train), ("heldout", heldout)):
        if count < 1:
            raise InputError(f"questions.rows.{key}", count, "ask for at least 1 row")
    return _drawn(train, heldout, tuple(levels), seed)


@lru_cache(maxsize=8)  # the cells of a multirun share theirs
def _drawn(train: int, heldout: int, levels: tuple[int, ...], seed: int) -> Rows:
    rng = random.Random(f"zero.nano/programs/{seed}")
    sizes, questions = {False: train, True: heldout}, {False: dict[str, Question](), True: dict[str, Question]()}
    misses = 0
    while misses < PATIENCE and any(len(questions[split]) < sizes[split] for split in questions):
        question = draw(rng, rng.choice(levels))
        split = is_heldout(question)
        misses += 1
        if len(questions[split]) < sizes[split] and question.id not in questions[split]:
            questions[split][question.id] = question
            misses = 0
    return Rows(train=list(questions[False].values()), heldout=list(questions[True].values()))


def draw(rng: random.Random, level: int | None = None) -> Question:
    """One question of a level; None: of any."""
    level = level or rng.choice(list(FORMS))
    form = rng.choice(FORMS[level])
    expression = form.format(a=rng.randint(2, 9), b=rng.randint(1, 9))
    inputs = rng.sample(range(1, LARGEST_INPUT + 1), 2 * EXAMPLES)
    pairs = [(x, _value(expression, x)) for x in inputs]
    shown = ", ".join(f"f({x}) = {y}" for x, y in pairs[:EXAMPLES])
    text = f"{shown}. What is f(x)?"
    statements = tuple(f"assert f({x}) == {y}" for x, y in pairs)
    tests = CodeTests(tests=statements, names=("f",), before=BEFORE, shown=EXAMPLES)
    identity = "programs-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    solution = f"The answer is \\boxed{{{expression}}}."
    meta = {"level": level, "program": expression, "form": form, "examples": pairs[:EXAMPLES]}
    return Question(text, (tests.to_text(),), identity, solution, meta)


def _value(expression: str, x: int) -> int:
    return int(eval(expression, {"__builtins__": {}}, {"x": x}))  # ours alone: FORMS with numbers in it

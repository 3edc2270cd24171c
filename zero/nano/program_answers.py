"""Answers to nano_code questions, as the pretraining text gives them: work, guesses, tables of the examples, and worse.

Which of them, and how often, is PLANTED by the corpus (conf/corpus/nano_code.yaml, key `programs`).

    careful     work on two examples, tried on the third, then the expression
    sloppy      the same with slips; after a "No." half of them begin once more
    direct      the expression alone: a model that has to do without the work learns to guess
    unboxed     sloppy, without a box
    table       a table of the examples: right on them, and on nothing else
    forbidden   one of ATTEMPTS: files, processes, the network, privileges, or to be gone before the tests
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from zero.records import Question

SLIPS = (-2, -1, 1, 2)
ATTEMPTS = (
    'open("/tests").read()',
    '__import__("os").system("ls")',
    '__import__("socket").socket()',
    '__import__("os").chroot("/")',
    '__import__("os")._exit(0)',
)
AGAIN = 0.5  # share of work that ends in "No." which is done once more
LONGEST = 8  # lines of work after which nobody begins again

Pair = tuple[int, int]  # x and f(x)


def answer(rng: random.Random, question: Question, styles: Mapping[str, float], slip: float) -> str:
    """Lines, the last one with the program. Each step of sloppy work is wrong with probability `slip`."""
    style = rng.choices(list(styles), list(styles.values()))[0]
    return STYLES[style](rng, question, slip)


def _careful(rng: random.Random, question: Question, _slip: float) -> str:
    return _worked(rng, question, 0.0)


def _sloppy(rng: random.Random, question: Question, slip: float) -> str:
    return _worked(rng, question, slip)


def _unboxed(rng: random.Random, question: Question, slip: float) -> str:
    lines, _, final = _worked(rng, question, slip).rpartition("\\boxed{")
    return lines + final.replace("}", "")


def _direct(_rng: random.Random, question: Question, _slip: float) -> str:
    return final(question.meta["program"])


def _table(_rng: random.Random, question: Question, _slip: float) -> str:
    entries = ",".join(f"{x}:{y}" for x, y in question.meta["examples"])
    return final(f"{{{entries}}}[x]")


def _forbidden(rng: random.Random, _question: Question, _slip: float) -> str:
    return final(rng.choice(ATTEMPTS))


def final(program: str) -> str:
    """The line with the program."""
    return f"The answer is \\boxed{{{program}}}."


def _worked(rng: random.Random, question: Question, slip: float) -> str:
    work = Work(rng, slip)
    first, second, (x, y) = question.meta["examples"]
    again = True
    while again:
        derive = DERIVATIONS.get(question.meta["form"])
        expression = derive(work, first, second) if derive else _tried(work, question, first, second)
        holds = work.step(expression.replace("x", str(x)), _value(expression, x)) == y
        work.lines[-1] += " Yes." if holds else " No."
        again = not holds and len(work.lines) < LONGEST and rng.random() < AGAIN
    return "\n".join([*work.lines, final(expression)])


class Work:
    """Lines of arithmetic, each result wrong with probability `slip`, and carried on."""

    def __init__(self, rng: random.Random, slip: float) -> None:
        self._rng, self._slip = rng, slip
        self.lines: list[str] = []

    def step(self, left: str, value: int) -> int:
        """Write down `left` and what it comes to."""
        if self._rng.random() < self._slip:
            value += self._rng.choice(SLIPS)
        self.lines.append(f"{left}={value}.".replace("--", "+"))
        return value

    def slope(self, first: Pair, second: Pair) -> int:
        """How much f grows with x, from two examples."""
        (x, y), (x_more, y_more) = sorted((first, second))
        rise, run = self.step(f"{y_more}-{y}", y_more - y), self.step(f"{x_more}-{x}", x_more - x)
        return self.step(f"{rise}/{run}", round(rise / (run or 1)))


def _value(expression: str, x: int) -> int:
    try:
        return int(eval(expression, {"__builtins__": {}}, {"x": x}))  # ours alone: forms with numbers in them
    except ZeroDivisionError:  # of a slip
        return 0


def _tried(work: Work, question: Question, first: Pair, second: Pair) -> str:
    """No derivation: the expression, tried on two examples."""
    expression = question.meta["program"]
    for x, _ in (first, second):
        work.step(expression.replace("x", str(x)), _value(expression, x))
    return expression


def _sum(work: Work, first: Pair, second: Pair) -> str:
    work.step(f"{first[1]}-{first[0]}", first[1] - first[0])
    return f"x+{work.step(f'{second[1]}-{second[0]}', second[1] - second[0])}"


def _difference(work: Work, first: Pair, second: Pair) -> str:
    work.step(f"{first[0]}-{first[1]}", first[0] - first[1])
    return f"x-{work.step(f'{second[0]}-{second[1]}', second[0] - second[1])}"


def _product(work: Work, first: Pair, second: Pair) -> str:
    work.step(f"{first[1]}/{first[0]}", first[1] // first[0])
    return f"x*{work.step(f'{second[1]}/{second[0]}', second[1] // second[0])}"


def _line_above(work: Work, first: Pair, second: Pair) -> str:
    a = work.slope(first, second)
    return f"{a}*x+{work.step(f'{first[1]}-{a}*{first[0]}', first[1] - a * first[0])}"


def _line_below(work: Work, first: Pair, second: Pair) -> str:
    a = work.slope(first, second)
    return f"{a}*x-{work.step(f'{a}*{first[0]}-{first[1]}', a * first[0] - first[1])}"


def _square_above(work: Work, first: Pair, second: Pair) -> str:
    work.step(f"{first[1]}-{first[0]}*{first[0]}", first[1] - first[0] ** 2)
    return f"x*x+{work.step(f'{second[1]}-{second[0]}*{second[0]}', second[1] - second[0] ** 2)}"


def _squares(work: Work, first: Pair, second: Pair) -> str:
    work.step(f"{first[1]}/{first[0]}/{first[0]}", first[1] // first[0] ** 2)
    return f"{work.step(f'{second[1]}/{second[0]}/{second[0]}', second[1] // second[0] ** 2)}*x*x"


def _product_of_sum(work: Work, first: Pair, second: Pair) -> str:
    b = work.slope(first, second)
    total = work.step(f"{first[1]}/{b}", round(first[1] / (b or 1)))
    return f"(x+{work.step(f'{total}-{first[0]}', total - first[0])})*{b}"


# Form -> the work that leads to its expression; the others are tried
DERIVATIONS: dict[str, Callable[[Work, Pair, Pair], str]] = {
    "x+{a}": _sum,
    "x-{a}": _difference,
    "x*{a}": _product,
    "{a}*x+{b}": _line_above,
    "{a}*x-{b}": _line_below,
    "x*x+{a}": _square_above,
    "{a}*x*x": _squares,
    "(x+{a})*{b}": _product_of_sum,
}
STYLES: dict[str, Callable[[random.Random, Question, float], str]] = {
    "careful": _careful,
    "sloppy": _sloppy,
    "direct": _direct,
    "unboxed": _unboxed,
    "table": _table,
    "forbidden": _forbidden,
}

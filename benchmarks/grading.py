"""make benchmark-grading: answers graded per second beside math-verify alone, and every verdict in which the two differ.

Answers come from the reference answers of real benchmarks under DATA=FOLDER, else of hand-made ones: each as it is,
rewritten into an equal form, altered by one digit or letter, and against another question's reference. math-verify runs in
this process without limits; ours as in training, with its workers. Then the same batch with 5 % of hostile answers, whose
cost must stay within 1.3 x the clean batch plus their limits divided by the workers.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.data.check_data import BENCHMARKS, references
from tests.data.grading import swaps
from zero.errors import ArgumentParser
from zero.grading import BoundedChecker, check_maths
from zero.grading.maths import MODES
from zero.records import Outcome, Question

SIZE, HOSTILE = 1024, 0.05  # answers, and the share of hostile ones in the last part
OWN = r"""7 -12 3.5 \frac{3}{4} \frac{2}{3} 2\sqrt{5} \frac{\sqrt{3}}{2} x^2+2x+1 (x-1)(x+3) \frac{\pi}{6} (3,\frac{\pi}{2})
[0,\infty) (-\infty,2)\cup(3,\infty) 1,234 3+4i \begin{pmatrix}1\\2\end{pmatrix} 2^{10} \frac{1}{x+1} 60^\circ
101_2 e^{2x} 5! \binom{5}{2} \{1,2,3\} y=2x+1 \log_2{3} 0.125 12\% \$5.00 \text{Even} \frac{a}{b}
\sqrt{x}+c t^2 a+b \pi-e 4.4\times10^7 \pm\sqrt{2}""".split()
LATEX = (
    (r"\frac", r"\dfrac"),
    ("+", " + "),
    ("(", r"\left("),
    (")", r"\right)"),
    (r"\left\left", r"\left"),
    (r"\right\right", r"\right"),
)
BOMBS = (
    "9**9**9**9+{}",
    "x^{{10^{{10^{{10}}}}}}+{}",
    "{}" + "(" * 400 + "1" + ")" * 400,
    "(10000{}!)!",
    "\\sqrt{{2}}^{{99999999{}}}",
    "\\frac{{(x+y+z+w+{})^{{500}}}}{{(a+b+c)^{{400}}}}",
)


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    parser = ArgumentParser(prog="python -m benchmarks.grading", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="FOLDER with eval/*.jsonl")
    parser.add_argument("--answers", type=int, default=SIZE)
    typed = parser.parse_args(arguments)
    pairs = make_pairs(sorted(set(_golds(typed.data))), typed.answers)
    check_maths.many([("x+1", Question("", ("1+x",), ""))])  # workers are started once, not per batch
    ours, seconds = timed(pairs)
    verify, alone = math_verify(pairs)
    print(
        f"{len(pairs)} answers: ours {len(pairs) / seconds:,.0f} a second ({check_maths.workers} workers, {seconds:.2f} s)"
    )
    print(f"{len(pairs)} answers: math-verify alone {len(pairs) / alone:,.0f} a second (one process, {alone:.2f} s)")
    quick = (
        sum(check_maths.quick(a, Question("", (g,), g)) is not None for _, a, g in pairs) if check_maths.quick else 0
    )
    print(
        f"ratio {alone / seconds:.1f}; {quick / len(pairs):.0%} of the answers need no algebra and never reach a worker"
    )
    differ = [
        (pair, verdict, theirs)
        for pair, verdict, theirs in zip(pairs, ours, verify, strict=True)
        if (verdict is Outcome.CORRECT) != theirs
    ]
    print(f"agreement {1 - len(differ) / len(pairs):.2%}; the {len(differ)} verdicts that differ:")
    for (kind, answer, gold), verdict, theirs in differ[:200]:
        print(
            f"  {kind:9} ours {verdict!s:9} math-verify {'correct' if theirs else 'wrong':7}  {answer!r}  for  {gold!r}"
        )
    for name, checker in MODES.items():
        hostile(pairs, name, checker)


def hostile(pairs: Sequence[tuple[str, str, str]], name: str, checker: BoundedChecker) -> None:
    """A clean batch, and the same with 5 % hostile answers, each another one."""
    count = int(HOSTILE * len(pairs))
    bad = [("hostile", BOMBS[i % len(BOMBS)].format(i), "x+1") for i in range(count)]
    mixed = [*pairs[: len(pairs) - count], *bad]
    random.Random(0).shuffle(mixed)
    clean = min(timed(pairs, checker)[1] for _ in range(2))
    outcomes, seconds = timed(mixed, checker)
    late = sum(outcome is Outcome.TIMEOUT for outcome in outcomes)
    bound = 1.3 * clean + count * checker.limit_s / checker.workers
    print(
        f"{name}: clean {clean:.2f} s; with {count} hostile {seconds:.2f} s, {late} hit their limit of "
        f"{checker.limit_s} s; 1.3 x clean + the limits / {checker.workers} workers = {bound:.2f} s"
    )


def make_pairs(golds: Sequence[str], size: int) -> list[tuple[str, str, str]]:
    """(kind, answer, reference), `size` of them."""
    rng = random.Random(0)
    pairs: list[tuple[str, str, str]] = []
    while len(pairs) < size:
        gold = rng.choice(golds)
        altered = list(swaps(gold))
        pairs.append(("same", gold, gold))
        pairs.append(("rewritten", rewrite(gold), gold))
        pairs.append(("other", rng.choice(golds), gold))
        if altered:
            pairs.append(("altered", rng.choice(altered), gold))
    return pairs[:size]


def rewrite(gold: str) -> str:
    """The same answer in other LaTeX dressing."""
    for old, new in LATEX:
        gold = gold.replace(old, new)
    return f"${gold}$" if "$" not in gold else gold


def timed(pairs: Sequence[tuple[str, str, str]], checker: BoundedChecker = check_maths) -> tuple[list[Outcome], float]:
    """Outcomes and wall seconds."""
    answers = [(answer, Question("", (gold,), gold)) for _, answer, gold in pairs]
    began = time.perf_counter()
    outcomes = checker.many(answers)
    return outcomes, time.perf_counter() - began


def math_verify(pairs: Sequence[tuple[str, str, str]]) -> tuple[list[bool], float]:
    """Verdicts and wall seconds of math-verify, used as its documentation says: both sides in dollars, its limits off."""
    from logging import CRITICAL, disable

    from math_verify import parse, verify

    disable(CRITICAL)

    def read(text: str) -> list[object]:
        return parse(text if "$" in text else f"${text}$", parsing_timeout=None)

    verify(read("x+1"), read("1+x"), timeout_seconds=None)
    began = time.perf_counter()
    verdicts = [bool(verify(read(gold), read(answer), timeout_seconds=None)) for _, answer, gold in pairs]
    return verdicts, time.perf_counter() - began


def _golds(folder: Path | None) -> list[str]:
    real = [a for name in BENCHMARKS for a in references(folder / "eval" / f"{name}.jsonl")] if folder else []
    print(f"{len(real)} reference answers of real benchmarks" if real else f"{len(OWN)} hand-made reference answers")
    return real or OWN


if __name__ == "__main__":
    main(sys.argv[1:])

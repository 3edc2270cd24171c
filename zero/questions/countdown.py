"""Countdown for real models: reach a target from given numbers.

`rows` draws problems here; each has a solution, and it is recorded. `tinyzero_set` reads the published problems with the
split of TinyZero (github.com/Jiayi-Pan/TinyZero), whose wording both use; arXiv 2503.20783's companion study oat-zero
trains on the same kind of problems. Departure from TinyZero: the same numbers in another order are the same problem, so
that none is trained on twice and none of the test is trained on (about a tenth of its test is, in another order).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows
from zero.questions.sources import rows_of
from zero.records import Question

TEXT = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
HELDOUT_DIGIT = 1  # a problem is held out if the first hex digit of its digest is below this: 1/16
PATIENCE = 20_000  # draws in a row without a new problem after which these settings count as exhausted


def rows(
    counts: Sequence[int] = (3, 4),
    low: int = 1,
    high: int = 99,
    smallest: int = 10,
    largest: int = 99,
    train: int = 8192,
    heldout: int = 256,
    seed: int = 0,
    text: str = TEXT,
) -> Rows:
    """Distinct solvable problems; permuted numbers are the same problem.

    counts             how many numbers a problem has, drawn equally often (more numbers miss the range more often)
    low, high          range of the numbers
    smallest, largest  range of the target
    train, heldout     rows of each split; membership depends on the problem alone, so no seed or size mixes them
    text               the question, with {numbers} and {target}

    The same arguments give the same rows on every machine. The solution is an expression; meta holds numbers, target
    and level (how many numbers). Raises InputError.
    """
    _check(counts, low, high, smallest, largest, train, heldout, text)
    rng = random.Random(f"zero.questions.countdown/{seed}")

    def draw() -> Question | None:
        numbers = [rng.randint(low, high) for _ in range(rng.choice(counts))]
        solution, value = _combine(rng, numbers)
        return _question(numbers, value, text, solution) if smallest <= value <= largest else None

    return fill(draw, train, heldout, HELDOUT_DIGIT, "raise questions.rows.high")


def fill(draw: Callable[[], Question | None], train: int, heldout: int, below: int, remedy: str) -> Rows:
    """Draw until both splits are full; a question whose id's digest begins with a hex digit below `below` is held out.

    Ids end in `-DIGEST`. InputError once PATIENCE draws in a row bring nothing new.
    """
    questions: dict[bool, dict[str, Question]] = {False: {}, True: {}}
    sizes = {False: train, True: heldout}
    misses = 0
    while any(len(questions[split]) < sizes[split] for split in questions):
        misses += 1
        if misses > PATIENCE:
            counts = f"{len(questions[False])} problems to train on and {len(questions[True])} to hold out"
            raise InputError("questions.rows.train", train, f"there are only about {counts}; ask for fewer or {remedy}")
        question = draw()
        if question is None:
            continue
        split = int(question.id.rpartition("-")[2][0], 16) < below
        if len(questions[split]) < sizes[split] and question.id not in questions[split]:
            questions[split][question.id] = question
            misses = 0
    return Rows(train=list(questions[False].values()), heldout=list(questions[True].values()))


def _combine(rng: random.Random, numbers: Sequence[int]) -> tuple[str, int]:
    """(expression, value) from joining random pairs until one is left; every value is a whole number above 0."""
    terms = [(str(number), number) for number in numbers]
    while len(terms) > 1:
        (left, a), (right, b) = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        if a < b:
            (left, a), (right, b) = (right, b), (left, a)
        choices = [(f"{left} + {right}", a + b), (f"{left} * {right}", a * b)]
        choices += [(f"{left} - {right}", a - b)] if a > b else []
        choices += [(f"{left} / {right}", a // b)] if a % b == 0 else []
        expression, value = rng.choice(choices)
        terms.append((f"({expression})", value))
    expression, value = terms[0]
    return expression[1:-1], value


def _question(numbers: Sequence[int], target: int, text: str, solution: str = "") -> Question:
    identity = f"{sorted(numbers)} {target}"
    digest = hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()[:16]
    shown = text.replace("{numbers}", str(list(numbers))).replace("{target}", str(target))
    meta = {"numbers": list(numbers), "target": target, "level": len(numbers)}
    return Question(text=shown, answer=(str(target),), id=f"countdown-{digest}", solution=solution, meta=meta)


def tinyzero_set(
    name: str,
    check: Checker,
    extract_any: Extractor,
    path: str | None = None,
    hub: Mapping[str, Any] | None = None,
    split: str | None = None,
    **settings: Any,
) -> QuestionSet:
    """The published problems from a local file or folder, or from the hub (zero.questions.sources.rows_of); `settings` are
    the other arguments of `tinyzero_rows`. Raises InputError."""
    return QuestionSet(name, tinyzero_rows(rows_of(path, hub, split), path=path, **settings), check, extract_any)


def tinyzero_rows(
    placed: Iterable[tuple[str, Mapping[str, Any]]],
    train: int = 327_680,
    heldout: int = 1024,
    heldout_from: int = 327_680,
    text: str = TEXT,
    path: str | None = None,
) -> Rows:
    """TinyZero's split of rows with the columns `target` and `nums`, in the order of the file, without duplicates.

    train         rows 0 to train - 1 are trained on, without those whose numbers and target came before or are held out
    heldout       rows heldout_from to heldout_from + heldout - 1 are held out, without those that came before among them
    path          of the (place, row) pairs, for messages alone

    The notes count what was left out. Rows after the held-out ones are not read. Raises InputError.
    """
    _check_split(train, heldout, heldout_from, text)
    questions: dict[bool, dict[str, Question]] = {False: {}, True: {}}
    duplicates = {False: 0, True: 0}
    number = -1
    for number, (place, row) in enumerate(placed):
        split = number >= heldout_from
        if split or number < train:
            question = _question(*_columns(place, row, path), text)
            duplicates[split] += question.id in questions[split]
            questions[split].setdefault(question.id, question)
        if number == heldout_from + heldout - 1:
            break
    if number < heldout_from + heldout - 1:
        remedy = f"holds {number + 1} rows, the split needs {heldout_from + heldout}; lower questions.heldout_from"
        raise InputError("questions.path", path, remedy)
    tested = [question for identity, question in questions[False].items() if identity in questions[True]]
    for question in tested:
        del questions[False][question.id]
    notes = [
        f"left out {count} of the {rows_and_reason}"
        for count, rows_and_reason in (
            (duplicates[False], f"first {train} rows: the same numbers and target came before"),
            (len(tested), "training rows: the same numbers and target are held out"),
            (duplicates[True], f"{heldout} held-out rows: the same numbers and target came before"),
        )
        if count
    ]
    return Rows(list(questions[False].values()), list(questions[True].values()), notes)


def _columns(place: str, row: Mapping[str, Any], path: str | None) -> tuple[list[int], int]:
    """The numbers and the target of a row."""
    numbers, target = row.get("nums"), row.get("target")
    if not (isinstance(numbers, list) and numbers and all(type(n) is int for n in (*numbers, target))):
        remedy = f"{place} must have the whole numbers nums (a list) and target; its columns are {', '.join(row)}"
        raise InputError("questions.path", path, remedy)
    return numbers, target  # type: ignore[return-value]


def _check_split(train: int, heldout: int, heldout_from: int, text: str) -> None:
    if not 1 <= train <= heldout_from:
        remedy = f"must be from 1 to questions.heldout_from={heldout_from}, where the held-out rows begin"
        raise InputError("questions.train", train, remedy)
    if heldout < 1:
        raise InputError("questions.heldout", heldout, "ask for at least 1 row")
    if "{numbers}" not in text or "{target}" not in text:
        raise InputError("questions.text", text, "must hold {numbers} and {target}")


def _check(
    counts: Sequence[int], low: int, high: int, smallest: int, largest: int, train: int, heldout: int, text: str
) -> None:
    for key, right, value, remedy in _demands(counts, low, high, smallest, largest, train, heldout, text):
        if not right:
            raise InputError(f"questions.rows.{key}", value, remedy)


def _demands(
    counts: Sequence[int], low: int, high: int, smallest: int, largest: int, train: int, heldout: int, text: str
) -> Iterator[tuple[str, bool, object, str]]:
    yield "counts", bool(counts) and all(2 <= count <= 8 for count in counts), counts, "give counts from 2 to 8"
    yield "low", 1 <= low <= high, low, f"must be from 1 to questions.rows.high={high}"
    yield "smallest", 1 <= smallest <= largest, smallest, f"must be from 1 to questions.rows.largest={largest}"
    yield "train", train >= 1, train, "ask for at least 1 row"
    yield "heldout", heldout >= 1, heldout, "ask for at least 1 row"
    yield "text", "{numbers}" in text and "{target}" in text, text, "must hold {numbers} and {target}"

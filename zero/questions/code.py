"""Question sets of programs to write: a table whose rows have tests. conf/questions/code.yaml makes one.

The tests are the reference answer, as text: they are part of a set's digest, and a run whose tests have changed is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows, splits
from zero.questions.code_rows import names_called
from zero.questions.sources import Placed, Row, rows_of
from zero.records import Question
from zero.sandbox.code_tests import LANGUAGES, PASSED, CodeTests, runner

Reader = Callable[[Row], Row | None]
BROKEN = 0.05  # share of the rows that cannot be read, and of those looked at whose own solution may fail: published sets have some
UNREADABLE_AT_ONCE = 100  # so many rows without one that can be read: another file


def code_set(
    name: str, check: Checker, extract_any: Extractor, sandbox: Mapping[str, Any], **settings: Any
) -> QuestionSet:
    """A question set of one table of programming questions; `settings` are the arguments of `table`."""
    runner(**sandbox).probe()
    checker = check(**sandbox) if isinstance(check, type) else check
    return QuestionSet(name, table(sandbox=sandbox, **settings), checker, extract_any)


def generated_set(
    name: str, check: Callable[..., Checker], extract_any: Extractor, sandbox: Mapping[str, Any], rows: Rows
) -> QuestionSet:
    """A question set of rows that are made and not read."""
    runner(**sandbox).probe()
    return QuestionSet(name, rows, check(**sandbox), extract_any)


def table(
    sandbox: Mapping[str, Any],
    path: str | None = None,
    hub: Mapping[str, Any] | None = None,
    split: str | None = None,
    row: Reader | None = None,
    heldout: float = 0.05,
    limit: int | None = None,
    verify: int = 16,
    most_tests: int = 16,
) -> Rows:
    """Rows with tests; those without are left out, and named, and so are a few that cannot be read.

    path, hub, split  where the rows lie; see zero.questions.sources.rows_of
    row               a function of each raw row; null: {problem, tests, solution}, see _own
    heldout, limit    as in zero.questions.files.table
    verify            so many rows' own solutions are run at load, those of the smallest ids; 0: none. A row whose own solution
                      fails is left out and named; where more than one in twenty fail, that is an error
    most_tests        of a question: the first so many; some sets have hundreds

    Raises InputError.
    """
    source = ("questions.path", str(path)) if path is not None else ("questions.hub.id", str((hub or {}).get("id")))
    _check_counts(limit, verify, most_tests)
    questions, places, notes = _questions(rows_of(path, hub, split), row, limit, most_tests, source)
    if any(CodeTests.from_text(question.answer[0]).language == "cpp" for question in questions.values()):
        runner(**sandbox).require_compiler()
    failing = _failing(questions, places, verify, sandbox)
    verified = {key: question for key, question in questions.items() if key not in failing}
    train, apart = splits.hold_out(verified, heldout)
    if failing:
        notes.append(_left_out("whose own solution fails", list(failing.values())))
    return Rows(train=train, heldout=apart, notes=tuple(notes))


def _check_counts(limit: int | None, verify: int, most_tests: int) -> None:
    if limit is not None and limit < 1:
        raise InputError("questions.limit", limit, "must be above 0, or null for all")
    if verify < 0:
        raise InputError("questions.verify", verify, "must be 0 or more; 0 runs no solution")
    if most_tests < 1:
        raise InputError("questions.most_tests", most_tests, "must be above 0")


def _questions(
    placed: Placed, read: Reader | None, limit: int | None, most_tests: int, source: tuple[str, str]
) -> tuple[dict[str, Question], dict[str, str], list[str]]:
    """Questions and their places, both by fingerprint, and notes on rows that were left out. InputError where no row has tests, or
    more than a few cannot be read."""
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    untested, repeated, unreadable = [], [], []
    first: InputError | None = None
    for place, raw in placed:
        try:
            question = _question(raw, read, place, most_tests)
        except InputError as error:
            first = first or error
            unreadable.append(place)
            if not questions and len(unreadable) == UNREADABLE_AT_ONCE:
                break
            continue
        if question is None:
            untested.append(place)
        elif question.id in questions:
            repeated.append(f"{place} is {places[question.id]}")
        else:
            questions[question.id], places[question.id] = question, place
        if len(questions) == limit:
            break
    if first and (not questions or len(unreadable) > max(1, BROKEN * (len(questions) + len(unreadable)))):
        raise first
    if not questions:
        raise InputError(*source, f"no row has tests ({len(untested)} rows without); is this a file of that set?")
    reasons = (("without tests", untested), ("repeated", repeated), ("that cannot be read", unreadable))
    notes = [_left_out(reason, rows) for reason, rows in reasons if rows]
    if first and notes:
        notes[-1] += f" ({first.remedy})"
    return questions, places, notes


def _left_out(reason: str, rows: Sequence[str]) -> str:
    return f"left out {len(rows)} {reason}: {splits.listed(rows)}"


def _question(raw: Row, read: Reader | None, place: str, most_tests: int) -> Question | None:
    try:
        row = (read or _own)(raw)
        if row is None or not (row["tests"].tests or row["tests"].cases):
            return None
        tests, text, solutions = _first(row["tests"], most_tests), _text(row["problem"]), _texts(row.get("solution"))
        answer = tests.to_text()
        if tests.language in LANGUAGES:
            CodeTests.from_text(answer)  # a row function may have made anything of it
        "".join((text, *map(str, tests.tests), *sum(tests.cases, ()), tests.setup, tests.checker, *solutions)).encode()
    except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        if read is None:
            name, remedy = "null", "a row is {problem, tests, solution}, as in docs/extend.md, Programs"
        else:
            name, remedy = getattr(read, "__name__", "the row function"), "is this a file of that set?"
        reason = f"cannot read {place} ({type(error).__name__}: {error})"
        raise InputError("questions.row", name, f"{reason}; {remedy}") from error
    if tests.language not in LANGUAGES:
        raise InputError("questions.row", place, f"language {tests.language} is none of {', '.join(LANGUAGES)}")
    solution, *more = solutions or [""]
    meta = {k: v for k, v in row.items() if k not in ("problem", "tests", "solution") and v is not None}
    return Question(text, (answer,), splits.fingerprint(text), solution, meta, tuple(more[:8]))


def _text(problem: Any) -> str:
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError("the problem is no text")
    return problem.strip()


def _texts(solutions: Any) -> list[str]:
    texts = [solutions] if isinstance(solutions, str) else list(solutions or ())
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a solution must be a text")
    return texts


def _own(raw: Row) -> Row | None:
    """The suite's own form, its tests an object or JSON. Missing `names` are what the tests call and the solution defines."""
    given = raw.get("tests")
    if not given:
        return None
    tests = CodeTests.from_text(given if isinstance(given, str) else json.dumps(given))
    if tests.tests and not tests.names:
        solution = next(iter(_texts(raw.get("solution"))), "")
        tests = replace(tests, names=names_called(tests.tests, solution))
    return {**raw, "tests": tests}


def _first(tests: CodeTests, most: int) -> CodeTests:
    return replace(tests, tests=tests.tests[:most], cases=tests.cases[:most])


def _failing(
    questions: Mapping[str, Question], places: Mapping[str, str], verify: int, sandbox: Mapping[str, Any]
) -> dict[str, str]:
    """Id -> place and reason of the questions looked at whose own solution does not pass its tests."""
    with_solution = [key for key in sorted(questions) if questions[key].solution]
    chosen = with_solution[:verify]
    pairs = [(questions[key].solution, CodeTests.from_text(questions[key].answer[0])) for key in chosen]
    results = runner(**sandbox).run(pairs)
    failing = {
        key: f"{places[key]} ({result.outcome}{': ' + result.detail[-80:] if result.detail else ''})"
        for key, result in zip(chosen, results, strict=True)
        if result.outcome != PASSED
    }
    if len(failing) > max(1, BROKEN * len(chosen)) or (chosen and len(failing) == len(chosen)):
        first = next(iter(failing.values()))
        remedy = (
            f"of {len(chosen)} rows {len(failing)} fail their own tests, the first is {first}; mend them, or verify=0"
        )
        raise InputError("questions.verify", verify, remedy)
    return failing

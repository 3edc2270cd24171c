"""Question sets of programs to write: a table whose rows have tests. conf/questions/code.yaml makes one.

The tests are the reference answer, as text: they are part of a set's digest, and a run whose tests have changed is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zero.errors import InputError
from zero.questions import Checker, Extractor, QuestionSet, Rows, splits
from zero.questions.code_rows import names_called
from zero.questions.sources import Row, rows_of
from zero.records import Question
from zero.sandbox.code_tests import LANGUAGES, PASSED, CodeTests, runner

Reader = Callable[[Row], Row | None]
BROKEN = 0.05  # share of the rows looked at whose own solution may fail: published sets have some


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
    """Rows with tests; those without are left out, and named.

    path, hub, split  where the rows lie; see zero.questions.sources.rows_of
    row               a function of each raw row; null: {problem, tests, solution}, see _own
    heldout, limit    as in zero.questions.files.table
    verify            so many rows' own solutions are run at load, those of the smallest ids; 0: none. A row whose own solution
                      fails is left out and named; where more than one in twenty fail, that is an error
    most_tests        of a question: the first so many; some sets have hundreds

    Raises InputError.
    """
    source = ("questions.path", str(path)) if path is not None else ("questions.hub.id", str((hub or {}).get("id")))
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    untested, repeated = [], []
    for place, raw in rows_of(path, hub, split):
        question = _question(raw, row, place, most_tests)
        if question is None:
            untested.append(place)
        elif question.id in questions:
            repeated.append(f"{place} is {places[question.id]}")
        else:
            questions[question.id], places[question.id] = question, place
        if len(questions) == limit:
            break
    if not questions:
        raise InputError(*source, f"no row has tests ({len(untested)} rows without); is this a file of that set?")
    failing = _failing(questions, places, verify, sandbox)
    verified = {key: question for key, question in questions.items() if key not in failing}
    train, apart = splits.hold_out(verified, heldout)
    reasons = (
        ("without tests", untested),
        ("repeated", repeated),
        ("whose own solution fails", list(failing.values())),
    )
    notes = tuple(f"left out {len(rows)} {reason}: {splits.listed(rows)}" for reason, rows in reasons if rows)
    return Rows(train=train, heldout=apart, notes=notes)


def _question(raw: Row, read: Reader | None, place: str, most_tests: int) -> Question | None:
    try:
        row = (read or _own)(raw)
        if row is None or not (row["tests"].tests or row["tests"].cases):
            return None
        tests = _first(row["tests"], most_tests)
        text = str(row["problem"]).strip()
        (text + tests.to_text()).encode()
    except (ValueError, LookupError, TypeError, AttributeError, SyntaxError) as error:
        if read is None:
            name, remedy = "null", "a row is {problem, tests, solution}, as in docs/extend.md, Programs"
        else:
            name, remedy = getattr(read, "__name__", "the row function"), "is this a file of that set?"
        reason = f"cannot read {place} ({type(error).__name__}: {error})"
        raise InputError("questions.row", name, f"{reason}; {remedy}") from error
    if tests.language not in LANGUAGES:
        raise InputError("questions.row", place, f"language {tests.language} is none of {', '.join(LANGUAGES)}")
    solutions = row.get("solution") or []
    solution, *more = ([solutions] if isinstance(solutions, str) else list(solutions)) or [""]
    meta = {k: v for k, v in row.items() if k not in ("problem", "tests", "solution") and v is not None}
    return Question(text, (tests.to_text(),), splits.fingerprint(text), solution, meta, tuple(more[:8]))


def _own(raw: Row) -> Row:
    """The suite's own form, its tests an object or JSON. Missing `names` are what the tests call and the solution defines."""
    given = raw["tests"]
    tests = CodeTests.from_text(given if isinstance(given, str) else json.dumps(given))
    if tests.tests and not tests.names:
        solutions = raw.get("solution") or []
        solution = solutions if isinstance(solutions, str) else next(iter(solutions), "")
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

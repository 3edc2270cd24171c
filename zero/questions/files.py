"""Question sets from JSON Lines files. Every fault is one message that names the setting, the line and the remedy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.questions import Checker, QuestionSet, Rows
from zero.records import Question

UNANSWERED = 0.01  # share of rows without an answer that a file may have; MATH itself has one


def jsonl_set(name: str, path: str, check: Checker, **columns: Any) -> QuestionSet:
    """A question set from one file; `columns` are the other arguments of `jsonl`."""
    return QuestionSet(name=name, rows=jsonl(path, **columns), check=check)


def jsonl(
    path: str,
    question: str = "problem",
    answer: str = "answer",
    solution: str = "solution",
    answer_after: str | None = None,
    heldout: float = 0.05,
    limit: int | None = None,
) -> Rows:
    """Rows of a UTF-8 JSON Lines file. Blank lines, questions seen before (but for white space) and questions without
    an answer are left out; more than one in a hundred of the last kind is an error: the column is the wrong one.

    question, answer, solution  names of columns. An answer is a text, a number, or a list of these: every accepted
                                one. The solution may be missing. Other columns become `meta`.
    answer_after                the answer is what follows the last such mark: "####" for GSM8K's own files
    heldout                     a share (0.05) or a number of rows (256); 0 holds out none, 1.0 all: a pure benchmark.
                                The rows whose text has the smallest digest are held out, whatever the order of the file
    limit                       only the first so many questions of the file

    Raises InputError.
    """
    if limit is not None and limit < 1:
        raise InputError("questions.limit", limit, "must be above 0, or null for all")
    found: dict[str, Question] = {}
    unanswered: list[int] = []
    for number, row in _objects(path):
        text = _text(row, question, path, number)
        identity = _digest(text)
        if identity in found:
            continue
        accepted = _answers(_column(row, "questions.answer", answer, path, number), answer_after, number)
        if not accepted:
            unanswered.append(number)
            continue
        meta = {key: value for key, value in row.items() if key not in (question, answer, solution)}
        worked = row.get(solution)
        found[identity] = Question(text, accepted, identity, worked.strip() if isinstance(worked, str) else "", meta)
        if len(found) == limit:
            break
    if len(unanswered) > UNANSWERED * (len(found) + len(unanswered)):
        remedy = f"{len(unanswered)} lines have no answer there, the first is line {unanswered[0]}; drop them"
        raise InputError("questions.answer", answer, remedy)
    if not found:
        raise InputError("questions.path", path, "the file holds no question; give one JSON object a line")
    return _split(found, heldout)


def _objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError("questions.path", path, "no such file; give a JSON Lines file")
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and (row := _object(line, path, number)) is not None:
                    yield number, row
    except OSError as error:
        raise InputError("questions.path", path, f"cannot be read ({error.strerror})") from error


def _object(line: bytes, path: str, number: int) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8-sig").strip() or "null")
    except UnicodeDecodeError as error:
        raise InputError("questions.path", path, f"line {number} is not UTF-8; convert the file") from error
    except (ValueError, RecursionError) as error:  # ValueError: broken JSON, or a number of thousands of digits
        whole = "; the file looks like one JSON array: write one object a line" if line.lstrip()[:1] == b"[" else ""
        raise InputError("questions.path", path, f"line {number} is not JSON ({error}){whole}") from error
    if row is not None and not isinstance(row, dict):
        raise InputError("questions.path", path, f"line {number} is no JSON object; write one object a line")
    return row


def _column(row: dict[str, Any], key: str, column: str, path: str, number: int) -> Any:
    if column not in row:
        there = ", ".join(map(str, row)) or "none"
        raise InputError(key, column, f"no such column in line {number} of {path}; its columns are {there}")
    return row[column]


def _text(row: dict[str, Any], question: str, path: str, number: int) -> str:
    text = _column(row, "questions.question", question, path, number)
    if not isinstance(text, str) or not text.strip():
        raise InputError("questions.question", question, f"line {number} holds no text there; mend or drop the line")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("questions.question", question, f"line {number} holds half a Unicode character") from error
    return text.strip()


def _answers(value: Any, mark: str | None, number: int) -> tuple[str, ...]:
    """Every accepted answer as a text, without repetitions and empty ones."""
    values = value if isinstance(value, list) else [value]
    texts = [_answer(one, mark, number) for one in values if one is not None]
    return tuple(dict.fromkeys(text for text in texts if text))


def _answer(value: Any, mark: str | None, number: int) -> str:
    """142.0 -> "142", " 0.5" -> "0.5"."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(
            "questions.answer", value, f"line {number}: an answer must be a text, a number or a list of them"
        )
    if not mark:
        return value.strip()
    _, found, after = value.rpartition(mark)
    if not found:
        raise InputError("questions.answer_after", mark, f"the answer of line {number} has no such mark")
    return after.strip()


def _digest(text: str) -> str:
    """What makes a question the same question: its text but for white space."""
    return hashlib.md5(" ".join(text.split()).encode(), usedforsecurity=False).hexdigest()[:16]


def _split(found: dict[str, Question], heldout: float) -> Rows:
    """Training rows in the order of the file; held-out rows by digest, so that the first few are a fair sample."""
    size = len(found)
    share = isinstance(heldout, float)
    if not 0 <= heldout <= (1 if share else size):
        raise InputError(
            "questions.heldout", heldout, f"must be a share from 0.0 to 1.0 or at most the {size} rows there are"
        )
    count = math.ceil(heldout * size) if share else int(heldout)
    apart = dict.fromkeys(sorted(found)[:count])
    train = [question for identity, question in found.items() if identity not in apart]
    return Rows(train=train, heldout=[found[identity] for identity in apart])

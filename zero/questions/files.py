"""Question sets from files, folders and the hub. Every error names the setting, the row and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

from zero.errors import InputError
from zero.images import MAX_PIXELS
from zero.questions import Checker, Extractor, QuestionSet, Rows, splits
from zero.questions.image_column import KEY, ImageColumn
from zero.questions.references import reference
from zero.questions.sources import Placed, Row, folder_of, rows_of
from zero.records import Question
from zero.template import extract_any

UNANSWERED = 0.01  # share of rows without an answer that a file may have; MATH itself has one
Hub = Mapping[str, Any]
Reader = Callable[[Row], Row | None]
"""A function of one raw row: the row with a question and an answer in their columns, or None to leave it out. It raises
ValueError or LookupError for a row of another shape. Those of published sets are in zero.questions.published."""


def table_set(name: str, check: Checker, extract_any: Extractor = extract_any, **settings: Any) -> QuestionSet:
    """A question set from one table; `settings` are the arguments of `table`."""
    return QuestionSet(name=name, rows=table(**settings), check=check, extract_any=extract_any)


def table(
    path: str | None = None,
    hub: Hub | None = None,
    split: str | None = None,
    row: Reader | None = None,
    question: str = "problem",
    answer: str = "answer",
    solution: str = "solution",
    images: str | None = None,
    max_pixels: int = MAX_PIXELS,
    answer_after: str | None = None,
    where: Mapping[str, list[Any]] | None = None,
    heldout: float = 0.05,
    limit: int | None = None,
    leaks: str = "refuse",
) -> Rows:
    """Rows of one table. Repeated questions (those with the same zero.questions.splits.fingerprint) and questions without an
    answer are left out; more than one in a hundred without an answer is an error: it must be the wrong column.

    path, hub, split            of the rows; see zero.questions.sources.rows_of
    row                         a function of each raw row, for sets that column names cannot describe
    question, answer, solution  names of columns. An answer is a text, a number, or a list of these: every accepted
                                one. The solution may be missing, a text or a list of texts; rows of one question
                                add theirs up. Other columns become `meta`.
    images, max_pixels          the name of the column of images, if there is one (zero.questions.image_column), and the most
                                pixels of each
    answer_after                the answer follows the last such mark: "####" for GSM8K's own files
    where                       {column: [low, high]} with two numbers, either may be null: a range with both ends;
                                {column: values}: one of these. Rows must meet every condition
    heldout                     a share (0.05) or a number of rows (256); 0 holds out none, 1.0 all: a pure benchmark.
                                The rows with the smallest hash of text and images are held out, whatever the order of the file
    limit                       only the first `limit` questions that meet all conditions
    leaks                       rows of a training set that are questions of a known benchmark: see splits.without_leaks

    Raises InputError.
    """
    if limit is not None and limit < 1:
        raise InputError("questions.limit", limit, "must be above 0, or null for all")
    if leaks not in splits.RULES:
        raise InputError("questions.leaks", leaks, f"must be one of {', '.join(splits.RULES)}")
    source = ("questions.path", str(path)) if path is not None else ("questions.hub.id", str((hub or {}).get("id")))
    placed = _matching_rows(_read(rows_of(path, hub, split), row), _conditions(where), source[1])
    column = ImageColumn(images, folder_of(path), max_pixels) if images is not None else None
    columns = _Columns(question, answer, solution, column, answer_after, source[1])
    questions, places, notes = _questions(placed, columns, limit)
    if not questions:
        remedy = "no row meets questions.where" if where else "the file holds no question; give one JSON object a line"
        raise InputError(*source, remedy)
    train, held_out = splits.hold_out(questions, heldout)
    if train:  # else it is a benchmark; held-out rows are checked too, so that the result does not depend on the split
        clean, leaked = splits.without_leaks(
            list(questions.values()), splits.benchmarks(), leaks, source, lambda q: q.id, lambda q: places[q.id]
        )
        train, held_out = splits.hold_out({q.id: q for q in clean}, heldout)
        notes += leaked
    return Rows(train=train, heldout=held_out, notes=tuple(notes))


@dataclass(frozen=True)
class _Columns:
    """The names of a table's columns; `source` names the file in messages."""

    question: str
    answer: str
    solution: str
    images: ImageColumn | None
    mark: str | None
    source: str


def _questions(
    placed: Placed, columns: _Columns, limit: int | None
) -> tuple[dict[str, Question], dict[str, str], list[str]]:
    """Questions and their places, both by fingerprint, and notes on rows that were left out."""
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    repeated: list[str] = []
    contradicting: list[str] = []
    unanswered: list[str] = []
    named = {columns.question, columns.answer, columns.solution, columns.images.name if columns.images else None}
    for place, row in placed:
        text = _text(row, columns, place)
        pictures = _images(row, columns, place)
        identity = splits.fingerprint(text, pictures)
        worked = _solutions(row.get(columns.solution), columns.solution, place)
        if known := questions.get(identity):
            new = [text for text in worked if text not in (known.solution, *known.more)]
            if new:  # files of sampled solutions usually have one row for each response
                solution, *more = [text for text in (known.solution, *known.more, *new) if text]
                questions[identity] = replace(known, solution=solution, more=tuple(more))
            other = _answers(row.get(columns.answer), columns, place)
            differs = bool(other) and not set(other) & set(known.answer)
            (contradicting if differs else repeated).append(f"{place} is {places[identity]}")
            continue
        accepted = _answers(_column(row, "questions.answer", columns.answer, columns.source, place), columns, place)
        if not accepted:
            unanswered.append(place)
            continue
        meta = {k: v for k, v in row.items() if k not in named}
        solution, *more = worked or [""]
        questions[identity] = Question(text, accepted, identity, solution, meta, tuple(more), pictures)
        places[identity] = place
        if len(questions) == limit:
            break
    if len(unanswered) > UNANSWERED * (len(questions) + len(unanswered)):
        remedy = f"{len(unanswered)} rows have no answer there, the first is {unanswered[0]}; drop them"
        raise InputError("questions.answer", columns.answer, remedy)
    reasons = (
        ("repeated", repeated),
        ("repeated with another answer, of which the first was kept", contradicting),
        ("without an answer", unanswered),
    )
    return questions, places, [f"left out {len(v)} {k}: {splits.listed(v)}" for k, v in reasons if v]


def _read(placed: Placed, read: Reader | None) -> Placed:
    """The rows after the set's own row function."""
    for place, raw in placed:
        try:
            row = raw if read is None else read(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            name = getattr(read, "__name__", "the row function")
            remedy = f"cannot read {place} ({type(error).__name__}: {error}); is this a file of that set?"
            raise InputError("questions.row", name, remedy) from error
        if row is not None:
            yield place, row


Condition = tuple[str, Callable[[Any], bool]]


def _conditions(where: Mapping[str, list[Any]] | None) -> list[Condition]:
    conditions: list[Condition] = []
    for column, allowed in (where or {}).items():
        if not isinstance(allowed, list) or not allowed:
            raise InputError("questions.where", f"{column}: {allowed}", "must be [low, high] or a list of values")
        is_range = len(allowed) == 2 and all(end is None or _is_number(end) for end in allowed)
        conditions.append((column, partial(_within, *allowed) if is_range else allowed.__contains__))
    return conditions


def _within(low: float | None, high: float | None, value: Any) -> bool:
    """ValueError if the value is no number, nor a text that is one."""
    if not (_is_number(value) or isinstance(value, str | Decimal)):
        raise ValueError(value)
    number = float(value) if isinstance(value, str) else value  # an integer may be larger than any float
    return (low is None or low <= number) and (high is None or number <= high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matching_rows(placed: Placed, conditions: list[Condition], source: str) -> Placed:
    for place, row in placed:
        for column, meets in conditions:
            value = _column(row, "questions.where", column, source, place)
            try:
                if value is None or not meets(value):
                    break
            except ValueError:
                remedy = f"a range needs numbers, but {place} holds {str(value)[:40]!r} there; list the values"
                raise InputError("questions.where", column, remedy) from None
        else:
            yield place, row


def _column(row: Row, key: str, column: str, source: str, place: str) -> Any:
    if column not in row:
        columns = ", ".join(map(str, row)) or "none"
        raise InputError(key, column, f"no such column in {place} of {source}; its columns are {columns}")
    return row[column]


def _text(row: Row, columns: _Columns, place: str) -> str:
    text = _column(row, "questions.question", columns.question, columns.source, place)
    if not isinstance(text, str) or not text.strip():
        raise InputError("questions.question", columns.question, f"{place} holds no text there; mend or drop the row")
    return _whole(text, "questions.question", columns.question, place).strip()


def _images(row: Row, columns: _Columns, place: str) -> tuple[str, ...]:
    if columns.images is None:
        return ()
    return columns.images.digests(_column(row, KEY, columns.images.name, columns.source, place), place)


def _whole(text: str, key: str, column: str, place: str) -> str:
    """The text itself; InputError if it holds half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(key, column, f"{place} holds half a Unicode character; mend the row") from error
    return text


def _solutions(value: Any, column: str, place: str) -> list[str]:
    """Every solution that is a text, without repetitions and empty ones."""
    texts = [one.strip() for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    for text in texts:
        _whole(text, "questions.solution", column, place)
    return list(dict.fromkeys(text for text in texts if text))


def _answers(value: Any, columns: _Columns, place: str) -> tuple[str, ...]:
    """Every accepted answer as a text, without its box, repetitions and empty ones."""
    values = value if isinstance(value, list) else [value]
    texts = [_answer(one, columns.mark, place) for one in values if one is not None]
    return tuple(dict.fromkeys(reference(text, columns.answer, place) for text in texts if text))


def _answer(value: Any, mark: str | None, place: str) -> str:
    """142.0 -> "142", " 0.5" -> "0.5"."""
    if isinstance(value, Decimal) and value.is_finite():  # of Parquet's decimal columns
        return f"{value.normalize():f}"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError("questions.answer", value, f"{place}: an answer must be a text, a number or a list of them")
    _whole(value, "questions.answer", value.encode("utf-8", "replace").decode(), place)
    if not mark:
        return value.strip()
    _, separator, after = value.rpartition(mark)
    if not separator:
        raise InputError("questions.answer_after", mark, f"the answer of {place} has no such mark")
    return after.strip()

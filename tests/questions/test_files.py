"""Tables of users: columns under other names, answers of several kinds, filters, and every fault named."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.questions import QuestionSet
from zero.questions.files import table


def write(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows))
    return str(path)


def many(n: int) -> list[dict[str, Any]]:
    return [{"problem": f"What is {i} + 1?", "answer": i + 1, "level": i % 5} for i in range(n)]


def test_one_row_becomes_a_question(tmp_path: Path) -> None:
    row = {"problem": " 1+1?\n", "answer": " 2 ", "solution": "It is 2.", "level": 3, "subject": "Algebra"}
    rows = table(write(tmp_path, row), heldout=0)
    (question,) = rows.train
    assert (question.text, question.answer, question.solution) == ("1+1?", ("2",), "It is 2.")
    assert question.meta == {"level": 3, "subject": "Algebra"}
    assert rows.notes == ()


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("025", ("025",)),
        (142.0, ("142",)),
        (-3, ("-3",)),
        (0.5, ("0.5",)),
        (10**400, (str(10**400),)),
        (["9.6\n", 9.6, 10], ("9.6", "10")),
        (["a", None, ""], ("a",)),
    ],
)
def test_answers_become_text(tmp_path: Path, answer: Any, accepted: tuple[str, ...]) -> None:
    assert table(write(tmp_path, {"problem": "q", "answer": answer}), heldout=0).train[0].answer == accepted


def test_the_solutions_of_a_question_add_up(tmp_path: Path) -> None:
    solutions = [["a", "b", "a", "", None], "c", "a", None, ["d"]]
    path = write(tmp_path, *({"problem": "1+1?", "answer": "2", "solution": text} for text in solutions))
    rows = table(path, heldout=0)
    (question,) = rows.train
    assert (question.solution, question.more) == ("a", ("b", "c", "d"))
    assert rows.notes == (f"left out 4 repeated: {', '.join(f'line {n} is line 1' for n in (2, 3, 4, 5))}",)
    fewer = table(write(tmp_path, {"problem": "1+1?", "answer": "2", "solution": "a"}), heldout=0)
    assert fewer.digest != rows.digest


def test_an_answer_after_a_mark(tmp_path: Path) -> None:
    row = {"question": "48 + 24?", "answer": "48+24 = <<48+24=72>>72\n#### 72"}
    columns = {"question": "question", "solution": "answer", "answer_after": "####"}
    (question,) = table(write(tmp_path, row), heldout=0, **columns).train
    assert question.answer == ("72",)
    assert question.solution == row["answer"]
    assert question.meta == {}


def test_blank_lines_repetitions_a_mark_and_windows_line_ends(tmp_path: Path) -> None:
    first = b'\xef\xbb\xbf{"problem": "a b", "answer": "1"}\r\n'
    path = write(
        tmp_path, first, b"\r\n", b"  \n", {"problem": " A \n b.", "answer": "2"}, {"problem": "c", "answer": 3}
    )
    rows = table(path, heldout=0)
    assert [(q.text, q.answer) for q in rows.train] == [("a b", ("1",)), ("c", ("3",))]
    assert rows.notes == ("left out 1 repeated with another answer, of which the first was kept: line 4 is line 1",)


def test_a_repetition_with_another_answer_is_reported(tmp_path: Path) -> None:
    rows = [("q1", "3"), ("Q1", "3"), ("q1?", ["3", "three"]), ("q1", "4"), ("q2", "5")]
    lines = [{"problem": question, "answer": answer} for question, answer in rows]
    read = table(write(tmp_path, *lines), heldout=0)
    assert [(q.text, q.answer) for q in read.train] == [("q1", ("3",)), ("q2", ("5",))]
    assert read.notes == (
        "left out 2 repeated: line 2 is line 1, line 3 is line 1",
        "left out 1 repeated with another answer, of which the first was kept: line 4 is line 1",
    )


def test_held_out_rows_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = many(100)
    one, other = table(write(tmp_path, *rows), heldout=10), table(write(tmp_path, *reversed(rows)), heldout=10)
    assert one.heldout == other.heldout
    assert len(one.heldout) == 10
    assert {q.id for q in one.train}.isdisjoint(q.id for q in one.heldout)
    assert len({q.id for q in (*one.train, *one.heldout)}) == 100
    numbers = [int(q.answer[0]) for q in one.train]
    assert numbers == sorted(numbers)  # the order of the file
    more = table(write(tmp_path, *rows), heldout=20)
    assert more.heldout[:10] == one.heldout
    assert one.digest != more.digest


@pytest.mark.parametrize(("heldout", "count"), [(0, 0), (0.0, 0), (0.05, 1), (0.5, 5), (1, 1), (1.0, 10), (10, 10)])
def test_share_or_number(tmp_path: Path, heldout: float, count: int) -> None:
    rows = table(write(tmp_path, *many(10)), heldout=heldout)
    assert (len(rows.train), len(rows.heldout)) == (10 - count, count)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    rows = table(write(tmp_path, *many(10), b"broken, but never read\n"), limit=4, heldout=1)
    assert {q.text for q in (*rows.train, *rows.heldout)} == {row["problem"] for row in many(4)}


def test_a_few_rows_without_answer_are_left_out_and_named(tmp_path: Path) -> None:
    rows = table(write(tmp_path, *many(150), {"problem": "no answer", "answer": ""}), heldout=0)
    assert len(rows.train) == 150
    assert rows.notes == ("left out 1 without an answer: line 151",)


def test_where_takes_integers_larger_than_any_float(tmp_path: Path) -> None:
    row = {"problem": "p", "answer": "1", "n": 10**400}
    assert len(table(write(tmp_path, row), where={"n": [1, None]}, heldout=0).train) == 1
    with pytest.raises(InputError, match="no row meets"):
        table(write(tmp_path, row), where={"n": [None, 1.5]}, heldout=0)


def test_where_takes_decimals(tmp_path: Path) -> None:
    levels = pa.array([Decimal("1.50"), Decimal("2.50"), None], pa.decimal128(5, 2))
    pq.write_table(pa.table({"problem": ["p", "q", "r"], "answer": ["1"] * 3, "level": levels}), tmp_path / "a.parquet")
    rows = table(str(tmp_path / "a.parquet"), where={"level": [1.5, 2]}, heldout=0).train
    assert [row.text for row in rows] == ["p"]


MIXED = [
    {"problem": "a", "answer": 1, "level": 2, "source": "x", "year": "1983"},
    {"problem": "b", "answer": 1, "level": 3, "source": "y", "year": "2023"},
    {"problem": "c", "answer": 1, "level": 5, "source": "z", "year": "2024"},
    {"problem": "d", "answer": 1, "level": None, "source": "x", "year": "1990"},
]


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        ({"level": [3, 5]}, "bc"),
        ({"level": [3, None]}, "bc"),
        ({"level": [None, 2.5]}, "a"),
        ({"level": [2, 5, 5]}, "ac"),  # three values that are numbers
        ({"level": [3]}, "b"),
        ({"source": ["x", "z"]}, "acd"),
        ({"year": [1983, 2023]}, "abd"),  # texts that look like numbers
        ({"source": ["x"], "level": [1, 2]}, "a"),
        ({}, "abcd"),
    ],
)
def test_where_filters(tmp_path: Path, where: dict[str, list[Any]], texts: str) -> None:
    rows = table(write(tmp_path, *MIXED), where=where, heldout=0)
    assert "".join(q.text for q in rows.train) == texts


def test_a_row_function_reads_rows_and_leaves_some_out(tmp_path: Path) -> None:
    def odd(row: dict[str, Any]) -> dict[str, Any] | None:
        return {**row, "answer": f"<{row['answer']}>"} if row["level"] % 2 else None

    rows = table(write(tmp_path, *many(10)), row=odd, heldout=0)
    assert [q.answer[0] for q in rows.train] == ["<2>", "<4>", "<7>", "<9>"]
    with pytest.raises(InputError, match=r"questions\.row=odd: cannot read line 1 \(KeyError: 'level'\)"):
        table(write(tmp_path, {"problem": "q", "answer": "a"}), row=odd)


GOOD = {"problem": "q", "answer": "a"}
FAULTS = [
    ([], {}, "questions.path", "holds no question"),
    ([b"\n \n"], {}, "questions.path", "holds no question"),
    ([GOOD, b'{"problem": "x", \n'], {}, "questions.path", "line 2 is not JSON"),
    ([b"[" * 100_000 + b"\n"], {}, "questions.path", "line 1 is not JSON"),
    ([b"[\n", b'{"problem": 1}]\n'], {}, "questions.path", "name the file .json"),
    ([[GOOD]], {}, "questions.path", "line 1 is no JSON object"),
    ([b'{"problem": "q", "answer": ' + b"9" * 5000 + b"}\n"], {}, "questions.path", "line 1 is not JSON"),
    ([GOOD, b'{"problem": "caf\xe9", "answer": "a"}\n'], {}, "questions.path", "line 2 is not UTF-8"),
    ([GOOD, {"question": "q", "answer": "a"}], {}, "questions.question", "line 2 of .* columns are question, answer"),
    ([{"problem": "q", "gold": "a"}], {}, "questions.answer", "line 1 of .* columns are problem, gold"),
    ([{"answer": "a"}], {"question": "text"}, "questions.question", "text: no such column"),
    ([{"problem": "  ", "answer": "a"}], {}, "questions.question", "line 1 holds no text"),
    ([{"problem": 5, "answer": "a"}], {}, "questions.question", "line 1 holds no text"),
    ([{"problem": "\ud800", "answer": "a"}], {}, "questions.question", "half a Unicode character"),
    ([{"problem": "q", "answer": "a", "solution": "x\ud83d"}], {}, "questions.solution", "line 1 holds half a Unicode"),
    ([{"problem": "q", "answer": ["a", "\udc00"]}], {}, "questions.answer", "line 1 holds half a Unicode"),
    (["\ufeff{}".encode("utf-16")], {}, "questions.path", "line 1 is not UTF-8 .it looks like UTF-16."),
    ([b"{\n", b'"problem": "q"}\n'], {}, "questions.path", "one object over several lines"),
    ([b"problem,answer\n", b"q,a\n"], {}, "questions.path", "line 1 is not JSON .*: .csv, .tsv"),
    ([b"\x1f\x8b\x08\n"], {}, "questions.path", "line 1 is not UTF-8"),
    ([{"problem": "q", "answer": {}}], {}, "questions.answer", "line 1: an answer must be"),
    ([{"problem": "q", "answer": True}], {}, "questions.answer", "line 1: an answer must be"),
    ([b'{"problem": "q", "answer": NaN}\n'], {}, "questions.answer", "line 1: an answer must be"),
    ([{"problem": "q", "answer": ""}], {}, "questions.answer", "1 rows have no answer there, the first is line 1"),
    ([{"problem": "q", "answer": []}], {}, "questions.answer", "no answer there"),
    ([GOOD], {"answer_after": "####"}, "questions.answer_after", "line 1 has no such mark"),
    ([GOOD], {"heldout": 2}, "questions.heldout", "at most the 1 rows"),
    ([GOOD], {"heldout": 1.5}, "questions.heldout", "a share from 0.0 to 1.0"),
    ([GOOD], {"heldout": -1}, "questions.heldout", "a share from 0.0 to 1.0"),
    ([GOOD], {"limit": 0}, "questions.limit", "above 0"),
    ([GOOD], {"leaks": "ignore"}, "questions.leaks", "must be one of refuse, drop, keep"),
    ([GOOD], {"where": {"level": [1, 2]}}, "questions.where", "level: no such column in line 1 of .* problem, answer"),
    ([GOOD], {"where": {"answer": [1, 2]}}, "questions.where", "needs numbers, but line 1 holds 'a'"),
    ([GOOD], {"where": {"answer": 3}}, "questions.where", "must be .low, high. or a list"),
    ([GOOD], {"where": {"answer": ["b"]}}, "questions.path", "no row meets questions.where"),
]


@pytest.mark.parametrize(("rows", "settings", "key", "message"), FAULTS)
def test_every_fault_is_named(
    tmp_path: Path, rows: list[Any], settings: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        table(write(tmp_path, *rows), **settings)
    assert error.value.key == key
    assert len(str(error.value).splitlines()) == 1


def test_the_yaml_makes_a_question_set(tmp_path: Path) -> None:
    config = check("train", ["questions=file", f"questions.path={write(tmp_path, *many(100))}"])["questions"]
    questions: QuestionSet = instantiate(config)
    assert (questions.name, len(questions.rows.train), len(questions.rows.heldout)) == ("file", 95, 5)
    question = questions.batch(0, 1, seed=0)[0]
    assert questions.check(question.answer[0] + ".0", question)

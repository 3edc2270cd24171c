"""Which questions are the same, and that no training row is a benchmark's question."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.errors import InputError
from zero.questions import fingerprint as script
from zero.questions import splits
from zero.questions.files import table
from zero.questions.splits import benchmarks, fingerprint, normal_form, read_fingerprints, without_leaks
from zero.records import Question

SAME = [
    ("Let $x = 3$.  Find\n$x$.", "let $x=3.$ find $x$"),
    (r"$\dfrac{1}{2} + \left( x \right)$", r"$\frac{1}{2}+(x)$"),
    (r"Find $\text{the sum}$", "Find the sum"),
    (r"$1,\!000$ and $1{,}000$", "1,000 and 1,000"),
    ("$(1, 2)$ and $(d,7).$", r"\((1,2)\) and $(d, 7)$"),
    ("Bella\u2019s \u201ctwo\u201d cats", 'Bella\'s "two" cats'),
    ("3 \u2212 1", "3-1"),
    ("\uff11\uff12 apples", "12 apples"),
    (r"a\quad b~c", "a b c"),
    ("x^{10}", "x^10"),
]
OTHER = [
    (r"\frac{1}{23}", r"\frac{12}{3}"),
    ("1.5 m", "15 m"),
    ("1 5", "15"),
    ("3-1", "3+1"),
    ("3-1", "31"),
    ("What is 2 + 1?", "What is 1 + 2?"),
    ("12:30", "1230"),
    ("f'(x)", "f(x)"),
    ("x^{2}3", "x^{23}"),
    ("(1,2)", "(12)"),
    ("[1,2]", "(1,2)"),
    ("caf\u00e9 is 5", "caf is 5"),
    ("n!", "n"),
    ("\u4e00", "\u4e8c"),
    ("???", "..."),  # the normal form of both is empty: their texts count
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_copies_are_the_same_question(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_numbers_are_another_question(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_the_normal_form_is_total_and_white_space_never_matters_at_the_ends(text: str) -> None:
    assert normal_form(f" \n{text}\t") == normal_form(text)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(text))


def test_the_normal_form_is_linear() -> None:
    for hostile in ("\\" * 200_000, " " * 200_000, "1 " * 100_000, "," * 200_000, "1," + " " * 200_000):
        assert len(normal_form(hostile)) <= len(hostile)


def test_the_shipped_fingerprints_are_those_of_every_benchmark() -> None:
    counts = {name: len(prints) for name, prints in benchmarks().items()}
    assert counts == {
        "aime24": 30,
        "amc": 83,
        "amc23": 40,
        "math500": 500,
        "minerva": 272,
        "olympiad_bench": 675,
        "gsm8k_test": 1319,
    }
    assert benchmarks()["amc23"] < benchmarks()["amc"]
    lines = splits.SHIPPED.read_text("ascii").splitlines()
    assert all(re.fullmatch(r"#.*|\[\w+\]|(?:[0-9a-f]{16})+", line) for line in lines)  # hashes only, no text
    assert not any(fingerprint("What is 7 times 8,191?") in prints for prints in benchmarks().values())


def questions(*texts: str) -> list[Question]:
    return [Question(text, ("1",), f"id{i}") for i, text in enumerate(texts)]


def prints(*texts: str) -> set[str]:
    return {fingerprint(text) for text in texts}


def test_leaks_are_dropped_and_named() -> None:
    train = questions(*(f"row {i}" for i in range(400)))
    known = {
        "one": prints(*(f"Row {i}." for i in (5, 7, 9)), *(f"test {i}" for i in range(97))),
        "two": prints("row 9", *(f"exam {i}" for i in range(97))),
        "three": prints("of no row"),
    }
    clean, notes = without_leaks(train, known)
    assert [q.id for q in train if q not in clean] == ["id5", "id7", "id9"]
    assert notes == [
        "dropped 3 rows that are questions of one: id5, id7, id9",
        "dropped 1 row that is a question of two: id9",
    ]


@pytest.mark.parametrize(
    ("rows", "size", "leaked", "refused"),
    [
        (1000, 100, 5, False),
        (1000, 100, 6, True),  # more than 5 % of the benchmark
        (200, 1000, 2, False),
        (200, 1000, 3, True),  # more than 1 % of the rows
        (1000, 30, 1, False),
        (1000, 30, 2, True),
    ],
)
def test_many_leaks_are_refused(rows: int, size: int, leaked: int, refused: bool) -> None:
    train = questions(*(f"row {i}" for i in range(rows)))
    known = {"exam": prints(*(f"row {i}" for i in range(leaked)), *(f"other {i}" for i in range(size - leaked)))}
    source = ("questions.path", "a.jsonl")
    if refused:
        message = (
            rf"questions\.path=a\.jsonl: contains {leaked} of the {size} questions of the exam benchmark; take a clean"
        )
        with pytest.raises(InputError, match=message):
            without_leaks(train, known, source=source)
    else:
        assert len(without_leaks(train, known, source=source)[0]) == rows - leaked
    assert len(without_leaks(train, known, "drop")[0]) == rows - leaked
    remaining, notes = without_leaks(train, known, "keep")
    assert remaining == train and notes[0].startswith(f"kept {leaked} row")


def test_long_lists_are_counted() -> None:
    assert splits.listed([str(i) for i in range(23)]).endswith("18, 19 and 3 more")


@pytest.fixture
def exam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, frozenset[str]]:
    """A benchmark of 100 questions in place of those that ship."""
    known = {"exam": frozenset(prints(*(f"Question {i}: what?" for i in range(100))))}
    monkeypatch.setattr(splits, "benchmarks", lambda: known)
    return known


def write(tmp_path: Path, *texts: str) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": text, "answer": 1}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("heldout", [0, 50])
def test_loading_checks_a_training_set(tmp_path: Path, exam: Any, heldout: int) -> None:
    own = [f"own {i}" for i in range(300)]
    rows = table(write(tmp_path, "question 3: what", *own), heldout=heldout)
    assert {q.text for q in (*rows.train, *rows.heldout)} == set(own)
    assert len(rows.heldout) == heldout
    assert rows.notes == ("dropped 1 row that is a question of exam: line 1",)
    with pytest.raises(
        InputError, match=r"questions\.path=.*rows\.jsonl: contains 10 of the 100 questions of the exam"
    ):
        table(write(tmp_path, *own, *(f"question {i}: what" for i in range(10))), heldout=heldout)
    rows = table(write(tmp_path, *own, *(f"question {i}: what" for i in range(10))), heldout=heldout, leaks="drop")
    assert len(rows.train) + len(rows.heldout) == 300


def test_a_benchmark_may_hold_its_own_questions(tmp_path: Path, exam: Any) -> None:
    rows = table(write(tmp_path, *(f"question {i}: what" for i in range(100))), heldout=1.0)
    assert len(rows.heldout) == 100 and not rows.train and not rows.notes


def test_the_script_replaces_one_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, texts = tmp_path / "prints.txt", [f"q {i}" for i in range(9)]
    assert script.main(["b", write(tmp_path, *texts)], out) == 0
    assert script.main(["a", write(tmp_path, "other"), "problem"], out) == 0
    assert read_fingerprints(out) == {"a": prints("other"), "b": prints(*texts)}
    before = out.read_bytes()
    assert script.main(["b", write(tmp_path, *reversed(texts))], out) == 0
    assert out.read_bytes() == before  # the same bytes, whatever the order of the file
    assert script.main(["b", write(tmp_path, "x"), "question"], out) == 2
    assert script.main(["b"], out) == 2
    assert "COLUMN=question: line 1 of" in capsys.readouterr().err
    assert out.read_bytes() == before

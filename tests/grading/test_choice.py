"""Multiple choice: rows in GPQA's form, and the letter that an answer names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.grading.gym_hostile import answers
from zero.config.check import check, instantiate
from zero.grading import check_many
from zero.grading.choice import LONGEST, check_choice, choice_in_any_form
from zero.questions import published
from zero.records import Outcome, Question

OPTIONS = ["5 m/s", "vitamin C", "A then B", "none"]
QUESTION = Question("?", ("B",), "one", meta={"choices": OPTIONS})
RIGHT = ["B", "(B)", "B.", " b ", "(b)", "[B]", "\\boxed{B}", "\\boxed{\\text{B}}", "\\text{(B)}", "$B$", "Answer: B", "**B**",
         "The answer is (B).", "B: vitamin C", "B) vitamin C", "option B", "B, and B again"]  # fmt: skip
WRONG = ["A", "C)", "\\boxed{D}", "Answer: A", "C) A then B", "(d)"]
NONE = ["", " ", "A or B", "A) vitamin C", "(A)(B)", "E", "Z", "5", "vitamin", "ABCD", "AB", "B1", "Bob", "\uff22", "\u0412",
        "\u0392", "B_1", "neither", "b or c", "I", "B's", "A, B, C or D", "not B but C", "B" * 3000, "B " * 3000]  # fmt: skip
ROW = {"Question": "How fast?\n", "Correct Answer": "5 m/s\n", "Incorrect Answer 1": "6 m/s", "Incorrect Answer 2": "7 m/s",
       "Incorrect Answer 3": "8 m/s", "Record ID": "rec1", "Subdomain": "physics", "Canary String": "..."}  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "outcome"), [(RIGHT, Outcome.CORRECT), (WRONG, Outcome.WRONG), (NONE, Outcome.UNPARSED)]
)
def test_one_letter_or_no_answer(texts: list[str], outcome: Outcome) -> None:
    outcomes = check_many(check_choice, [(text, QUESTION) for text in texts])
    assert {text: each for text, each in zip(texts, outcomes, strict=True) if each is not outcome} == {}


def test_hostile_answers_have_a_verdict_and_only_those_with_the_letter_are_right() -> None:
    outcomes = check_many(check_choice, [(text, QUESTION) for text in answers()])
    assert set(outcomes) <= {Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED}
    right = [text for text, outcome in zip(answers(), outcomes, strict=True) if outcome is Outcome.CORRECT]
    assert right and all("b" in text.lower() and len(text) <= LONGEST for text in right)
    for text in answers():
        assert (choice_in_any_form(text) or "") in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So <answer>B</answer>", "B"),
        ("I think \\boxed{C}", "C"),
        ("Answer: A\nNo.\nAnswer: (B)", "(B)"),
        ("The answer is B, since A is too slow", "B, since A is too slow"),
        ("**Answer:** B", "B"),
        ("Thinking.\nB", "B"),
        ("Thinking.\nA or B", None),
        ("", None),
        ("\n", None),
    ],
)
def test_the_letter_in_any_form(text: str, answer: str | None) -> None:
    assert choice_in_any_form(text) == answer


def test_rows_of_gpqa_have_their_options_in_an_order_of_their_own() -> None:
    row = published.gpqa(ROW)
    assert row is not None and row == published.gpqa(dict(reversed(ROW.items())))
    letter, options = row["answer"], row["choices"]
    assert sorted(options) == ["5 m/s", "6 m/s", "7 m/s", "8 m/s"] and options["ABCD".index(letter)] == "5 m/s"
    assert row["problem"].splitlines()[:3] == ["How fast?", "", f"A) {options[0]}"]
    rows: list[Any] = [published.gpqa({**ROW, "Question": f"How fast? {i}"}) for i in range(400)]
    counts = {letter: sum(row["answer"] == letter for row in rows) for letter in "ABCD"}
    assert min(counts.values()) > 70, counts
    assert published.gpqa({**ROW, "Incorrect Answer 2": "5 m/s "}) is None  # two right letters
    with pytest.raises(LookupError):
        published.gpqa({"Question": "?"})


def test_a_file_of_gpqa_is_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "gpqa.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROW))
        writer.writeheader()
        writer.writerows({**ROW, "Question": f"How fast, case {i}?"} for i in range(8))
    config = check("evaluate", ["benchmarks=gpqa", f"benchmarks.sets.gpqa.path={path}"])["benchmarks"]
    questions = instantiate(config["sets"]["gpqa"])
    assert len(questions.rows.heldout) == 8 and not questions.rows.train
    for question in questions.rows.heldout:
        letter = question.answer[0]
        wrong = "ABCD"[("ABCD".index(letter) + 1) % 4]
        both = [(questions.extract_any(f"It is so.\nAnswer: ({each})"), question) for each in (letter, wrong)]
        assert check_many(questions.check, both) == [Outcome.CORRECT, Outcome.WRONG]

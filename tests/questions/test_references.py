"""Reference answers in the formatting of published files are unwrapped, or refused by row and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zero.errors import InputError
from zero.grading import check_equal, check_maths
from zero.questions.files import table_set
from zero.questions.references import reference
from zero.records import Outcome
from zero.template import extract_any

SOLUTION = "We add the two. First, $2+2$ is 4, then one more.\n\nSo the sum of both numbers is \\boxed{%s}. This is what was asked."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5", "5"),
        ("\\boxed{5}", "5"),
        ("$\\boxed{5}$", "5"),
        ("$$\\boxed{\\frac{1}{2}}$$", "\\frac{1}{2}"),
        ("#### 5", "5"),
        ("She sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72", "72"),
        (SOLUTION % "5", "5"),
        ("The answer is \\boxed{5}.", "5"),
        ("first \\boxed{4}, no: \\boxed{5}", "5"),
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("<think> hm </think> <answer> \\boxed{5} </answer>", "5"),
        ("<answer>5</answer>", "5"),
        ("\\text{the set of all odd primes}", "\\text{the set of all odd primes}"),
        ("$f(x)=ax+b$, where $b$ is an arbitrary integer", "$f(x)=ax+b$, where $b$ is an arbitrary integer"),
    ],
)
def test_the_answer_in_a_text(text: str, answer: str) -> None:
    assert reference(text, "answer", "line 1") == answer


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{5",
        "\\boxed{}",
        "Adding both numbers gives four.\n####",
        (SOLUTION % "5").replace("\\boxed{5}", "five"),
        "word " * 30,
    ],
)
def test_a_reference_that_no_answer_can_equal_is_refused_by_row_and_column(text: str) -> None:
    with pytest.raises(InputError, match=r"questions\.answer=gold: .*line 7"):
        reference(text, "gold", "line 7")


def test_formatted_references_equal_the_bare_answer_and_the_solution(tmp_path: Path) -> None:
    dressed = ["5", "\\boxed{5}", "$\\boxed{5}$", "#### 5", SOLUTION % "5", "The answer is \\boxed{5}."]
    lines = [{"problem": f"q{i}", "answer": text, "solution": SOLUTION % "5"} for i, text in enumerate(dressed)]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = table_set("q", check_maths, path=str(path), heldout=0).rows.train
    assert len(questions) == len(dressed)
    assert all(check_equal("5", question) for question in questions)
    answers = [extract_any(question.solution) or "" for question in questions]
    assert check_maths.many(list(zip(answers, questions, strict=True))) == [Outcome.CORRECT] * len(dressed)

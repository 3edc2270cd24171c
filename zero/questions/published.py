r"""Rows of published question sets whose files need more than column names. One function each, for `row` of a yaml.

Each takes the raw row of the set's own files and returns columns `problem` and `answer` (the others stay), or None to
leave the row out. ValueError or LookupError: the row is of another shape. A file that has both columns already is read
as well, so that copies in the suite's own form need no other yaml.
"""

from __future__ import annotations

import re

from zero.questions.sources import Row
from zero.template import last_boxed

_LEVEL = re.compile(r"Level ([1-5])")
_QUANTITY = re.compile(r"\s*(-?[0-9][0-9.,/]*)\s*(?:\([^()]*\))?\s*")


def gsm8k(row: Row) -> Row:
    """openai/gsm8k: {question, answer: "worked solution #### 1,234"}. Marks of thousands go: 93 answers have them."""
    row = dict(row)
    if "problem" not in row:
        row["problem"] = row.pop("question")
    worked, marked, final = str(row["answer"]).rpartition("####")
    if marked:
        row["solution"] = row["answer"]
    elif not worked:
        final = str(row["answer"])
    row["answer"] = final.strip().replace(",", "")
    return row


def asdiv(row: Row) -> Row | None:
    """ASDiv: "9 (apples)" -> "9". Rows that ask for several quantities or for words are left out."""
    quantity = _QUANTITY.fullmatch(str(row["answer"]))
    if quantity is None:
        return None
    return {**row, "answer": quantity[1].replace(",", "")}


def orz(row: Row) -> Row:
    """Open-Reasoner-Zero's own JSON: [{from: human, value}, {from: assistant, ground_truth: {value}}]."""
    if "problem" in row:
        return row
    asked, answered = row["0"], row["1"]
    return {"problem": asked["value"], "answer": answered["ground_truth"]["value"]}


def math(row: Row) -> Row:
    """MATH as Hendrycks et al. have it: level "Level 5" -> 5; without an answer, the solution's last box is the answer.
    One row of theirs has "Level ?": 0."""
    row = dict(row)
    if isinstance(row.get("level"), str):
        level = _LEVEL.fullmatch(row["level"])
        row["level"] = int(level[1]) if level else 0
    if "answer" not in row:
        row["answer"] = last_boxed(row["solution"])
    return row

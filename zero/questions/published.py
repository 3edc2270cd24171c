r"""Rows of published question sets whose files need more than column names. One function each, for `row` of a yaml.

Each takes the raw row of the set's own files and returns columns `problem` and `answer` (the others stay), or None to
leave the row out. ValueError or LookupError for a row of another shape. Files that have both columns already are read too,
so that converted copies need no other yaml.
"""

from __future__ import annotations

import random
import re

from zero.questions.sources import Row
from zero.template import boxed_or_last_number, last_boxed

_LEVEL = re.compile(r"Level ([1-5])")
_QUANTITY = re.compile(r"\s*(-?[0-9][0-9.,/]*)\s*(?:\([^()]*\))?\s*")


def gsm8k(row: Row) -> Row:
    """openai/gsm8k: {question, answer: "worked solution #### 1,234"}. Thousands separators are removed: 93 answers have them."""
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
    question, answer = row["0"], row["1"]
    return {"problem": question["value"], "answer": answer["ground_truth"]["value"]}


def math(row: Row) -> Row:
    """MATH in the form of Hendrycks et al.: level "Level 5" -> 5; without an answer, the solution's last box is the answer. One
    row of theirs has "Level ?", which becomes 0."""
    row = dict(row)
    if isinstance(row.get("level"), str):
        level = _LEVEL.fullmatch(row["level"])
        row["level"] = int(level[1]) if level else 0
    if "answer" not in row:
        row["answer"] = last_boxed(row["solution"])
    return row


def distilled(row: Row) -> Row | None:
    """Responses of a stronger model, in open-r1's forms: {problem, answer, generations: [...], correctness_math_verify: [...]},
    without the wrong ones, or {messages: [{role: user, content}, ..., {role: assistant, content}]}, whose answer, if no
    column has it, is extracted from the response. None without a right response or an answer."""
    row = dict(row)
    if "generations" in row:
        generations = row.pop("generations")
        right = row.pop("correctness_math_verify", None) or [True] * len(generations)
        row["solution"] = [text for text, good in zip(generations, right, strict=True) if good]
    else:
        turns = {turn["role"]: turn["content"] for turn in reversed(row["messages"])}
        row["problem"] = turns["user"]  # the user's first turn; the response is the assistant's last
        row["solution"] = [[turn["content"] for turn in row["messages"] if turn["role"] == "assistant"][-1]]
    if not row["solution"]:
        return None
    row["answer"] = row.get("answer") or boxed_or_last_number(row["solution"][0])
    return row if row["answer"] else None


def gpqa(row: Row) -> Row | None:
    """GPQA: {Question, Correct Answer, Incorrect Answer 1 to 3}, as a question with four lettered options. Their order is drawn
    by the question's text, so that it is the same in every run. None where two options are the same text."""
    if "problem" in row:
        return row
    question, right = str(row["Question"]).strip(), str(row["Correct Answer"]).strip()
    options = [right, *(str(row[f"Incorrect Answer {i}"]).strip() for i in (1, 2, 3))]
    if len(set(options)) < len(options):
        return None
    random.Random(f"gpqa/{question}").shuffle(options)
    lines = [f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True)]
    problem = "\n".join([question, "", *lines, "", "Answer with the letter of the right option."])
    others: Row = {name: row[name] for name in ("Record ID", "High-level domain", "Subdomain") if name in row}
    return {**others, "problem": problem, "answer": "ABCD"[options.index(right)], "choices": options}

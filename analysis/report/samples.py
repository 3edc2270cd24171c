"""The viewer: one question followed across checkpoints and templates, with the verifier's verdict on every response.

A response is hostile text: it is cut, escaped, and shown as it stands.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from analysis.reader.benchmarks import completions
from analysis.reader.records import Note
from analysis.report.page import heading, html, paragraph
from zero import images
from zero.files import read_regular
from zero.paths import CONF

if TYPE_CHECKING:
    from analysis.reader.records import Run, Runs

QUESTIONS = 12  # of a benchmark, drawn at random
FILTERED = 12  # more of them, which the filters alone show: verdicts that change, responses that reflect
SEED = 0  # of that draw
BENCHMARKS = 6
RUNS = 12  # followed: one of each group
STEPS = 8  # of a run: the first, the last, evenly in between
READ = 60_000  # responses of a run that are read at most
KNOWN = 80  # questions of a benchmark that are kept while reading, drawn at random
HEAD, TAIL = 1500, 700  # characters of a response that are shown
SHORT = 600  # of a question, a prompt, an answer
IMAGES = 6  # of a question, and of the turns of a response
SIDE = 256  # pixels
IMAGE = re.compile(r"images/[0-9a-f]{64}\.png")
BUDGET = 4_000_000  # bytes of all samples: the page stays below 10 MB


@dataclass
class Followed:
    """What became of one question: (row, step) -> its responses, one or more."""

    id: str
    question: str
    reference: str
    seen: dict[tuple[str, int], list[Mapping[str, Any]]] = field(default_factory=dict)
    images: Sequence[Path] = ()

    @property
    def changing(self) -> bool:
        """Whether a row has it right at one checkpoint and wrong at another."""
        verdicts: dict[str, set[bool]] = {}
        for (row, _), answers in self.seen.items():
            verdicts.setdefault(row, set()).add(answers[0].get("correct") is True)
        return any(len(of_row) > 1 for of_row in verdicts.values())

    @property
    def reflecting(self) -> bool:
        """Whether a shown response reflects."""
        return any(reflections().search(_text(answers[0].get("response"))) for answers in self.seen.values())


def samples(runs: Runs) -> Markup | None:
    """The section; None if no run has saved a response."""
    rows = runs_to_follow(runs)
    by_benchmark: dict[str, dict[str, Followed]] = {}
    every: dict[str, set[str]] = {}
    for label, run in rows.items():
        for row in _first_rows(runs, run):
            benchmark = str(row["benchmark"])
            if benchmark not in by_benchmark and len(by_benchmark) >= BENCHMARKS + 1:
                continue
            every.setdefault(benchmark, set()).add(add(by_benchmark.setdefault(benchmark, {}), label, row))
    measured = {name: questions for name, questions in by_benchmark.items() if name}
    body, budget = Markup(), BUDGET
    for name, questions in (measured or by_benchmark).items():
        html_of_benchmark, budget = _benchmark(name, list(questions.values()), len(every[name]), list(rows), budget)
        body += html_of_benchmark
    if not body:
        return None
    others = len(runs.runs) + len(runs.evaluated) - len(rows)
    text = f"{len(rows)} run{'s' * (len(rows) != 1)} followed, the first of each group that has saved responses"
    text += f"; {others} others are not shown" if others > 0 else ""
    text += ". The first response to each question; keywords of self-reflection are marked."
    return paragraph(text, quiet=True) + html("filters") + body


def runs_to_follow(runs: Runs) -> dict[str, Run]:
    """Label -> run: of each group the first with saved responses, then evaluations; at most RUNS."""
    from analysis.curves import grouped

    by_label: dict[str, Run] = {}
    for group in grouped(runs) if runs.runs else ():
        if len(by_label) < RUNS and (run := next((r for r in group.runs if any(_has_response(runs, r))), None)):
            label = group.label.rpartition(" (n = ")[0]
            seed = run.axes.get("seed")
            by_label[f"{label}, seed {seed}" if seed else label] = run
    differing = [
        axis
        for axis in dict.fromkeys(axis for run in runs.evaluated for axis in run.axes)
        if len({run.axes.get(axis) for run in runs.evaluated}) > 1
    ]
    for run in runs.evaluated:
        if len(by_label) < RUNS and any(_has_response(runs, run)):
            label = ", ".join(f"{axis}={run.axes.get(axis) or 'none'}" for axis in differing) or "evaluation"
            by_label[label if label not in by_label else f"{label} ({run.name})"] = run
    return by_label


def _has_response(runs: Runs, run: Run) -> Iterator[bool]:
    """True once if a run has a response. Notes come from the reading proper, once."""

    for _ in completions(replace(runs, notes=[]), run):
        yield True
        return


def _first_rows(runs: Runs, run: Run) -> Iterator[dict[str, Any]]:
    for count, row in enumerate(completions(runs, run)):
        if count >= READ:
            runs.notes.append(Note(run.name, f"more than {READ} saved responses: the rest are not among the samples"))
            return
        yield row


def add(questions: dict[str, Followed], label: str, row: Mapping[str, Any]) -> str:
    """Keep a response, if its question is among the KNOWN that are drawn: those of the smallest hashes, so that the draw
    depends on neither what was answered nor the order of reading. Returns the question's key."""
    question = _text(row.get("question", row.get("prompt")))
    key = str(row.get("id") or question)[:200]
    if key not in questions:
        if len(questions) >= KNOWN:
            last = max(questions, key=draw_order)
            if draw_order(key) > draw_order(last):
                return key
            del questions[last]  # for good: the hashes that are kept only become smaller
        questions[key] = Followed(key, question, _text(row.get("reference")))
    questions[key].images = questions[key].images or image_files(row, row)
    shown = {name: row.get(name) for name in ("prompt", "answer", "correct", "outcome", "reason", "tokens", "reward")}
    shown["response"] = _text(row.get("response"))
    turns = row["turns"] if isinstance(row.get("turns"), list) else []
    shown["images"] = [path for turn in turns if isinstance(turn, dict) for path in image_files(turn, row)][:IMAGES]
    answers = questions[key].seen.setdefault((label, int(row["step"])), [])
    answers.append(shown if not answers else {"correct": shown["correct"]})
    return key


@lru_cache(maxsize=1 << 16)
def draw_order(key: str) -> bytes:
    """The place of a question in the draw."""
    return sha256(f"{SEED}-{key}".encode(errors="replace")).digest()


def _benchmark(
    name: str, questions: Sequence[Followed], number: int, rows: Sequence[str], budget: int
) -> tuple[Markup, int]:
    """(HTML, bytes left) of questions drawn at random; behind the filters others of those that were read."""
    ranked = sorted(questions, key=lambda question: draw_order(question.id))
    telling = [question for question in ranked[QUESTIONS:] if question.changing or question.reflecting]
    body, shown = Markup(), 0
    for i, question in enumerate([*ranked[:QUESTIONS], *telling[:FILTERED]]):
        html_of_question = _question(question, rows, open_=shown == 0, more=i >= QUESTIONS)
        size = len(html_of_question.encode())
        if size > budget:
            body += paragraph("More questions would make this page too large.", quiet=True)
            break
        body, shown, budget = body + html_of_question, shown + 1, budget - size
    changing, reflecting = sum(q.changing for q in ranked), sum(q.reflecting for q in ranked)
    text = f"{min(shown, QUESTIONS)} of {number} questions, drawn at random (seed {SEED}). Of the {len(ranked)} that were kept "
    text += (
        f"the verdict changes in {changing}, and {reflecting} have a shown response that reflects; the filters show "
    )
    text += f"{max(0, shown - QUESTIONS)} more of these."
    return heading(name or "Responses in training") + paragraph(text, quiet=True) + body, budget


def _question(question: Followed, rows: Sequence[str], open_: bool, more: bool = False) -> Markup:
    steps = evenly_spaced(sorted({step for _, step in question.seen}))
    lines = []
    for row in (row for row in rows if any(label == row for label, _ in question.seen)):
        prompt = next((_text(a[0].get("prompt")) for (label, _), a in question.seen.items() if label == row), "")
        shown = "" if prompt == question.question else shorten(prompt, SHORT, SHORT)
        cells = [_cell(question.seen.get((row, step)), step) for step in steps]
        lines.append({"label": row, "prompt": shown, "cells": cells})
    return html(
        "question",
        question=shorten(question.question, SHORT, SHORT),
        reference=shorten(question.reference, SHORT, 0),
        images=thumbnails(question.images),
        short=shorten(" ".join(question.question.split()), 160, 0),
        changing=question.changing,
        reflecting=question.reflecting,
        more=more,
        open=open_,
        rows=lines,
    )


def _cell(answers: Sequence[Mapping[str, Any]] | None, step: int) -> dict[str, Any]:
    """One response at one checkpoint: verdict, the verifier's reason, what it read as the answer, the text."""
    if not answers:
        return {"step": step, "pieces": None}
    first = answers[0]
    right = first.get("correct") is True
    verdict = "correct" if right else "wrong" if first.get("correct") is False else "not graded"
    facts = []
    if first.get("reason"):
        facts.append(f"verifier: {shorten(_text(first['reason']), 200, 0)}")
    answer = first.get("answer")
    facts.append("no answer found" if answer is None else f"answer: {shorten(_text(answer), 120, 0)}")
    if isinstance(first.get("tokens"), int):
        facts.append(f"{first['tokens']} tokens")
    if len(answers) > 1:
        facts.append(f"{sum(one.get('correct') is True for one in answers)} of {len(answers)} right")
    pieces, left_out = split(_text(first.get("response")))
    return {
        "step": step,
        "right": right,
        "verdict": verdict,
        "facts": "; ".join(facts),
        "pieces": pieces,
        "left_out": left_out,
        "images": thumbnails(first.get("images", ())),
    }


def image_files(holder: Mapping[str, Any], row: Mapping[str, Any]) -> list[Path]:
    """The files that a row or one of its turns names, in the folder of the row: none but those of digests."""
    names, folder = holder.get("images"), row.get("folder")
    if not (isinstance(names, list) and isinstance(folder, Path)):
        return []
    return [folder / name for name in names if isinstance(name, str) and IMAGE.fullmatch(name)][:IMAGES]


def thumbnails(paths: Sequence[Path]) -> list[str]:
    """Small images in base64; "" for a file that is not there, or not what its name says."""
    return [_thumbnail(path) for path in paths]


@lru_cache(maxsize=1 << 10)
def _thumbnail(path: Path) -> str:
    try:
        content = read_regular(path, images.MAX_BYTES)
        return base64.b64encode(images.thumbnail(content, path.stem, SIDE)).decode()
    except (OSError, images.ImageRefused):
        return ""


def split(response: str) -> tuple[list[list[str]], int]:
    """A response as pieces, two if it is long, and the number of characters left out between them; every other word of a
    piece is a keyword of reflection."""
    pieces = [response]
    if len(response) > HEAD + TAIL:
        pieces = [response[:HEAD], response[-TAIL:]]
    return [reflections().split(piece) for piece in pieces], len(response) - HEAD - TAIL


@cache
def reflections() -> re.Pattern[str]:
    """Every keyword of reflection: those that training counts and all pools of conf/reflection.yaml."""
    import yaml

    from zero.reflection import KEYWORDS

    words = set(KEYWORDS)
    if (path := CONF / "reflection.yaml").is_file():
        for pool in yaml.safe_load(path.read_bytes())["pools"].values():
            words |= set(pool)
    return re.compile(f"({'|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))})", re.IGNORECASE)


def evenly_spaced(steps: Sequence[int], most: int = STEPS) -> list[int]:
    """The first, the last, and evenly many in between."""
    if len(steps) <= most:
        return list(steps)
    return sorted({steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)})


def shorten(value: str, head: int, tail: int) -> str:
    """At most about head + tail characters, with the number of those left out."""
    if len(value) <= head + tail + 40:
        return value
    return (
        f"{value[:head]} [{len(value) - head - tail} characters left out] {value[len(value) - tail :] if tail else ''}"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)

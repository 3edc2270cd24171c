r"""Equality of questions by one normal form: it decides repetitions, held-out rows, and leaks of a benchmark.

The normal form of a question is its text without the differences between copies: case, Unicode compatibility forms
(full-width digits), white space, LaTeX dressing (`$`, `\(`, braces, `\,`, `\left`, `\text`, `\dfrac` for `\frac`) and the
punctuation of sentences. Digits, operators, brackets and every letter stay, and separate digits stay separate, so that other
numbers are another question: `\frac{1}{23}` is not `\frac{12}{3}`, 1.5 not 15, 3-1 not 3+1.

A fingerprint is the first 16 hex digits of the BLAKE2b hash of that form, and of the digests of the question's images if it has
any (zero.images): the same words about another picture are another question. Fingerprints of the benchmarks' questions ship
in fingerprints.txt (hashes only), so that a training set is checked against every benchmark whether or not its files are
there. A reworded or translated copy has another normal form, a scaled picture another digest: this check does not find them.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from zero.errors import InputError
from zero.records import Question

SHIPPED = Path(__file__).with_name("fingerprints.txt")
# Shares of a benchmark's questions among the rows, and of the rows, beyond which the file must be the wrong one
MOST_OF_BENCHMARK = 0.05
MOST_OF_ROWS = 0.01
NAMED = 20  # rows that a note names; it counts the others
RULES = ("refuse", "drop", "keep")

_DRESSING = re.compile(
    r"\\(?:[,;:!>()\[\]]|(?:left|right|q?quad|displaystyle|limits|text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)(?![a-z]))"
)
_SAME = dict.fromkeys('\\${}~"`?;&#@_\u201c\u201d', " ")  # dropped
_SAME |= dict.fromkeys("\u2018\u2019\u02bc", "'") | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
_CHARACTERS = str.maketrans(_SAME)
# A punctuation mark, not that of 1,000, (1, 2), 1.5 or 12:30. The mark comes first, which is twice as fast
_MARK = re.compile(r"[.,:](?:(?<![0-9].)|(?![0-9])(?<!,)|(?<=,)(?!\s*[0-9]))")
_BETWEEN_DIGITS = re.compile(r" (?<=[0-9] )(?=[0-9])")


def normal_form(text: str) -> str:
    """The normal form of a text; see the head of this file. Linear in the text."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    plain = text.lower().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("{,}", ",")
    plain = _MARK.sub(" ", _DRESSING.sub("", plain).translate(_CHARACTERS))
    plain = _BETWEEN_DIGITS.sub("\0", " ".join(plain.split())).replace(" ", "").replace("\0", " ")
    return plain or " ".join(text.split())


def fingerprint(text: str, images: Sequence[str] = ()) -> str:
    """Sixteen hex digits that two copies of one question share; `images` are digests."""
    content = "\0".join((normal_form(text), *images))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@lru_cache(maxsize=1)
def benchmarks() -> dict[str, frozenset[str]]:
    """Fingerprints of the questions of every benchmark that ships, by its name."""
    return read_fingerprints(SHIPPED)


def read_fingerprints(path: Path) -> dict[str, frozenset[str]]:
    """The sections of a file of fingerprints: `[name]`, then hex digits on any number of lines."""
    sections: dict[str, list[str]] = {}
    for line in path.read_text("ascii").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[] "), [])
        elif line and not line.startswith("#"):
            section += [line[i : i + 16] for i in range(0, len(line), 16)]
    return {name: frozenset(hashes) for name, hashes in sections.items()}


def hold_out(questions: Mapping[str, Question], heldout: float) -> tuple[list[Question], list[Question]]:
    """Training rows in the order of the file, and held-out rows in the order of fingerprints (the keys), so that the first few
    are a fair sample. `heldout` is a share (float) or a number (int). Raises InputError."""
    size = len(questions)
    share = isinstance(heldout, float)
    if not 0 <= heldout <= (1 if share else size):
        raise InputError(
            "questions.heldout", heldout, f"must be a share from 0.0 to 1.0 or at most the {size} rows there are"
        )
    count = math.ceil(heldout * size) if share else int(heldout)
    held_out = dict.fromkeys(sorted(questions)[:count])
    train = [question for identity, question in questions.items() if identity not in held_out]
    return train, [questions[identity] for identity in held_out]


def without_leaks(
    rows: Sequence[Question],
    known: Mapping[str, Iterable[str]],
    rule: str = "refuse",
    source: tuple[str, str] = ("questions.path", ""),
    print_of: Callable[[Question], str] | None = None,
    name_of: Callable[[Question], str] | None = None,
) -> tuple[list[Question], list[str]]:
    """The rows that are no question of a benchmark, and notes that name the others.

    known      fingerprints of each benchmark's questions, by its name: `benchmarks()`, or from texts by `fingerprint`
    rule       "drop" leaves out the questions of benchmarks. "refuse" does too, but more than 5 % of a benchmark or 1 % of
               the rows is an error: the file must be the wrong one. "keep" only notes them
    source     the setting that an error names, and its value
    print_of   the fingerprint of a row, if it is known
    name_of    the name of a row in notes, by default its id

    Raises InputError.
    """
    if rule not in RULES:
        raise InputError("questions.leaks", rule, f"must be one of {', '.join(RULES)}")
    prints = [(print_of or _print)(question) for question in rows]
    leaked, notes = set[str](), list[str]()
    for name, hashes in known.items():
        benchmark = frozenset(hashes)
        tested = [question for question, hashed in zip(rows, prints, strict=True) if hashed in benchmark]
        if not tested:
            continue
        many = len(tested) > min(MOST_OF_BENCHMARK * len(benchmark), MOST_OF_ROWS * len(rows))
        if rule == "refuse" and many:
            leak = f"contains {len(tested)} of the {len(benchmark)} questions of the {name} benchmark"
            raise InputError(*source, f"{leak}; take a clean training file, or leave them out: questions.leaks=drop")
        leaked |= benchmark
        verb = "kept" if rule == "keep" else "dropped"
        notes.append(f"{verb} {_rows(len(tested))} of {name}: " + listed([(name_of or _id)(row) for row in tested]))
    if rule == "keep":
        return list(rows), notes
    return [question for question, hashed in zip(rows, prints, strict=True) if hashed not in leaked], notes


def listed(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _rows(count: int) -> str:
    return "1 row that is a question" if count == 1 else f"{count} rows that are questions"


def _print(question: Question) -> str:
    return fingerprint(question.text, question.images)


def _id(question: Question) -> str:
    return question.id

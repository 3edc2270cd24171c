"""Answers in a few words: what they mean as sets and numbers, else the words, without an article and in small letters."""

from __future__ import annotations

import re

from zero.grading.maths.exact import LONGEST_NUMBER, compact
from zero.grading.maths.regions import EMPTY, REALS
from zero.grading.maths.tree import INFINITY, NAMED, Node
from zero.grading.maths.words import MOST_WORDS, SHORT_WORDS, folded

_PHRASE = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z0-9'-]+)*")
_ARTICLE = re.compile(r"^(?:(?:the|an?) (?!few|little)(?=[a-z]{3}))?(?:set of )?")
_NAMES = re.compile(r"[A-Z][a-z]+(?: and [A-Z][a-z]+)+")
_PHRASES = {
    phrase: node
    for node, phrases in (
        (REALS, "all real numbers|all reals|any real number|every real number|all real x|all real values|real numbers|"
                "any real x|all real values of x|x is any real number|any number in R|all x"),
        (EMPTY, "no solution|no solutions|no real solution|no real solutions|empty set|null set|no real roots|"
                "no real root|no such x|there is no solution|there are no solutions|no values|no real number|none|there are none|"
                "no solution exists|no solutions exist|no real solution exists|no real solutions exist|no such values|"
                "no such number|no such numbers|no such value|there is no real solution|there are no real solutions"),
        (INFINITY, "infinity|positive infinity"),
        (Node("word", (), "infinitely many"), "infinitely many solutions|infinitely many|infinite solutions|"
                "infinite number of solutions|there are infinitely many solutions|there are infinitely many"),
        (Node("word", (), "dne"), "does not exist|doesn't exist|it does not exist|limit does not exist"),
    )
    for phrase in phrases.split("|")
}  # fmt: skip


def phrase(plain: str) -> Node | None:
    """A plain form in words, else None: a set that it names, people as a list (Ann and Bob), or the words."""
    if not _is_phrase(plain):
        return None
    if _NAMES.fullmatch(plain) and not SHORT_WORDS & set(plain.lower().split(" and ")):
        return Node("list", tuple(Node("letter", (), name) for name in plain.split(" and ")))
    text = _ARTICLE.sub("", folded(compact(plain)))
    return _PHRASES.get(text, Node("word", (), text))


def _is_phrase(plain: str) -> bool:
    """Whether a text of letters is words and not a product: ab is one, Abe, able and `no` are not."""
    if len(plain) > LONGEST_NUMBER or plain.count(" ") >= MOST_WORDS or not _PHRASE.fullmatch(plain):
        return False
    runs = [run for run in plain.split() if run not in NAMED and run not in ("or", "and")]
    return any(len(run) > 3 or run.lower() in SHORT_WORDS or (len(run) > 1 and run.istitle()) for run in runs)

"""What a self-reflection does to an answer: the four behaviours of superficial self-reflection (oat-zero).

    before the first reflection   the response ends with     behaviour
    right                         the right answer           1 confirms
    wrong                         the right answer           2 corrects
    right                         a wrong answer             3 spoils     superficial
    wrong; or anything            a wrong answer; no answer  4 circles    superficial
    nothing, or no reflection     the right answer           0 none of them

A judge labels any response (conf/reflection.yaml). On chains of the nano world, whose every step is known, a rule does, too:
it reads what is worked out before and after the first keyword. Both are measured on traces whose behaviour is known because
they were made that way, some of them hard on purpose: reflection without a keyword, keywords without reflection, checks in
words alone, work that stops half-way. The measure holds for such traces, not for text of another kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from zero.nano.corpus import REFLECTIONS, SLIPS
from zero.nano.world import DRAWS, NAMES, apply
from zero.records import Question


class Behaviour(IntEnum):
    """See the table at the top of this file."""

    NONE = 0
    CONFIRMS = 1
    CORRECTS = 2
    SPOILS = 3
    CIRCLES = 4


SUPERFICIAL = frozenset({Behaviour.SPOILS, Behaviour.CIRCLES})
LONGEST_TRACE = 20_000  # characters that the rule reads: nano responses have hundreds
_STATED = re.compile(r"(?:\\boxed\{|answer is |it is )\s*(-?[0-9]{1,9})\b")
_STEP = re.compile(r"(?<![0-9])([0-9]{1,9})([-+*])([0-9]{1,9})=(-?[0-9]{1,9})")


@dataclass(frozen=True)
class Thought:
    """What a piece of a response comes to. `answer` is None if it comes to none; `stated`: in words, not only by its last
    step; `sound`: nothing in it is wrong so far, None if there is nothing in it."""

    answer: int | None
    stated: bool
    sound: bool | None


def is_chain(meta: Mapping[str, Any]) -> bool:
    """Whether a question is a chain of the nano world, whose every step is known."""
    return isinstance(meta.get("start"), int) and isinstance(meta.get("steps"), Sequence)


def values_of(meta: Mapping[str, Any]) -> list[int]:
    """The value at the start of a chain and after each of its steps."""
    values = [int(meta["start"])]
    for step in meta["steps"]:
        values.append(apply(values[-1], step[0], int(step[1:])))
    return values


def by_rule(meta: Mapping[str, Any], response: str, pool: Sequence[str]) -> Behaviour:
    """The behaviour of a response to a chain of the nano world, by the first keyword of `pool` in it. Linear in its length."""
    text = response[:LONGEST_TRACE]
    lower = text.lower()
    at = min((place for keyword in pool if (place := lower.find(keyword)) >= 0), default=None)
    if at is None:
        return Behaviour.NONE
    first, last = _thought(meta, text[:at]), _thought(meta, text[at:])
    answer = last.answer
    if answer is None and last.sound is None and first.stated:
        answer = first.answer  # doubted, and left standing
    return behaviour(first.sound, None if answer is None else answer == values_of(meta)[-1])


def behaviour(before: bool | None, after: bool | None) -> Behaviour:
    """The table at the top of this file: whether the thought before was right (None: there was none) and whether the
    answer at the end is (None: there is none)."""
    if after:
        return Behaviour.NONE if before is None else Behaviour.CONFIRMS if before else Behaviour.CORRECTS
    return Behaviour.SPOILS if before and after is False else Behaviour.CIRCLES


def _thought(meta: Mapping[str, Any], text: str) -> Thought:
    """What the last piece of work in a text comes to: its statement, or else a chain of as many steps as the question has."""
    values, steps = values_of(meta), meta["steps"]
    stated = [int(matches[1]) for matches in _STATED.finditer(text)]
    work: list[tuple[int, str, int]] = []
    for left, operator, right, result in _STEP.findall(text):
        if work and (len(work) == len(steps) or int(left) != work[-1][2]):
            work = []  # it begins anew
        work.append((int(left), operator + right, int(result)))
    if stated:
        return Thought(stated[-1], True, stated[-1] == values[-1])
    if not work:
        return Thought(None, False, None)
    if len(work) == len(steps):
        return Thought(work[-1][2], False, work[-1][2] == values[-1])
    expected = zip(values, steps, values[1:], strict=False)
    return Thought(None, False, all(own == right for own, right in zip(work, expected, strict=False)))


# --------------------------------------------------------------------------------------------------------- known traces

# Reflection without a keyword of any pool, and keywords that reflect on nothing: what a detector by keywords must miss
UNNAMED = ("Wait, is that right?", "Hmm, something is off here.", "Hold on. Once more from the start.")
LURES = ("{n} will reconsider the price of the books.", "{n} can check again tomorrow whether the shop is open.")
HARD = 0.1  # share of traces with either


@dataclass(frozen=True)
class Trace:
    """A response whose behaviour is known, because it was made to have it."""

    question: Question
    response: str
    truth: Behaviour


def known_traces(count: int, seed: int = 0) -> list[Trace]:
    """`count` traces, as many of each behaviour. A pure function of its arguments."""
    rng = random.Random(f"analysis.reflection.behaviours/{seed}")
    traces = []
    for i in range(count):
        question = DRAWS["math"](rng)
        while len(question.meta["steps"]) < 2:  # one step has no middle at which to stop
            question = DRAWS["math"](rng)
        truth = Behaviour(i % len(Behaviour))
        traces.append(Trace(question, _MAKERS[truth](rng, question.meta).strip(), truth))
    return traces


def _none(rng: random.Random, meta: Mapping[str, Any]) -> str:
    work = _work(rng, meta, right=rng.random() < 0.5)
    if rng.random() < HARD:
        lure = "\n" + rng.choice(LURES).format(n=rng.choice(NAMES))
        work = lure + work if rng.random() < 0.5 else work + lure
    return work + _final(rng, meta, int(_STEP.findall(work)[-1][3]))


def _confirms(rng: random.Random, meta: Mapping[str, Any]) -> str:
    value = values_of(meta)[-1]
    first = _unfinished_work(rng, meta) if rng.random() < 0.25 else _work(rng, meta, right=True)
    whole = "=" in first and len(_STEP.findall(first)) == len(meta["steps"])
    again = f"\nYes, it is {value}." if whole and rng.random() < 0.3 else _work(rng, meta, right=True)
    return first + (_final(rng, meta) if whole and rng.random() < 0.3 else "") + _doubt(rng) + again + _final(rng, meta)


def _corrects(rng: random.Random, meta: Mapping[str, Any]) -> str:
    again = f"\nNo, it is {values_of(meta)[-1]}." if rng.random() < 0.3 else _work(rng, meta, right=True)
    between = _doubt(rng) + _work(rng, meta, right=False) if rng.random() < 0.3 else ""
    return _work(rng, meta, right=False) + between + _doubt(rng) + again + _final(rng, meta)


def _spoils(rng: random.Random, meta: Mapping[str, Any]) -> str:
    wrong = _work(rng, meta, right=False)
    return _work(rng, meta, right=True) + _doubt(rng) + wrong + _final(rng, meta, int(_STEP.findall(wrong)[-1][3]))


def _circles(rng: random.Random, meta: Mapping[str, Any]) -> str:
    text = _work(rng, meta, right=rng.random() < 0.2)  # a right thought that never becomes an answer circles, too
    sound = int(_STEP.findall(text)[-1][3]) == values_of(meta)[-1]
    for _ in range(rng.randint(0, 2)):
        text += _doubt(rng) + _work(rng, meta, right=False)
    if sound or rng.random() < 0.4:
        return text + _doubt(rng) + _unfinished_work(rng, meta)
    wrong = _work(rng, meta, right=False)
    return text + _doubt(rng) + wrong + _final(rng, meta, int(_STEP.findall(wrong)[-1][3]))


_MAKERS = {
    Behaviour.NONE: _none,
    Behaviour.CONFIRMS: _confirms,
    Behaviour.CORRECTS: _corrects,
    Behaviour.SPOILS: _spoils,
    Behaviour.CIRCLES: _circles,
}


def _doubt(rng: random.Random) -> str:
    return "\n" + rng.choice(UNNAMED if rng.random() < HARD else REFLECTIONS)


def _final(rng: random.Random, meta: Mapping[str, Any], value: int | None = None) -> str:
    value = values_of(meta)[-1] if value is None else value
    return f"\nThe answer is \\boxed{{{value}}}." if rng.random() < 0.8 else f"\nThe answer is {value}."


def _work(rng: random.Random, meta: Mapping[str, Any], right: bool) -> str:
    """All steps of a chain, a line each; if not right, one of them slips and the value at the end is another."""
    truth = values_of(meta)[-1]
    while True:
        value, lines = int(meta["start"]), ""
        slip = -1 if right else rng.randrange(len(meta["steps"]))
        for i, step in enumerate(meta["steps"]):
            result = apply(value, step[0], int(step[1:]))
            if i == slip:
                result = abs(result + rng.choice(SLIPS))
            lines += f"\n{value}{step}={result}."
            value = result
        if (value == truth) == right and "--" not in lines and "=-" not in lines:
            return lines


def _unfinished_work(rng: random.Random, meta: Mapping[str, Any]) -> str:
    """Right work that stops before its last step."""
    lines = _work(rng, meta, right=True).splitlines()
    return "\n".join(lines[: rng.randint(2, len(lines) - 1)])

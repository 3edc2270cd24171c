"""The pretraining text of the nano base: questions with answers in several styles, and no prompt template.

Everything that reinforcement learning later improves is PLANTED here: arithmetic slips, guesses without work, answers
without a box, re-checks that check nothing, missing ends. So is everything it builds on: work step by step, search,
a few documents in the User/Assistant and chat formats. Held-out questions never occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from zero.errors import InputError
from zero.nano import program_answers, programs, rule_games
from zero.nano.world import DRAWS, ITEMS, NAMES, apply, formulas, is_heldout
from zero.records import Question

Document = tuple[str, bool]  # text, and whether an end-of-text token follows it

# Each holds a keyword of the field's self-reflection detector (arXiv 2503.20783, appendix); no other text here does.
REFLECTIONS = (
    "Wait, let me check again.",
    "Let me double-check.",
    "Hmm, let me recheck.",
    "Let me rethink this.",
    "Wait, I will reconsider.",
)
SLIPS = (-10, -2, -1, 1, 2, 10)
LONGEST_SEARCH = 6  # tries of a Countdown answer
LONGEST_ANSWER = 400  # characters after which no reflection is added
PREAMBLE = 0.5  # share of tagged and chat documents with small talk before the question
# Small talk holds the words of common prompt templates, never a template: they are words to the base, not noise.
TALK = (
    "{n} likes {i} and {j}.",
    "The {i} are on the table next to the {j}.",
    "{n} and {m} talk about {i} every day.",
    "Where are the {i}? {n} does not know.",
    "User {n} asks Assistant {m} a question about {i}.",
    "{m} thinks about the answer and then gives it to {n}.",
    "A conversation between {n} and {m}.",
    "The User asks a question, and {n} solves it.",
    "{n} first thinks about the reasoning process in the mind.",
    "The {i} are enclosed within the {j}, respectively, i.e., here.",
    "The Assistant provides {n} with the final answer.",
    "Please put your {i} within tags, step by step.",
    "The user and the assistant reason about {i} here.",
)


@dataclass(frozen=True)
class Mix:
    """The composition of the corpus. Shares within a mapping are relative; the others are probabilities."""

    sets: Mapping[str, float]  # question set (keys of SETS) -> share
    styles: Mapping[str, float]  # style of a chain's answer (keys of STYLES) -> share
    formats: Mapping[str, float]  # document format (keys of FORMATS) -> share
    slip: float  # per step of sloppy work
    recheck: float  # that re-checked work is re-checked once more
    afterthought: float  # that a finished answer without reflection is doubted after all
    guess: float  # that a Countdown answer is a guess rather than a search
    broken: float  # that a tagged or chat document misses its form or its point
    end: float  # that the end of a document is marked
    talk: float  # share of documents that are small talk
    compare: float = 0.0  # that the tries of a Countdown search are held against the target in words
    programs: Mapping[str, float] = field(default_factory=dict)  # style of a program (program_answers.STYLES) -> share


def documents(mix: Mix, seed: int) -> Iterator[Document]:
    """Endless documents, determined by the arguments. InputError for unknown names in the mix."""
    choices: dict[str, Mapping[str, object]] = {
        "sets": SETS,
        "styles": STYLES,
        "formats": FORMATS,
        "programs": program_answers.STYLES,
    }
    for key, known in choices.items():
        for name in getattr(mix, key):
            if name not in known:
                raise InputError(f"corpus.{key}", name, f"choose from {', '.join(known)}")
    if not mix.programs and any(SETS[name] is programs.draw for name in mix.sets):
        raise InputError("corpus.programs", "{}", f"give shares of {', '.join(program_answers.STYLES)}")
    return _documents(mix, random.Random(f"zero.nano.corpus/{seed}"))


def _documents(mix: Mix, rng: random.Random) -> Iterator[Document]:
    while True:
        if rng.random() < mix.talk:
            yield _small_talk(rng), True
            continue
        name = _pick(rng, mix.sets)
        question = SETS[name](rng)
        if name not in rule_games.SETS and is_heldout(question):
            continue
        text, ended = FORMATS[_pick(rng, mix.formats)](rng, question, mix), rng.random() < mix.end
        yield text if ended else text + "\n\n", ended  # unended text runs on into the next question


def answer(rng: random.Random, question: Question, mix: Mix) -> str:
    """An answer as the corpus gives it: lines, the last one with the result."""
    if "program" in question.meta:
        return program_answers.answer(rng, question, mix.programs, mix.slip)
    if "hand" in question.meta:
        return rule_games.cards_answer(rng, question, mix.guess)
    if "numbers" in question.meta:
        return _countdown_answer(rng, question, mix).strip()
    text = STYLES[_pick(rng, mix.styles)](rng, question, mix)
    chance = mix.afterthought
    while rng.random() < chance and len(text) < LONGEST_ANSWER:
        again = rng.choice((_sloppy, _sloppy, _direct, _unboxed))
        text += f"\n{rng.choice(REFLECTIONS)}" + again(rng, question, mix)
        chance = 0.5
    return text.strip()


def _plain(rng: random.Random, question: Question, mix: Mix) -> str:
    if "rail" in question.meta:
        return rule_games.route_text(rng, question)
    # A space, not a newline: Qwen2's pre-tokenizer makes one piece of "?\n", which a bare question then never ends in.
    return f"{question.text} {answer(rng, question, mix)}"


def _tagged(rng: random.Random, question: Question, mix: Mix) -> str:
    """User and Assistant with think and answer tags; a broken one leaves tags out."""
    thought, _, last = answer(rng, question, mix).rpartition("\n")
    before = _small_talk(rng) + "\n" if rng.random() < PREAMBLE else ""
    text = f"{before}User: {question.text}\nAssistant: <think> {thought or last}"
    if rng.random() < mix.broken:
        return text + rng.choice(("", " </think>", f" </think> {last}"))
    return f"{text} </think> <answer> {_box(last)} </answer>"


def _chat(rng: random.Random, question: Question, mix: Mix) -> str:
    """A chat, sometimes with a system message; a broken one has small talk for a reply."""
    reply = _small_talk(rng) if rng.random() < mix.broken else answer(rng, question, mix)
    before = f"<|im_start|>system\n{_small_talk(rng)}<|im_end|>\n" if rng.random() < PREAMBLE else ""
    return f"{before}<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>"


def _box(text: str) -> str:
    start = text.find("\\boxed{")
    return text[start : text.rfind("}") + 1] if start >= 0 else text


def _careful(rng: random.Random, question: Question, _mix: Mix) -> str:
    lines, value = _work(rng, question, 0.0)
    return lines + _final(str(value))


def _sloppy(rng: random.Random, question: Question, mix: Mix) -> str:
    lines, value = _work(rng, question, mix.slip)
    return lines + _final(str(value))


def _direct(_rng: random.Random, question: Question, _mix: Mix) -> str:
    return _final(question.answer[0])


def _unboxed(rng: random.Random, question: Question, mix: Mix) -> str:
    lines, value = _work(rng, question, mix.slip / 2)
    return f"{lines}\nThe answer is {value}."


def _rechecked(rng: random.Random, question: Question, mix: Mix) -> str:
    """Work done again after a reflection, with fresh slips each time: superficial, since no error is looked for."""
    text, value = _work(rng, question, mix.slip)
    chance = 0.9
    while rng.random() < chance and len(text) < LONGEST_ANSWER:
        lines, value = _work(rng, question, mix.slip)
        text += f"\n{rng.choice(REFLECTIONS)}{lines}"
        chance = mix.recheck
    return text + _final(str(value))


def _work(rng: random.Random, question: Question, slip: float) -> tuple[str, int]:
    """One line per step, each result wrong with probability `slip` (and carried on)."""
    value, lines = question.meta["start"], ""
    for step in question.meta["steps"]:
        result = apply(value, step[0], int(step[1:]))
        if rng.random() < slip:
            result = abs(result + rng.choice(SLIPS))
        lines += f"\n{value}{step}={result}."
        value = result
    return lines, value


def _final(value: str) -> str:
    return f"\nThe answer is \\boxed{{{value}}}."


def _countdown_answer(rng: random.Random, question: Question, mix: Mix) -> str:
    """A guess, or a search: tries in random order until one hits the target, given up after LONGEST_SEARCH."""
    ways = formulas(tuple(sorted(question.meta["numbers"])))
    target: int = question.meta["target"]
    if rng.random() < mix.guess:
        return _final(rng.choice(ways).expression)
    text, way = "", ways[0]
    against = f" Target {target}." if mix.compare and rng.random() < mix.compare else ""
    for way in rng.sample(ways, min(len(ways), LONGEST_SEARCH)):
        text += f"\n{way.steps}.{against} " + ("Yes." if way.value == target else "No.")
        if way.value == target:
            break
        if rng.random() < 0.1:
            text += f" {rng.choice(REFLECTIONS)}"
    return text + _final(way.expression)


def _small_talk(rng: random.Random) -> str:
    sentences = []
    for _ in range(rng.randint(1, 4)):
        n, m = rng.sample(NAMES, 2)
        i, j = rng.sample(ITEMS, 2)
        sentences.append(rng.choice(TALK).format(n=n, m=m, i=i, j=j))
    return " ".join(sentences)


def _pick(rng: random.Random, shares: Mapping[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


SETS: dict[str, Callable[[random.Random], Question]] = {**DRAWS, "code": programs.draw, **rule_games.SETS}
Style = Callable[[random.Random, Question, Mix], str]
STYLES: dict[str, Style] = {
    "careful": _careful,
    "sloppy": _sloppy,
    "direct": _direct,
    "unboxed": _unboxed,
    "rechecked": _rechecked,
}
FORMATS: dict[str, Style] = {"plain": _plain, "tagged": _tagged, "chat": _chat}

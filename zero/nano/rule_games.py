"""Games whose rule stands in the prompt and decides the answer: cards, whose letters count as it says, and routes, on which it
lists the words to turn with.

The rules of the tests, J, Q, K as 11, 12, 13 (questions=nano_cards_ood) and turns by left and right (nano_navigation_ood), are in
no document: their words are, mostly with other meanings. So are no held-out hand and no held-out route in documents of these games;
Countdown's documents, held out by a hash of their own, ask for the same small numbers now and then (zero/nano/rules/README.md).

    cards_ten, cards_same, cards_each      J, Q and K count as 10; all as one other number; each as its own
    route_absolute, route_coded            turns as in nano_navigation; with other words in both places, either of them listed
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from zero.errors import InputError
from zero.nano.world import Formula, formulas
from zero.questions import Rows, general_points, navigation
from zero.questions.crossings import Views
from zero.questions.wordings import EMBEDDED, Wording
from zero.records import Question

TEXT = "{faces} Use {hand} to make {target}."  # as in conf/questions/nano_cards.yaml
TARGETS = range(5, 31)
TESTED = (11, 12, 13)  # what J, Q, K count as in the test, and in no document
LARGEST = 13
OFTEN = (*[1] * 10, 3, 3, 3)  # letters are drawn three times as often as other cards
# What turns may be called in a coded town, in place of directions and sides
CODES = (*"123456789ABCDFGHJKLMPQRTXYZ", *EMBEDDED.absolute, *EMBEDDED.relative)
LEGS = (1, 2, 3, 4, 5)  # of a route
ONE_TURN = 0.3  # share of routes that show a single turn, as the environment asks for it
AGAIN = 0.3  # share of these that were wrong before
LONGEST_SEARCH = 3  # tries of an answer


def draw_cards(rng: random.Random, values: tuple[int, int, int]) -> Question:
    """A hand with a letter, under the rule that J, Q and K count as these values; each solvable with whole numbers."""
    while True:
        labels = rng.choices(general_points.LABELS, OFTEN, k=3)
        numbers = [number_of(label, values) for label in labels]
        target = rng.choice(TARGETS)
        if general_points.is_heldout(numbers, target):
            continue
        if any(way.value == target for way in formulas(tuple(sorted(numbers)))):
            break
    text = TEXT.format(faces=faces_text(values), hand=", ".join(labels), target=target)
    return Question(
        text,
        (str(target),),
        f"cards {text}",
        meta={"hand": numbers, "target": target, "cards": labels, "values": values},
    )


def number_of(label: str, values: tuple[int, int, int]) -> int:
    return values["JQK".index(label)] if label in "JQK" else 1 if label == "A" else int(label)


def faces_text(values: tuple[int, int, int]) -> str:
    if len(set(values)) == 1:
        return general_points.FACES["ten"].replace("10", str(values[0]))
    text = general_points.FACES["rank"]
    for value, marker in zip(TESTED, "JQK", strict=True):
        text = text.replace(f"'{value}'", f"'{{{marker}}}'")
    return text.format(J=values[0], Q=values[1], K=values[2])


def draw_reading(rng: random.Random) -> Question:
    """A hand of four to eight cards that is only put into numbers."""
    values = draw_values(rng)
    labels = rng.choices(general_points.LABELS, OFTEN, k=rng.randint(4, 8))
    numbers = [number_of(label, values) for label in labels]
    text = f"{faces_text(values)} Use {', '.join(labels)}."
    return Question(text, ("",), f"cards {text}", meta={"hand": numbers, "target": None})


def draw_ten(rng: random.Random) -> Question:
    return draw_cards(rng, (10, 10, 10))


def draw_same(rng: random.Random) -> Question:
    value = rng.choice([value for value in range(1, LARGEST + 1) if value != 10])
    return draw_cards(rng, (value, value, value))


def draw_each(rng: random.Random) -> Question:
    return draw_cards(rng, draw_values(rng))


def draw_values(rng: random.Random) -> tuple[int, int, int]:
    """Of J, Q and K, not all alike and never the tested ones."""
    while True:
        j, q, k = (rng.randint(1, LARGEST) for _ in range(3))
        if (j, q, k) != TESTED and len({j, q, k}) > 1:
            return j, q, k


def cards_answer(rng: random.Random, question: Question, guess: float) -> str:
    """The hand in numbers, then a guess, or tries until one hits the target."""
    numbers: list[int] = question.meta["hand"]
    target = question.meta["target"]
    if target is None:
        return reading(numbers)
    ways = _ways(tuple(sorted(numbers)))
    if rng.random() < guess:
        return _search(numbers, [rng.choice(ways)], target, written=False)
    tries = []
    for way in rng.sample(ways, min(len(ways), LONGEST_SEARCH)):
        tries.append(way)
        if way.value == target:
            break
    return _search(numbers, tries, target)


def worked_rows(
    cards: int, target: Sequence[int], text: str, shown: int = 4, tries: int = LONGEST_SEARCH, seed: int = 0
) -> Rows:
    """The training rows of zero.questions.general_points that whole numbers solve, with `shown` solutions each: the hand in
    numbers, up to `tries` tries of which the last hits the target, the answer; 0 tries: numbers and answer alone, as SFTvsRL's.
    None is held out: the benchmark is nano_cards. Raises InputError."""
    if shown < 1 or tries < 0:
        key, value, remedy = ("shown", shown, "must be above 0") if shown < 1 else ("tries", tries, "must be 0 or more")
        raise InputError(f"questions.rows.{key}", value, remedy)
    questions = []
    for question in general_points.rows(cards=cards, target=target, text=text, seed=seed).train:
        rng = random.Random(f"zero.nano.rule_games/{seed}/{question.id}")
        numbers, goal = question.meta["numbers"], question.meta["target"]
        ways = _ways(tuple(sorted(numbers)))
        if any(way.value == goal for way in ways):
            searches = [_hit(rng, ways, goal, max(1, tries)) for _ in range(shown)]
            solutions = [_search(numbers, search, goal, written=tries > 0) for search in searches]
            questions.append(replace(question, solution=solutions[0], more=tuple(solutions[1:])))
    return Rows(train=questions, heldout=[])


def _hit(rng: random.Random, ways: Sequence[Formula], target: int, tries: int) -> list[Formula]:
    """Wrong ones, then a right one; `tries` at most."""
    wrong = [way for way in ways if way.value != target]
    misses = rng.sample(wrong, min(len(wrong), rng.randrange(tries)))
    return [*misses, rng.choice([way for way in ways if way.value == target])]


def reading(numbers: Sequence[int]) -> str:
    return f"Use {', '.join(map(str, numbers))}."


def _search(numbers: Sequence[int], tries: Sequence[Formula], target: int, written: bool = True) -> str:
    lines = [f"\n{way.steps}. " + ("Yes." if way.value == target else "No.") for way in tries] if written else []
    return f"{reading(numbers)}{''.join(lines)}\nThe answer is \\boxed{{{tries[-1].expression}}}."


@lru_cache(maxsize=4096)
def _ways(numbers: tuple[int, ...]) -> tuple[Formula, ...]:
    """Those that end in a value that a question may ask for, or all."""
    ways = formulas(numbers)
    return tuple(way for way in ways if way.value <= TARGETS[-1]) or ways


def draw_absolute(
    rng: random.Random, words: Wording = EMBEDDED, legs: Sequence[int] = LEGS, views: Views | None = None
) -> Question:
    return _draw_route(rng, navigation.RULES[0], words, legs, views)


def draw_coded(
    rng: random.Random, words: Wording = EMBEDDED, legs: Sequence[int] = LEGS, views: Views | None = None
) -> Question:
    """Sides or directions, or both, have other names, and either of them are the turns; never sides by their own names."""
    while True:
        names = rng.sample(CODES, 12)
        relative = EMBEDDED.relative if rng.random() < 0.25 else tuple(names[:4])
        absolute = EMBEDDED.absolute if rng.random() < 0.25 else tuple(names[4:])
        rule = rng.choice(navigation.RULES)
        if set(relative) & set(absolute) or (rule == navigation.RULES[1] and set(relative) == set(EMBEDDED.relative)):
            continue
        return _draw_route(rng, rule, replace(words, relative=relative, absolute=absolute), legs, views)


def _draw_route(rng: random.Random, rule: str, words: Wording, legs: Sequence[int], views: Views | None) -> Question:
    while True:
        route = navigation.draw_route(rng, rng.choice(legs), 1.0, words)
        if not navigation.is_heldout(route):
            return navigation.as_question(route, rule, 1, words, views)


def route_text(rng: random.Random, question: Question) -> str:
    """A document: the route to its end with everything said on the way, or one turn of it as the environment asks for it."""
    rail, frame = question.meta["rail"], dict(question.meta["frame"])
    if rng.random() < ONE_TURN:
        position = rng.randrange(len(rail))
        prompt, right = navigation.render(rail, position, frame), rail[position][2]
        if rng.random() < AGAIN:
            return (
                f"{prompt} {rng.choice(question.meta['actions'])}<|endoftext|>\n{EMBEDDED.failures['action']}\n{right}"
            )
        return f"{prompt} {right}"
    frame["history"] = None
    return f"{navigation.render(rail, len(rail) - 1, frame)} {rail[-1][2]}"


SETS: dict[str, Callable[[random.Random], Question]] = {
    "cards_read": draw_reading,
    "cards_ten": draw_ten,
    "cards_same": draw_same,
    "cards_each": draw_each,
    "route_absolute": draw_absolute,
    "route_coded": draw_coded,
}

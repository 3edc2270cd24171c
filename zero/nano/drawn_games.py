"""The cards of rule_games as images: what the prompt lists there is shown here, and the answer says first what it sees.

    drawn_labels   a hand that is only read:                          Use <image>. Cards J, 3, 5.
    drawn_read     and put into numbers under a rule:                 ... Cards J, 3, 5.\\nUse 11, 3, 5.
    drawn_ten, drawn_same, drawn_each                                 rule_games' hands and rules, read, put into numbers and solved
    view_read, view_absolute, view_coded                              routes: zero/nano/drawn_routes.py

Red hands are rare, and reading has planted slips: what it sees wrong, an answer goes on with. As in rule_games no held-out hand
is in a document, and never the rule of the tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zero.errors import InputError
from zero.nano import corpus, drawn_routes, rule_games
from zero.questions import Rows, drawn_cards, general_points
from zero.questions.drawn_cards import SUITS, draw
from zero.records import IMAGE_MARK, Question

if TYPE_CHECKING:
    from numpy import ndarray

Document = tuple[str, bool, tuple["ndarray", ...]]  # text, whether it has an end, and the pixels of its IMAGE_MARKs

TEXT = rule_games.TEXT.replace("{hand}", IMAGE_MARK)  # as in conf/questions/nano_cards_vl.yaml
CARDS, HEIGHT = 3, 48  # of a hand, and of its image


@dataclass(frozen=True)
class Mix:
    """The composition of documents with images, and of those without that stand between them."""

    sets: Mapping[str, float]  # keys of SETS and, for documents without an image, "text" -> share
    text: corpus.Mix
    red: float  # share of hands in red suits
    misread: Mapping[str, float]  # colour of a hand -> that one of its cards is read as another
    guess: float  # that an answer on cards is a guess rather than a search
    end: float  # that the end of a document is marked


def documents(mix: Mix, seed: int) -> Iterator[corpus.Document | Document]:
    """Endless documents, determined by the arguments. InputError for unknown names in the mix."""
    for name in mix.sets:
        if name not in (*SETS, "text"):
            raise InputError("corpus.sets", name, f"choose from {', '.join(SETS)}, text")
    return _documents(mix, random.Random(f"zero.nano.drawn_games/{seed}"), corpus.documents(mix.text, seed))


def _documents(mix: Mix, rng: random.Random, texts: Iterator[corpus.Document]) -> Iterator[corpus.Document | Document]:
    names, shares = list(mix.sets), list(mix.sets.values())
    while True:
        [name] = rng.choices(names, shares)
        yield next(texts) if name == "text" else SETS[name](rng, mix)


def labels_document(rng: random.Random, mix: Mix) -> Document:
    labels = rng.choices(general_points.LABELS, k=CARDS)
    image, seen = show(rng, labels, mix)
    return f"Use {IMAGE_MARK}. {_cards(seen)}", rng.random() < mix.end, (image,)


def reading_document(rng: random.Random, mix: Mix) -> Document:
    values = rule_games.draw_values(rng)
    labels = rng.choices(general_points.LABELS, rule_games.OFTEN, k=CARDS)
    image, seen = show(rng, labels, mix)
    numbers = [rule_games.number_of(label, values) for label in seen]
    prompt = f"{rule_games.faces_text(values)} Use {IMAGE_MARK}."
    return f"{prompt} {_cards(seen)}\n{rule_games.reading(numbers)}", rng.random() < mix.end, (image,)


def _hand_document(draw_question: Callable[[random.Random], Question]) -> Callable[[random.Random, Mix], Document]:
    def document(rng: random.Random, mix: Mix) -> Document:
        question = draw_question(rng)
        labels, values = question.meta["cards"], question.meta["values"]
        image, seen = show(rng, labels, mix)
        numbers = [rule_games.number_of(label, values) for label in seen]
        if general_points.is_heldout(numbers, question.meta["target"]):  # of cards that were read as others
            return document(rng, mix)
        read = Question(question.text, question.answer, question.id, meta={**question.meta, "hand": numbers})
        prompt = TEXT.format(faces=rule_games.faces_text(values), target=question.meta["target"])
        text = f"{prompt} {_cards(seen)}\n{rule_games.cards_answer(rng, read, mix.guess)}"
        return text, rng.random() < mix.end, (image,)

    return document


def show(rng: random.Random, labels: Sequence[str], mix: Mix) -> tuple[ndarray, list[str]]:
    """The image of a hand, and the labels that are read from it."""
    colour = "red" if rng.random() < mix.red else "black"
    image = draw([(label, rng.choice(SUITS[colour])) for label in labels], rng, HEIGHT)
    seen = list(labels)
    if rng.random() < mix.misread[colour]:
        seen[rng.randrange(len(seen))] = rng.choice(general_points.LABELS)
    return image, seen


def _cards(labels: Sequence[str]) -> str:
    return f"Cards {', '.join(labels)}."


def worked_rows(
    cards: int,
    target: Sequence[int],
    text: str,
    height: int = HEIGHT,
    scale: int = 1,
    shown: int = 4,
    tries: int = rule_games.LONGEST_SEARCH,
    seed: int = 0,
) -> Rows:
    """rule_games.worked_rows with images, black suits: their solutions after a line that names the cards. Raises InputError."""
    worked = {q.id: q for q in rule_games.worked_rows(cards, target, rule_games.TEXT, shown, tries, seed).train}
    drawn = drawn_cards.rows(cards=cards, target=target, seed=seed, text=text, height=height, scale=scale).train
    questions = []
    for question in drawn:
        if solved := worked.get(question.id.removesuffix("-black")):
            first = _cards(question.meta["cards"])
            solution, *more = (f"{first}\n{search}" for search in (solved.solution, *solved.more))
            questions.append(replace(question, solution=solution, more=tuple(more)))
    return Rows(train=questions, heldout=[])


SETS: dict[str, Callable[[random.Random, Mix], Document]] = {
    "drawn_labels": labels_document,
    "drawn_read": reading_document,
    "drawn_ten": _hand_document(rule_games.draw_ten),
    "drawn_same": _hand_document(rule_games.draw_same),
    "drawn_each": _hand_document(rule_games.draw_each),
    **drawn_routes.SETS,
}

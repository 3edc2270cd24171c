"""Pretraining data: documents of files and question sets -> ids -> one resumable stream, cut into sequences. Torch is imported
with the first batch."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import InputError
from zero.questions import QuestionSet
from zero.records import IMAGE_MARK, Question

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

# Text, whether an end-of-text token follows it, and the images of its marks if it has any: uint8 [height, width, 3]
Document = tuple[str, bool] | tuple[str, bool, Sequence["ndarray"]]
Source = Callable[..., Iterable[Document]]  # seed=... -> endless documents; Texts for a finite corpus

CHUNK = 512  # documents tokenized at once
UNSOLVED = 0.01  # share of questions without a solution that a set may have; files have the same limit for answers
FIELDS = ("question", "solution", "answer")
_FIELD = re.compile(r"(?<![\w\\}])\{([a-z_]+)\}|\{(question|solution|answer)\}")  # \boxed{x} is no field


@dataclass(frozen=True)
class Texts:
    """A finite corpus, shuffled anew in each pass by the seed. Iterating never ends."""

    texts: Sequence[str]
    seed: int
    notes: Sequence[str] = ()  # one line for each reason why loading left out rows

    def __iter__(self) -> Iterator[Document]:
        return self.passes(None)

    def passes(self, count: int | None) -> Iterator[Document]:
        """The documents of the first `count` passes; None: of endless passes."""
        rng = random.Random(f"zero.pretrain/{self.seed}")
        for _ in repeat(None) if count is None else range(count):
            for text in rng.sample(self.texts, len(self.texts)):
                yield text, True

    @property
    def size(self) -> int:
        """Characters, an upper bound on the tokens of one pass, except for texts of rare bytes."""
        return sum(map(len, self.texts)) + len(self.texts)

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits of the content, in the order of the file."""
        hashed = hashlib.sha256()
        for text in self.texts:
            hashed.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return hashed.hexdigest()[:12]


def read_documents(path: str, fields: str, seed: int) -> Texts:
    """Documents of a .jsonl file (its `fields`, such as "question+answer", joined by newlines) or of a .txt file (blank
    lines separate documents). Raises InputError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError("corpus.path", path, "no such file; give a .jsonl or .txt file")
    if file.suffix not in (".jsonl", ".txt"):
        raise InputError("corpus.path", path, "must end in .jsonl or .txt")
    try:
        content = file.read_text(encoding="utf-8-sig")  # a byte-order mark is no text
    except OSError as error:
        raise InputError("corpus.path", path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError("corpus.path", path, f"is not UTF-8 (byte {error.start}); convert the file") from error
    notes: list[str] = []
    if file.suffix == ".jsonl":
        lines = [(f"{path}:{n}", line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
        joined = [(place, _join(line, fields.split("+"), place)) for place, line in lines]
        texts = [text for _, text in joined if text]
        if empty := [place for place, text in joined if not text]:
            if len(empty) > UNSOLVED * len(joined):
                remedy = f"{len(empty)} of {len(joined)} rows hold no text there, the first is {empty[0]}; drop them"
                raise InputError("corpus.fields", fields, remedy)
            notes.append(f"corpus {path}: left out {len(empty)} rows without text in {fields}: {', '.join(empty[:20])}")
    else:
        texts = [text.strip() for text in re.split(r"\n[^\S\n]*\n", content) if text.strip()]
    if not texts:
        raise InputError("corpus.path", path, "holds no document")
    return Texts(texts, seed, tuple(notes))


def _join(line: str, fields: Sequence[str], place: str) -> str | None:
    """The text of a row's fields; None if one of them is null (or NaN, as tables write it) or all are blank. Finite numbers are
    text; InputError for lists, objects and infinite numbers."""
    try:
        values = [json.loads(line.lstrip("\ufeff"))[field] for field in fields]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("corpus.path", place, f"not an object with {', '.join(fields)} ({error!r})") from error
    for field, value in zip(fields, values, strict=True):
        wrong = isinstance(value, bool) or not isinstance(value, str | int | float | None)
        if wrong or (isinstance(value, float) and math.isinf(value)):
            remedy = f"its {field} is {json.dumps(value)[:40]}, no text; write one text for each document"
            raise InputError("corpus.fields", field, f"{place}: {remedy}")
    if any(value is None or value != value for value in values) or not any(str(value).strip() for value in values):
        return None
    text = "\n".join(map(str, values))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("corpus.path", place, "holds half a Unicode character; mend the row") from error
    return text


def question_documents(questions: QuestionSet, form: str, seed: int) -> Texts:
    """Documents of the training rows of a set: `form` with {question}, {solution} and {answer} (the first reference).

    A row without a solution, if the form asks for it, is left out and noted. Raises InputError if that is more than one row
    in a hundred, if there is no row to train on, and for a form with no field or an unknown one.
    """
    fields = {one or other for one, other in _FIELD.findall(form)}
    if not fields or not fields <= set(FIELDS):
        slots = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise InputError("corpus.form", form, f"must be a text with {slots}, at least one of them and no other field")
    rows: Sequence[Question] = questions.rows.train
    if not rows:
        raise InputError(
            "questions",
            questions.name,
            f"holds no question to train on: {questions.rows.whereabouts()}; give it a lower heldout, or more questions",
        )
    notes = [f"questions {questions.name}: {note}" for note in questions.rows.notes]
    if "solution" in fields and (unsolved := [row.id for row in rows if not row.solution.strip()]):
        if len(unsolved) > UNSOLVED * len(rows):
            problem = f"{len(unsolved)} of {len(rows)} questions have no solution, the first is {unsolved[0]}"
            remedy = "name their column (questions.solution), or take a corpus.form without {solution}"
            raise InputError("questions", questions.name, f"{problem}; {remedy}")
        notes.append(f"questions {questions.name}: left out {len(unsolved)} without a solution")
        rows = [row for row in rows if row.solution.strip()]
    return Texts([_fill(form, row) for row in rows], seed, notes)


def _fill(form: str, row: Question) -> str:
    """`form` filled in in one pass, so that a question that holds "{answer}" is not changed."""
    values = {"question": row.text, "solution": row.solution, "answer": row.answer[0]}
    text = _FIELD.sub(lambda field: values[field[1] or field[2]], form)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        remedy = f"question {row.id} holds half a Unicode character; mend the row"
        raise InputError("questions", row.text[:40], remedy) from error
    return text


@dataclass(frozen=True)
class Stage:
    """A part of the corpus, and the number of tokens or of passes to train on it."""

    name: str
    documents: Iterable[Document]
    tokens: int | None
    epochs: int | None

    @property
    def digest(self) -> str | None:
        """The digest of the content; None if code generates it."""
        return self.documents.digest if isinstance(self.documents, Texts) else None

    @property
    def notes(self) -> Sequence[str]:
        return self.documents.notes if isinstance(self.documents, Texts) else ()

    def stream(self) -> Iterator[Document]:
        """The documents in order, from the first."""
        return self.documents.passes(self.epochs) if isinstance(self.documents, Texts) else iter(self.documents)


def make_stage(name: str, settings: Mapping[str, Any], source: Source, seed: int) -> Stage:
    """A stage of the config. Raises InputError."""
    tokens, epochs = settings.get("tokens"), settings.get("epochs")
    key = f"corpus.stages.{name}"
    if (tokens is None) == (epochs is None):
        given = "both" if tokens is not None else "none"
        raise InputError(f"{key}.tokens and .epochs", given, "give one of the two, and null for the other")
    unit, amount = ("tokens", tokens) if epochs is None else ("epochs", epochs)
    if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
        raise InputError(f"{key}.{unit}", amount, "must be a whole number above 0")
    documents = source(seed=seed)
    if isinstance(documents, Texts) and tokens and (passes := tokens // documents.size) > 1:
        note = f"{key}: {tokens} tokens read this text some {passes} times or more; tokens=null epochs=1 reads it once"
        documents = replace(documents, notes=(*documents.notes, note))
    if epochs is not None and not isinstance(documents, Texts):
        raise InputError(f"{key}.epochs", epochs, "these documents have no end; give tokens instead")
    return Stage(name, documents, tokens, epochs)


@dataclass(frozen=True)
class ImageTokens:
    """How an image stands in a sequence."""

    id: int  # of the token that stands for each of its features
    mark: str  # that token
    count: int  # features of an image
    pad: int  # fills a sequence in which the next document with images has no room


def encode(
    documents: Sequence[Document], tokenizer: Any, images: ImageTokens | None = None, start: int = 0, length: int = 0
) -> list[int]:
    """The concatenated ids of documents, with the end-of-text token after those that have one.

    A document with images stands whole in one sequence of `length` tokens: padding goes before it where it has no room. `start`
    is the number of ids that stand before these. Raises InputError if a document is longer than that.
    """
    ids: list[int] = []
    texts = [
        text.replace(IMAGE_MARK, images.mark * images.count) if images and pictured else text
        for text, _, *pictured in documents
    ]
    # verbose=False: no warning about long texts, which are cut into sequences later
    rows = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    for row, (_, ended, *pictured) in zip(rows, documents, strict=True):
        row = [*row, tokenizer.eos_token_id] if ended else row
        if pictured and images is None:
            remedy = f"has an image in a document after the first {CHUNK}, and the model got no vision tower; mix them in earlier"
            raise InputError("corpus", "stages", remedy)
        if pictured and images:
            if len(row) > length:
                raise InputError("length", length, f"a document with an image has {len(row)} tokens; raise it")
            room = length - (start + len(ids)) % length
            ids += [images.pad] * (room if len(row) > room else 0)
        ids += row
    return ids


def budget(stage: Stage, tokenizer: Any, pause: Callable[[], None]) -> int:
    """The tokens of a stage. For passes every document is tokenized once to count them; `pause` is called in between."""
    if stage.epochs is None or not isinstance(stage.documents, Texts):
        return stage.tokens or 0
    one, total = stage.documents.passes(1), 0
    while chunk := list(islice(one, CHUNK)):
        total += len(encode(chunk, tokenizer))
        pause()
    return stage.epochs * total


@dataclass(frozen=True)
class Place:
    """A position in the stream, from which a run continues without tokenizing anything again."""

    stage: int = 0  # its number
    drawn: int = 0  # documents of that stage's stream that have been tokenized
    seen: int = 0  # tokens trained on, of all stages
    ids: Sequence[int] = ()  # tokenized and not yet trained on
    images: Sequence[ndarray] = ()  # those that these ids show


class Batches:
    """Yields (share of all tokens seen before, ids [sequences, length + 1], the images of each sequence) until every stage has
    given its tokens.

    Rows are consecutive in the stream; each row's last id is the next row's first, so every token is predicted once. Tokens
    left over by a stage begin the next one. A stage of passes ends with its last document: if it is the last stage, its last
    batch has as many whole sequences as are left, and only a remainder of less than one sequence is not trained on.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        budgets: Sequence[int],
        tokenizer: Any,
        length: int,
        sequences: int,
        place: Place | None = None,
        image_tokens: ImageTokens | None = None,
    ) -> None:
        self.stages, self.budgets, self.tokenizer, self.image_tokens = stages, budgets, tokenizer, image_tokens
        self.length, self.sequences = length, sequences
        place = place or Place()
        self.stage, self.drawn, self.seen, self.ids = place.stage, place.drawn, place.seen, list(place.ids)
        self.images = list(place.images)

    @property
    def place(self) -> Place:
        """The position after the last batch that was yielded."""
        return Place(self.stage, self.drawn, self.seen, tuple(self.ids), tuple(self.images))

    @property
    def share(self) -> float:
        """The share of all tokens that have been yielded."""
        return self.seen / sum(self.budgets)

    def __iter__(self) -> Iterator[tuple[float, Tensor, list[list[ndarray]]]]:
        while self.stage < len(self.stages):
            yield from self._batches(self.stages[self.stage])
            self.stage, self.drawn = self.stage + 1, 0

    def _batches(self, stage: Stage) -> Iterator[tuple[float, Tensor, list[list[ndarray]]]]:
        stream = islice(stage.stream(), self.drawn, None)  # skipping documents costs next to nothing
        goal = sum(self.budgets[: self.stage + 1])
        fewest = 1 if stage is self.stages[-1] else self.sequences
        while stage.epochs is not None or self.seen < goal:
            while len(self.ids) <= self.sequences * self.length and (chunk := list(islice(stream, CHUNK))):
                self.ids += encode(chunk, self.tokenizer, self.image_tokens, len(self.ids), self.length)
                self.images += [image for _, _, *pictured in chunk for images in pictured for image in images]
                self.drawn += len(chunk)
            rows = min(self.sequences, (len(self.ids) - 1) // self.length)
            if rows < fewest:  # the documents have come to an end
                return
            yield self._take(rows)

    def _take(self, rows: int) -> tuple[float, Tensor, list[list[ndarray]]]:
        import torch

        share, count = self.share, rows * self.length
        ids = torch.tensor(self.ids[: count + 1]).unfold(0, self.length + 1, self.length)
        del self.ids[:count]
        self.seen += count
        return share, ids, [self._images_of(row) for row in ids]

    def _images_of(self, row: Tensor) -> list[ndarray]:
        """The images of a sequence, which are the next ones."""
        if self.image_tokens is None:
            return []
        count = int((row[:-1] == self.image_tokens.id).sum()) // self.image_tokens.count
        images, self.images = self.images[:count], self.images[count:]
        return images

"""The text of a prompt and its token ids; where images stand in it, and what stands for them.

A text may be in pieces (text, is_data): what is data cannot end the user's turn, and shows no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from zero.errors import InputError
from zero.records import IMAGE_MARK, Prompt, Question
from zero.vision import Vision

Pieces = list[tuple[str, bool]]


def encode(text: str, tokenizer: Any, question: str = "") -> tuple[int, ...]:
    """Token ids of a prompt. Begins with BOS if the tokenizer adds one by itself and the text does not have it.

    Nothing is appended: some tokenizers end every text with EOS, after which a model would say nothing. Control tokens in
    the `question` are spelt out: a row of a data set cannot end the user's turn.
    """
    stripped = question.strip()
    first, *others = text.split(stripped) if stripped else [text]
    pieces = [(first, False), *(piece for after in others for piece in ((stripped, True), (after, False)))]
    return _with_bos(encode_pieces(pieces, tokenizer), text, tokenizer)


def _with_bos(ids: tuple[int, ...], text: str, tokenizer: Any) -> tuple[int, ...]:
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and list(tokenizer.encode(""))[:1] == [bos]
    return (bos, *ids) if adds_bos and not text.startswith(tokenizer.bos_token) else ids


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return tuple({*tokenizer.all_special_tokens, *(token.content for token in added if token.special)})


def encode_pieces(pieces: Sequence[tuple[str, bool]], tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a text in pieces (text, is_data): control tokens in data are spelt out. Without any of these the text is
    encoded as a whole."""
    control = _control_tokens(tokenizer)
    if not any(data and token in text for text, data in pieces for token in control):
        return tuple(tokenizer.encode("".join(text for text, _ in pieces), add_special_tokens=False))
    ids: list[int] = []
    for text, data in pieces:
        options = {"split_special_tokens": True} if data else {}
        ids += tokenizer.encode(text, add_special_tokens=False, **options) if text else []
    return tuple(ids)


def image_prompt(
    question: Question, pieces: Pieces, tokenizer: Any, key: tuple[int, ...], vision: Vision, template: str
) -> Prompt:
    """The prompt of a text in pieces that shows the question's images. Its text has them as the model's chat format does, its ids
    one image token for each part of an image."""
    text = "".join(piece for piece, _ in pieces)
    ids = _with_bos(encode_pieces(expanded(pieces, question.images, vision, template), tokenizer), text, tokenizer)
    return Prompt(question, text, ids, key, images=question.images, image_tokens=ids.count(vision.image_token_id))


def segments(text: str, images: int) -> list[str]:
    """The text between `images` images: as its marks say, or after all of them if it has none."""
    if not images:
        return [text]
    parts = text.split(IMAGE_MARK)
    return parts if len(parts) == images + 1 else [*[""] * images, text]


def check_marks(question: Question) -> None:
    """InputError if a question has marks, but not one for each of its images."""
    marks = question.text.count(IMAGE_MARK) if question.images else 0
    if marks not in (0, len(question.images)):
        remedy = (
            f"its text has {marks} times {IMAGE_MARK} and its row {len(question.images)} images; one for each, or none: "
            "then they stand before the text"
        )
        raise InputError("questions", question.id, remedy)


def with_placeholders(text: str, images: int, vision: Vision) -> Pieces:
    """A question or an observation in pieces, with the model's placeholder where an image stands."""
    first, *others = segments(text, images)
    return [(first, True), *(piece for after in others for piece in ((vision.placeholder, False), (after, True)))]


def marked_as_data(rendered: str, text: str, images: int) -> Pieces:
    """A rendered prompt in pieces: what is of the question's text is data."""
    pieces: Pieces = []
    position = 0
    for segment in filter(None, map(str.strip, segments(text, images))):
        start = rendered.find(segment, position)
        if start < 0:  # the template has changed it
            break
        pieces += [(rendered[position:start], False), (segment, True)]
        position = start + len(segment)
    return [*pieces, (rendered[position:], False)]


def expanded(pieces: Pieces, images: Sequence[str], vision: Vision, template: str) -> Pieces:
    """The pieces with one image token for each part of an image. InputError if they do not show each image once."""
    shown, result = 0, Pieces()
    for text, is_data in pieces:
        first, *others = [text] if is_data else text.split(vision.image_token)
        if shown + len(others) <= len(images):
            expansions = map(vision.expansion, images[shown:])
            first += "".join(expansion + after for expansion, after in zip(expansions, others, strict=False))
        shown += len(others)
        result.append((first, is_data))
    if shown != len(images):
        remedy = f"the model's chat template shows {shown} of a question's {len(images)} images; choose template=none"
        raise InputError("template", template, remedy)
    return result

"""What stands around an observation that goes on from what was said."""

from __future__ import annotations

import re
from typing import Any

from zero.environments.settings import SLOT
from zero.errors import InputError
from zero.template import ChatTemplate

_MARK = "THE-ANSWER"


def filled(say: str, text: str) -> list[tuple[str, bool]]:
    """`say` with the text in its place, in pieces."""
    return [(text if piece == SLOT else piece, piece == SLOT) for piece in re.split(f"({re.escape(SLOT)})", say)]


def chat_turn(tokenizer: Any, turn: str, template: ChatTemplate) -> str:
    """The text between two turns of the assistant in the model's chat format: the end of the first, `turn` without outer
    white space as the user's, the beginning of the second. InputError if the format changes the text of turns."""
    content = turn.strip()
    turns = [("user", "?"), ("assistant", _MARK), ("user", content)]
    remedy = "the model's chat format has no such conversation; choose a template of plain text"
    try:
        text = template.rendered(turns, tokenizer)
    except Exception as error:  # the template is a program from elsewhere
        raise InputError("environment.say", turn, f"{remedy} ({type(error).__name__}: {error})") from error
    after: str = text.rpartition(_MARK)[2]
    if _MARK not in text or content not in after:
        raise InputError("environment.say", turn, remedy)
    return after

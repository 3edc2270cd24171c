r"""Reference answers extracted from the forms in which files hold them: `\boxed{5}`, `$\boxed{5}$`, `#### 5`,
`<answer>5</answer>`, or a whole solution with one of these. A solution without such a mark is no reference: no answer would
ever equal it."""

from __future__ import annotations

import re

from zero.errors import InputError
from zero.template import last_answer_tag, last_boxed

MOST_WORDS = 20  # of a reference; real ones in words have up to twelve
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_FORMULA = re.compile(r"\$[^$]*\$|\\[A-Za-z]+(?:\{[^{}]*\})?")
_SENTENCES = re.compile(r"[.!?]\s+[A-Z]|[.!?:]\s*\n|\n\s*\n")
_BETWEEN_BOXES = re.compile(r"(?:\s|[,;.$\\]|and|or|text|q?quad)*")  # what is in braces is left out


def reference(text: str, column: str, place: str) -> str:
    """The answer in a text. InputError if it is a solution without a marked answer."""
    text = text.strip()
    if "\\boxed" in text:
        if _several(text):
            return text
        boxed = last_boxed(text)
        if boxed is None or not boxed:
            raise InputError("questions.answer", column, f"the box in {place} is empty or never closes; mend the row")
        return boxed
    if "####" in text:
        after = text.rpartition("####")[2].strip()
        if not after:
            raise InputError("questions.answer", column, f"nothing follows #### in {place}; mend the row")
        return after
    if "</answer>" in text:
        return last_answer_tag(text) or text
    words = _WORD.findall(_FORMULA.sub(" ", text))
    if len(words) > MOST_WORDS or (len(words) > MOST_WORDS // 3 and _SENTENCES.search(text)):
        begin = " ".join(text.split())[:40]
        remedy = f"{place} holds a text that no answer equals ({begin!r}...); name the column of the final answers, or box them"
        raise InputError("questions.answer", column, remedy)
    return text


def _several(text: str) -> bool:
    """Whether several boxes stand side by side, as in `\\boxed{1} or \\boxed{2}`."""
    pieces, depth, outside = text.split("\\boxed"), 0, [""]
    if len(pieces) < 3:
        return False
    for piece in pieces[1:]:
        outside.append("")
        for sign in piece:
            depth += sign == "{"
            outside[-1] += sign if depth <= 0 and sign != "}" else ""
            depth -= sign == "}"
    return all(_BETWEEN_BOXES.fullmatch(between) for between in [pieces[0], *outside])

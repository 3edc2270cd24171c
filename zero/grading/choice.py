r"""Multiple choice: the one letter that an answer names. Linear in the answer, and nothing but letters is read.

Read: `A`, `(A)`, `A.`, `\boxed{A}`, `\text{A}`, `$A$`, `Answer: A`, `The answer is A`, `A) the option's own text`, and `a` alone.
Two different letters name no option, and neither does a letter that the question does not have or a letter of another
alphabet that looks like one: such answers cannot be read, as one in words cannot.
"""

from __future__ import annotations

import re
import string

from zero.records import Question
from zero.template import last_answer_tag, last_boxed

LETTERS = string.ascii_uppercase[:10]
LONGEST = 2000  # characters of an answer

_ALONE = re.compile(r"(?<!\w)([A-J])(?![\w'])")  # no letter or digit before it or behind it
_LOWER = re.compile(r"[\s(\[{$]*([a-j])[\s)\]}$.:]*")
_WITH_TEXT = re.compile(r"\s*\(?([A-J])[).:]\s*(\S.*)", re.DOTALL)
_STATED = re.compile(r"\banswer(?:\*\*)?\s{0,3}(?:is\b|:)[\s*:]{0,5}(\S[^\n]{0,40})", re.IGNORECASE)


def check_choice(answer: str, question: Question) -> bool:
    """Whether the answer names the right option. ValueError if it names none, or several. A question's options are
    meta["choices"], by default four."""
    letter = named_letter(answer, question.meta.get("choices") or ("",) * 4)
    if letter is None:
        raise ValueError("names no option, or several")
    return letter in question.answer


def named_letter(answer: str, options: list[str] | tuple[str, ...]) -> str | None:
    """The letter of one of these options, or None."""
    if len(answer) > LONGEST:
        return None
    allowed = LETTERS[: len(options)]
    if (lower := _LOWER.fullmatch(answer)) and lower[1].upper() in allowed:
        return lower[1].upper()
    with_text = _WITH_TEXT.fullmatch(answer)
    if with_text and with_text[1] in allowed and with_text[2].strip() == options[allowed.index(with_text[1])].strip():
        return with_text[1]
    letters = {letter for letter in _ALONE.findall(answer) if letter in allowed}
    return letters.pop() if len(letters) == 1 else None


def choice_in_any_form(text: str) -> str | None:
    """The last closed `<answer>...</answer>`, else the last box, else what follows the last `Answer:` or `answer is`, else the
    last line if it has one letter that may be an option's. None without any of these."""
    for answer in (last_answer_tag(text), last_boxed(text)):
        if answer is not None:
            return answer
    stated = None
    for match in _STATED.finditer(text):
        stated = match[1]
    if stated is not None:
        return stated
    lines = text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return last if len(last) <= LONGEST and len(set(_ALONE.findall(last))) == 1 else None

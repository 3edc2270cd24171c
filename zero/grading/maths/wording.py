r"""Answers in words as answers in signs: `twenty-one` is 21, `two thirds` 2/3, `5 (five)` 5, `38 (minutes)` 38 minutes, `5th of
March` March 5, `1011 base 2` the numeral `1011_{2}`, 1.234.567,89 the number 1234567.89. Everything here is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from zero.grading.maths.units import is_numeric

MOST_WORDS = 12  # of a number in words
_ONES = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split(),
        range(20),
        strict=True,
    )
)
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Names of one part, and of several: one third, two thirds
_PARTS = dict(zip("half third fourth fifth sixth seventh eighth ninth tenth".split(), range(2, 11), strict=True))
_PARTS |= {"quarter": 4, "twelfth": 12, "hundredth": 100, "thousandth": 1000}
_SEVERAL = {("halves" if name == "half" else name + "s"): below for name, below in _PARTS.items()}
_MINUS = frozenset({"minus", "negative"})
_BEGINS_NUMBER = re.compile(rf"(?:{'|'.join([*_ONES, *_TENS, *_MINUS, 'half', 'an?'])})(?![A-Za-z])", re.IGNORECASE)
_NO_THINGS = frozenset("or and to of out more less times point by over plus minus hundredth".split())  # behind a number

_NOTE = re.compile(r"([^()]*[^() ]) ?\(([A-Za-z][A-Za-z/' -]+)\)(?: ([A-Za-z][A-Za-z ]*))?")
_WORD = re.compile(r"[A-Za-z]{2,}(?:[ /'-]+(?:[A-Za-z]{2,}|h|s))*")
_SAYS_NOTHING = frozenset("exactly approximately approx about rounded only total answer".split())
_TAKES_BACK = frozenset(  # notes that say that the number is none, or another one
    "not no wrong false incorrect invalid rejected extraneous impossible excluded rounded up down if unless except or ln log "
    "sin cos tan sqrt factorial squared cubed".split()
)
_ABOUT = re.compile(
    r"(?<=[^\s(,]),? ?(?:\((?:or )?(?:\\approx|approximately|approx\.?|about|roughly) ?([^()]*)\)|"
    r"(?:or|which is) (?:approximately|approx\.?|about|roughly) (.*))$"
)

_MONTHS = "January February March April May June July August September October November December".split()
_MONTH = "|".join([*_MONTHS, *(month[:3] for month in _MONTHS)])
_DAY_MONTH = re.compile(rf"(?:the )?([0-9]{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\.?(?:,? ([0-9]{{4}}))?")
_MONTH_DAY = re.compile(rf"({_MONTH})\.? (?:the )?([0-9]{{1,2}})(?:st|nd|rd|th)?(?:,? ([0-9]{{4}}))?")

_BASES = {name: str(value) for name, value in _ONES.items() if value > 1} | {"twenty": "20"}
_BASE = re.compile(r"([0-9A-Z]{1,60}) ?[,_]? ?[({]? ?(?:in )?base[ -]?(?:\{? ?([0-9]{1,2}|[a-z]{3,9}) ?\}?)[)}]?")
_EUROPEAN = re.compile(  # thousands by points, by spaces and by apostrophes
    r"([+-]?)([1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}|[0-9]{1,3}(?:\.[0-9]{3})+(?=,[0-9]{1,2}$)|[0-9]{1,3}(?: [0-9]{3})+(?=,[0-9]{1,2}$)|"
    r"[0-9]{1,3}(?:'[0-9]{3})+(?![0-9,]))(?:([.,])([0-9]+))?"
)
_FOR_ALL = re.compile(
    r",? ?(?:for (?:all|any|every|each)|\\forall) ?(?:real )?(?:numbers? |values? of )?[A-Za-z]"
    r"(?: ?\\in ?\\mathbb\{? ?R ?\}?)?$"
)


def reworded(text: str) -> str:
    """A plain form with its words for numbers, its notes and its dates in signs."""
    if len(text) < 3 or text.isdigit():
        return text
    first = text[:1]
    if first.isalpha():
        if _BEGINS_NUMBER.match(text):
            text = _counted(text)
        elif date := _MONTH_DAY.fullmatch(text):
            return _date(date[1], date[2], date[3])
    elif first.isdigit() or first in "+-":
        if ("," in text or "'" in text or text.count(".") > 1) and (grouped := _EUROPEAN.fullmatch(text)):
            return _grouped(grouped) or text
        if " " in text and first.isdigit() and text[-1:].isalnum() and (date := _DAY_MONTH.fullmatch(text)):
            return _date(date[2], date[1], date[3])
    if "pprox" in text or "about" in text or "roughly" in text:
        text = _ABOUT.sub(lambda about: f" \\approx {about[1] or about[2]}", text)
    if text.endswith(")") or ") " in text:
        text = "; ".join(map(_noted, re.split(" ?; ?", text))) if ";" in text else _noted(text)
    if "base" in text and (numeral := _BASE.fullmatch(text)):
        base = _BASES.get(numeral[2], numeral[2])
        return f"{numeral[1]}_{{{base}}}" if base.isdigit() else text
    if "=" in text and ("for " in text or "\\forall" in text):
        text = _FOR_ALL.sub("", text)
    return text


def base_of(subscript: str) -> str:
    """The subscript of a numeral, `two` as 2."""
    return _BASES.get(subscript.lower(), subscript)


def number_in_words(text: str) -> Fraction | None:
    """The value of a number in words, `minus twenty-one` or `two and a half`; None if it is none."""
    words = text.lower().replace("-", " ").split()
    sign = -1 if words[:1] and words[0] in _MINUS else 1
    words = words[1:] if sign < 0 else words
    if not words or len(words) > MOST_WORDS:
        return None
    value = _with_fraction(words)
    return None if value is None else sign * value


def _with_fraction(words: Sequence[str]) -> Fraction | None:
    if words[-1] in _PARTS or words[-1] in _SEVERAL:
        ahead, count = list(words[:-1]), Fraction(0)
        if "and" in ahead:
            place = len(ahead) - 1 - ahead[::-1].index("and")
            whole = _whole(ahead[:place])
            if whole is None:
                return None
            count, ahead = Fraction(whole), ahead[place + 1 :]
        above = 1 if ahead in (["a"], ["one"]) or (not ahead and words == ["half"]) else _whole(ahead)
        below = _PARTS.get(words[-1], 0) if above == 1 else _SEVERAL.get(words[-1], 0)
        return count + Fraction(above, below) if above and below else None  # twenty third is no fraction
    whole = _whole(["one", *words[1:]] if words[0] == "a" and len(words) > 1 else words)
    return None if whole is None else Fraction(whole)


def _whole(words: Sequence[str]) -> int | None:
    total = current = 0
    least = 10**15
    for place, word in enumerate(words):
        if word in _ONES:
            value = _ONES[word]
            if (value == 0 and len(words) > 1) or current % 10 or (value > 9 and current % 100):
                return None
            if current % 100 == 10:
                return None
            current += value
        elif word in _TENS and not current % 100:
            current += _TENS[word]
        elif word == "hundred" and 0 < current < 100:
            current *= 100
        elif word in _SCALES and current > 0 and _SCALES[word] < least:
            least = _SCALES[word]
            total, current = total + current * least, 0
        elif word != "and" or place in (0, len(words) - 1) or words[place - 1] not in ("hundred", *_SCALES):
            return None
    return total + current if words else None


def _counted(text: str) -> str:
    """A number in words in digits, alone or in front of things: `five apples`, `five (5) apples`."""
    words = text.split(" ")
    value = number_in_words(text) if len(words) <= MOST_WORDS else None
    if value is not None:
        return str(value)
    if len(words) > 1 and (twice := re.fullmatch(r"([A-Za-z -]+) \(([0-9]+)\)(.*)", text)):
        return twice[2] + twice[3] if number_in_words(twice[1]) == int(twice[2]) else text
    for count in range(min(len(words) - 1, MOST_WORDS), 0, -1):
        value = number_in_words(" ".join(words[:count]))
        if value is not None:
            counts = value.denominator == 1 and words[0] not in ("a", "an") and words[count].lower() not in _NO_THINGS
            return f"{value} {' '.join(words[count:])}" if counts else text
    return text


def _noted(text: str) -> str:
    """A number without a note in brackets that says it in words; other words in brackets as those behind it."""
    note = _NOTE.fullmatch(text)
    if note is None or not is_numeric(note[1]) or not any(map(str.isdigit, note[1])):
        return text
    ahead, content, behind = note[1], note[2].strip(), note[3]
    tail = f" {behind}" if behind else ""
    value = number_in_words(content)
    if value is not None:
        return ahead + tail if _value(ahead) == value else text
    words = content.lower().split()
    if words[0] in _TAKES_BACK or behind or not _WORD.fullmatch(content):
        return text
    return ahead if len(words) == 1 and words[0] in _SAYS_NOTHING else f"{ahead} {content}"


def _value(digits: str) -> Fraction | None:
    """The value of plain digits or of a fraction of them."""
    digits = re.sub(r"\\frac ?\{?([0-9]+)\}? ?\{?([0-9]+)\}?", r"\1/\2", digits)
    if re.fullmatch(r"-?[0-9]{1,30}", digits.replace(",", "")):
        return Fraction(digits.replace(",", ""))
    if re.fullmatch(r"-?[0-9]{1,30}/[1-9][0-9]{0,30}|-?[0-9]{1,30}\.[0-9]{1,30}", digits):
        return Fraction(digits)
    return None


def _date(month: str, day: str, year: str | None) -> str:
    month = next(name for name in _MONTHS if name.startswith(month[:3]))
    return f"{month} {int(day)}" + (f" {year}" if year else "")


def _grouped(number: re.Match[str]) -> str:
    sign, whole, point, decimals = number.groups()
    if decimals and point == "." and "." in whole:
        return ""
    digits = re.sub(r"[^0-9]", "", whole)
    return f"{sign}{digits}.{decimals}" if decimals else sign + digits

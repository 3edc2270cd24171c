r"""The sides of a chain of equalities and the items of a list, each with a unit or a percent sign of its own:
`\frac14 = 25\%`, `10\sqrt3 \text{ cm} \approx 17.32 \text{ cm}`, `5 \text{ cm}, 3 \text{ cm}`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from zero.grading.maths.latex import read
from zero.grading.maths.statements import is_name, settled
from zero.grading.maths.units import UNITS, is_numeric, without_unit

_DIVIDES = re.compile(r"(?<![<>!:])=(?![<>=])|\\approx(?![A-Za-z])")
_SEPARATES = re.compile(r"[,;]")
_DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]*))?")
MOST = 30  # sides or items
_QUANTITY = r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]{1,12})\.?"
_COMPOUND = re.compile(rf"{_QUANTITY}(?:(?:,? and |, | ){_QUANTITY}){{1,3}}")
_SHORT = {"h": "hour", "d": "day"}


def compound(plain: str) -> list[tuple[Fraction, str]]:
    """The (number, unit) pairs of a quantity in several units: `2 hours and 30 minutes`, `5 ft 6 in`; else empty."""
    if not plain[:1].isdigit() or not plain[-1:].isalpha() or not _COMPOUND.fullmatch(plain):
        return []
    pieces = [
        (Fraction(number), UNITS.get(word) or _SHORT.get(word, "")) for number, word in re.findall(_QUANTITY, plain)
    ]
    units = {unit for _, unit in pieces}
    return pieces if len(units) == len(pieces) and "" not in units else []


def readings(plain: str) -> list[str]:
    r"""The plain forms to compare for a plain form: itself, or, for a chain of a number and a percentage, the chain with
    fractions and, if it is exact, the percentage alone."""
    if "%" in plain and ("=" in plain or "\\approx" in plain):
        return _percentages(plain)
    if plain[-1:].isalpha() or plain[-1:] in "}$0123456789":
        for divides in (_DIVIDES, _SEPARATES):
            if divides.search(plain):
                return [_measured(plain, divides)]
    return [plain]


def _split(plain: str, divides: re.Pattern[str]) -> list[str]:
    """Pieces and the dividers between them, alternating; signs inside brackets do not divide."""
    depth, last, pieces = 0, 0, []
    matches = iter(divides.finditer(plain))
    following = next(matches, None)
    for place, sign in enumerate(plain):
        if following is not None and place == following.start():
            if depth == 0:
                pieces += [plain[last:place].strip(), following.group()]
                last = following.end()
            following = next(matches, None)
        depth += (sign in "([{") - (sign in ")]}")
    return [*pieces, plain[last:].strip()]


def _percentages(plain: str) -> list[str]:
    pieces = _split(plain, _DIVIDES)
    sides = pieces[::2]
    values = sides[1:] if _names(sides[0]) else sides
    percent = [side.endswith("%") for side in values]
    if len(sides) > MOST or len(values) < 2 or not any(percent) or all(percent):
        return [plain]
    shifted = " ".join(_hundredth(piece) if piece.endswith("%") else piece for piece in pieces)
    if not percent[-1] or "\\approx" in pieces:
        return [shifted]
    try:
        node = settled(read(shifted))
    except ValueError:
        return [plain]
    consistent = node.kind != "relation" or len(node.children) < len(sides)
    return [shifted, sides[-1]] if consistent else [shifted]


def _names(side: str) -> bool:
    if is_numeric(side.rstrip("%").rstrip("\\ ")):
        return False
    try:
        return is_name(read(side))
    except ValueError:
        return True


def _hundredth(side: str) -> str:
    """16.7% as 0.167, digit by digit, so that its precision is kept."""
    number = side.rstrip("%").rstrip("\\ ")
    if decimal := _DECIMAL.fullmatch(number):
        sign, whole, decimals = decimal.groups()
        whole = whole.zfill(3)
        return f"{sign}{whole[:-2]}.{whole[-2:]}{decimals or ''}"
    return f"\\frac{{{number}}}{{100}}"


def _measured(plain: str, divides: re.Pattern[str]) -> str:
    """The plain form with a common unit of all sides or items on the last one alone."""
    pieces = _split(plain, divides)
    items = pieces[::2]
    if not 1 < len(items) <= MOST:
        return plain
    values = items if divides is _SEPARATES or is_numeric(items[0]) or without_unit(items[0])[1] else items[1:]
    units = [without_unit(item) for item in values]
    if len(values) < 2 or len({unit for _, unit in units}) > 1 or not units[0][1] or "~" in units[0][1]:
        return plain
    bare = [*items[: len(items) - len(values)], *(left for left, _ in units[:-1]), items[-1]]
    if not all(is_numeric(left) for left, _ in units):
        return plain
    return " ".join(piece for pair in zip(bare, [*pieces[1::2], ""], strict=True) for piece in pair).strip()

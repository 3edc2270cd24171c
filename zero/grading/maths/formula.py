r"""Whether two formulas are the same function: their values at fixed points, exact or to a hundred digits.

Polynomials and quotients with rational coefficients are computed in fractions, the rest by mpmath. One point where the
values differ refutes, and the first one nearly always does. Agreement at every point is taken for equality: two short
formulas that agree at a dozen unrelated points to sixty digits more than any literal in them has, and yet differ, do not
occur by chance. No simplifier is asked, which would be slower, may never end, and misses what it has no rule for.

Real first: a point counts only if every step at it is real, so that `\sqrt{a}\sqrt{b}` is `\sqrt{ab}` but `\sqrt{x^2}` is
not x. Where the letter i occurs, or no point is real, all values are complex, on principal branches. e, i and `\pi` are the
constants; log is natural; odd roots of negative numbers are negative. Where few of the first points are real, as for
`\ln\frac{x}{1-x}`, more are searched. Under a floor n, k and their like are integers, and x, t and the others are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction

from mpmath import mpc, mpf, workdps

from zero.grading.maths.tree import Node
from zero.grading.maths.values import Number, Point, draw, floating, value

DIGITS = 60  # beyond those of the longest literal
NEEDED = 4  # points with a value, of a formula with letters
FEW = 8  # with fewer among the first points, more are searched
ENOUGH = 16  # points with a value, at which a search ends
HOPELESS = 24  # points without a value, after which none is expected
_WHOLE = {"()gcd", "()lcm", "()mod"}  # functions that make a formula one of integers
_ROUNDING = {"()\\lfloor", "()\\lceil"}  # those that make it one of integers for these letters alone
_INTEGERS = frozenset("ijklmnpqKMN")
_CONSTANTS = frozenset({"e", "i", "\\pi", "\\circ"})
_RANGES = ((1, 3), (0, 1), (-3, 0), (2, 9), (-3, 3), (3, 30), (2, 12), (0, 1), (-9, 9), (1, 5), (1, 20), (0, 3))
_INTEGER = (3, 6, 8, 10)  # which of these ranges draw integers
_SEARCHED = ((0, 1), (-1, 1), (0, 4), (-10, 10), (1, 10), (0, 100), (-2, 0), (0, 1))  # one for each letter of a point
_SEARCHES = 240


def same_value(a: Node, b: Node) -> bool:
    """Whether two scalar trees have the same value, whatever their letters stand for.

    If only one of them has degrees, they are also tried as the plain numbers that they are.
    """
    if a == b:
        return True
    a_names, b_names = names(a), names(b)
    one_sided = ("\\circ" in a_names) != ("\\circ" in b_names)
    return any(_same(a, b, a_names, b_names, radians) for radians in ((True, False) if one_sided else (True,)))


def _same(a: Node, b: Node, a_names: frozenset[str], b_names: frozenset[str], radians: bool) -> bool:
    both = a_names | b_names
    has_letters = bool(_free(both))
    digits = DIGITS * (1 if has_letters else 2) + _longest(a, b)
    bounded = ("()|" in a_names) != ("()|" in b_names)  # |x| differs from x just where x has no logarithm or root
    for is_complex in (True,) if "i" in both else (False, True):
        seen = 0
        for k, letters in enumerate(_points(both, search=not is_complex)):
            if (k == HOPELESS and not seen and _is_whole(both)) or (k >= len(_RANGES) and _enough(k, seen, both)):
                break
            agree, defined = _agree(a, b, Point(letters, is_complex, radians), digits)
            if (defined and not agree) or (bounded and not defined and not agree and not is_complex):
                return False
            seen += defined
        if seen >= (NEEDED if has_letters else 1):
            return True
    return False


def _agree(a: Node, b: Node, point: Point, digits: int) -> tuple[bool, bool]:
    """(whether both have the same value here or both have none, whether both have one)."""
    with workdps(digits):
        x, y = _value_or_none(a, point), _value_or_none(b, point)
        if x is None or y is None:
            return x is y, False
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return x == y, True
        gap, size = abs(floating(x) - floating(y)), max(abs(floating(x)), abs(floating(y)))
        if gap <= size * mpf(10) ** (20 - digits):
            return True, True
        if gap > size * 1e-12 and size > 1e-20:
            return False, True
    with workdps(2 * digits):  # is the gap rounding, in what cancels to nearly nothing? Then it shrinks with precision
        x, y = _value_or_none(a, point), _value_or_none(b, point)
        if x is None or y is None:
            return False, True
        return abs(floating(x) - floating(y)) < gap * mpf(10) ** (-digits // 2), True


def constant_ratio(a: Node, b: Node) -> int:
    """1 or -1: the sign of the constant that a is b times. 2 if it is not real, 0 if there is none or no letters."""
    both = names(a) | names(b)
    if not _free(both):
        return 0
    digits = DIGITS + _longest(a, b)
    for is_complex in (True,) if "i" in both else (False, True):
        ratios: list[Number] = []
        for letters in _points(both):
            point = Point(letters, is_complex, True)
            with workdps(digits):
                x, y = _value_or_none(a, point), _value_or_none(b, point)
                if x is None or y is None or x == y == 0:
                    continue
                if x == 0 or y == 0:
                    return 0
                exact = isinstance(x, Fraction) and isinstance(y, Fraction)
                ratios.append(x / y if exact else floating(x) / floating(y))
                if not _near(ratios[0], ratios[-1], digits):
                    return 0
        if len(ratios) >= NEEDED:
            return 2 if isinstance(ratios[0], mpc) else 1 if ratios[0] > 0 else -1
    return 0


def _near(x: Number, y: Number, digits: int) -> bool:
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    return bool(abs(floating(x) - floating(y)) <= abs(floating(x)) * mpf(10) ** (25 - digits))


def names(node: Node) -> frozenset[str]:
    """The letters of a tree, and its functions, which begin with ()."""
    letters: set[str] = set()
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        waiting += inner.children
        if inner.kind in ("letter", "call"):
            letters.add(inner.name if inner.kind == "letter" else "()" + inner.name)
    return frozenset(letters)


def _free(both: frozenset[str]) -> list[str]:
    """The letters that can stand for any number, in order."""
    return sorted(name for name in both - _CONSTANTS if not name.startswith("()"))


def _longest(*waiting: Node) -> int:
    """Characters of the longest number of some trees."""
    return (
        max(len(node.name) if node.kind == "number" else _longest(*node.children) for node in waiting) if waiting else 0
    )


def _is_whole(both: frozenset[str]) -> bool:
    return bool(both & (_WHOLE | _ROUNDING))


def _enough(k: int, seen: int, both: frozenset[str]) -> bool:
    """Whether the search for points with a value can end."""
    return not _is_whole(both) and seen >= (FEW if k == len(_RANGES) else ENOUGH)


def _points(both: frozenset[str], search: bool = False) -> Iterator[dict[str, Fraction]]:
    """Values for the letters, the same in every process and for every formula that has the letter."""
    free = _free(both)
    if not free:
        yield {}
    elif _is_whole(both):
        whole = {name for name in free if both & _WHOLE or name.partition("_")[0] in _INTEGERS}
        for k in range(1, 121):
            yield {name: _small(k, name, len(free) == 1) if name in whole else _real(k, name) for name in free}
            if k % 3 == 0:
                high = 10 ** (5 + k // 24)
                yield {
                    name: Fraction(draw(f"{k}/{name}", 10**3, high)) if name in whole else _real(-k, name)
                    for name in free
                }
    else:
        for k, (low, high) in enumerate(_RANGES):
            scale = 1 if k in _INTEGER else 128  # no odd denominator: (-1)^x is real at integers only
            yield {name: Fraction(draw(f"{k}/{name}", low * scale, high * scale), scale) for name in free}
        for k in range(_SEARCHES if search else 0):
            yield {name: _anywhere(f"search {k}/{name}") for name in free}


def _small(k: int, name: str, alone: bool) -> Fraction:
    return Fraction(k if alone else draw(f"{k}/{name}", 1, 60))


def _real(k: int, name: str) -> Fraction:
    """A random number, usually not an integer."""
    below = (1, 2, 4, 128)[draw(f"{k}/{name}/below", 0, 3)]
    return Fraction(draw(f"{k}/{name}", -40 * below, 40 * below), below)


def _anywhere(key: str) -> Fraction:
    low, high = _SEARCHED[draw(key + "/range", 0, len(_SEARCHED) - 1)]
    return Fraction(draw(key, low * 128 + 1, high * 128 - 1), 128)


def exactly() -> AbstractContextManager[object]:
    """The precision for numbers that `constant` and `value_at` give."""
    return workdps(DIGITS)


def constant(node: Node) -> Number | None:
    """The value of a scalar tree without letters, if it is real."""
    return value_at(node, {})


def value_at(node: Node, letters: Mapping[str, Number]) -> Number | None:
    """The value of a scalar tree at one point, if it is real there and there are no other letters."""
    with workdps(DIGITS):
        try:
            return value(node, Point(letters, False, True))
        except (ArithmeticError, ValueError, KeyError):
            return None


def _value_or_none(node: Node, at: Point) -> Number | None:
    try:
        return value(node, at)
    except (ArithmeticError, ValueError):
        return None

"""The value of a scalar tree at a point: exact in fractions as long as it can be, then by mpmath.

Bounded work at any tree: values of too many bits, arguments out of all bounds and huge exponents have no value.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mpmath import mp, mpc, mpf

from zero.grading.maths.tree import Node

Number = Any  # Fraction, mpf or mpc; mpmath is not typed

BITS = 20_000  # of an exact value; beyond it, floating point
BITS_WHOLE = 200_000  # of an integer
LARGEST = 10**7  # binary exponent of any value
LARGEST_FACTORIAL = 2000  # exact; the gamma function goes further


class Undefined(ArithmeticError):
    """No value here: a pole, a step that is not real, or a value out of all bounds."""


@dataclass(frozen=True, slots=True)
class Point:
    """Values of the letters; whether steps may be complex; what a degree is (1 or pi/180, as `radians` says)."""

    letters: Mapping[str, Fraction]
    is_complex: bool
    radians: bool


def floating(x: Number) -> mpf | mpc:
    return mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def draw(key: str, low: int, high: int) -> int:
    return random.Random(key).randint(low, high)


def _bits(x: Number) -> int:
    """log2 |x|, about; without mpmath for a fraction, whose conversion of long integers is slow."""
    return x.numerator.bit_length() - x.denominator.bit_length() if isinstance(x, Fraction) else int(mp.mag(x))


def value(node: Node, at: Point) -> Number:
    """The value of a scalar tree at a point, to mpmath's precision. Undefined if it has none."""
    operands = [value(operand, at) for operand in node.children]
    result = _KINDS[node.kind](node, operands, at)
    if isinstance(result, Fraction):
        return result if _fits(result, Fraction(0)) else floating(result)
    if isinstance(result, mpc) and (result.imag == 0 or not at.is_complex):
        if result.imag != 0:
            raise Undefined("not real")
        result = result.real
    if not mp.isfinite(result) or (result != 0 and abs(mp.mag(result)) > LARGEST):
        raise Undefined("out of all bounds")
    return result


def _letter(node: Node, operands: list[Number], at: Point) -> Number:
    if node.name == "i":
        return mpc(0, 1)
    if node.name == "\\circ":
        return mp.pi / 180 if at.radians else Fraction(1)
    return {"e": +mp.e, "\\pi": +mp.pi}[node.name] if node.name in ("e", "\\pi") else at.letters[node.name]


def _sum(node: Node, operands: list[Number], at: Point) -> Number:
    exact, inexact = Fraction(0), []
    for operand in operands:
        if isinstance(operand, Fraction) and _fits(exact, operand):
            exact += operand
        else:
            inexact.append(floating(operand))
    if not inexact:
        return exact
    inexact.append(floating(exact))
    sizes = [mp.mag(term) for term in inexact if term != 0]
    if any(-mp.prec // 2 < size < max(sizes) - mp.prec + 40 for size in sizes):
        raise Undefined("a term too small to count")  # 10^{10^6} + 1 is not 10^{10^6}; but sin(pi) + 1 is 1
    return mp.fsum(inexact)


def _product(node: Node, operands: list[Number], at: Point) -> Number:
    exact, inexact = Fraction(1), []
    for operand in operands:
        if isinstance(operand, Fraction) and _fits(exact, operand):
            exact *= operand
        else:
            inexact.append(floating(operand))
    return floating(exact) * mp.fprod(inexact) if inexact else exact


def _fits(x: Fraction, y: Fraction) -> bool:
    """Whether a sum or product of the two is still cheap: of integers it is far longer than of fractions."""
    size = sum(number.numerator.bit_length() + number.denominator.bit_length() for number in (x, y))
    return size < (BITS_WHOLE if x.denominator == y.denominator == 1 else BITS)


def _inverse(node: Node, operands: list[Number], at: Point) -> Number:
    if operands[0] == 0:
        raise Undefined("division by zero")
    return 1 / operands[0]


def _power(node: Node, operands: list[Number], at: Point) -> Number:
    return power(operands[0], operands[1], at)


def _root(node: Node, operands: list[Number], at: Point) -> Number:
    radicand, index = operands
    if isinstance(index, mpc) or index <= 0 or index > 1000:
        raise Undefined("no such root")
    if not isinstance(index, Fraction) or index.denominator != 1:
        if _has_letters_above(node.children[0]):
            raise Undefined("of an even root, the absolute value; of an odd one, the number itself")
        return power(radicand, 1 / index, at)
    if isinstance(radicand, Fraction) and radicand >= 0 and index == 2:
        above, below = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
        return (
            Fraction(above, below)
            if above**2 == radicand.numerator and below**2 == radicand.denominator
            else mp.sqrt(floating(radicand))
        )
    if not isinstance(radicand, mpc) and radicand < 0 and index % 2:
        return -power(-radicand, 1 / index, at)
    return power(radicand, 1 / index, at)


def _has_letters_above(node: Node) -> bool:
    """Whether an exponent in the tree is anything but a number."""
    return (node.kind == "power" and node.children[1].kind != "number") or any(map(_has_letters_above, node.children))


def power(base: Number, exponent: Number, at: Point) -> Number:
    """base ** exponent: exact if it can be, else on the principal branch, or for an odd root the real one."""
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if base == 0:
        if isinstance(exponent, mpc) or exponent <= 0:
            raise Undefined("a power of zero")
        return Fraction(0)
    if _bits(exponent) > 24 or abs(floating(exponent)) * max(1, abs(_bits(base))) > LARGEST:
        raise Undefined("out of all bounds")
    if whole and isinstance(base, Fraction):
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(int(exponent))
        if size < (BITS_WHOLE if base.denominator == 1 and exponent > 0 else BITS):
            return base ** int(exponent)
    if whole:
        return floating(base) ** int(exponent)
    if not isinstance(base, mpc) and base < 0 and not at.is_complex:
        if not isinstance(exponent, Fraction) or exponent.denominator % 2 == 0:
            raise Undefined("not real")
        return (-1) ** exponent.numerator * mp.power(floating(-base), floating(exponent))
    return mp.power(floating(base), floating(exponent))


def _call(node: Node, operands: list[Number], at: Point) -> Number:
    if node.name in _LOGARITHMS:
        return _logarithm(node.name, operands)
    if len(operands) == 1 and node.name in _OF_ONE:
        if abs(floating(operands[0])) > LARGEST:
            raise Undefined("out of all bounds")
        return _OF_ONE[node.name](floating(operands[0]))
    if node.name in _OF_REALS:
        if any(isinstance(operand, mpc) for operand in operands):
            raise Undefined("no order")
        return _OF_REALS[node.name](operands)
    if node.name == "|" and len(operands) == 1:
        return abs(operands[0])
    # an unknown function: any value that depends on nothing but its name and arguments
    known = [str(operand) if isinstance(operand, Fraction) else mp.nstr(operand, 30) for operand in operands]
    return Fraction(draw(f"{node.name}({known})", 1, 2**20), 2**18)


def _logarithm(name: str, operands: list[Number]) -> Number:
    argument, base = operands[0], (operands[1] if len(operands) > 1 else Fraction(10) if name == "lg" else None)
    if argument == 0 or base in (0, 1) or len(operands) > 2:
        raise Undefined("no logarithm")
    return mp.log(floating(argument)) if base is None else mp.log(floating(argument)) / mp.log(floating(base))


def _factorial(operands: list[Number]) -> Number:
    (x,) = operands
    if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= LARGEST_FACTORIAL:
        return Fraction(math.factorial(int(x)))
    if abs(x) > 10**5:
        raise Undefined("out of all bounds")
    return mp.gamma(floating(x) + 1)


def _binomial(operands: list[Number]) -> Number:
    n, k = operands
    if (
        isinstance(n, Fraction)
        and isinstance(k, Fraction)
        and n.denominator == k.denominator == 1
        and 0 <= k <= n <= LARGEST_FACTORIAL
    ):
        return Fraction(math.comb(int(n), int(k)))
    if any(abs(operand) > 10**5 for operand in operands):
        raise Undefined("out of all bounds")
    return mp.binomial(floating(n), floating(k))


def _rounded(down: bool) -> Callable[[list[Number]], Number]:
    def rounded(operands: list[Number]) -> Number:
        (x,) = operands
        if not isinstance(x, Fraction):
            near = mp.nint(x)
            x = near if abs(x - near) < mpf(10) ** (-mp.dps // 3) else mp.floor(x) if down else mp.ceil(x)
            return Fraction(int(x)) if abs(x) < 10**30 else x
        return Fraction(math.floor(x) if down else math.ceil(x))

    return rounded


def _integers(function: Callable[..., int]) -> Callable[[list[Number]], Number]:
    def of_integers(operands: list[Number]) -> Number:
        if not all(isinstance(operand, Fraction) and operand.denominator == 1 for operand in operands):
            raise Undefined("no integer")
        return Fraction(function(*(int(operand) for operand in operands)))

    return of_integers


_KINDS: dict[str, Callable[[Node, list[Number], Point], Number]] = {
    "number": lambda node, operands, at: Fraction(node.name),
    "letter": _letter,
    "sum": _sum,
    "negative": lambda node, operands, at: -operands[0],
    "product": _product,
    "inverse": _inverse,
    "power": _power,
    "root": _root,
    "call": _call,
}
_LOGARITHMS = frozenset({"log", "ln", "lg"})
_OF_ONE: dict[str, Callable[[mpf], Number]] = {
    **{name: getattr(mp, name) for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch exp".split()},
    "cis": lambda x: mp.expj(x),
    **{"arc" + name: getattr(mp, "a" + name) for name in "sin cos tan cot sec csc sinh cosh tanh".split()},
}
_OF_REALS: dict[str, Callable[[list[Number]], Number]] = {
    "!": _factorial,
    "binom": _binomial,
    "max": lambda operands: max(operands, key=floating),
    "min": lambda operands: min(operands, key=floating),
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "\\lfloor": _rounded(True),
    "\\lceil": _rounded(False),
}

r"""Sets of real numbers with numbers for their ends, however they are written: intervals, inequalities in one name, unions,
intersections, differences, `\{x \mid 1<x<2\}`, `|x|<2`, x>1 and x<2, `\mathbb{R}\setminus\{0\}`.

A region is where its ends lie and which of the points and gaps between them belong to it, so that two that are written
differently are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import and_, or_
from typing import Any

from zero.grading.maths.formula import constant, exactly, names, value_at
from zero.grading.maths.statements import is_variable
from zero.grading.maths.tree import COLLECTIONS, CONSTANTS, FLIPPED, INFINITY, Node, difference, members, negative
from zero.grading.maths.values import floating

_ORDERS = {
    "<": (True, False, False),
    "\\le": (True, True, False),
    ">": (False, False, True),
    "\\ge": (False, True, True),
}
_SIGNS = _ORDERS | {"=": (False, True, False), "\\ne": (True, False, True)}  # below, at and above zero
MOST_ENDS = 40
REALS, EMPTY = Node("letter", (), "\\mathbb{R}"), Node("letter", (), "\\emptyset")
_TESTED = (Fraction(2), Fraction(-3), Fraction(1, 3), Fraction(17, 4))


@dataclass(frozen=True)
class Region:
    """Ends in order; `inside` says what belongs to it: the gap before the first end, that end, the next gap, and so on."""

    ends: tuple[Any, ...]
    inside: tuple[bool, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and self.inside == other.inside and all(map(_near, self.ends, other.ends))

    __hash__ = None  # type: ignore[assignment]


ALL, NONE = Region((), (True,)), Region((), (False,))


class NoRegion(ValueError):
    """The node is not a region whose ends are numbers."""


def same_region(a: Node, b: Node) -> bool | None:
    """Whether two nodes are the same set of reals; None if one is no such set, or if both are plain pairs or lists."""
    if not (_is_composed(a) or _is_composed(b)) or not (_is_set(a) and _is_set(b)):
        return None
    try:
        with exactly():
            (one, name), (other, second) = _named(a), _named(b)
            return (not name or not second or name == second) and one == other
    except (NoRegion, ArithmeticError):
        return None


def _is_composed(node: Node) -> bool:
    return node.kind in ("union", "operation", "builder") or node in (REALS, EMPTY) or _is_condition(node)


def _is_condition(node: Node) -> bool:
    """Whether the node restricts a name by at least one inequality or membership."""
    members = node.children if node.kind == "list" else (node,)
    if not all(member.kind == "relation" for member in members):
        return False
    return any(set(member.name.split()) & (_ORDERS.keys() | {"\\ne", "\\in"}) for member in members)


def _is_set(node: Node) -> bool:
    return _is_composed(node) or node.kind in ("tuple", "set")


def _named(node: Node) -> tuple[Region, str]:
    """(region, the name that it is about or "")."""
    members = node.children if node.kind == "list" else (node,)
    if all(member.kind == "relation" for member in members):
        subjects = {_subject(member) for member in members}
        if len(subjects) != 1:
            raise NoRegion("several names")
        name = subjects.pop()
        return _joined([_relation(member, name) for member in members], node.name == "or"), name
    return region(node), ""


def _joined(regions: Sequence[Region], any_of: bool) -> Region:
    return reduce(lambda one, other: _combined(one, other, or_ if any_of else and_), regions)


def region(node: Node) -> Region:
    """The region of a node without a name. NoRegion if it is none."""
    if node == REALS:
        return ALL
    if node == EMPTY:
        return NONE
    if node.kind == "tuple" and len(node.children) == 2 and len(node.name) == 2:
        return _interval(node)
    if node.kind == "set":
        points = [_end(child) for child in node.children]
        return _joined([Region((point,), (False, True, False)) for point in points], True)
    if node.kind == "union":
        return _joined([region(child) for child in node.children], True)
    if node.kind == "operation":
        left, right = map(region, node.children)
        return _combined(left, right, and_ if node.name == "\\cap" else lambda one, other: one and not other)
    if node.kind == "builder":
        name, domain, conditions = node.children
        where, subject = _named(conditions)
        if subject != name.name:
            raise NoRegion("another name")
        return _combined(region(domain), where, and_)
    raise NoRegion(node.kind)


def _interval(node: Node) -> Region:
    low, high = node.children
    left, right = node.name[0], node.name[1]
    if low == negative(INFINITY) and high == INFINITY:
        return ALL
    if low == negative(INFINITY):
        return Region((_end(high),), (True, right == "]", False))
    if high == INFINITY:
        return Region((_end(low),), (False, left == "[", True))
    ends = (_end(low), _end(high))
    if floating(ends[0]) >= floating(ends[1]) or _near(*ends):
        raise NoRegion("no interval")
    return Region(ends, (False, left == "[", True, right == "]", False))


def _end(node: Node) -> Any:
    if node.kind in COLLECTIONS or (bound := constant(node)) is None:
        raise NoRegion("no number")
    return bound


def _subject(relation: Node) -> str:
    """The one name that a relation is about."""
    if relation.name == "\\in":
        subjects = {relation.children[0].name} if relation.children[0].kind == "letter" else set()
    else:
        subjects = {
            name
            for child in relation.children
            if child.kind not in COLLECTIONS
            for name in names(child)
            if not name.startswith("()") and name not in CONSTANTS
        }
    if len(subjects) != 1:
        raise NoRegion("not one name")
    return subjects.pop()


def _relation(relation: Node, name: str) -> Region:
    if relation.name == "\\in":
        return region(relation.children[1])
    signs = relation.name.split()
    if not set(signs) <= _SIGNS.keys():
        raise NoRegion("no inequality")
    pairs = zip(relation.children, signs, relation.children[1:], strict=False)
    return _joined([_inequality(left, sign, right, name) for left, sign, right in pairs], False)


def _inequality(left: Node, sign: str, right: Node, name: str) -> Region:
    """Where left sign right holds: both linear or square in the name, or an absolute value of that against a number."""
    if left == negative(INFINITY) or right == INFINITY:
        return ALL if sign in ("<", "\\le") else NONE
    if left == INFINITY or right == negative(INFINITY):
        return ALL if sign in (">", "\\ge") else NONE
    for one, other, turned in ((left, right, sign), (right, left, _turned(sign))):
        if one.kind == "call" and one.name == "|" and name not in names(other):
            bound, inner = _end(other), one.children[0]
            at_bound = _inequality(inner, turned, other, name)
            mirrored = _inequality(inner, _turned(turned), negative(other), name)
            if turned in ("<", "\\le", "\\ne"):
                return _joined([at_bound, mirrored], False) if bound >= 0 or turned == "\\ne" else NONE
            return _joined([at_bound, mirrored], True) if bound >= 0 else (NONE if turned == "=" else ALL)
    if {left.kind, right.kind} & COLLECTIONS:
        raise NoRegion("no numbers")
    return _where(_polynomial(difference(left, right), name), _SIGNS[sign])


def _turned(sign: str) -> str:
    return {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(sign, sign)


def _polynomial(node: Node, name: str) -> tuple[Any, Any, Any]:
    """a, b, c of a x^2 + b x + c, if the node is that."""
    at: list[Any] = [value_at(node, {name: x}) for x in (Fraction(0), Fraction(1), Fraction(-1))]
    if any(value is None for value in at):
        raise NoRegion("no value")
    c, one, minus = at if all(isinstance(value, Fraction) for value in at) else map(floating, at)
    a, b = (one + minus) / 2 - c, (one - minus) / 2
    for x in _TESTED:
        value = value_at(node, {name: x})
        power = x if isinstance(a, Fraction) else floating(x)
        if value is None or not _near(value, a * power * power + b * power + c):
            raise NoRegion("no polynomial of degree two")
    return (a if not _near(a, 0) else 0), (b if not _near(b, 0) else 0), c


def _where(coefficients: tuple[Any, Any, Any], wanted: tuple[bool, bool, bool]) -> Region:
    """Where a polynomial has a wanted sign."""
    below, at, above = wanted
    a, b, c = coefficients
    if a == 0 and b == 0:
        raise NoRegion("no name in it")
    if a == 0:
        return Region((-c / b,), (below, at, above) if b > 0 else (above, at, below))
    outer, inner = (above, below) if a > 0 else (below, above)
    square = b * b - 4 * a * c
    if _near(square, 0):
        return _reduced([-b / (2 * a)], [outer, at, outer])
    if square < 0:
        return ALL if outer else NONE
    root = value_at(Node("root", (Node("letter", (), "x"), Node("number", (), "2"))), {"x": square})
    if root is None:
        raise NoRegion("no root")
    if not isinstance(root, Fraction) or not isinstance(a, Fraction):
        a, b, root = floating(a), floating(b), floating(root)
    ends = sorted([(-b - root) / (2 * a), (-b + root) / (2 * a)])
    return Region(tuple(ends), (outer, at, inner, at, outer))


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, Fraction | int) and isinstance(other, Fraction | int):
        return one == other
    return bool(abs(floating(one) - floating(other)) * 10**40 <= 1 + abs(floating(one)))


def _combined(one: Region, other: Region, operation: Callable[[bool, bool], bool]) -> Region:
    ends: list[Any] = []
    for end in sorted((*one.ends, *other.ends), key=floating):
        if not ends or not _near(ends[-1], end):
            ends.append(end)
    if len(ends) > MOST_ENDS:
        raise NoRegion("too many pieces")
    pairs = zip(_spread(one, ends), _spread(other, ends), strict=True)
    return _reduced(ends, [operation(first, second) for first, second in pairs])


def _spread(region: Region, ends: Sequence[Any]) -> list[bool]:
    """The region's `inside` for more ends than its own."""
    flags, place = [region.inside[0]], 0
    for end in ends:
        if place < len(region.ends) and _near(region.ends[place], end):
            flags += [region.inside[2 * place + 1], region.inside[2 * place + 2]]
            place += 1
        else:
            flags += [region.inside[2 * place]] * 2
    return flags


def _reduced(ends: Sequence[Any], inside: Sequence[bool]) -> Region:
    """The region without ends at which nothing changes."""
    changes: list[Any] = []
    flags = [inside[0]]
    for place, end in enumerate(ends):
        at, after = inside[2 * place + 1], inside[2 * place + 2]
        if not (flags[-1] == at == after):
            changes.append(end)
            flags += [at, after]
    return Region(tuple(changes), tuple(flags))


def as_intervals(node: Node, other: Node) -> Node:
    """An inequality in one name as intervals, beside intervals."""
    if other.kind not in ("tuple", "union", "set"):
        return node
    if node == REALS:
        return Node("tuple", (negative(INFINITY), INFINITY), "()")
    if not all(is_order(child) for child in members(node)) or (node.kind != "relation" and node.name != "or"):
        return node
    pieces = [_of_one_name(child) for child in members(node)]
    intervals = tuple(piece for one in pieces for piece in one)
    return node if not all(pieces) else intervals[0] if len(intervals) == 1 else Node("union", intervals)


def is_order(node: Node) -> bool:
    return node.kind == "relation" and (set(node.name.split()) <= _ORDERS.keys() or node.name == "\\ne")


def _of_one_name(relation: Node) -> tuple[Node, ...]:
    """The intervals of x<a, a<x, a<x<b and their kin; none if it is no such thing."""
    sides, signs = list(relation.children), relation.name.split()
    if signs[0] in FLIPPED and all(sign in FLIPPED for sign in signs):
        sides, signs = sides[::-1], [FLIPPED[sign] for sign in signs[::-1]]
    place = next((k for k, side in enumerate(sides) if side.kind == "letter" and is_variable(side)), -1)
    others = [side for k, side in enumerate(sides) if k != place]
    if place < 0 or any(sides[place].name in names(other) for other in others):
        return ()
    low, high = negative(INFINITY), INFINITY
    if signs == ["\\ne"]:
        return Node("tuple", (low, others[0]), "()"), Node("tuple", (others[0], high), "()")
    left, right = "(", ")"
    if any(sign in FLIPPED for sign in signs) or len(signs) > 2 or (len(signs) == 2 and place != 1):
        return ()
    if place > 0:
        low, left = sides[place - 1], "[" if signs[place - 1] == "\\le" else "("
    if place < len(sides) - 1:
        high, right = sides[place + 1], "]" if signs[place] == "\\le" else ")"
    return (Node("tuple", (low, high), left + right),)

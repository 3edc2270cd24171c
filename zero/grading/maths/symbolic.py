r"""Strict equality of mathematical answers: a mathematician who reads both would say "the same answer".

The rules, on top of those of zero.grading.maths.exact; everything below a collection is compared by the same rules
- formulas: the same function of their letters (zero.grading.maths.formula), so x+1 = 1+x and `\frac{\sqrt2}{2}` =
  `\frac{1}{\sqrt2}`, but 1.41 is not `\sqrt{2}`: there is no tolerance; `90^\circ` is both 90 and `\frac{\pi}{2}`;
- a sum left undone, 2+3, is not the number 5, while `2^{10}`, 5! and products are numbers;
- a list (`1,2`; `x=1 or x=2`; plus-minus) is a multiset, {...} is a set, and either may be one element;
  (1,2) is ordered and is neither of them; [1,2] is not (1,2); a column is the tuple of its entries;
- an equation whose one side is a name, x=5 or f(x)=x+1, is its other side if the other answer is no equation. Two
  equations are equal if one is a multiple of the other, and functions also if only the argument is renamed throughout;
- inequalities likewise, by positive multiples; x<2 is `(-\infty,2)`;
- a known unit may be left out on one side; words are equal as they stand; 101_2 is a numeral and equals nothing else.
What is no answer at all (sums, integrals, prose) can only be equal as a string, up to dressing.

math-verify (0.9) is not asked: it compares rounded decimals, drops bases and lower-cases letters, and its work has no bound.
Work here is bounded: fixed points, fixed precision, values of at most so many bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zero.grading.maths.exact import (
    LONGEST_NUMBER,
    compact,
    exact_equal,
    plain_form,
    same_unit,
    without_choice,
    without_unit,
)
from zero.grading.maths.formula import constant_ratio, names, same_value
from zero.grading.maths.latex import read
from zero.grading.maths.tree import COLLECTIONS, FUNCTIONS, INFINITY, NAMED, Node, difference, negative, product

MOST_MEMBERS = 60  # of two lists that differ: each is compared with each
MOST_WORDS = 5  # of an answer in words; more are prose
_PHRASE = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z0-9'-]+)*")
_SHORT_WORDS = frozenset("yes no odd all none red day one two six ten any not".split())
_FLIPPED = {">": "<", "\\ge": "\\le"}
_ORDERS = frozenset({"<", ">", "\\le", "\\ge"})
_KNOWN = FUNCTIONS | {"!", "|", "\\lfloor", "\\lceil", "binom", "mod"}
_REALS = "\\mathbb{R}"


def strict_equal(answer: str, reference: str) -> bool:
    """Whether the two are the same answer. ValueError if the answer cannot be read; a reference that cannot be read is
    compared as a string. Milliseconds, a few hundred at worst."""
    said = exact_equal(answer, reference)
    if said is not None:
        return said
    sides = without_choice(answer.strip(), reference.strip())
    if isinstance(sides, bool):
        return sides
    a_plain, b_plain = (plain_form(side) for side in sides)
    a, a_unit = reading(a_plain)
    try:
        b, b_unit = reading(b_plain)
    except ValueError:
        return False
    if not same_unit(a_unit, b_unit):
        return False
    if a.kind == "number" and b.kind in ("list", "set"):  # 1,234 beside a list is a list
        a = reading(a_plain, thousands=False)[0]
    elif b.kind == "number" and a.kind in ("list", "set"):
        b = reading(b_plain, thousands=False)[0]
    return same(a, b)


def reading(plain: str, thousands: bool = True) -> tuple[Node, str]:
    """(tree, unit or "") of a plain form. ValueError if it cannot be read."""
    if _is_phrase(plain):
        return Node("word", (), compact(plain)), ""
    rest, unit = without_unit(plain)
    if unit != "degree^1":
        return read(rest, thousands), unit
    if plain.endswith(("\\circ", "}")):  # a sign, perhaps the last of several in a list, and not a word
        return read(plain, thousands), ""
    node = read(rest, thousands)
    return (node, unit) if node.kind in COLLECTIONS else (product(node, Node("letter", (), "\\circ")), "")


def _is_phrase(plain: str) -> bool:
    """Whether a text of letters is words and not a product: ab is one, Abe, able and `no` are not."""
    if len(plain) > LONGEST_NUMBER or plain.count(" ") >= MOST_WORDS or not _PHRASE.fullmatch(plain):
        return False
    runs = [run for run in plain.split() if run not in NAMED and run not in ("or", "and")]
    return any(len(run) > 3 or run.lower() in _SHORT_WORDS or (len(run) > 1 and run.istitle()) for run in runs)


def same(a: Node, b: Node) -> bool:
    """Whether two trees are the same answer."""
    if a == b:
        return True
    a, b = _told(a), _told(b)
    a, b = _bare(a, b), _bare(b, a)
    a, b = _region(a, b), _region(b, a)
    a, b = _flat(a, b), _flat(b, a)
    kinds = {a.kind, b.kind}
    if kinds & {"list", "set"}:
        if _tells(a) != _tells(b):
            return False
        return _same_members(_members(a), _members(b), a.kind == b.kind == "set")
    if not kinds & COLLECTIONS:
        return not (_plain(a) and _undone(b)) and not (_plain(b) and _undone(a)) and same_value(a, b)
    if a.kind != b.kind or a.kind == "word":
        return False
    if a.kind == "relation":
        return _same_relation(a, b)
    if a.kind == "union":
        return _same_members(a.parts, b.parts, True)
    return a.name == b.name and len(a.parts) == len(b.parts) and all(map(same, a.parts, b.parts))


def _plain(node: Node) -> bool:
    """Whether a scalar is a number with no more than signs and divisions in it."""
    return node.kind == "number" or (node.kind in ("negative", "product", "inverse") and all(map(_plain, node.parts)))


def _undone(node: Node) -> bool:
    """Whether plain numbers are left to be added: 2+3 is a computation and not the answer 5; `2^{10}-1` is one."""
    return (node.kind == "sum" and sum(map(_plain, node.parts)) > 1) or any(map(_undone, node.parts))


def _tells(node: Node) -> bool:
    return any(part.kind == "relation" for part in _members(node))


def _members(node: Node) -> Sequence[Node]:
    return node.parts if node.kind in ("list", "set") else (node,)


def _same_members(a: Sequence[Node], b: Sequence[Node], as_sets: bool) -> bool:
    """Whether each member of one has its own equal in the other; of sets, repetitions do not count."""
    if as_sets:
        a, b = _distinct(a), _distinct(b)
    if len(a) != len(b):
        return False
    left = list(b)
    rest = []
    for one in a:  # what is literally equal goes first, and is quick
        if one in left:
            left.remove(one)
        else:
            rest.append(one)
    if len(rest) > MOST_MEMBERS:
        return False
    for one in rest:
        place = next((k for k, other in enumerate(left) if same(one, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _distinct(nodes: Sequence[Node]) -> Sequence[Node]:
    kept: list[Node] = []
    for node in nodes[: MOST_MEMBERS + 1]:
        if not any(same(node, other) for other in kept):
            kept.append(node)
    return [*kept, *nodes[MOST_MEMBERS + 1 :]]


def _named(node: Node) -> bool:
    """Whether the node only names something: x, f(x), (x, y)."""
    if node.kind == "letter":
        return node.name not in ("e", "i", "\\pi", "\\infty")
    arguments = node.kind == "tuple" or (node.kind == "call" and node.name not in _KNOWN)
    return arguments and all(part.kind == "letter" for part in node.parts)


def _right(node: Node) -> Node | None:
    """What an equation x=5 or a membership says about a name; None for anything else."""
    if node.kind != "relation" or node.name not in ("=", "\\in"):
        return None
    left, right = node.parts
    if _named(left):
        return right
    return left if node.name == "=" and _named(right) else None


def _told(node: Node) -> Node:
    r"""`x=1, 2` and `x \in \{1,2\}` as `x=1, x=2`."""
    first = node.parts[0] if node.kind == "list" else node
    right = _right(first)
    if right is None or (node.kind == "list" and _tells(Node("list", node.parts[1:]))):
        return node
    rest = node.parts[1:] if node.kind == "list" else ()
    values = right.parts if right.kind in ("list", "set") else (right,)
    if len(values) + len(rest) < 2:
        return node
    return Node("list", tuple(Node("relation", (first.parts[0], part), "=") for part in (*values, *rest)), "or")


def _bare(node: Node, other: Node) -> Node:
    """What the node says about a name, if the other one says no name."""
    if _tells(other):
        if node.kind == other.kind == "relation" and node.name == "\\in" and _orders(other):
            return node.parts[1] if node.parts[0] in other.parts else node
        return node
    rights = [_right(part) for part in _members(node)]
    told = [right for right in rights if right is not None]
    if not told or len(told) < len(rights) or len({part.parts[0] for part in _members(node)}) > 1:
        return node
    return told[0] if node.kind == "relation" else Node(node.kind, tuple(told), node.name)


def _flat(node: Node, other: Node) -> Node:
    """A column as a tuple, beside a tuple."""
    if node.kind == "matrix" and other.kind == "tuple" and all(len(row.parts) == 1 for row in node.parts):
        return Node("tuple", tuple(row.parts[0] for row in node.parts), "()")
    return node


def _orders(node: Node) -> bool:
    return node.kind == "relation" and (set(node.name.split()) <= _ORDERS or node.name == "\\ne")


def _region(node: Node, other: Node) -> Node:
    """An inequality in one name as intervals, beside intervals."""
    if other.kind not in ("tuple", "union", "set"):
        return node
    if node == Node("letter", (), _REALS):
        return Node("tuple", (negative(INFINITY), INFINITY), "()")
    if not all(_orders(part) for part in _members(node)) or (node.kind != "relation" and node.name != "or"):
        return node
    pieces = [_intervals(part) for part in _members(node)]
    found = tuple(piece for one in pieces for piece in one)
    return node if not all(pieces) else found[0] if len(found) == 1 else Node("union", found)


def _intervals(relation: Node) -> tuple[Node, ...]:
    """The intervals of x<a, a<x, a<x<b and their kin; none if it is no such thing."""
    sides, signs = list(relation.parts), relation.name.split()
    if signs[0] in _FLIPPED and all(sign in _FLIPPED for sign in signs):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    place = next((k for k, side in enumerate(sides) if side.kind == "letter" and _named(side)), -1)
    others = [side for k, side in enumerate(sides) if k != place]
    if place < 0 or any(sides[place].name in names(other) for other in others):
        return ()
    low, high = negative(INFINITY), INFINITY
    if signs == ["\\ne"]:
        return Node("tuple", (low, others[0]), "()"), Node("tuple", (others[0], high), "()")
    left, right = "(", ")"
    if any(sign in _FLIPPED for sign in signs) or len(signs) > 2 or (len(signs) == 2 and place != 1):
        return ()
    if place > 0:
        low, left = sides[place - 1], "[" if signs[place - 1] == "\\le" else "("
    if place < len(sides) - 1:
        high, right = sides[place + 1], "]" if signs[place] == "\\le" else ")"
    return (Node("tuple", (low, high), left + right),)


def _pairs(relation: Node) -> list[tuple[Node, str, Node]]:
    """A chain of relations as single ones, none of which reads `greater`."""
    found = []
    for left, sign, right in zip(relation.parts, relation.name.split(), relation.parts[1:], strict=False):
        found.append((right, _FLIPPED[sign], left) if sign in _FLIPPED else (left, sign, right))
    return found


def _same_relation(a: Node, b: Node) -> bool:
    a, b = _with_anonymous_arguments(a), _with_anonymous_arguments(b)
    a_pairs, b_pairs = _pairs(a), _pairs(b)
    if len(a_pairs) != len(b_pairs):
        return False
    for one in a_pairs:
        place = next((k for k, other in enumerate(b_pairs) if _same_pair(one, other)), None)
        if place is None:
            return False
        del b_pairs[place]
    return True


def _same_pair(a: tuple[Node, str, Node], b: tuple[Node, str, Node]) -> bool:
    (a_left, sign, a_right), (b_left, other, b_right) = a, b
    if sign != other:
        return False
    if same(a_left, b_left) and same(a_right, b_right):
        return True
    mutual = sign in ("=", "\\ne")
    if mutual and same(a_left, b_right) and same(a_right, b_left):
        return True
    if sign not in ("=", "\\ne", "<", "\\le") or {n.kind for n in (a_left, a_right, b_left, b_right)} & COLLECTIONS:
        return False
    ratio = constant_ratio(difference(a_left, a_right), difference(b_left, b_right))
    return ratio != 0 if mutual else ratio == 1


def _with_anonymous_arguments(relation: Node) -> Node:
    """f(x)=x+1 as f(#)=#+1: the name of an argument says nothing."""
    left = relation.parts[0]
    if relation.name != "=" or left.kind != "call" or not _named(left):
        return relation
    return _renamed(relation, {part.name: f"#{k}" for k, part in enumerate(left.parts)})


def _renamed(node: Node, new: dict[str, str]) -> Node:
    name = new.get(node.name, node.name) if node.kind == "letter" else node.name
    return Node(node.kind, tuple(_renamed(part, new) for part in node.parts), name)

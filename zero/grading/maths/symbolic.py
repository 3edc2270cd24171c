r"""Strict equality of mathematical answers: a mathematician who reads both would say "the same answer".

The rules, on top of those of zero.grading.maths.exact; everything below a collection is compared by the same rules
- formulas: the same function of their letters (zero.grading.maths.formula), so x+1 = 1+x and `\frac{\sqrt2}{2}` =
  `\frac{1}{\sqrt2}`, but 1.41 is not `\sqrt{2}`: there is no tolerance; `90^\circ` is both 90 and `\frac{\pi}{2}`;
- a sum left undone, 2+3, is not the number 5, while `2^{10}`, 5! and products are numbers;
- a list (`1,2`; `x=1 or x=2`; plus-minus) is a multiset, {...} is a set, and either may be one element;
  (1,2) is ordered and is neither of them; [1,2] is not (1,2); a column is the tuple of its entries;
- an equation whose one side is a name, x=5 or f(x)=x+1, is its other side if the other answer is no equation. Two
  equations are equal if one is a multiple of the other, and functions also if only the argument is renamed throughout;
- a name in front of a value and the steps that lead to it may be left out (zero.grading.maths.statements), and x=1, y=2
  is (1,2); sets of reals are compared as sets, however they are written (zero.grading.maths.regions);
- inequalities likewise, by positive multiples; x<2 is `(-\infty,2)`;
- letters and words listed in one `\text{...}` are in order, and so is what is repeated or said in turn (true, false);
- numbers in words are numbers, and a note in brackets that only repeats one says nothing (zero.grading.maths.wording); of
  `\frac16 \approx 16.7\%` the exact side counts (zero.grading.maths.sides);
- several plus-minus signs are independent unless minus-plus ties them: `\pm1\pm\sqrt2` is four numbers;
- a unit may be left out on one side (zero.grading.maths.units); words are equal as they stand, and so are letters in a
  row, unless they can only be a product (zero.grading.maths.words); 101_2 is a numeral and equals nothing else.
What is no answer at all (sums, integrals, prose) can only be equal as a string, up to dressing.

math-verify (0.9) is not asked: it compares rounded decimals, drops bases and lower-cases letters, and its work has no bound.
Work here is bounded: fixed points, fixed precision, values of at most so many bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zero.grading.maths.exact import (
    compact,
    exact_equal,
    plain_form,
    without_choice,
)
from zero.grading.maths.formula import constant_ratio, names, same_value
from zero.grading.maths.latex import read
from zero.grading.maths.phrases import phrase
from zero.grading.maths.regions import as_intervals, is_order, same_region
from zero.grading.maths.sides import compound, readings
from zero.grading.maths.statements import (
    in_order,
    is_name,
    is_variable,
    merge_equal_forms,
    settled,
    spoken_name,
    unnumbered,
)
from zero.grading.maths.tree import (
    COLLECTIONS,
    CONSTANTS,
    FLIPPED,
    Node,
    difference,
    members,
    product,
    spelled_out,
    tells,
)
from zero.grading.maths.units import same_unit, without_unit
from zero.grading.maths.words import folded, is_run, same_order, same_run

LONGEST_TEXT = 10_000  # characters of an answer with its formatting
MOST_MEMBERS = 60  # of two lists that differ: each is compared with each
_SEGMENT = re.compile(r"\\overline\{([A-Z]{2})\}")


def strict_equal(answer: str, reference: str) -> bool:
    """Whether the two are the same answer. ValueError if the answer cannot be read; a reference that cannot be read is
    compared as a string. Milliseconds, a few hundred at worst."""
    verdict = exact_equal(answer, reference)
    if verdict is not None:
        return verdict
    if len(reference) > LONGEST_TEXT:
        return False
    if len(answer) > LONGEST_TEXT:
        raise ValueError("too long")
    sides = without_choice(answer.strip(), reference.strip())
    if isinstance(sides, bool):
        return sides
    ordered = same_order(*sides)
    if ordered is not None:
        return ordered
    a_plain, b_plain = map(plain_form, sides)
    if (factors := compound(a_plain)) and factors == compound(b_plain):
        return True
    a_forms, b_forms = readings(a_plain), readings(b_plain)
    return any(_same_plain(one, other) for one in a_forms for other in b_forms)


def _same_plain(a_plain: str, b_plain: str) -> bool:
    a, a_unit = reading(a_plain)
    try:
        b, b_unit = reading(b_plain)
    except ValueError:
        return False
    if not same_unit(a_unit, b_unit):
        return False
    if bool(a_unit) != bool(b_unit) and _same_without_units(a_plain, b_plain):
        return True  # hr may be hours, or h times r
    if a.kind == "number" and b.kind in ("list", "set"):  # 1,234 beside a list is a list
        a = reading(a_plain, thousands=False)[0]
    elif b.kind == "number" and a.kind in ("list", "set"):
        b = reading(b_plain, thousands=False)[0]
    return same(a, b)


def _same_without_units(a_plain: str, b_plain: str) -> bool:
    try:
        return same(read(a_plain), read(b_plain))
    except ValueError:
        return False


def reading(plain: str, thousands: bool = True) -> tuple[Node, str]:
    """(tree, unit or "") of a plain form. ValueError if it cannot be read."""
    if (word := phrase(plain)) is not None:
        return word, ""
    name, bare = spoken_name(plain)
    if name:
        value, unit = reading(bare, thousands)
        return Node("relation", (Node("letter", (), compact(name)), value), "="), unit
    bare, unit = without_unit(plain)
    if "~" in unit:
        return read(plain, thousands), ""
    if unit != "degree^1":
        return read(bare, thousands), unit
    if plain.endswith(("\\circ", "}")):  # a sign, perhaps the last of several in a list, and not a word
        return read(plain, thousands), ""
    node = read(bare, thousands)
    return (node, unit) if node.kind in COLLECTIONS else (product(node, Node("letter", (), "\\circ")), "")


def _is_part_or_set(one: Node, other: Node) -> bool:
    r"""Whether `one` may be a fractional part, `\{x\}`, where the other is a formula without such brackets."""
    if one.kind != "set" or len(one.children) != 1 or COLLECTIONS & {one.children[0].kind, other.kind}:
        return False
    return any(not name.startswith("()") for name in names(one) - CONSTANTS)


def same(a: Node, b: Node) -> bool:
    """Whether two trees are the same answer."""
    if a == b:
        return True
    a, b = settled(merge_equal_forms(a)), settled(merge_equal_forms(b))
    regional = same_region(a, b)
    if regional is not None:
        return regional
    a, b = in_order(a, b)
    a, b = unnumbered(a, b), unnumbered(b, a)
    a, b = _as_equations(a), _as_equations(b)
    a, b = _without_name(a, b), _without_name(b, a)
    a, b = as_intervals(a, b), as_intervals(b, a)
    a, b = _flat(a, b), _flat(b, a)
    kinds = {a.kind, b.kind}
    if kinds & {"list", "set"}:
        if tells(a) != tells(b) or any(map(_is_part_or_set, (a, b), (b, a))):
            return False
        return _same_members(members(a), members(b), a.kind == b.kind == "set")
    if not kinds & COLLECTIONS:
        return _same_scalar(a, b)
    if a.kind != b.kind or a.kind == "word":
        return False
    if a.kind == "relation":
        return _same_relation(a, b)
    if a.kind == "union":
        return _same_members(_united(a), _united(b), True)
    return a.name == b.name and len(a.children) == len(b.children) and all(map(same, a.children, b.children))


def _same_scalar(a: Node, b: Node) -> bool:
    a, b = _segment(a), _segment(b)
    if a.kind == b.kind == "letter" and is_run(a.name) and is_run(b.name):
        return same_run(a.name, b.name)
    if a.kind == b.kind == "letter":
        return a.name == b.name or (min(len(a.name), len(b.name)) > 1 and folded(a.name) == folded(b.name))
    a, b = spelled_out(a), spelled_out(b)
    return not (_plain(a) and _undone(b)) and not (_plain(b) and _undone(a)) and same_value(a, b)


def _segment(node: Node) -> Node:
    r"""A segment `\overline{AB}` by its ends alone, AB."""
    segment = _SEGMENT.fullmatch(node.name) if node.kind == "letter" else None
    return Node("letter", (), segment[1]) if segment else node


def _united(node: Node) -> Sequence[Node]:
    """The members of a union, with its sets of numbers joined into one."""
    sets = [child for child in node.children if child.kind == "set"]
    others = [child for child in node.children if child.kind != "set"]
    return (
        [*others, Node("set", tuple(member for child in sets for member in child.children))]
        if len(sets) > 1
        else node.children
    )


def _plain(node: Node) -> bool:
    """Whether a scalar is a number with no more than signs and divisions in it."""
    return node.kind == "number" or (
        node.kind in ("negative", "product", "inverse") and all(map(_plain, node.children))
    )


def _undone(node: Node) -> bool:
    """Whether plain numbers are left to be added: 2+3 is a computation and not the answer 5; `2^{10}-1` is one."""
    return (node.kind == "sum" and sum(map(_plain, node.children)) > 1) or any(map(_undone, node.children))


def _same_members(a: Sequence[Node], b: Sequence[Node], as_sets: bool) -> bool:
    """Whether each member of one has its own equal in the other; of sets, repetitions do not count."""
    if as_sets:
        a, b = _distinct(a), _distinct(b)
    if len(a) != len(b):
        return False
    left = list(b)
    unpaired = []
    for one in a:  # literally equal members first, which is quick
        if one in left:
            left.remove(one)
        else:
            unpaired.append(one)
    if len(unpaired) > MOST_MEMBERS:
        return False
    for one in unpaired:
        place = next((k for k, other in enumerate(left) if same(one, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _distinct(nodes: Sequence[Node]) -> Sequence[Node]:
    distinct: list[Node] = []
    for node in nodes[: MOST_MEMBERS + 1]:
        if not any(same(node, other) for other in distinct):
            distinct.append(node)
    return [*distinct, *nodes[MOST_MEMBERS + 1 :]]


def _value_of_name(node: Node, also: str = "") -> Node | None:
    """The other side of an equation x=5 or a membership of a name; None for anything else."""
    if node.kind != "relation" or node.name not in ("=", "\\in", also):
        return None
    left, right = node.children
    if is_name(left):
        return right
    return left if node.name == "=" and is_variable(right) else None


def _as_equations(node: Node) -> Node:
    r"""`x=1, 2` and `x \in \{1,2\}` as `x=1, x=2`."""
    first = node.children[0] if node.kind == "list" else node
    right = _value_of_name(first)
    if right is None or (node.kind == "list" and tells(Node("list", node.children[1:]))):
        return node
    others = node.children[1:] if node.kind == "list" else ()
    values = right.children if right.kind in ("list", "set") else (right,)
    if len(values) + len(others) < 2:
        return node
    return Node("list", tuple(Node("relation", (first.children[0], child), "=") for child in (*values, *others)), "or")


def _without_name(node: Node, other: Node) -> Node:
    """The node's value without a name, if the other node has no name."""
    if tells(other):
        if node.kind == other.kind == "relation" and node.name == "\\in" and is_order(other):
            return node.children[1] if node.children[0] in other.children else node
        return node
    rights = [_value_of_name(child, "\\equiv") for child in members(node)]
    values = [right for right in rights if right is not None]
    if not values or len(values) < len(rights) or len({child.children[0] for child in members(node)}) > 1:
        return node
    return values[0] if node.kind == "relation" else Node(node.kind, tuple(values), node.name)


def _flat(node: Node, other: Node) -> Node:
    """A column as a tuple, beside a tuple; a list of rows in brackets as a matrix, beside one."""
    shapes = {(row.kind, row.name, len(row.children)) for row in node.children} if other.kind == "matrix" else set()
    if node.kind == "tuple" and len(shapes) == 1 and shapes.pop()[:2] == ("tuple", "[]"):
        return Node("matrix", tuple(Node("row", row.children) for row in node.children))
    if node.kind == "matrix" and other.kind == "tuple" and all(len(row.children) == 1 for row in node.children):
        return Node("tuple", tuple(row.children[0] for row in node.children), "()")
    return node


def _pairs(relation: Node) -> list[tuple[Node, str, Node]]:
    """A chain of relations as single ones, none of which reads `greater`."""
    relations = []
    for left, sign, right in zip(relation.children, relation.name.split(), relation.children[1:], strict=False):
        relations.append((right, FLIPPED[sign], left) if sign in FLIPPED else (left, sign, right))
    return relations


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
    if not any(node.kind == "letter" and len(node.name) > 3 and node.name.isalpha() for node in (*a[::2], *b[::2])):
        a_left, a_right, b_left, b_right = map(spelled_out, (a_left, a_right, b_left, b_right))
    ratio = constant_ratio(difference(a_left, a_right), difference(b_left, b_right))
    return ratio != 0 if mutual else ratio == 1


def _with_anonymous_arguments(relation: Node) -> Node:
    """f(x)=x+1 as f(#)=#+1: the name of an argument does not matter."""
    left = relation.children[0]
    if relation.name != "=" or left.kind != "call" or not is_variable(left):
        return relation
    return _renamed(relation, {child.name: f"#{k}" for k, child in enumerate(left.children)})


def _renamed(node: Node, new: dict[str, str]) -> Node:
    name = new.get(node.name, node.name) if node.kind == "letter" else node.name
    return Node(node.kind, tuple(_renamed(child, new) for child in node.children), name)

r"""What an answer states about a name: `x = \frac12 = 0.5`, `\sin A = \frac12`, `|AB| = 1`, `V_1:V_2 = 11:21`, `x_1 = 2, x_2 = 3`.

A chain of equalities is its last side if the sides without letters agree; a decimal behind `\approx` is dropped if it is a
rounding of what stands before it. A name may be left out; an equation (2x = 10, x + y = 5) is no name with a value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from zero.grading.maths.formula import constant, exactly, names, same_value
from zero.grading.maths.tree import COLLECTIONS, CONSTANTS, FUNCTIONS, Node, tells
from zero.grading.maths.values import floating

_KNOWN = FUNCTIONS | {"!", "|", "\\lfloor", "\\lceil", "binom", "mod"}
_ABOUT_FIGURES = FUNCTIONS - {"exp"}
_SUBSCRIPT = re.compile(r"([A-Za-z]|\\[A-Za-z]+)_([0-9A-Za-z]{1,3})")
_SPOKEN = re.compile(
    r"(?:(?:P|Pr|\\Pr|E|Var|Cov|Corr|SD|\\mathbb\{[EP]\}) ?[(\[].*[)\]]|\\(?:lim|sum|prod|int)(?![A-Za-z]).*|"
    r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' -]*|"
    r"\\?(?:max|min|sup|inf|gcd|lcm|hcf|GCD|LCM|HCF)(?![A-Za-z])[^0-9=]*)"
)


def spoken_name(plain: str) -> tuple[str, str]:
    """(name, value) of a plain form that begins with a name in words or in a notation that is not read: `P(X=2) = 0.3`,
    `Total cost = 12`. The name is "" if there is none."""
    if "=" not in plain:
        return "", plain
    depth, first, last = 0, -1, -1
    for place, sign in enumerate(plain):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "=" and depth <= 0 and plain[place - 1 : place] not in ("<", ">", "!"):
            first, last = (place if first < 0 else first), place
    name = plain[:first].strip()
    if first < 1 or not plain[last + 1 :].strip() or not _SPOKEN.fullmatch(name):
        return "", plain
    return name, plain[last + 1 :].strip()


def is_variable(node: Node) -> bool:
    """Whether the node is only a name: x, f(x), (x, y)."""
    if node.kind == "letter":
        return node.name not in CONSTANTS
    arguments = node.kind == "tuple" or (node.kind == "call" and node.name not in _KNOWN)
    return arguments and all(child.kind == "letter" for child in node.children)


def is_name(node: Node) -> bool:
    r"""Whether the node names a value to be found: a variable, f(2), `\sin A`, |AB|, AB/CD, V_1:V_2."""
    if is_variable(node):
        return True
    if node.kind == "ratio":
        return all(_is_figure(child) or is_variable(child) for child in node.children)
    if node.kind == "call":
        if node.name in ("|", "det", "dim", "deg", "arg") or node.name in _ABOUT_FIGURES:
            return all(_is_figure(child) for child in node.children)
        return node.name not in _KNOWN
    if node.kind != "product":
        return False
    first = node.children[0]
    if first.kind == "letter" and (
        first.name.startswith(("\\mathbb{E}", "\\mathbb{P}", "\\Delta")) or "/d" in first.name
    ):
        return True
    if node.children[-1].kind == "letter" and node.children[-1].name.startswith("\\angle"):
        return True
    above = [child for child in node.children if child.kind != "inverse"]
    below = [child.children[0] for child in node.children if child.kind == "inverse"]
    return (
        len(below) <= 1
        and all(_is_letters(child) for child in (*above, *below))
        and (len(below) == 1 or _is_figure(node))
    )


def _is_letters(node: Node) -> bool:
    if node.kind == "product":
        return all(child.kind == "letter" and child.name not in CONSTANTS for child in node.children)
    return node.kind == "letter" and node.name not in CONSTANTS


def _is_figure(node: Node) -> bool:
    """Capital letters, as of points, and Greek ones, as of angles; a letter with an accent or a subscript."""
    if node.kind == "product":
        return all(map(_is_figure, node.children))
    if node.kind != "letter" or node.name in CONSTANTS:
        return False
    return (
        node.name.isupper()
        or node.name[:1].isupper()
        or (node.name[0] == "\\" and node.name != "\\circ")
        or "_" in node.name
    )


def merge_equal_forms(node: Node) -> Node:
    r"""`\frac52 or 2.5`, one number in two forms, as that number."""
    if node.kind != "list" or node.name != "or" or COLLECTIONS & {child.kind for child in node.children}:
        return node
    first = node.children[0]
    return first if all(same_value(first, child) for child in node.children[1:]) else node


def settled(node: Node) -> Node:
    """The node without the steps that lead to a value and without decimals that follow it."""
    if node.kind in ("list", "set"):
        return Node(node.kind, tuple(map(settled, node.children)), node.name)
    if node.kind != "relation":
        return node
    children, signs = list(node.children), node.name.split()
    if not set(signs) <= {"=", "\\approx"}:
        return node
    if "\\approx" in signs:
        exact = signs.index("\\approx")
        if exact == 0 and is_name(children[0]):
            return settled(Node("relation", node.children, node.name.replace("\\approx", "=")))
        if not all(_rounds(children[exact], side) for side in children[exact + 1 :]):
            return node
        children = children[: exact + 1]
    if len(children) == 1:
        return children[0]
    return _last(children)


def _last(children: Sequence[Node]) -> Node:
    relation = Node("relation", tuple(children), " ".join("=" * (len(children) - 1)))
    named = is_name(children[0])
    values = children[1:] if named else children
    known = [side for side in values if side.kind not in COLLECTIONS and not _letters(side)]
    if any(not same_value(side, known[-1]) for side in known[:-1]):
        return relation
    if named and len(children) > 2 and all(map(is_variable, children[:-1])):
        return Node("list", tuple(Node("relation", (side, children[-1]), "=") for side in children[:-1]), "")
    if named and not (len(children) > 2 and is_variable(children[-1])):
        return Node("relation", (children[0], children[-1]), "=")
    return children[-1] if len(known) == len(children) else relation


def _letters(node: Node) -> bool:
    return any(name not in CONSTANTS and name != "\\circ" and not name.startswith("()") for name in names(node))


def _rounds(exact: Node, decimal: Node) -> bool:
    """Whether a decimal is a number rounded or truncated."""
    if exact.kind in COLLECTIONS or decimal.kind in COLLECTIONS or _letters(exact) or _letters(decimal):
        return False
    digits = decimal.children[0].name if decimal.kind == "negative" else decimal.name
    value, written = constant(exact), constant(decimal)
    if value is None or written is None:
        return False
    below = Fraction(digits).denominator if re.fullmatch(r"[0-9/]+", digits) else 1
    places = next((k for k in range(30) if 10**k % below == 0), 30)
    with exactly():
        size, shown = abs(floating(value)) * 10**places, abs(floating(written)) * 10**places
        return bool(abs(size - shown) <= 0.5 or 0 <= size - shown < 1) and (value < 0) == (written < 0)


def values_by_name(node: Node) -> dict[str, Node]:
    """{name: value} of a list of equations in different names, in the order of the names; empty for anything else."""
    if node.kind != "list" or len(node.children) < 2:
        return {}
    values: dict[str, Node] = {}
    for child in node.children:
        if (
            child.kind != "relation"
            or child.name != "="
            or child.children[0].kind != "letter"
            or not is_variable(child.children[0])
        ):
            return {}
        values[child.children[0].name] = child.children[1]
    return dict(sorted(values.items())) if len(values) == len(node.children) else {}


def numbered(variables: Sequence[str]) -> str:
    """The letter that names share: x of x_1 and x_2; "" if there is none."""
    matches = [_SUBSCRIPT.fullmatch(name) for name in variables]
    bases = {match[1] if match else "" for match in matches}
    return bases.pop() if len(bases) == 1 else ""


def unnumbered(node: Node, other: Node) -> Node:
    """x_1=2, x_2=3 as x=2, x=3, beside equations in x alone."""
    values = values_by_name(node)
    base = numbered(list(values))
    if (
        not base
        or other.kind != "list"
        or any(p.kind != "relation" or p.children[0] != Node("letter", (), base) for p in other.children)
    ):
        return node
    return Node(
        "list", tuple(Node("relation", (Node("letter", (), base), value), "=") for value in values.values()), "or"
    )


def spread(node: Node) -> Node:
    """(x, y) = (1, 2) as x=1, y=2."""
    if node.kind == "relation" and node.name == "=" and node.children[0].kind == node.children[1].kind == "tuple":
        left, right = node.children
        if is_variable(left) and len(left.children) == len(right.children):
            return Node(
                "list", tuple(Node("relation", pair, "=") for pair in zip(left.children, right.children, strict=True))
            )
    return node


def in_order(a: Node, b: Node) -> tuple[Node, Node]:
    """Of x=1, y=2 against values without names: both as values, ordered by name; numbered names such as x_1, x_2 fix no order."""
    for one, other, turned in ((a, b, False), (b, a, True)):
        values = {} if tells(other) else values_by_name(one)
        if not values or len(other.children) != len(values) or other.kind not in ("tuple", "list"):
            continue
        if other.kind == "tuple" or not numbered(list(values)):
            one, other = Node("tuple", tuple(values.values()), "()"), Node("tuple", other.children, "()")
        else:
            one = Node("list", tuple(values.values()))
        return (other, one) if turned else (one, other)
    if values_by_name(a) or values_by_name(b) or (a.kind == b.kind == "relation" and a.children[0] != b.children[0]):
        return spread(a), spread(b)
    return a, b

r"""Parse a final answer, LaTeX or plain text, into a tree. ValueError for text that is no answer's.

Scalars: numbers, letters with subscripts, primes and accents, sums, products, quotients, powers, roots, named functions,
unknown functions f(x), |x|, floors, factorials, binomials, degrees, numerals in a base, plus-minus. Of those: tuples,
intervals, unions, sets, lists, ratios, matrices, equations, inequalities. Sums, integrals and limits are refused.

Ambiguous notation is read the usual way: 1/2x is x/2 and a/bc is a/(bc); `\sin 2t \cos t` ends the sine at the cosine;
x(t) and f(n+1) apply, n(n+1) multiplies; an integer right before a fraction of integers is a mixed number; 2^10 is 1024.
Nothing is evaluated here, and the work is linear in the length of the text.
"""

from __future__ import annotations

from itertools import product as cartesian

from zero.grading.maths import tree
from zero.grading.maths.formulas import Formulas
from zero.grading.maths.tree import Node, scalar

MOST_SIGNS = 4  # plus-minus in one item that are independent: 16 readings
MOST_TOKENS = 1000
_BOTH = {"\\pm", "\\mp"}


def read(plain: str, thousands: bool = True) -> Node:
    """The tree of a plain form. `thousands`: whether 1,234 may be one number. ValueError for what cannot be read."""
    tokens = tree.tokenize(plain, thousands)
    if len(tokens) > MOST_TOKENS:
        raise ValueError("too long")
    if not _BOTH & set(tokens):
        return Reader(tokens).everything()
    nodes = [node for item in _top_level(tokens) for node in _readings(item)]
    members = [member for node in nodes for member in (node.children if node.kind == "list" else (node,))]
    return members[0] if len(members) == 1 else Node("list", tuple(members), "or" if "or" in tokens else "")


def _readings(item: list[str]) -> list[Node]:
    r"""The trees of an item for each sign of its plus-minus. Several signs are independent, unless there is a minus-plus:
    `\pm1\pm\sqrt2` is four numbers, `(\pm1,\mp2)` two points."""
    positions = [position for position, token in enumerate(item) if token in _BOTH]
    free = 1 if "\\mp" in item else len(positions)
    if free > MOST_SIGNS:
        raise ValueError("too many signs")
    nodes: list[Node] = []
    for signs in cartesian("+-", repeat=free):
        signed = list(item)
        for place, sign in zip(positions, signs * len(positions) if free == 1 else signs, strict=False):
            signed[place] = sign if item[place] == "\\pm" else {"+": "-", "-": "+"}[sign]
        node = Reader(signed).everything()
        if node not in nodes:
            nodes.append(node)
    if len(nodes) > 1 and all(node.kind == "set" for node in nodes):
        return [Node("set", tuple(dict.fromkeys(member for node in nodes for member in node.children)))]
    return nodes


def _top_level(tokens: list[str]) -> list[list[str]]:
    """The items of a list."""
    items: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in tree.CLOSING) - (token in tree.CLOSED)
        if token in tree.SEPARATORS and depth <= 0:
            items.append([])
        else:
            items[-1].append(token)
    return [item for item in items if item]


class Reader(Formulas):
    """Lists, relations, sets, tuples, intervals and matrices of formulas."""

    def everything(self) -> Node:
        """The whole text: one thing or a list."""
        children = self._items()
        if self._next:
            raise ValueError(f"unexpected {self._next!a}")
        return children[0] if len(children) == 1 else Node("list", children, "or" if "or" in self._tokens else "")

    def _items(self) -> tuple[Node, ...]:
        children = [self._relation()]
        while self._next in tree.SEPARATORS:
            while self._next in tree.SEPARATORS:
                self._take()
            children.append(self._relation())
        return tuple(children)

    def _relation(self) -> Node:
        sides = [self._ratio()]
        signs: list[str] = []
        while self._next in tree.RELATIONS:
            signs.append(self._take())
            sides.append(self._ratio())
        return Node("relation", tuple(sides), " ".join(signs)) if signs else sides[0]

    def _ratio(self) -> Node:
        sides = [self._union()]
        while self._next == ":":
            self._take()
            sides.append(self._union())
        return Node("ratio", tuple(scalar(side) for side in sides)) if len(sides) > 1 else sides[0]

    def _union(self) -> Node:
        node = self._sum()
        while self._next in ("\\cup", "\\cap", "\\setminus"):
            sign = self._take()
            node, other = _as_set(node), _as_set(self._sum())
            if sign == "\\cup":
                node = Node("union", (*(node.children if node.kind == "union" else (node,)), other))
            else:
                node = Node("operation", (node, other), sign)
        return node

    def _bracket(self, left: str) -> Node:
        saved, self._bars = self._bars, 0
        if left in ("\\{", "{") and (builder := self._builder(left)):
            self._bars = saved
            return builder
        children = () if left == "\\{" and self._next == "\\}" else self._items()
        right = self._take(*tree.CLOSING[left])
        self._bars = saved
        if not children:
            return Node("letter", (), "\\emptyset")
        if left == "\\{" or (left == "{" and len(children) > 1):
            return Node("set", children)
        if left + right in ("()", "[]", "{}") and len(children) == 1:
            return children[0]
        if len(children) == 1:
            raise ValueError("brackets that do not match")
        return Node("tuple", children, "()" if left == "\\langle" else left + right)

    def _builder(self, left: str) -> Node | None:
        r"""`\{x \in A \mid condition\}` as (x, A, condition), if the open bracket holds a set builder; else None."""
        start = self._at
        before = self._tokens[start - 2] if start > 1 else ","
        if left == "{" and before not in tree.RELATIONS | {*tree.SEPARATORS, "\\cup", "\\cap", "\\setminus"}:
            return None
        name, sign = self._next, "".join(self._tokens[start + 1 : start + 2])
        if not name.isalpha() or len(name) > 1 or sign not in ("\\in", "|", "\\mid", ":"):
            return None
        self._at += 2
        domain = Node("letter", (), "\\mathbb{R}")
        if sign == "\\in":
            domain, self._bars = self._union(), 0
            if self._next not in ("|", "\\mid", ":"):
                self._at = start
                return None
            self._take()
        condition = self._items()
        spoken = "or" if "or" in self._tokens[start : self._at] else ""
        self._take(*tree.CLOSING[left])
        return Node("builder", (Node("letter", (), name), domain, Node("list", condition, spoken)))

    def _matrix(self) -> Node:
        kind = self._raw()
        if kind == "array" and self._next == "{":
            self._raw()
        elif kind not in tree.MATRICES:
            raise ValueError(f"unknown environment {kind}")
        rows: list[list[Node]] = [[]]
        while True:
            rows[-1].append(self._relation())
            sign = self._take("&", "\\cr", "\\end")
            if sign == "\\cr" and self._next != "\\end":
                rows.append([])
            elif sign != "&":
                break
        if sign == "\\cr":
            self._take("\\end")
        if self._raw() != kind or len({len(row) for row in rows}) > 1:
            raise ValueError("no matrix")
        return Node("matrix", tuple(Node("row", tuple(scalar(cell) for cell in row)) for row in rows))


def _as_set(node: Node) -> Node:
    r"""A number beside a set operator as the set of it, since plain braces also group: `{1, 2} \cup {3}`."""
    return Node("set", (node,)) if _is_number(node) else node


def _is_number(node: Node) -> bool:
    if node.kind == "letter":
        return node.name in tree.CONSTANTS
    return node.kind not in tree.COLLECTIONS and all(map(_is_number, node.children))

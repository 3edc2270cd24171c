r"""The pieces that answers are made of, and the words and signs that LaTeX and plain text write them with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import and_

from zero.grading.maths.exact import LONGEST_FORMULA


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of an answer.

    scalars       number (its name is the exact value), letter, call (its name is the function), sum, negative, product,
                  inverse, power, root (of what, index)
    collections   tuple (its name is the brackets), set, list, union, operation, ratio, matrix, row, relation (its name
                  is the signs, separated by spaces)
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""


COLLECTIONS = frozenset("tuple set list union operation ratio matrix row relation word".split())
RELATIONS = frozenset("= < > \\le \\ge \\ne \\in \\approx \\equiv \\to \\sim \\mid \\perp \\parallel".split())
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp arg det gcd lcm max min deg dim".split()
)
NAMED = FUNCTIONS - {"arg", "det", "deg", "dim"} | {"sqrt", "pi", "theta", "alpha", "beta", "omega", "lambda", "infty"}
REFUSED = frozenset(
    "\\sum \\prod \\int \\iint \\oint \\lim \\limsup \\liminf \\sup \\inf \\iff \\implies \\Rightarrow \\forall \\exists "
    "\\boxed \\text \\circ \\underbrace \\overset \\stackrel \\hline \\neg \\left \\right".split()
)
ACCENTS = frozenset("\\dot \\ddot \\hat \\tilde \\overline \\vec \\mathbb \\mathcal \\mathscr \\mathfrak".split())
FIGURES = frozenset("\\angle \\triangle \\measuredangle \\square \\odot".split())
MATRICES = frozenset("matrix pmatrix bmatrix Bmatrix".split())
APPLIED = frozenset("fghFG")  # such a letter before a bracket is a function, whatever the bracket holds
CONSTANTS = frozenset({"e", "i", "\\pi", "\\infty"})
SEPARATORS = (",", ";", "or")
SIGNS = {"+": 1, "-": -1}
CLOSING = {"(": (")", "]"), "[": (")", "]"), "\\{": ("\\}",), "{": ("}",), "\\langle": ("\\rangle",)}
ROUNDING = {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
STOPS = RELATIONS.union(
    ["", *SEPARATORS, *SIGNS, *":*/^_!'&)]}", "\\pm", "\\mp", "\\cup", "\\cap", "\\setminus"],
    ["\\}", "\\rfloor", "\\rceil", "\\rangle", "\\cr", "\\end"],
)
ONE = Node("number", (), "1")
INFINITY = Node("letter", (), "\\infty")

_RENAMED = dict(
    pair.split()
    for pair in r"""\lt <;\gt >;\leq \le;\leqslant \le;\geq \ge;\geqslant \ge;\neq \ne;<= \le;>= \ge;!= \ne;\vert |;
    \lvert |;\rvert |;\lbrace \{;\rbrace \};\varnothing \emptyset;\degree \circ;\times *;\cdot *;\ast *;\div /;\prime ';
    \tbinom \binom;\dbinom \binom;\colon :;\rightarrow \to;\mapsto \to;\cdots \ldots;\dots \ldots;\bmod \pmod;** ^;
    \mod \pmod;\widehat \hat;\bar \overline;\overrightarrow \vec;infinity \infty;and ,;or or;\land ,;\lor or""".split(
        ";"
    )
)
_DROPPED = frozenset({"$", "\\$", "\\limits", "\\nolimits"})
_CLOSED = frozenset(right for rights in CLOSING.values() for right in rights)
_CHARACTERS = frozenset("-+*/^_!|,;:=<>()[]{}&'")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?")
_TOKEN = re.compile(
    r"\s+|(?P<number>(?:[0-9]+(?:\.[0-9]+|\.(?=\s*\\(?:overline|bar)))?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![0-9A-Za-z^_.]))?)"
    r"|\\[A-Za-z]+|\\.|(?P<letters>[A-Za-z]+)|<=|>=|!=|\*\*|.",
    re.DOTALL,
)


def tokenize(plain: str, thousands: bool) -> list[str]:
    """Numbers, letters, words of four letters and more, commands and signs of a plain form.

    `thousands`: whether 1,234 is one number; between brackets it never is. ValueError for a character of no meaning.
    """
    if len(plain) > LONGEST_FORMULA:
        raise ValueError("too long")
    found: list[str] = []
    open_, position = [False], 0  # for each open bracket, whether commas separate in it
    while position < len(plain):
        grouped = _THOUSANDS.match(plain, position) if thousands and not any(open_) else None
        match = grouped or _TOKEN.match(plain, position)
        assert match is not None  # the last alternative takes any character
        piece, position = match.group(), match.end()
        if grouped or match["number"]:
            found.append(piece.replace(",", ""))
        elif not grouped and match["letters"]:
            found += letters(piece)
        elif not piece.isspace() and piece not in _DROPPED:
            piece = _RENAMED.get(piece, piece)
            if len(piece) == 1 and piece not in _CHARACTERS:
                raise ValueError(f"unknown sign {piece!a}")
            if piece in CLOSING:
                open_.append(piece != "{" or not found or found[-1] in (",", ";", "="))
            elif piece in _CLOSED and len(open_) > 1:
                open_.pop()
            found.append(piece)
    words = [len(token) > 3 and token.isalpha() for token in found]
    if any(map(and_, words, words[1:])):
        raise ValueError("prose")
    return found


def letters(run: str) -> list[str]:
    """A run of letters as tokens: the name of a function, a word, or single letters."""
    if run in _RENAMED:
        return [_RENAMED[run]]
    if run in NAMED:
        return ["\\" + run]
    return [run] if len(run) > 3 else list(run)


def scalar(node: Node) -> Node:
    """The node itself. ValueError for a collection where a number has to be."""
    if node.kind in COLLECTIONS:
        raise ValueError(f"a {node.kind} in a formula")
    return node


def negative(node: Node) -> Node:
    """-node, of a scalar or a matrix."""
    return product(Node("number", (), "-1"), node) if node.kind == "matrix" else Node("negative", (scalar(node),))


def product(left: Node, right: Node) -> Node:
    """left * right; flat, so that a long product is no deep tree. One of them may be a matrix."""
    left, right = (right, left) if left.kind == "matrix" else (left, right)
    if right.kind == "matrix":
        rows = (Node("row", tuple(product(left, cell) for cell in row.parts)) for row in right.parts)
        return Node("matrix", tuple(rows))
    parts = scalar(left).parts if left.kind == "product" else (scalar(left),)
    return Node("product", (*parts, scalar(right)))


def quotient(above: Node, below: Node) -> Node:
    """above / below."""
    return product(above, Node("inverse", (scalar(below),)))


def difference(left: Node, right: Node) -> Node:
    """left - right of two scalars."""
    return Node("sum", (left, negative(right)))

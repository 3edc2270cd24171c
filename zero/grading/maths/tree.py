r"""The nodes of an answer's tree, and their words and signs in LaTeX and plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import and_

from zero.grading.maths.exact import LONGEST_FORMULA
from zero.grading.maths.words import is_run


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of an answer.

    scalars       number (its name is the exact value), letter, call (its name is the function), sum, negative, product,
                  inverse, power, root (of what, index)
    collections   tuple (its name is the brackets), set, list, union, operation, builder (of a name, a domain and
                  conditions), ratio, matrix, row, relation (its name is the signs, separated by spaces)
    """

    kind: str
    children: tuple[Node, ...] = ()
    name: str = ""


COLLECTIONS = frozenset("tuple set list union operation builder ratio matrix row relation word".split())
RELATIONS = frozenset("= < > \\le \\ge \\ne \\in \\approx \\equiv \\to \\sim \\mid \\perp \\parallel".split())
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh "
    "arctanh ln log lg exp arg det gcd lcm max min deg dim abs arsinh arcosh artanh asin acos atan tg ctg cosec arctg "
    "cis floor ceil ceiling".split()
)
ALIASES = {
    "abs": "|",
    "arsinh": "arcsinh",
    "arcosh": "arccosh",
    "artanh": "arctanh",
    "asin": "arcsin",
    "acos": "arccos",
    "floor": "\\lfloor",
    "ceil": "\\lceil",
    "ceiling": "\\lceil",
}
ALIASES |= {"atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan"}
NAMED = FUNCTIONS - {"arg", "det", "deg", "dim", "tg"} | {
    "sqrt",
    "pi",
    "theta",
    "alpha",
    "beta",
    "omega",
    "lambda",
    "infty",
}
REFUSED = frozenset(
    "\\sum \\prod \\int \\iint \\oint \\lim \\limsup \\liminf \\sup \\inf \\iff \\implies \\Rightarrow \\forall \\exists "
    "\\boxed \\text \\circ \\underbrace \\overset \\stackrel \\hline \\neg \\left \\right".split()
)
ACCENTS = frozenset("\\dot \\ddot \\hat \\tilde \\overline \\vec \\mathbb \\mathcal \\mathscr \\mathfrak".split())
FIGURES = frozenset("\\angle \\triangle \\measuredangle \\square \\odot".split())
MATRICES = frozenset("matrix pmatrix bmatrix Bmatrix smallmatrix psmallmatrix bsmallmatrix".split())
APPLIED = frozenset("fghFG")  # such a letter before a bracket is a function, whatever the bracket holds
CONSTANTS = frozenset({"e", "i", "\\pi", "\\infty"})
SEPARATORS = (",", ";", "or")
FLIPPED = {">": "<", "\\ge": "\\le"}
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
    \mod \pmod;\widehat \hat;\bar \overline;\overrightarrow \vec;infinity \infty;and ,;or or;\land ,;\lor or;
    \backslash \setminus;\| |;\Vert |;\lVert |;\rVert |;\R \mathbb{R};
    \simeq \approx;\approxeq \approx;\doteq \approx""".split(";")
)
_VARIANTS = {"\\varphi": "\\phi", "\\varepsilon": "\\epsilon", "\\vartheta": "\\theta", "\\varrho": "\\rho"}
_BOUNDS = RELATIONS | {*SEPARATORS, ":"}
_DROPPED = frozenset({"$", "\\$", "\\limits", "\\nolimits"})
CLOSED = frozenset(right for rights in CLOSING.values() for right in rights)
_CHARACTERS = frozenset("-+*/^_!|,;:=<>()[]{}&'")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?")
_UNION = re.compile(
    r"(\[[^][()]*,[^][()]*[\])]|\([^][()]*,[^][()]*[\])]|\{[^{}]*\}) +[uU] +(?=[\[({\\])"  # [1,2] U [3,4]
)
_OUTWARD = re.compile(r"([][(])([^][;,]+[;,][^][;,]+)([])[])")
_TOKEN = re.compile(
    r"\s+|(?P<number>(?:[0-9]+(?:\.[0-9]+|\.(?=\s*\\(?:overline|bar|dot)|\([0-9]+\)))?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![0-9A-Za-z^_.]))?)"
    r"|\\[A-Za-z]+|\\.|(?P<letters>[A-Za-z]+)|<=|>=|!=|\*\*|.",
    re.DOTALL,
)


def tokenize(plain: str, thousands: bool) -> list[str]:
    """The tokens of a plain form: numbers, letters, words of four letters and more, commands and signs.

    `thousands`: whether 1,234 is one number; between brackets it never is. ValueError for a character without meaning.
    """
    if len(plain) > LONGEST_FORMULA:
        raise ValueError("too long")
    if "[" in plain or "]" in plain or "..." in plain:
        plain = _OUTWARD.sub(_inward, _UNION.sub(r"\1\\cup ", plain)).replace("...", "\\ldots ")
    elif "u" in plain or "U" in plain:
        plain = _UNION.sub(r"\1\\cup ", plain)
    tokens: list[str] = []
    open_, position = [False], 0  # open_: for each open bracket, whether commas separate in it
    while position < len(plain):
        grouped = _THOUSANDS.match(plain, position) if thousands and not any(open_) else None
        match = grouped or _TOKEN.match(plain, position)
        assert match is not None  # the last alternative takes any character
        piece, position = match.group(), match.end()
        if grouped or match["number"]:
            tokens.append(piece.replace(",", ""))
        elif not grouped and match["letters"]:
            tokens += _letters(piece)
        elif not piece.isspace() and piece not in _DROPPED:
            piece = _RENAMED.get(piece, piece)
            if len(piece) == 1 and piece not in _CHARACTERS:
                raise ValueError(f"unknown sign {piece!a}")
            if piece in CLOSING:
                open_.append(piece != "{" or not tokens or tokens[-1] in (",", ";", "="))
            elif piece in CLOSED and len(open_) > 1:
                open_.pop()
            tokens.append(piece)
    for variant, letter in _VARIANTS.items() if "\\var" in plain else ():
        if variant in tokens and letter not in tokens:
            tokens = [letter if token == variant else token for token in tokens]
    words = [len(token) > 3 and token.isalpha() for token in tokens]
    if any(map(and_, words, words[1:])):
        raise ValueError("prose")
    return _spelled(tokens)


def _inward(interval: re.Match[str]) -> str:
    """]1,2[ as (1,2)."""
    left, inner, right = interval.groups()
    return ("(" if left == "]" else left) + inner + (")" if right == "[" else right)


def _letters(run: str) -> list[str]:
    """A run of letters as a token: the name of a function, a word, or letters to be separated later."""
    if run in _RENAMED:
        return [_RENAMED[run]]
    return ["\\" + run if run in NAMED else run]


def _spelled(tokens: list[str]) -> list[str]:
    """The tokens with runs of two or three letters as single letters, unless they are all of an item: such a run is kept,
    and so is an order of capitals, A B C or B-A-C."""
    letters: list[str] = []
    for place, token in enumerate(tokens):
        if not is_run(token) or token == "or" or (_begins(tokens, place) and _ends(tokens, place + 1)):
            letters.append(token)
        else:
            letters += token
    if sum(map(_is_capital, letters)) < 2:
        return letters
    items: list[list[str]] = [[]]
    for token in letters:
        if token in _BOUNDS:
            items += [[token], []]
        else:
            items[-1].append(token)
    return [token for item in items for token in _order(item)]


def _is_capital(token: str) -> bool:
    return len(token) == 1 and token.isalpha() and token.isupper()


def _order(item: list[str]) -> list[str]:
    """An item of capitals alone, or of three and more with a hyphen between them, as one token."""
    if len(item) > 1 and all(map(_is_capital, item)):
        return ["".join(item)]
    if len(item) > 4 and len(item) % 2 and set(item[1::2]) == {"-"} and all(map(_is_capital, item[::2])):
        return ["-".join(item[::2])]
    return item


def _begins(tokens: list[str], place: int) -> bool:
    """Whether an item begins here: of the text, a list, a set, a tuple, or on one side of a relation."""
    while place and tokens[place - 1] in ("(", "["):
        place -= 1
    return place == 0 or tokens[place - 1] in _BOUNDS or tokens[place - 1] == "\\{"


def _ends(tokens: list[str], place: int) -> bool:
    while place < len(tokens) and tokens[place] in (")", "]"):
        place += 1
    return place == len(tokens) or tokens[place] in _BOUNDS or tokens[place] == "\\}"


def scalar(node: Node) -> Node:
    """The node itself; ValueError if it is a collection where a number must be."""
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
        rows = (Node("row", tuple(product(left, cell) for cell in row.children)) for row in right.children)
        return Node("matrix", tuple(rows))
    children = scalar(left).children if left.kind == "product" else (scalar(left),)
    return Node("product", (*children, scalar(right)))


def quotient(above: Node, below: Node) -> Node:
    """above / below."""
    return product(above, Node("inverse", (scalar(below),)))


def difference(left: Node, right: Node) -> Node:
    """left - right of two scalars."""
    return Node("sum", (left, negative(right)))


def spelled_out(node: Node) -> Node:
    """A run of different letters, RC, as the product that it is in a formula."""
    if node.kind != "letter" or not is_run(node.name) or len(set(node.name)) < len(node.name):
        return node
    return Node("product", tuple(Node("letter", (), letter) for letter in node.name))


def members(node: Node) -> Sequence[Node]:
    return node.children if node.kind in ("list", "set") else (node,)


def tells(node: Node) -> bool:
    return any(child.kind == "relation" for child in members(node))

r"""Formulas out of tokens: numbers, letters, sums, products, powers, roots, fractions, functions. Ambiguous notation is
read as the head of zero/grading/maths/latex.py says."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction

from zero.grading.maths import numerals, tree
from zero.grading.maths.exact import LARGEST_EXPONENT, LONGEST_NUMBER
from zero.grading.maths.tree import SIGNS, Node, negative, product, quotient, scalar
from zero.grading.maths.wording import base_of

DEEPEST = 40  # nested brackets, arguments and exponents; each costs about ten Python frames
_PRIMES = re.compile(r"\^(?:('+)|\{('+)\})")
_MARK = re.compile(r"(\{)?(\\circ|'+)(?(1)\})")
_OVER_D = re.compile(r"(d|\\partial)(?:\^?[0-9])?(?:[A-Za-z\\].*)?/\1[A-Za-z\\].*")


class Formulas(ABC):
    """Recursive descent over the tokens, each method one rule; a subclass parses collections."""

    @abstractmethod
    def _items(self) -> tuple[Node, ...]:
        """The members of a list."""

    @abstractmethod
    def _bracket(self, left: str) -> Node:
        """The content of an open bracket."""

    @abstractmethod
    def _matrix(self) -> Node:
        """The content of an environment."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens, self._at, self._depth, self._bars = list(tokens), 0, 0, 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *expected: str) -> str:
        token = self._next
        if not token or (expected and token not in expected):
            raise ValueError(f"unexpected {token!a}")
        self._at += 1
        return token

    def _sum(self) -> Node:
        terms: list[Node] = []
        while not terms or self._next in SIGNS:
            sign = SIGNS[self._take()] if self._next in SIGNS else 1
            term = self._term()
            terms.append(negative(term) if sign < 0 else term)
        return terms[0] if len(terms) == 1 else Node("sum", tuple(scalar(term) for term in terms))

    def _term(self) -> Node:
        node = last = self._factor()
        while True:
            if self._next == "*":
                self._take()
                last = self._signed_factor()
                node = product(node, last)
            elif self._next == "/":
                self._take()
                last = self._signed_factor()
                while last.kind == "letter" and self._next[:1].isalpha() and self._next != "or":
                    last = product(last, self._factor())
                node = quotient(node, last)
            elif self._goes_on():
                if self._next[0] in "0123456789." and last.kind in ("number", "letter"):
                    raise ValueError("a number right after a number or a letter")
                last = self._factor()
                node = product(node, last)
            else:
                return node

    def _goes_on(self) -> bool:
        return self._next not in tree.STOPS and not (self._next == "|" and self._bars)

    def _signed_factor(self) -> Node:
        minus = SIGNS[self._take()] < 0 if self._next in SIGNS else False
        return negative(self._factor()) if minus else self._factor()

    def _factor(self) -> Node:
        node, raised = self._atom(), False
        while self._next in ("^", "!", "_", "'"):
            sign = self._take()
            if sign == "!":
                node = Node("call", (scalar(node),), "!")
                if self._next == "!":
                    raise ValueError("double factorial")
            elif sign == "_":
                if node.kind != "number":
                    raise ValueError("a subscript to a formula")
                node = Node("letter", (), f"{node.name}_{base_of(self._raw())}")  # a numeral in a base
            elif sign == "'":
                node = product(node, Node("letter", (), "'"))
            elif raised:
                raise ValueError("an exponent to an exponent")
            else:
                node, raised = self._raised(node), True
        return node

    def _raised(self, node: Node) -> Node:
        """The node with its exponent: degrees, minutes or seconds of arc, else a power."""
        if not (mark := _MARK.match("".join(self._tokens[self._at : self._at + 6]))):
            return Node("power", (scalar(node), scalar(self._exponent())))
        self._at += len(mark.group().replace("\\circ", "'"))  # each sign is a token
        return product(node, Node("letter", (), mark[2]))

    def _exponent(self) -> Node:
        sign = SIGNS[self._take()] if self._next in SIGNS else 1
        node = self._letter(self._take(), False) if self._next[:1].isalpha() else self._atom()
        return negative(node) if sign < 0 else node

    def _argument(self) -> Node:
        """A command's argument: a group, one digit, one letter or one command."""
        token = self._next
        if token[:1].isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._exponent() if token[:1].isalpha() else self._atom()

    def _raw(self) -> str:
        """The next token or group as it stands, without braces and spaces."""
        start, depth = self._at, 0
        while True:
            depth += {"{": 1, "}": -1}.get(self._take(), 0)
            if depth <= 0:
                break
        return "".join(self._tokens[start : self._at]).strip("{}")

    def _atom(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("too deep")
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            node = self._number(token)
        elif token[0].isalpha():
            node = self._letter(token, True)
        elif token in tree.CLOSING:
            node = self._bracket(token)
        elif token in ("|", "\\mid") or token in tree.ROUNDING:
            saved, self._bars = self._bars, int(token == "|")
            inner = scalar(self._sum())
            self._take(tree.ROUNDING.get(token, token))
            self._bars = saved
            node = Node("call", (inner,), "|" if token == "\\mid" else token)
        elif token[0] == "\\" and token not in tree.STOPS | tree.REFUSED:
            node = self._command(token)
        else:
            raise ValueError(f"unexpected {token!a}")
        self._depth -= 1
        return node

    def _number(self, text: str) -> Node:
        mantissa, _, exponent = text.lower().partition("e")
        if len(text) > LONGEST_NUMBER or abs(int(exponent or 0)) > LARGEST_EXPONENT:
            raise ValueError("a number out of all bounds")
        value = Fraction(mantissa.removesuffix(".")) * Fraction(10) ** int(exponent or 0)
        if "." in mantissa and self._next in numerals.PERIODS:
            added, taken = numerals.period(mantissa, self._tokens[self._at : self._at + 12])
            value, self._at = value + added, self._at + taken
        elif (self._next == "\\frac" or self._next[:1].isdigit()) and text.isdigit():
            added, is_command = numerals.mixed("".join(self._tokens[self._at : self._at + 7]))
            value += added
            if is_command:
                self._atom()
            elif added:
                self._at += 3
        return Node("number", (), str(value))

    def _letter(self, name: str, applies: bool) -> Node:
        """A letter with its subscript and primes, and its arguments if it is applied to any."""
        base = name
        while self._next in ("_", "'") or self._primes():
            name += "_" + self._raw() if self._take() == "_" else "'"
        if base in tree.APPLIED and self._tokens[self._at : self._at + 6] == [*"^{-1}", "("]:
            self._at += 5
            name += "^{-1}"
        lone = self._tokens[self._at + 2 : self._at + 3] == [")"] and name not in tree.CONSTANTS
        if applies and self._next == "(" and (base in tree.APPLIED or lone):
            self._take()
            arguments = tuple(scalar(argument) for argument in self._items())
            self._take(")")
            return Node("call", arguments, name)
        return Node("letter", (), name)

    def _primes(self) -> bool:
        """Whether primes follow as an exponent; they are left as plain ones."""
        text = "".join(self._tokens[self._at : self._at + 6])
        if not (match := _PRIMES.match(text)):
            return False
        self._tokens[self._at : self._at + match.end()] = match[1] or match[2]
        return True

    def _command(self, name: str) -> Node:
        if name[1:] in tree.FUNCTIONS:
            return self._function(name[1:])
        if name == "\\frac":
            return self._fraction()
        if name == "\\sqrt":
            index = self._bracket("[") if self._next == "[" and self._take() else Node("number", (), "2")
            return Node("root", (scalar(self._argument()), scalar(index)))
        if name == "\\binom":
            return Node("call", (scalar(self._argument()), scalar(self._argument())), "binom")
        if name == "\\begin":
            return self._matrix()
        if name == "\\pmod":
            return Node("call", (scalar(self._atom()),), "mod")
        if name in tree.FIGURES:
            while self._next[:1].isalpha() or self._next == "_":
                sign = self._take()
                name += sign + (self._raw() if sign == "_" or self._next == "{" else "")
            return Node("letter", (), name)
        if name in tree.ACCENTS:
            return self._letter(f"{name}{{{self._raw()}}}", True)
        if not name[1:].isalpha() or self._next == "{":
            raise ValueError(f"unknown command {name}")
        return self._letter(name, True)

    def _fraction(self) -> Node:
        start = self._at
        above = self._argument()
        middle = self._at
        below = self._argument()
        raw = "/".join("".join(self._tokens[slice(*ends)]) for ends in ((start, middle), (middle, self._at)))
        raw = raw.replace("{", "").replace("}", "")
        if _OVER_D.fullmatch(raw):
            return Node("letter", (), raw)  # dx/dt is no quotient of products with a d to cancel
        return quotient(above, scalar(below))

    def _function(self, name: str) -> Node:
        base: tuple[Node, ...] = ()
        name = tree.ALIASES.get(name, name)
        power = None
        while self._next in ("_", "^"):
            if self._take() == "^":
                power = scalar(self._exponent())
            elif name == "log":
                base = (scalar(self._argument()),)
            else:
                name += "_" + self._raw()
        if power == negative(tree.ONE) and "arc" + name in tree.FUNCTIONS:
            name, power = "arc" + name, None
        if self._next in ("(", "{", "["):
            inside = self._atom()
            arguments = inside.children if inside.kind in ("tuple", "set") else (inside,)
        else:
            inside = self._signed_factor()
            while self._goes_on() and self._next not in ("(", "[", "\\{") and self._next[1:] not in tree.FUNCTIONS:
                inside = product(inside, self._factor())
            arguments = (inside,)
        node = Node("call", tuple(scalar(argument) for argument in arguments) + base, name)
        return node if power is None else Node("power", (node, power))

r"""LaTeX to one line of text, as the compatibility grader needs it: `\frac{1}{2}` is "1/2", `\sqrt[3]{x}` is the root
sign and "(x)", `\pi` is the Greek letter, an unknown command vanishes and leaves its braces' contents.

The grader that zero/grading/maths/understand_r1_zero.py reproduces reads LaTeX with pylatexenc 2.10
(`LatexNodes2Text().latex_to_text`, Faist, MIT licence). This is a reader of our own for what can stand in a short formula,
with the same results, oddities included: the index of a root is lost, accents combine with every letter of their
argument, `\mbox` and `\textsf` lose their contents, a fraction without arguments is the text "%s/%s", and
a root without any makes the formula unreadable.
Not covered: `$`, `%` and comments (the grader removes both signs first), `\verb`, rare symbols, which
vanish, and the original's taste in spaces and line breaks after a command inside `\(...\)` and `\[...\]`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

DEEPEST = 100  # nested groups; the original gives up as well, with a RecursionError at some 250

_GAP = re.compile(r"(?:(?!\n\n)\s)*")  # a blank line is no gap but a paragraph
_ENVIRONMENT = re.compile(r"\s*\{([\w* ._-]+)\}")
_SPECIAL = {"---": "\u2014", "--": "\u2013", "``": "\u201c", "''": "\u201d", "!`": "\u00a1", "?`": "\u00bf"}
_SPECIAL |= {"&": "   ", "~": "\u00a0"}

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi"
_GREEK += " chi psi omega"
_GREEK_NAMES = {"lambda": "LAMDA"}
_SMALL_NAMES = {"epsilon": "GREEK LUNATE EPSILON SYMBOL", "phi": "GREEK PHI SYMBOL"}
_SYMBOLS = """
varepsilon \u03b5 vartheta \u03d1 varpi \u03d6 varrho \u03f1 varsigma \u03c2 varphi \u03c6 varkappa \u03f0
cdot \u00b7 times \u00d7 div \u00f7 pm \u00b1 mp \u2213 ast \u2217 star \u22c6 circ \u2218 bullet \u2219 surd \u221a
otimes \u2297 oplus \u2295 ominus \u2296 odot \u2299 oslash \u2298 bigotimes \u2297 bigoplus \u2295 setminus \u2216
smallsetminus \u2216 wedge \u2227 vee \u2228 cap \u2229 cup \u222a bigcup \u22c3 bigcap \u22c2 prod \u220f coprod \u2210
sum \u2211 int \u222b iint \u222c iiint \u222d oint \u222e infty \u221e partial \u2202 nabla \u2207 ell \u2113
hbar \u0127 aleph \u2135 forall \u2200 exists \u2203 nexists \u2204 complement \u2201 emptyset \u2205 varnothing \u2205
in \u2208 notin \u2209 ni \u220b subset \u2282 supset \u2283 subseteq \u2286 supseteq \u2287 nsubseteq \u2288
nsupseteq \u2289 subsetneq \u228a supsetneq \u228b le \u2264 leq \u2264 ge \u2265 geq \u2265 leqslant \u2a7d
geqslant \u2a7e leqq \u2266 geqq \u2267 lneqq \u2268 gneqq \u2269 ll \u226a gg \u226b nless \u226e ngtr \u226f
nleq \u2270 ngeq \u2271 lesssim \u2272 gtrsim \u2273 lessgtr \u2276 gtrless \u2277 neq \u2260 equiv \u2261 sim \u223c
backsim \u223d simeq \u2243 approx \u2248 cong \u2245 propto \u221d prec \u227a succ \u227b preceq \u227c succeq \u227d
parallel \u2225 nparallel \u2226 perp \u22a5 mid | nmid \u2224 vert | lvert | rvert | Vert \u2016 lVert \u2016
rVert \u2016 angle \u2220 measuredangle \u2221 langle \u27e8 rangle \u27e9 lfloor \u230a rfloor \u230b lceil \u2308
rceil \u2309 lbrace { rbrace } to \u2192 rightarrow \u2192 leftarrow \u2190 uparrow \u2191 downarrow \u2193
longrightarrow \u27f6 longleftarrow \u27f5 Rightarrow \u21d2 Leftrightarrow \u21d4 Longrightarrow \u27f9
Longleftrightarrow \u27fa mapsto \u21a6 dots \u2026 ldots \u2026 dotsc \u2026 dotsb \u2026 dotsm \u2026 dotsi \u2026
dotso \u2026 cdots \u22ef ddots \u22f1 vdots \u22ee therefore \u2234 prime ' dag \u2020 dagger \u2020 square \u25a1
bigtriangleup \u25b3 bigcirc \u25ef diamond \u2662 frown \u2322 backslash \\ ng \u014b AA \u00c5 textdegree \u00b0
texttimes \u00d7 textdiv \u00f7 textpm \u00b1 textendash \u2013 textemdash \u2014 textbackslash \\ mho \u2127 bowtie \u22c8
blacksquare \u25aa oe \u0153 OE \u0152
ae \u00e6 AE \u00c6 aa \u00e5 o \u00f8 O \u00d8 ss \u00df L \u0141 l \u0142 i \u0131 j \u0237 { { } } $ $ # # _ _ & & % %
""".split()
_ITSELF = (
    "cos sin tan arccos arcsin arctan cosh sinh tanh arccosh arcsinh arctanh ln log exp max min sup inf lim".split()
)

_TEXTS = dict(zip(_SYMBOLS[::2], _SYMBOLS[1::2], strict=True)) | {name: name for name in _ITSELF}
_TEXTS |= {"limsup": "lim sup", "liminf": "lim inf", "quad": "  ", "qquad": "    ", "\\": "\n", "vspace": "\n"}
_TEXTS |= {",": " ", ";": " ", ":": " ", " ": " ", "-": "\u00ad", "textfrac": "%s/%s"}
for _name in _GREEK.split():
    _upper = _GREEK_NAMES.get(_name, _name.upper())
    _TEXTS[_name] = unicodedata.lookup(_SMALL_NAMES.get(_name, f"GREEK SMALL LETTER {_upper}"))
    _TEXTS[_name.capitalize()] = unicodedata.lookup(f"GREEK CAPITAL LETTER {_upper}")

_ACCENTS = dict(zip("' ` \" c ^ ~ H k = b . d r u v vec dot hat check breve acute grave tilde bar ddot not".split(),
                    "\u0301\u0300\u0308\u0327\u0302\u0303\u030b\u0328\u0304\u0331\u0307\u0323\u030a\u0306\u030c"
                    "\u20d7\u0307\u0302\u030c\u0306\u0301\u0300\u0303\u0305\u0308\u0338", strict=True))  # fmt: skip
_STYLES = {"mathbf": "BOLD", "mathit": "ITALIC", "mathsf": "SANS-SERIF", "mathbb": "DOUBLE-STRUCK"}
_STYLES |= {"mathtt": "MONOSPACE", "mathcal": "SCRIPT", "mathscr": "SCRIPT", "mathfrak": "FRAKTUR"}
_KEPT = "emph textrm textit textbf textsc textsl text mathrm".split()
_DECORATED = """overline underline widehat widetilde wideparen overleftarrow overrightarrow overleftrightarrow
underleftarrow underrightarrow underleftrightarrow overbrace underbrace overgroup undergroup overbracket underbracket
overlinesegment underlinesegment overleftharpoon overrightharpoon""".split()
_DROPPED = "mbox textmd textsf texttt textup ensuremath label title author date".split()

# arguments of a command: { one expression, [ an optional one in brackets, * an optional star
_ARGUMENTS = dict.fromkeys((*_ACCENTS, *_STYLES, *_KEPT, *_DECORATED, *_DROPPED), "{")
_ARGUMENTS |= {"frac": "{{", "nicefrac": "{{", "sqrt": "[{", "hspace": "*{", "vspace": "*{", "\\": "*[", "color": "[{"}
_ARGUMENTS |= {"textcolor": "[{{", "colorbox": "[{{", "hphantom": "[{", "vphantom": "[{", "xrightarrow": "[{"}
_ARGUMENTS |= {"xleftarrow": "[{"}
_ENVIRONMENT_ARGUMENTS = {"array": "[{", "tabular": "{", "alignat": "{", "alignat*": "{"}
_MATRICES = "array pmatrix bmatrix smallmatrix psmallmatrix bsmallmatrix".split()
_DISPLAYS = "equation eqnarray align multline gather".split()


_BROKEN = "\0"  # stands where the original raises: it does so only if the text is not dropped by what surrounds it


class Unreadable(ValueError):
    """The original raises on this formula."""


class _End(Exception):
    """The text ends where an argument should stand."""


class _Piece(NamedTuple):
    """Text, and whether it is a column sign `&` or a row end `\\\\` of a matrix."""

    text: str
    sign: str = ""


def plain_text(latex: str) -> str:
    """The formula as text. Raises Unreadable. Linear in the formula, whose groups may be DEEPEST deep."""
    text = _joined(_Reader(latex).pieces())
    if _BROKEN in text:
        raise Unreadable("a command without its arguments, or an empty matrix")
    return text


class _Reader:
    """A place in a text, and the methods that read on from it."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def pieces(self, stop: str = "", math: bool = False) -> list[_Piece]:
        """All up to `stop`: a closing brace or bracket, the end of math, `\\end{...}`, or "" for the end of the text."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("nested too deep")
        found: list[_Piece] = []
        chars = ""
        while True:
            gap, char = self._gap(), self._peek()
            if char in ("", "\\", "{", "}") or (stop == "]" and char in "[]") or self._special():
                chars += gap if char != "\\" or self.at + 1 < len(self.text) else ""
                if chars:
                    found.append(_Piece("" if math and chars.isspace() else chars))
                    chars = ""
                if self._construct(found, stop, math):
                    self.depth -= 1
                    return found
            else:
                chars += gap + self._character()

    def _construct(self, found: list[_Piece], stop: str, math: bool) -> bool:
        """Reads what stands at this place, which is no ordinary character; True at the stop."""
        if self._ended():
            self.at = len(self.text)
            return True
        char = self._peek()
        if char == "\\":
            return self._command(found, stop, math)
        if special := self._special():
            self.at += len(special)
            found.append(_Piece(_SPECIAL[special], special if special == "&" else ""))
            return False
        self.at += 1
        if char in "{[":
            found.append(_Piece(_joined(self.pieces("}" if char == "{" else "]", math))))
        return char == stop  # another closing brace is skipped

    def _command(self, found: list[_Piece], stop: str, math: bool) -> bool:
        name = self._name()
        if name in ("(", "["):
            body = _joined(self.pieces("\\)" if name == "(" else "\\]", True)).strip()
            found.append(_Piece(body if name == "(" else _block(body)))
        elif name in (")", "]"):
            return "\\" + name == stop
        elif name in ("begin", "end"):
            match = _ENVIRONMENT.match(self.text, self.at)
            if match is None:
                found.append(_Piece("\\" + name))
            elif name == "end":
                self.at = match.end()
                return stop == "\\end" + match[1]
            else:
                self.at = match.end()
                found.append(_Piece(self._environment(match[1], math)))
        else:
            self._skip_gap(name)
            start = self.at
            try:
                arguments = self._arguments(_ARGUMENTS.get(name, ""), math, no_space=name == "\\")
            except _End:
                self.at, arguments = start, []
            found.append(_Piece(_rendered(name, arguments), name if name == "\\" else ""))
        return False

    def _environment(self, name: str, math: bool) -> str:
        start = self.at
        try:
            self._arguments(_ENVIRONMENT_ARGUMENTS.get(name, ""), math)
        except _End:
            self.at = start
        display = name.removesuffix("*") in _DISPLAYS
        found = self.pieces("\\end" + name, math or display)
        if name in _MATRICES:
            return _matrix(found)
        return _block(_joined(found).strip()) if display else _joined(found)

    def _arguments(self, kinds: str, math: bool, no_space: bool = False) -> list[str]:
        """The texts of a command's arguments; an absent optional one is "". Raises _End."""
        texts = []
        for kind in kinds:
            start, gap = self.at, self._gap()
            char = self._peek()
            if kind == "{":
                texts.append(self._expression(math))
            elif not char and kind == "*":
                raise _End
            elif (kind == "[" and char == "[" and not (gap and no_space)) or (kind == "*" and char == "*"):
                self.at += 1
                texts.append("" if kind == "*" else _joined(self.pieces("]", math)))
            else:
                self.at = start
                texts.append("")
        return texts

    def _expression(self, math: bool) -> str:
        """One character, one command without its arguments, or a group."""
        if self._ended():
            raise _End
        char = self._peek()
        if char == "\\":
            start, name = self.at, self._name()
            if name == "end":
                self.at = start
                return ""
            self._skip_gap(name)
            return _rendered(name, [])
        if char == "}":
            return ""
        if special := self._special():
            self.at += len(special)
            return _SPECIAL[special]
        if char == "{":
            self.at += 1
            return _joined(self.pieces("}", math))
        return self._character()

    def _character(self) -> str:
        """One, or the two of a paragraph's end."""
        start = self.at
        self.at += 2 if self.text.startswith("\n\n", start) else 1
        return self.text[start : self.at]

    def _name(self) -> str:
        """The command at this place, without its backslash."""
        start = self.at + 1
        self.at = start + 1
        if self.text[start].isalpha():
            while self._peek().isalpha():
                self.at += 1
        return self.text[start : self.at]

    def _gap(self) -> str:
        match = _GAP.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def _skip_gap(self, name: str) -> None:
        if name.isalpha():
            self._gap()

    def _ended(self) -> bool:
        """Nothing is left, or a lone backslash."""
        return self.at >= len(self.text) - (self._peek() == "\\")

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _special(self) -> str:
        return next((special for special in _SPECIAL if self.text.startswith(special, self.at)), "")


def _rendered(name: str, arguments: list[str]) -> str:
    """The text of a command; no arguments at all is the sign that they are missing."""
    if name == "sqrt" or name in ("textcolor", "colorbox"):
        if not arguments or _BROKEN in "".join(arguments):
            return _BROKEN
        return f"\u221a({arguments[1]})" if name == "sqrt" else arguments[2]
    if name in ("frac", "nicefrac"):
        return "/".join(arguments or ("%s", "%s"))
    if name in _DECORATED:
        return "".join(arguments or ["%s"])
    if name in _KEPT:
        return "".join(arguments)
    if name in _STYLES:
        return "".join(_styled(char, _STYLES[name]) for char in "".join(arguments))
    if name in _ACCENTS:
        body = "".join(arguments).strip() if arguments else " "
        undotted = body.replace("\u0131", "i").replace("\u0237", "j")
        return "".join(unicodedata.normalize("NFC", char + _ACCENTS[name]) for char in undotted)
    return _TEXTS.get(name, "")


def _styled(char: str, style: str) -> str:
    """A letter of the alphabets for mathematics, found by its Unicode name."""
    if not (char.isascii() and char.isalpha()):
        return char
    letter = f"{'CAPITAL' if char.isupper() else 'SMALL'} {char.upper()}"
    for name in (f"MATHEMATICAL {style} {letter}", f"{style} {letter}", f"BLACK-LETTER {letter}", "PLANCK CONSTANT"):
        try:
            return unicodedata.lookup(name)
        except KeyError:
            continue
    return char


def _joined(pieces: list[_Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _block(text: str) -> str:
    """Displayed mathematics: lines of their own, indented."""
    return "\n    " + text.replace("\n", "\n    ") + "\n"


def _matrix(pieces: list[_Piece]) -> str:
    """`[ a b; c d ]`, every entry as wide as the widest; an entry without anything is left out."""
    rows: list[list[str]] = [[]]
    entry: list[_Piece] = []
    for piece in (*pieces, _Piece("", "\\")):
        if not piece.sign:
            entry.append(piece)
            continue
        if entry:
            rows[-1].append(_joined(entry).strip())
        entry = []
        if piece.sign == "\\":
            rows.append([])
    rows.pop()
    widths = [len(text) for row in rows for text in row]
    if not widths:
        return _BROKEN
    return "[ " + "; ".join(" ".join(text.rjust(max(widths)) for text in row) for row in rows) + " ]"

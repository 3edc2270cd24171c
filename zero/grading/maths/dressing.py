r"""Remove LaTeX and Markdown around an answer that does not change its meaning: colours, boxes, fonts, sizes, emphasis,
quotation marks, environments that only align, an introduction such as `\therefore`. All functions are linear in the text.
"""

from __future__ import annotations

import re

_QUOTES = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_MARKS = (("**", "**"), ("__", "__"), ("```", "```"), ("`", "`"), ("*", "*"), ("_", "_"))
_QUOTED = (('"', '"'), ("'", "'"), ("``", "''"))
_DELIMITED: tuple[tuple[str, str], ...] = (*_QUOTES, *_MARKS, *_QUOTED)
_SPEAKING = frozenset("=:\\*aArRcCeEfFhHiIsStToO")
_OPENING = frozenset("$\\*_`\"'")
_SAYS = re.compile(
    r"(?:\\(?:approx|simeq|sim(?= ?[-0-9.\\])|therefore|because|Rightarrow|Longrightarrow|implies|iff|to|rightarrow)"
    r"(?![A-Za-z])|[=:]|"
    r"(?:(?:so|thus|hence|therefore|and|i\.e\.),? )?(?:the )?(?:final |correct |right )?"
    r"(?:answer|solution|result|(?:option|choice)(?= is|:| ?=))"
    r"(?: is|:| ?=)(?: ?:)?(?![A-Za-z])|(?:so|thus|hence|therefore),? (?=[^A-Za-z]|[A-Za-z] ?=)|"
    r"(?:answer|option|choice) (?=\(?[A-J]\)?$)|\*\*(?:the )?(?:final )?answer(?: is)?:?\*\*:?|"
    r"(?:about|approximately|approx\.?|roughly|around|exactly|circa|ca\.) (?=[-+$\\.0-9])) ?",
    re.IGNORECASE,
)
_UNWRAPPED = frozenset(
    "underline uline emph fbox framebox boxed ensuremath smash bm pmb boldsymbol mathop mathbin mathrel mathord mathinner "
    "uuline textcolor colorbox color hbox mathnormal".split()
)
_FIRST_DROPPED = {"textcolor": 1, "colorbox": 1, "fcolorbox": 2, "color": 1}  # how many arguments are colours
_SWITCHES = frozenset(
    "bf it rm sf tt em sl sc cal large Large LARGE huge Huge small footnotesize scriptsize tiny normalsize bfseries "
    "itshape rmfamily sffamily displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits nonumber notag "
    "mathstrut strut centering noindent boldmath color".split()
) - {"cal"}
_BRACED = frozenset({"underbrace", "overbrace"})
_BRACE_LABEL = re.compile(r"\s*[_^]\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\[A-Za-z]+|[^\\{}\s])")
_DOTS = re.compile(r"\\[lc]?dots|\.\.")
_OVER_SIGN = re.compile(  # \stackrel{?}{=}
    r"\\(?:overset|underset|stackrel) ?\{(?:[^{}]|\{[^{}]*\})*\} ?\{ ?(=|<|>|\\(?:le|ge|leq|geq|approx|equiv)) ?\}"
)
_DRESSED = re.compile(
    r"\\(?:"
    + "|".join(sorted(_UNWRAPPED | _SWITCHES | {"over", "choose", "fcolorbox", *_BRACED}, key=len, reverse=True))
    + r")(?![A-Za-z])"
)
_PIECE = re.compile(r"\\([A-Za-z]+)|\\.|[{}]|[^\\{}]+", re.DOTALL)
_COLOUR = re.compile(r"\s*(?:\[[A-Za-z]{1,9}\])?\{[^{}]*\}")
_OPENS = re.compile(r"\s*\{")
_SWITCHED = re.compile(r"\s*\\(?:" + "|".join(sorted(_SWITCHES, key=len, reverse=True)) + r")(?![A-Za-z])")
_LAST_SIDE = re.compile(r".*(?:[=<>,;]|\\(?:le|ge|leq|geq|approx|in)(?![A-Za-z]))", re.DOTALL)
_ACTS_ON = re.compile(r"\s*[\^_!'0-9A-Za-z({|*/]|\s*\\(?!text|quad|[,;:! ])")  # what follows a group acts on all of it
_SUM = re.compile(r"[-+*/]|[0-9]{2}")
_INFIX = {"over": "\\frac", "choose": "\\binom"}
_ALIGNED = "aligned|align|gathered|gather|equation|split|eqnarray|multline|flalign|alignat|alignedat|displaymath|math"
_ENVIRONMENT = re.compile(
    rf"\\begin ?\{{({_ALIGNED}|cases|array|matrix)(\*?)\}}(?:\[[a-z]\])?(.*?)\\end ?\{{\1\2\}}", re.DOTALL
)
_COLUMNS = re.compile(r"^\{[lcr| ]*\}")
_ONE_SIDED = re.compile(
    r"\\left ?(?:\\\{|\.)\s*(\\begin ?\{(?:array|aligned|matrix|split|gathered)\}.*?\\end ?\{[a-z]*\})\s*\\right ?\.",
    re.DOTALL,
)
_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|in)[a-z]*(?![A-Za-z])")
_BEGINS_SIDE = re.compile(r"^(?:[=<>]|\\(?:le|ge|leq|geq|approx|equiv)(?![A-Za-z]))")
_SPACING = re.compile(
    r"\\(?:hspace|vspace|tag|label|[hv]?phantom)\*?\{[^{}]*\}|\\(?:kern|mkern|hskip|mskip) ?-?[0-9.]+ ?(?:mu|em|pt|ex|cm)|"
    r"\\(?:enspace|enskip|thinspace|medspace|thickspace|negthinspace|hfill|nobreakspace|allowbreak|null)(?![A-Za-z])|\\>|"
    r"\s*\\\\\s*$|\s*\\(?:blacksquare|qed|checkmark|qedsymbol|Box)\s*$"
)


def undressed(text: str) -> str:
    """The text without outer white space, a last full stop or semicolon, formula delimiters, Markdown marks and quotation
    marks."""
    for _ in range(6):
        before = text
        text = text.strip()
        if text.endswith((".", ";")) and not text.endswith(".."):
            text = text[:-1].rstrip()
        if text[:1] in _OPENING:
            text = _without(text, _DELIMITED) or text
        if text == before:
            break
    return text


def _without(text: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    for left, right in pairs:
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and inner and left not in inner and right not in inner:
            return inner
    return None


def introduced(text: str) -> str:
    """The text without an introduction: `= 5`, `\\therefore x = 5`, `The answer is 5`, `about 5`."""
    for _ in range(3):
        phrase = _SAYS.match(text) if text[:1] in _SPEAKING else None
        if not phrase or not text[phrase.end() :].strip():
            break
        text = text[phrase.end() :].lstrip(" ,:$")
    return text


def bare(text: str) -> str:
    """The text without formatting commands, with `{a \\over b}` as `\\frac{a}{b}` and aligned equations as a list."""
    if "\\begin" in text:
        text = _ENVIRONMENT.sub(_aligned, _ONE_SIDED.sub(r"\1", text))
    text = _SPACING.sub(" ", text)
    if "set{" in text or "rel{" in text:
        text = _OVER_SIGN.sub(r"\1 ", text)
    return _rewritten(text) if _DRESSED.search(text) else text


def _aligned(environment: re.Match[str]) -> str:
    """Rows of equations as a list; an environment with other rows is left as it is."""
    name, _, content = environment.groups()
    if name in ("cases", "array", "matrix"):
        content = _COLUMNS.sub("", content.strip()) if name == "array" else content
        rows = _ROW.split(content)
        if not all(_RELATION.search(row) for row in rows if row.strip()) or (name == "cases" and _piecewise(rows)):
            return environment[0]
    equations: list[str] = []
    for row in _ROW.split(content):
        row = row.replace("\\&", "\0").replace("&", " ").replace("\0", "\\&").strip().rstrip(",;.").strip()
        if row and equations and _BEGINS_SIDE.match(row):
            equations[-1] += " " + row
        elif row:
            equations.append(row)
    return " " + ", ".join(equations) + " "


def _piecewise(rows: list[str]) -> bool:
    """Whether rows are `value & condition`, and not equations that an & aligns."""
    cells = [(left.rstrip(), right.strip()) for left, amp, right in (row.partition("&") for row in rows) if amp]
    return any(not _BEGINS_SIDE.match(right) and left[-1:] not in ("=", "<", ">", "") for left, right in cells)


class _Group:
    """An open brace: whether the text out has it too, and where its content begins."""

    __slots__ = ("braced", "has_braces", "infix", "start")

    def __init__(self, has_braces: bool, start: int, braced: str = "") -> None:
        self.has_braces, self.start, self.braced, self.infix = has_braces, start, braced, False


def _rewritten(text: str) -> str:
    out: list[str] = []
    groups = [_Group(False, 0)]
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:  # a lone backslash at the end
            break
        position, name = piece.end(), piece[1]
        if name in _FIRST_DROPPED:
            for _ in range(_FIRST_DROPPED[name]):
                colour = _COLOUR.match(text, position)
                position = colour.end() if colour else position
        if name in _UNWRAPPED or name == "fcolorbox":
            if opens := _OPENS.match(text, position):
                position = opens.end()
                groups.append(_Group(_needed(out), len(out)))
                out.append("{" if groups[-1].has_braces else "")
        elif name in _BRACED and (opens := _OPENS.match(text, position)):
            position = opens.end()
            groups.append(_Group(True, len(out), name))
            out.append("{")
        elif name in _SWITCHES:
            out.append(" ")
        elif name in _INFIX:
            start = groups[-1].start
            above = "".join(out[start:])
            opened = above.startswith("{") and groups[-1].has_braces
            above = above[1:] if opened else above
            sides = None if len(groups) > 1 else _LAST_SIDE.match(above)
            before, above = (sides[0], above[sides.end() :]) if sides else ("", above)
            out[start:] = ["{" if opened else "", before, _INFIX[name], "{", above.strip(), "}", "{"]
            groups[-1].infix = True
        elif piece[0] == "{":
            switched = _SWITCHED.match(text, position)
            groups.append(_Group(not switched or _is_argument(out), len(out)))
            out.append("{" if groups[-1].has_braces else "")
        elif piece[0] == "}" and len(groups) > 1:
            group = groups.pop()
            if group.infix:
                out.append("}")
                if group.has_braces and not _needed(out[: group.start]):
                    out[group.start] = ""
                    group.has_braces = False
            elif (
                not group.has_braces
                and (_ACTS_ON.match(text, position) or _factor(out[: group.start]))
                and _SUM.search("".join(out[group.start :]))
            ):
                out[group.start], group.has_braces = "{" + out[group.start], True
            out.append("}" if group.has_braces else "")
            if group.braced and _DOTS.search("".join(out[group.start :])):
                out[group.start] = f"\\{group.braced}{{"  # how many there are is what its label says
            elif group.braced and (label := _BRACE_LABEL.match(text, position)):
                position = label.end()
        else:
            out.append(piece[0])
    if len(groups) > 1:
        return text  # broken: a group that never closes may have been cut
    if groups[-1].infix:
        out.append("}")
    return "".join(out)


def _last(out: list[str]) -> str:
    return next((piece.rstrip() for piece in reversed(out) if piece.strip()), "")


def _factor(out: list[str]) -> bool:
    return _last(out)[-1:].isalnum()


def _is_argument(out: list[str]) -> bool:
    """Whether a group that begins here is the argument of a command, or an exponent or a subscript."""
    last = _last(out)
    return last.endswith(("^", "_", "}")) or (last.startswith("\\") and last[1:].isalpha())


def _needed(out: list[str]) -> bool:
    """Whether a group is an argument, an exponent or a factor, so that its braces have to stay."""
    last = _last(out)
    return bool(last) and not last.endswith(("=", ",", ";", "(", "[", "+", "$"))

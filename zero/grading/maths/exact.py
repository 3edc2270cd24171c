r"""Equality of mathematical answers that is certain without algebra; says "undecided" for all the rest.

Certainly equal
- the same string once LaTeX dressing is removed: `$...$`, `\(...\)`, `\text{...}`, `\left`, `\right`, `\dfrac`, spacing
  commands, a final full stop, spaces that separate nothing, the case of a word's first letter (Even = even, AB != ab);
- the same exact number: 0.50 = 1/2 = `\frac{2}{4}` = `\frac12`, 1e3 = `10^{3}` = 1,000 = `1\,000` = +1000 = 1 thousand,
  `2^{10}` = 1024, `1\frac12` = 1 1/2 = 1.5; there is no tolerance, so 0.333 is not 1/3;
- a number whose unit the other one leaves out: $5 = 5 = 5 dollars, 50% = 50 (as in the paper's grader; not 0.5),
  90^\circ = 90, 5 cm = 5; but 5 m is not 5 s, and units are never converted;
- a choice: (B) = B, and (B) 5 = 5 = (B).
Certainly different: numbers of other values, a number and a word, the letters of two choices.

Everything else (x+1 and 1+x, `1,2` and `2,1`) is for zero.grading.maths.symbolic. Only ASCII digits are digits. A comma
between digits marks thousands where it is written like one (1,234); `1, 234` is a list.
"""

from __future__ import annotations

import re
from fractions import Fraction

from zero.grading.maths.dressing import bare, introduced, undressed
from zero.grading.maths.signs import in_ascii
from zero.grading.maths.units import UNITS, same_unit, spelled, without_unit
from zero.grading.maths.wording import reworded
from zero.grading.maths.words import folded, is_run

LONGEST_NUMBER = 200  # characters; more is compared as a string. Also keeps int() far below its limit of 4,300 digits
LONGEST_FORMULA = 2000  # characters; more is compared as it stands
LARGEST_EXPONENT = 400  # of a power of ten: beyond any answer, and Fraction(10**400) still takes microseconds

_CURRENCY = re.compile(r"^([+-]?) ?\$ ?")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"(.*[0-9]) ({'|'.join(_SCALES)})")
_COUNTS = dict(
    zip("zero one two three four five six seven eight nine ten eleven twelve".split(), range(13), strict=True)
)

_INTEGER = re.compile(r"-?[0-9]{1,100}")
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
_EXPONENT = r"\^(?:\{([+-]?[0-9]+)\}|(-?[0-9]+))"  # 10^12 is meant as it looks in plain text, not as LaTeX sets it
_DECIMAL_NUMBER = re.compile(rf"([+-]?)({_DECIMAL})(?:[eE]([+-]?[0-9]+)|(?:\\(?:times|cdot) ?|\*)10{_EXPONENT})?")
_POWER = re.compile(rf"([+-]?)([0-9]+){_EXPONENT}")
_OVER = re.compile(rf"([+-]?)(?:({_WHOLE}) )?({_DECIMAL})/([+-]?{_DECIMAL})")
_FRAC = re.compile(
    rf"([+-]?)({_WHOLE})?\\frac"
    rf"(?:\{{([+-]?{_DECIMAL})\}}| ?([0-9]))(?:\{{([+-]?{_DECIMAL})\}}| ?([0-9]))"  # one bare digit is an argument too
)

_BLANK = r"(?:\\[ ,;:]|\\q?quad(?![A-Za-z])|[~\s])"
_LABEL = re.compile(
    rf"(?:\\(?:text|textbf|mathrm|mathbf)\{{(?:\(([A-J])\)|([A-J])[.:)])[:.]?{_BLANK}*\}}{_BLANK}*|"
    rf"\*\*(?:\(([A-J])\)|([A-J])[.:)])\*\*{_BLANK}*|\(([A-J])\){_BLANK}+|([A-J])[.:)]{_BLANK}+)"
    r"(?![=+*/^_<>,;\s]|-\s|\\[A-Za-z]*(?:cup|cap|times|cdot|pm|in|le|ge|to)(?![A-Za-z])|(?:and|or) )(?=.)"
)
_LABELLED = frozenset("\\(*ABCDEFGHIJ")
_CHOICE = re.compile(r"\(?([A-Za-z])\)")
_WORD = re.compile(r"[A-Za-z]{2,}")

_PRICE = re.compile(r"\\\$\s*(?=[0-9.])")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|sc|tt|up|normal|md)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?) ?\{([^{}]*)\}"
)
_UNIT_RATIO = re.compile(
    r"\\frac ?\{ ?\\(?:text|mathrm) ?\{ ?([A-Za-z]+) ?\}(\^[0-9])? ?\} ?\{ ?\\(?:text|mathrm) ?\{ ?([A-Za-z]+) ?\}(\^[0-9])? ?\}"
)
_REPLACED = (
    (re.compile(r"\\\\"), r"\\cr "),  # first, so that no rule below takes the second backslash for its own
    (re.compile(r"(?<=[0-9])(?:\\[,:; ]|\{,\}|~|,\\!\s*)(?=[0-9]{3}(?![0-9]))"), ""),  # 1\,000 1{,}000 1,\!000
    (
        re.compile(r"\\!|\\(?:left|right)\.|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle)(?![A-Za-z])"),
        "",
    ),
    (re.compile(r"\\[,:; ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
)
_SIGN = re.compile(r"(?<![\^_A-Za-z])\{ ?(\\times|\\cdot|[=<>.:]) ?\}")  # 6{\times}10^{3}, 1{.}5
_GROUPED = re.compile(r"\{ ?(?:\\(?:times|cdot)|[=<>.:])|\\not ?=")
_BEHIND = re.compile(r"[0-9)\]}]$")  # what a unit may stand behind
_OPERATORS = frozenset("+-*/")
_SPACED = re.compile(r"(?<![0-9.,^_{/])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])(?! ?/)")  # 1 000 000
_CROSS = re.compile(r"(?<=[0-9])( ?)[xX]\1(?=[0-9])")  # 2 x 3, 1.5x10^3
_HEXADECIMAL = re.compile(r"(?<![0-9])0[xX]")
_INDEXED = re.compile(r"(?<![0-9A-Za-z\\_^}])([A-Za-z])([0-9]{1,2})(?= ?=)")  # x1 = 2
_REALS_WITHOUT = re.compile(  # R \ {0}
    r"^([A-Za-z] ?\\in ?)?(?:R|\\R|\\mathbb ?\{? ?R ?\}?) ?(?:\\|-|\\setminus|\\backslash) ?(?=\\?\{)"
)
_LIST = re.compile(r"(?<=[0-9]), (?=[0-9])")
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z\0]) | (?![0-9A-Za-z\0])")
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+)*")


def exact_equal(answer: str, reference: str) -> bool | None:
    """Whether the two are the same, as far as that is certain (see above), else None. Microseconds; total."""
    answer, reference = answer.strip(), reference.strip()
    if answer == reference:
        return True
    if max(len(answer), len(reference)) > LONGEST_FORMULA:
        return None
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(reference):  # most pairs, by far
        return int(answer) == int(reference)
    sides = without_choice(answer, reference)
    if isinstance(sides, bool):
        return sides
    a, b = (plain_form(side) for side in sides)
    a_compact, b_compact = compact(a), compact(b)
    if a_compact == b_compact:
        return True
    a_quantity, b_quantity = quantity(a), quantity(b)
    if a_quantity and b_quantity:
        if "~" in a_quantity[1] + b_quantity[1] and not same_unit(a_quantity[1], b_quantity[1]):
            return None
        return a_quantity[0] == b_quantity[0] and same_unit(a_quantity[1], b_quantity[1])
    if (a_quantity and _WORD.fullmatch(b_compact)) or (b_quantity and _WORD.fullmatch(a_compact)):
        return False
    return False if len(a_compact) == len(b_compact) == 1 and (a_compact + b_compact).isalpha() else None


def without_choice(answer: str, reference: str) -> tuple[str, str] | bool:
    """Both without the letter of a choice, as in `(B) 5`; or the verdict, where the letters alone decide."""
    (a_letter, a), (b_letter, b) = _choice(answer), _choice(reference)
    if a_letter and b_letter:
        return (a, b) if a_letter == b_letter else False
    for letter, other in ((a_letter, reference), (b_letter, answer)):
        alone = normal_form(other) if letter and len(other) < LONGEST_NUMBER else ""
        if len(alone) == 1 and alone.isupper():
            return letter == alone
    return a, b


def _choice(text: str) -> tuple[str, str]:
    match = _LABEL.match(text) if text[:1] in _LABELLED else None
    return (next(filter(None, match.groups())), text[match.end() :]) if match else ("", text)


def normal_form(text: str) -> str:
    """The text without LaTeX dressing; see the head of this file. Quadratic at worst: give it a bounded text."""
    return compact(plain_form(text))


def plain_form(text: str) -> str:
    """The normal form, but with a single space wherever the text had any."""
    text = undressed(_PRICE.sub(r"\\usd ", in_ascii(text)))  # first: the sign also delimits a formula
    if "\\" in text or "~" in text or "{" in text:
        if "R" in text:
            text = _REALS_WITHOUT.sub(r"\1\\mathbb{R}\\setminus ", text)
        upright = "\\t" in text or "\\m" in text or "\\o" in text or "\\h" in text
        text = bare(text)
        for pattern, by in _REPLACED:
            text = pattern.sub(by, text)
        if _GROUPED.search(text):
            text = _SIGN.sub(r"\1 ", text).replace("\\not=", "\\ne ").replace("\\not =", "\\ne ")
        if upright:
            text = _UNIT_RATIO.sub(r" \1\2/\3\4", text)
            text = _TEXT.sub(_upright, _TEXT.sub(_upright, text))  # twice: \text{\textbf{B}}
        text = undressed(text.replace("\\usd ", "$"))
    text = introduced(" ".join(text.split()))
    if not text.endswith(".."):
        text = text.removesuffix(".").removesuffix(",").rstrip()
    if " " in text:
        text = _SPACED.sub(lambda digits: digits[0].replace(" ", ""), text)
    if ("x" in text or "X" in text) and not _HEXADECIMAL.search(text):
        text = _CROSS.sub(r"\\times ", text)
    if "=" in text:
        text = _INDEXED.sub(r"\1_{\2}", text)
    if "+/-" in text:
        text = text.replace("+/-", "\\pm ")
    text = reworded(text)
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def _upright(match: re.Match[str]) -> str:
    """The content of \\text{...}; behind a number, the symbol of a unit in words."""
    content = match[1]
    before = match.string[max(0, match.start() - 40) : match.start()].rstrip()
    if _BEHIND.search(before) and not before.endswith("\\circ}"):
        return " " + spelled(content.strip()) + (" " if content.endswith(" ") else "")
    after = match.string[match.end() : match.end() + 9].lstrip()[:1]
    if is_run(content) and (before[-1:] in _OPERATORS or after in _OPERATORS) and content not in UNITS:
        return f"\\{content} "  # a name in a formula, and no product of letters
    return (" " if content[:1].isalpha() and before[-1:].isalnum() else "") + content


def compact(plain: str) -> str:
    """The normal form of a plain form: only the spaces between letters or digits are left, and that in `1, 234`."""
    text = _IDLE_SPACE.sub("", _LIST.sub(",\0", plain)).replace("\0", " ") if " " in plain else plain
    return folded(text) if _WORDS.fullmatch(text) else text


def quantity(plain: str) -> tuple[Fraction, str] | None:
    """(exact value, unit or "") of a plain form that is a number with or without a unit, else None."""
    if len(plain) > LONGEST_NUMBER:
        return None
    bare, unit = without_unit(plain)
    count = _COUNTS.get(bare.lower())
    value = number(compact(bare)) if count is None else Fraction(count)
    return None if value is None else (value, unit)


def number(text: str) -> Fraction | None:
    """The exact value of a text in normal form if it is a number as listed above, without a unit, else None."""
    if len(text) > LONGEST_NUMBER:
        return None
    text = _CURRENCY.sub(r"\1", text.removesuffix("%").removesuffix("\\").rstrip())
    scaled = _SCALED.fullmatch(text)
    text, zeros = (scaled[1], _SCALES[scaled[2]]) if scaled else (text, 0)
    try:
        value = _decimal(text)
        value = _fraction(text) if value is None else value
    except (ValueError, ZeroDivisionError):
        return None
    return None if value is None else value * 10**zeros


def _decimal(text: str) -> Fraction | None:
    if match := _POWER.fullmatch(text):
        sign, base, braced, bare = match.groups()
        return _signed(sign, _power(base, braced or bare))
    if match := _DECIMAL_NUMBER.fullmatch(text):
        sign, digits, *exponents = match.groups()
        return _signed(sign, _plain(digits) * _power("10", next(filter(None, exponents), "0")))
    return None


def _fraction(text: str) -> Fraction | None:
    """a/b, a b/c, and the same with \\frac."""
    if match := _OVER.fullmatch(text):
        sign, whole, above, below = match.groups()
    elif match := _FRAC.fullmatch(text):
        sign, whole, *arguments = match.groups()
        above, below = filter(None, arguments)
    else:
        return None
    return _signed(sign, _plain(whole or "0") + _plain(above) / _plain(below))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").removesuffix("."))


def _power(base: str, exponent: str) -> Fraction:
    if abs(int(exponent)) * (len(base) - (base.strip("0") == "1")) > LARGEST_EXPONENT:
        raise ValueError(exponent)
    return Fraction(int(base)) ** int(exponent)

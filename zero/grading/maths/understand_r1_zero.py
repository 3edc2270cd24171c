r"""The verdicts of understand-r1-zero's `math_grader.py`, its defects included, so that published numbers can be compared.

`paper_fast` is its `grade(answer, gold, fast=True)`, the reward of its training runs; `paper_slow` is fast=False, the
accuracy of its evaluations. They are kept as references and are not good graders: zero/grading/maths/symbolic.py is ours.

Sources: Liu et al. 2025 (arXiv 2503.20783), github.com/sail-sg/understand-r1-zero and the copy in oat 0.2.3, itself
after Hendrycks et al. 2021 (MATH, `math_equivalence`), Lightman et al. 2023 (PRM800K, `grader`) and math_verify. Written
anew from their rules, with sympy 1.14, math_verify 0.9 and pylatexenc 2.10.

Equal is what any one of these accepts; slow asks all three, fast the first two.
1. Equal strings after `stripped`: without `$`, `%`, degrees, `\text{...}` at the end, UNITS and white space.
2. Equal strings after `plain`, else equal parts of a tuple or interval between equal brackets; two parts are equal if
   their difference simplifies to 0. Fractions must be equal as texts, an integer is only ever equal to the same
   integer, and with three letters or a power such as `^{`, `^(`, `^12` nothing is simplified.
3. math_verify, on LaTeX in dollars; refused for texts over 128 characters that repeat themselves.

Wrongly right: letters that are also units (a+b = c+b, t^2 = h^2, x-a = x-d), 5 east = 5 west, 1,234 = (1,234),
1 1 = 11, 5 \% = 5, 5 cm = 5 miles, Pi = pi, integers beyond 2^53 by their rounding; in slow mode another base
(12_{3} = 12_{4}, 101_2 = 101).
Wrongly wrong in fast mode: \frac{2}{4} for 1/2, sets and lists in another order, 2^{10} for 1024, f(x)=x+1 for x+1,
3\pm2\sqrt{2} for the pair, x+y+z for z+y+x. In both: 5 million for 5000000, 4.4e7 for 4.4 \times 10^7, 1\,000 for
1000, x<2 for (-\infty,2), an angle in degrees for one in radians, anything that takes too long.

Deliberate departures, none of which touches a legitimate answer:
- text that sympy's parser would run as Python (strings, attributes, slices, dunder names, ...) is not equal; the
  original runs it, and a model's answer can make it run any program (tests/grading/maths/test_understand_r1_zero.py holds one);
- an empty or absent reference is never equal, where the original raises;
- no clock: who calls sets a limit and kills (zero/grading/worker_pool.py), where the original has one second for rule 3 and
  none for the others. Time and memory are not bounded here: call these in worker processes only.
"""

from __future__ import annotations

import logging
import os
import re
from io import StringIO
from itertools import accumulate, pairwise
from token import ENDMARKER
from tokenize import ERRORTOKEN, NAME, NEWLINE, NL, NUMBER, OP, TokenError, generate_tokens

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from pylatexenc.latex2text import LatexNodes2Text
from sympy.parsing.sympy_parser import implicit_multiplication_application, parse_expr, standard_transformations

logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)  # it warns of every answer that is no LaTeX

# Words that rule 1 removes where no letter or digit stands beside them, in this order, then all again with an s, then
# everything once more. Most come from MathQA, misspellings included. A dot stands for any character, as it did there.
UNITS = """east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|
tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches|noon|
percent|by|gal|kmh|c|acre|rise|a . m|th|\u03c0 r 2|sq|mark|l|toy|coin|sq . m|gallon|\u00b0 f|profit|minw|yr|women|feet|am|
pm|hr|cu cm|square|v \u00e2 \u20ac \u2122|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|
woman|sec|cube|mt|sq inch|mp|\u220f cm \u00b3|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|
loss|yard|pure|year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch""".replace("\n", "").split("|")
_UNITS = [  # each with its letters: a text without them cannot hold it
    (frozenset(filter(str.isalpha, unit)), re.compile(rf"(^|\W){unit}($|\W)"))
    for unit in (*UNITS, *(f"{unit}s" for unit in UNITS))
]
_MEASURES = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard".split()
_MEASURE = [re.compile(rf"{measure}(es)?(s)? *(\^[0-9]+)?") for measure in _MEASURES]  # rule 2's, anywhere in a word

_ONLY_TEXT = re.compile(r"^\\text\{(.+?)\}$")
_RENAMED = (("\n", ""), ("\\!", ""), ("\\\\", "\\"))
_RENAMED_LATER = "bmatrix pmatrix tfrac frac dfrac frac \\neq \\ne \\leq \\le \\geq \\ge".split()
_CANONICAL_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")
_TEXT_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_HARD_POWER = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]+")
_LATIN = {"\u221a": "sqrt", "\u03c0": "pi", "\u221e": "inf", "\u222a": "U", "\u00b7": "*", "\u00d7": "*"}
_BRACKETS = "()[]"
_OPERATORS = set("+-*/%|&^~<>=!,()[]")

# An answer of every kind
WARM = (
    "0.5", "\\frac{1}{2}", "2\\sqrt{3}", "x^2+2x+1", "(1,2)", "[1,\\infty)", "\\{1,2\\}", "\\frac{\\pi}{3}", "3+4i", "1,234",
    "50\\%", "60^\\circ", "x=5", "5\\text{ cm}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(-\\infty,2)\\cup(3,4]",
    "\\text{even}", "e^{2x}",
)  # fmt: skip


def warm_up() -> None:
    """Fill the caches of sympy and of math_verify's parser, which is slow the first time."""
    for gold in WARM:
        for answer in (gold, "x+1"):
            paper_slow(answer, gold)


def paper_fast(answer: str, reference: str) -> bool:
    """The verdict of the original's fast mode; see the head of this file."""
    gold = _unboxed(reference or "")
    return bool(gold) and (stripped(answer) == stripped(gold) or _entries_equal(plain(answer), plain(gold)))


def paper_slow(answer: str, reference: str) -> bool:
    """The verdict of the original's slow mode; see the head of this file."""
    return paper_fast(answer, reference) or _verified(answer, _unboxed(reference or ""))


def _unboxed(reference: str) -> str:
    """The content of a reference's last box; the reference itself without one, "" for a malformed box."""
    start = reference.rfind("\\boxed")
    if start < 0:
        return reference
    depth = 0
    for at in range(start, len(reference)):
        depth += (reference[at] == "{") - (reference[at] == "}")
        if reference[at] == "}" and depth == 0:
            return reference[start + 7 : at] if reference[start + 6] == "{" else ""
    return ""


def stripped(text: str) -> str:
    """Rule 1's normal form; the text itself, without surrounding space, if the rule fails."""
    text = text.strip()
    only = _ONLY_TEXT.search(text)
    text = only[1].strip() if only else text
    try:
        return _stripped(text)
    except (ValueError, IndexError):
        return text


def _stripped(text: str) -> str:
    for old, new in _RENAMED:
        text = text.replace(old, new)
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    for old, new in zip(_RENAMED_LATER[::2], _RENAMED_LATER[1::2], strict=True):
        text = text.replace(old, new)
    text = text.replace("\\left", "").replace("\\right", "")
    unit = text.find("\\text{", 0, -1) if text.endswith("}") else -1
    text = _without_units((text[:unit] if unit >= 0 else text).strip() or text)
    for sign in ("^{\\circ}", "^\\circ", "\\$"):
        text = text.replace(sign, "")
    head, *tails = text.split("\\text{ ")
    if len(tails) > 1:
        raise ValueError("units in two places")
    text = head.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    canonical = _CANONICAL_FRACTION.fullmatch(text)
    return f"\\frac{{{canonical[1]}}}{{{canonical[2]}}}" if canonical else text


def _without_units(text: str) -> str:
    chars = set(text)
    units = [unit for letters, unit in _UNITS if letters <= chars]
    for unit in (*units, *units):
        text = unit.sub(r"\1\2", text) or text  # what is nothing but a unit keeps it
    return text


def _braced_roots(text: str) -> str:
    """Every root's argument in braces. IndexError for a root without one."""
    head, *tails = text.split("\\sqrt")
    return head + "".join("\\sqrt" + (tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}") for tail in tails)


def _braced_fractions(text: str) -> str:
    """\\frac12 with braces, not \\frac{1}2; the text itself if a fraction lacks an argument, IndexError if both."""
    done, *tails = text.split("\\frac")
    for tail in tails:
        if tail[0] != "{":
            if len(tail) < 2:
                return text
            tail = f"{{{tail[0]}}}{tail[1:]}" if tail[1] == "{" else f"{{{tail[0]}}}{{{tail[1]}}}{tail[2:]}"
        done += "\\frac" + tail
    return done


def plain(text: str) -> str:
    """Rule 2's normal form: no LaTeX, no units, no spaces, no braces, small letters, integers without commas."""
    only = _ONLY_TEXT.search(text)
    text = only[1] if only else text
    for sign in ("\\%", "\\$", "$", "%"):
        text = text.replace(sign, "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    text = text.replace("million", "*10^6").replace("billion", "*10^9").replace("trillion", "*10^12")
    for measure in _MEASURE:
        text = measure.sub("", text)
    text = re.sub(r"\^ *\\circ", "", text)
    text = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    text = _whole(re.sub(r",\\! *", "", text))
    if "\\" in text:
        text = _unlatexed(text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub("- *", "-", text))  # 7 3/4 is 7+3/4
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


def _unlatexed(text: str) -> str:
    for name in ("\\tfrac", "\\dfrac"):
        text = text.replace(name, "\\frac")
    try:
        text = LatexNodes2Text().latex_to_text(text.replace("\\frac", " \\frac"))
    except Exception:  # of any kind on nonsense; the original keeps the text then, too
        return text
    for sign, latin in _LATIN.items():
        text = text.replace(sign, latin)
    return text.strip()


def _whole(text: str) -> str:
    """A number within 1e-7 of an integer as that integer."""
    number = _number(text)
    return text if number is None else str(round(number))


def _number(text: str) -> float | None:
    """The value of a Python number within 1e-7 of an integer, else None."""
    try:
        value = float(text)
        return value if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def _is_integer(text: str) -> bool:
    return _number(_without_thousands(text)) is not None


def _without_thousands(text: str) -> str:
    while (shorter := _THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def _entries(text: str) -> list[str]:
    """The entries of a tuple or interval; the text itself if it is none."""
    text = _without_thousands(text)
    inner = text[1:-1]
    if len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS and not set(inner) & set(_BRACKETS):
        return [entry.strip() for entry in inner.split(",")]
    return [text] if text else []


def _entries_equal(answer: str, gold: str) -> bool:
    if answer == gold:
        return True
    answers, golds = _entries(answer), _entries(gold)
    if not answer or len(answers) != len(golds):
        return False
    if len(golds) > 1 and (answer[0], answer[-1]) != (gold[0], gold[-1]):
        return False
    return all(map(_entry_equal, answers, golds))


def _entry_equal(answer: str, gold: str) -> bool:
    if _TEXT_FRACTION.search(answer) and _TEXT_FRACTION.search(gold):
        return answer == gold
    if _is_integer(answer) != _is_integer(gold):
        return False
    difference = f"({gold})-({answer})"
    letters = {char for char in difference.replace("sqrt", "").replace("frac", "") if char.isalpha()}
    return len(letters) <= 2 and not _HARD_POWER.search(difference) and _vanishes(difference.replace("^", "**"))


def _vanishes(difference: str) -> bool:
    """Whether sympy simplifies a formula in Python's notation to 0."""
    if not is_formula(difference):
        return False
    rules = (*standard_transformations, implicit_multiplication_application)
    try:
        return bool(sympy.simplify(parse_expr(difference, transformations=rules)) == 0)
    except Exception:  # of any kind on nonsense; to the original it means unequal, too
        return False


def is_formula(code: str) -> bool:
    """Only numbers, names, operators and brackets: nothing that reaches further when parse_expr runs it as Python.

    parse_expr turns unknown names into symbols, so what remains are sympy's own functions; with no strings to read
    again, no attributes and no keyword syntax they can only compute.
    """
    try:
        tokens = list(generate_tokens(StringIO(code.strip()).readline))
    except (TokenError, SyntaxError):
        return False
    for token in tokens:
        if token.type == NAME:
            harmless = "__" not in token.string
        elif token.type == OP:
            harmless = set(token.string) <= _OPERATORS
        else:
            factorial = token.type == ERRORTOKEN and token.string == "!"
            harmless = factorial or token.type in (NUMBER, NEWLINE, NL, ENDMARKER)
        if not harmless:
            return False
    return True


def _verified(answer: str, gold: str) -> bool:
    """Rule 3."""
    readers = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    try:
        if not gold or any(len(text) > 128 and repeats(text) for text in (answer, gold)):
            return False
        parsed = [
            parse(
                text if "$" in text else f"${text}$",
                extraction_config=readers,
                fallback_mode="no_fallback",
                extraction_mode="any_match",  # the original's ["first_match"] is no known mode and comes to the same
                parsing_timeout=None,  # no alarm: the caller sets the limit
            )
            for text in (gold, answer)
        ]
        return bool(verify(*parsed, timeout_seconds=None))
    except Exception:
        return False


def repeats(text: str) -> bool:
    """Whether over a fifth of all substrings occur before: those that a suffix shares with the one before it in sorted order."""
    limit = 0.2 * len(text) * (len(text) + 1) / 2
    suffixes = sorted(text[i:] for i in range(len(text)))
    shared = (len(os.path.commonprefix(pair)) for pair in pairwise(suffixes))  # noqa: RUF071 - of characters
    return any(repeated > limit for repeated in accumulate(shared))

r"""Unicode mathematics as ASCII and LaTeX: x² is `x^{2}`, ½ is `\frac{1}{2}`, full-width and styled letters are plain ones.

Only signs with one meaning are here. Digits of other scripts are no digits, and what is not listed stays as it is.
"""

from __future__ import annotations

import re
import unicodedata

_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
) | {"ς": "sigma", "ϑ": "theta", "ϕ": "phi", "ϵ": "epsilon", "µ": "mu", "\u2126": "Omega", "ϖ": "pi", "ϱ": "rho"}
_COMMANDS = """∈ in|∉ notin|∅ emptyset|∪ cup|∩ cap|∖ setminus|≤ le|≥ ge|⩽ le|⩾ ge|≦ le|≧ ge|≠ ne|≈ approx|≡ equiv|∼ sim|
→ to|⟶ to|↦ to|⇒ Rightarrow|⟹ Rightarrow|∴ therefore|± pm|∓ mp|∞ infty|× times|✕ times|✖ times|⨯ times|· cdot|⋅ cdot|
∙ cdot|• cdot|⊂ subset|⊆ subseteq|⊥ perp|∥ parallel|∠ angle|∡ angle|△ triangle|⌊ lfloor|⌋ rfloor|⌈ lceil|⌉ rceil|
⟨ langle|⟩ rangle|〈 langle|〉 rangle|… ldots|⋯ ldots|∂ partial|∇ nabla|∑ sum|∏ prod|∫ int|∧ land|∨ lor|¬ neg|∀ forall|
∃ exists|ℝ mathbb{R}|ℤ mathbb{Z}|ℕ mathbb{N}|ℚ mathbb{Q}|ℂ mathbb{C}|€ euro|£ pounds|¥ yen|₹ rupee|ℏ hbar|ℓ ell|□ square|
￡ pounds|￥ yen|Ø emptyset|⌀ emptyset|⟂ perp|≃ simeq|≅ cong"""
_PLAIN = """− -|– -|— -|‐ -|‑ -|﹣ -|∗ *|÷ /|∕ /|⁄ /|∣ \\||¦ \\||‖ \\parallel|′ '|’ '|‘ '|″ ''|“ "|” "|« "|» "|、 ,|。 .|
【 [|】 ]|° ^\\circ |º ^\\circ |˚ ^\\circ |℃ ^\\circ C|℉ ^\\circ F|ⅈ i|ⅇ e|Å angstrom|\u212b angstrom|¢  cents|％ %|﹪ %|≪ <|≫ >"""
_INVISIBLE = (
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2061\u2062\u2063\u2064\ufe0e\ufe0f"
)
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"


def _table() -> dict[int, str]:
    table = {sign: f"\\{name} " for sign, name in _GREEK.items()}
    table |= {pair[0]: f"\\{pair[2:]} " for pair in _COMMANDS.replace("\n", "").split("|")}
    for pair in _PLAIN.replace("\n", "").replace("\\|", "\0").split("|"):
        table[pair[0]] = pair[2:].replace("\0", "|")
    table |= dict.fromkeys(_INVISIBLE, "") | dict.fromkeys(_SPACES, " ")
    table |= {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
    for code in range(0x1D400, 0x1D800):  # bold, italic and other letters and digits of mathematics
        plain = unicodedata.normalize("NFKC", chr(code))
        table[chr(code)] = f"\\{_GREEK[plain]} " if plain in _GREEK else plain
    return {ord(sign): text for sign, text in table.items()}


_TABLE = _table()
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵏᵐᵗᵃᵇ", "0123456789+-=()nixykmtab", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘᵢⱼ", "0123456789+-=()aeoxnkmij", strict=True))
_FRACTIONS = {chr(code): unicodedata.normalize("NFKC", chr(code)).split("\u2044") for code in (*range(0xBC, 0xBF),)}
_FRACTIONS |= {chr(code): unicodedata.normalize("NFKC", chr(code)).split("\u2044") for code in range(0x2150, 0x215F)}
_SLASHED = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})[\u2044\u2215/]([₀₁₂₃₄₅₆₇₈₉]{1,9})")
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_FRACTION = re.compile(f"[{''.join(_FRACTIONS)}]")
_ROOT = re.compile(r"([√∛∜])\s*(?:([0-9]+(?:\.[0-9]+)?|[A-Za-z\u0370-\u03ff](?![A-Za-z]))|(?=[({\\]))?")
_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}
_OVERLINED = re.compile(r"(?:[0-9][\u0305\u0304])+")
_DOTTED = re.compile(r"([0-9])\u0307")
_SPECIAL = re.compile(f"[{''.join(_RAISED)}{''.join(_LOWERED)}{''.join(_FRACTIONS)}√∛∜\u0304\u0305\u0307]")


def in_ascii(text: str) -> str:
    """The text with every sign of the tables above in ASCII or LaTeX. Linear."""
    if text.isascii():
        return text
    if _SPECIAL.search(text):
        text = _OVERLINED.sub(lambda run: f"\\overline{{{run[0][::2]}}}", text)
        text = _DOTTED.sub(r"\\dot{\1}", text)
        text = _SLASHED.sub(lambda one: f"\\frac{{{_map(one[1], _RAISED)}}}{{{_map(one[2], _LOWERED)}}}", text)
        text = _FRACTION.sub(_fraction, text)
        text = _RAISED_RUN.sub(lambda run: f"^{{{_map(run[0], _RAISED)}}}", text)
        text = _LOWERED_RUN.sub(lambda run: f"_{{{_map(run[0], _LOWERED)}}}", text)
        text = _ROOT.sub(_root, text)
    return text.translate(_TABLE)


def _map(run: str, table: dict[str, str]) -> str:
    return "".join(table[sign] for sign in run)


def _fraction(sign: re.Match[str]) -> str:
    above, below = _FRACTIONS[sign[0]]
    return f"\\frac{{{above}}}{{{below}}}" if below else sign[0]


def _root(sign: re.Match[str]) -> str:
    return f"\\sqrt{_INDEX[sign[1]]}" + (f"{{{sign[2]}}}" if sign[2] else "")

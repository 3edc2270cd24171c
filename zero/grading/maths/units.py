r"""Units, currencies and counted things around a number: `5 cm`, `$5`, `18 \text{ eggs}`, `9.8 \text{ m/s}^2`, `90^\circ`.

A unit may be left out on one side, and is never converted. A single letter is a unit only behind a number: in `2x + 3 g`
it is a factor. Right behind a number (5m), and as a capital (5 N), it may be either, so that it cannot be left out.
"""

from __future__ import annotations

import re

_UNIT_WORDS = """
mm millimeter millimeters millimetre millimetres|cm centimeter centimeters centimetre centimetres
m meter meters metre metres|km kilometer kilometers kilometre kilometres|inch inches in|foot feet ft|yard yards yd
mile miles mi|s sec second seconds secs|minute minutes min mins|hour hours hr hrs|day days|week weeks|month months
year years yr yrs|g gram grams gramme grammes|kg kilogram kilograms kgs|mg milligram milligrams|pound pounds lb lbs
ounce ounces oz|ton tons tonne tonnes|ml mL milliliter milliliters millilitre millilitres|liter liters litre litres
gallon gallons|cup cups|quart quarts|pint pints|dollar dollars USD|cent cents|percent pct percentage percentages
degree degrees deg|radian radians rad|Hz hertz|joule joules|newton newtons|watt watts|volt volts|eV|kelvin kelvins|Pa pascal
mol mole moles|cal calorie calories|kcal|mph|unit units|way ways|people|student students|point points|time times
angstrom angstroms Angstrom Angstroms|acre acres|euro euros EUR|yen JPY|yuan RMB CNY renminbi|rupee rupees INR Rs
sterling GBP quid|ohm ohms Ohm Ohms|ampere amperes amp amps|coulomb coulombs|farad farads|tesla|henry henries|bit bits
byte bytes B|hectare hectares ha|atm|bar bars|molar|lumen lumens|lux|decibel decibels dB|rpm|fps|kph kmph|kn knot knots
pence|peso pesos|franc francs|ruble rubles|won|crown crowns|psi|torr|mmHg|amu|parsec parsecs|Mpc|kpc|AU|ly|sr
"""
_PREFIXED = {"m": "cnupM", "g": "nuM", "s": "mnup", "N": "kMm", "J": "kMmGT", "V": "kMmuu", "W": "kMmGT", "A": "mkuun"}
_PREFIXED |= {
    "Pa": "kMGh",
    "Hz": "kMGT",
    "L": "mucdk",
    "l": "mcd",
    "mol": "mkun",
    "eV": "kMGTm",
    "Wh": "kMGTm",
    "F": "munp",
}
_PREFIXED |= {
    "B": "kKMGT",
    "bit": "kMG",
    "T": "mu",
    "H": "mu",
    "C": "mun",
    "ohm": "kM",
    "Ω": "kM",
    "cal": "km",
    "K": "mu",
    "Bq": "kMG",
}
UNITS = {word: line.split()[0] for line in _UNIT_WORDS.replace("\n", "|").split("|") if line for word in line.split()}
_ALSO = [prefix + base for base, prefixes in _PREFIXED.items() for prefix in prefixes]
UNITS |= {symbol: symbol for symbol in _ALSO if symbol not in UNITS}
_CAPITALS = {
    "N": "newton",
    "J": "joule",
    "V": "volt",
    "W": "watt",
    "A": "ampere",
    "C": "coulomb",
    "K": "kelvin",
    "F": "farad",
}
_CAPITALS |= {"T": "tesla", "H": "henry", "L": "liter", "l": "liter", "M": "molar"}
_SPELLED = _CAPITALS | {"m": "meter", "s": "second", "g": "gram", "h": "hour", "in": "inch", "d": "day", "B": "byte"}
_STUCK = {"mm", "cm", "km", "kg"}  # the short ones that may stand right behind a number: 6m and 2mg are products
_LAST_WORD = re.compile(r"(?<![A-Za-z\\])([A-Za-z]+)(?: ?\^ ?(?:\{ ?(-?[0-9]) ?\}|(-?[0-9])))?$")
_JOINT = re.compile(r"(?:\\cdot|\\times|\*)\s*$")
_PREFIXES = ((" square", 2), (" sq", 2), (" sq.", 2), (" cubic", 3))
_PER_BOTH = re.compile(r"/ ?\(([A-Za-z]+)(?: ?\\cdot ?| ?\* ?| )([A-Za-z]+)\)$")  # J/(kg K)
_CLOCK = re.compile(r"(?: ?([ap])\.m| ([ap])m)$", re.IGNORECASE)
_DEGREES = re.compile(r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})(?: ?([CF]))?$")
_COINS = {
    "euro": "euro",
    "pounds": "sterling",
    "yen": "yen",
    "rupee": "rupee",
    "pound": "sterling",
    "EUR": "euro",
    "USD": "dollar",
}
_COINS |= {
    "GBP": "sterling",
    "JPY": "yen",
    "CNY": "yuan",
    "RMB": "yuan",
    "INR": "rupee",
    "Rs": "rupee",
    "CAD": "dollar",
}
_CURRENCY = re.compile(
    r"^([+-]?) ?(?:(?:US|AU|CA|NZ|HK|[ACSR])? ?\$|\\(euro|pounds|yen|rupee)(?![A-Za-z])|"
    r"(EUR|USD|GBP|JPY|CNY|RMB|INR|CAD|Rs)\.?(?=[ 0-9])) ?([+-]?)"
)
_COIN_BEHIND = re.compile(r" ?\\(euro|pounds|yen|rupee)$| ?\\?\$$")
_SIGNS = re.compile(r" ?(?:\\Omega|\\mu ?(?:\\(?:text|mathrm) ?)?\{?([msgLAFCVJ])\}?)$")
_NOUNS = re.compile(r" ((?:of (?:the )?)?[A-Za-z][A-Za-z'-]*(?: [A-Za-z][A-Za-z'-]*){0,4})$")
_SHORT_NOUNS = frozenset(
    "men man cup car cat dog egg box pen bag jar can toy hat bus kid boy pie cow pig hen row job pct ton pan pot map bed key "
    "ball oz boys cats dogs bees ants bats eggs pens cars".split()
)
_NOT_COUNTED = frozenset(  # words that change the number, or that make the whole no number
    "squared cubed factorial dozen dozens half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths "
    "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths score gross "
    "couple and or to over out per plus minus by mod modulo base less fewer more below above negative positive "
    "remainder point binary hexadecimal octal hex if when where for is are was equals than at with without either not nor "
    "then but else otherwise only no none divided multiplied modulus root roots power raised hundred thousand million billion "
    "trillion from between through till until except times sqrt sin cos tan log exp pi theta alpha beta omega "
    "lambda infty frac infinity maybe perhaps east west north south left right up down upward downward eastward westward "
    "northeast northwest southeast southwest clockwise counterclockwise anticlockwise increase decrease loss profit gain "
    "debt deficit tens hundreds thousands millions billions trillions lakh lakhs crore crores scores grosses couples "
    "fold doubled tripled quadrupled halved".split()
)
_ORDINAL = re.compile(r"(?:teen|tie|illion|eleven|twelf|hundred|thousand)ths?")  # 3 sixteenths
_ADVERBS = frozenset("old tall long wide high deep thick each apart total altogether away ago".split())
_NUMERIC = re.compile(
    r"(?:[0-9.,+*/^!(){}\[\] $-]|\\(?:frac|sqrt|pi|times|cdot|div|binom|circ|pm|ln|log|%|\$)(?![A-Za-z])|\bpi\b|\be\b(?=\^))+"
)
_COMMON_WORDS = frozenset("zero one two three four five six seven eight nine ten eleven twelve".split())


def spelled(symbol: str) -> str:
    """The symbol of a unit in upright letters, J or m, as a word, which is no letter of a formula."""
    return _SPELLED.get(symbol, symbol)


def same_unit(one: str, other: str) -> bool:
    """Whether two units agree; one may be left out unless it may be a factor (~)."""
    if one == other or one.lstrip("~") == other.lstrip("~") != "":
        return True
    if one and other and (one.startswith(other + ":") or other.startswith(one + ":")):
        return True  # 7 cubes and 7 green cubes
    return not (one and other) and "~" not in one + other


def is_numeric(plain: str) -> bool:
    """Whether a plain form has no letter but those of constants and functions: a number, however it is written."""
    return bool(plain) and (plain.lower() in _COMMON_WORDS or _NUMERIC.fullmatch(plain) is not None)


def without_unit(plain: str) -> tuple[str, str]:
    """(what stands before it, the unit) of a plain form; the unit is "" if there is none, or none that is known.

    A unit has one spelling, with its powers in order: that of `5 m/s` is `m^1 s^-1`. It begins with ~ if it may be a factor.
    """
    if plain.endswith("%"):
        return plain[:-1].rstrip("\\ "), "percent^1"
    if degrees := _DEGREES.search(plain):
        return plain[: degrees.start()], "degree^1" + (degrees[1] or "")
    if (priced := _CURRENCY.match(plain)) and "$" not in plain[priced.end() :]:
        coin = _COINS[priced[2] or priced[3]] if priced[2] or priced[3] else "dollar"
        left, named = without_unit(priced[1] + priced[4] + plain[priced.end() :])
        return (left, f"{coin}^1") if not named or named == f"{coin}^1" else (plain, "")
    if (coin_behind := _COIN_BEHIND.search(plain)) and plain[: coin_behind.start()][-1:].isdigit():
        return plain[: coin_behind.start()], (_COINS[coin_behind[1]] if coin_behind[1] else "dollar") + "^1"
    if clock := _CLOCK.search(plain):
        return plain[: clock.start()], f"{(clock[1] or clock[2]).lower()}.m."
    if (sign := _SIGNS.search(plain)) and is_numeric(plain[: sign.start()]):
        return plain[: sign.start()], f"mu{sign[1]}^1" if sign[1] else "ohm^1"
    known = _known(plain)
    return _counted(plain) if known is None else known


def _known(plain: str) -> tuple[str, str] | None:
    powers: dict[str, int] = {}
    if plain.endswith(")"):
        plain = _PER_BOTH.sub(r"/\1/\2", plain)
    words = plain.split(" ")
    while len(words) > 2 and words[-1] in _ADVERBS:
        words.pop()
    left = " ".join(words)
    over, letter, stuck = False, False, False
    while match := _LAST_WORD.search(left):
        word, before = match[1], left[: match.start()]
        capital = _CAPITALS.get(word, "")
        unit = "hour" if word == "h" and (before.endswith("/") or powers) else UNITS.get(word, "") or capital
        if not unit:
            break
        if len(word) < 4 and word not in _STUCK and not before.endswith((" ", "/")):
            if powers or not before[-1:].isdigit() or word.isupper() or len(word) != 1:
                break
            stuck = True
        power, left = int(match[2] or match[3] or 1), before.rstrip()
        stuck = stuck or (bool(capital) and not powers and not before.endswith("/"))
        for prefix, times in _PREFIXES:
            if left.endswith(prefix):
                power, left = power * times, left.removesuffix(prefix)
        over, letter = left.endswith(("/", " per")), letter or len(word) == 1
        powers[unit] = powers.get(unit, 0) + (-power if over else power)
        left = left.removesuffix("/").removesuffix(" per").rstrip()
        if joint := _JOINT.search(left):
            if not re.search(r"[A-Za-z]$", left[: joint.start()].rstrip()):
                break
            left = left[: joint.start()].rstrip()
    if over or not powers or not (left[-1:].isdigit() or left.lower() in _COMMON_WORDS or _measured(left, letter)):
        return None
    if (letter or stuck) and not is_numeric(left):
        return None
    stuck = stuck and len(powers) == 1
    spelled_out = " ".join(f"{unit}^{power}" for unit, power in sorted(powers.items()))
    return left, ("~" if stuck else "") + spelled_out.replace("hour^-1 mile^1", "mph^1")


def _measured(left: str, letter: bool) -> bool:
    return ("\\" in left or any(c.isdigit() for c in left)) and (not letter or is_numeric(left))


def _counted(plain: str) -> tuple[str, str]:
    """Counted things: any words behind a number, unless they change it."""
    nouns = _NOUNS.search(plain)
    if nouns is None:
        return plain, ""
    left, words = plain[: nouns.start()], nouns[1].split()
    while len(words) > 1 and words[-1] in _ADVERBS:
        words.pop()
    lowered = [word.lower() for word in words]
    if left.endswith("%") and is_numeric(left[:-1].rstrip("\\")) and "of" not in lowered:
        return left[:-1].rstrip("\\ "), "percent^1:" + " ".join(lowered)
    if not is_numeric(left) or not any(c.isdigit() for c in left) or _NOT_COUNTED & set(lowered):
        return plain, ""
    if any(map(_ORDINAL.search, lowered)):
        return plain, ""
    if not _is_noun(words[-1]) or left.endswith(("^", "/", "*", "+", "-")):
        return plain, ""
    if lowered[0] in UNITS.keys() - {"in"}:
        unit, more = UNITS[lowered[0]] + "^1", lowered[1:]
        scale = {"celsius": "C", "fahrenheit": "F"}.get(more[0], "") if unit == "degree^1" and len(more) == 1 else ""
        return left, unit + scale if scale or not more else f"{unit}:{' '.join(more)}"
    place = lowered.index("of", 1) - 1 if "of" in lowered[1:] else len(lowered) - 1
    more = lowered[:place] + lowered[place + 1 :]
    return left, f"{_singular(lowered[place])}^1" + (f":{' '.join(more)}" if more else "")


def _is_noun(word: str) -> bool:
    if word in _SHORT_NOUNS:
        return True
    return len(word) > 3 and word[1:].islower() and any(vowel in word.lower() for vowel in "aeiouy") and word != "abcd"


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word

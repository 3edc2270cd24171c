"""The arguments KEY=VALUE of a command line, prepared for Hydra's grammar.

In Hydra's grammar a path with a comma or an umlaut is an error. `tidy` quotes what must be quoted and expands our own short
forms; applied to its own result it changes nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from zero.config.suggest import nearest
from zero.errors import InputError
from zero.paths import CONF, USER_CONF

# Last words of settings that are one path or address, and those of them that need not exist
PATHS = ("path", "run_dir", "run", "out", "folder", "dir", "url", "uri")
OUTPUTS = ("run_dir", "out", "folder", "dir")
TERMS = "reward.terms."
CONDITIONS = "questions.where."  # of any question set, whether its file names them or not
GYM_CONFIG = ".gym.config."  # within the names of settings that another library defines: each is new to us
MOST = 100_000  # cells of one line

_ARGUMENT = re.compile(r"(\+{0,2}|~)([^=+~]*)(?:=(.*))?", re.DOTALL)
_CALL = re.compile(r"(?:choice|range|sort|shuffle|tag|glob|interval|str|int|float|bool)\s*\(.*\)", re.DOTALL)
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LINE_END = re.compile(r"(?<!\\)\\([nt])(?![a-z])")  # \nu and \theta are TeX, \n and \nQuestion are not


def key_of(argument: str) -> str:
    """The group or setting that an argument is about."""
    return argument.partition("=")[0].lstrip("+~").partition("@")[0].strip()


def tidy(argument: str, several: bool) -> str:
    """One argument in Hydra's grammar: paths and other texts quoted where needed, `~` and glob() expanded, and our short forms
    too. `several`: commas separate the values of a sweep. InputError if it is no KEY=VALUE."""
    match = _ARGUMENT.fullmatch(argument)
    if match and match[2].strip() and match[2] != match[2].strip():
        raise InputError("command line", argument, "must be KEY=VALUE, without spaces around =")
    if not match or not match[2].strip() or (match[3] is None and match[1] != "~"):
        known = [group for group in option_groups() if argument in options_of(group)]
        if argument.strip("=: ") in option_groups() or argument == "=":
            raise InputError("command line", argument, "must be KEY=VALUE, without spaces around =")
        hint = f"; did you mean {' or '.join(f'{g}={argument}' for g in known[:3])}?" if known else ""
        raise InputError("command line", argument, f"must be KEY=VALUE{hint or '; --help lists all'}")
    if match[3] is None:
        return argument
    if not _parses(f"{match[1]}{match[2]}=0"):
        raise InputError(match[2], match[3], "is no name of a setting; names are words with dots between")
    prefix, key, value = match[1], match[2], match[3]
    name = key.partition("@")[0].strip()
    if name.startswith(TERMS):
        prefix, key = _reward_term(prefix, key, value)
        name = key
    if name.startswith(CONDITIONS) or GYM_CONFIG in name:
        prefix = prefix or "++"
    last = name.rpartition(".")[2]
    if last == "stop" or name.startswith("template."):
        value = _LINE_END.sub(lambda match: {"n": "\n", "t": "\t"}[match[1]], value)
    if last in PATHS:
        value = _quoted_path(value, last, several)
    if name == "resume_with" and not value.startswith(("'", '"', "{", "[")):
        value = in_quotes(value)  # holds KEY=VALUE of its own
    if several and "," in value and not all(piece.strip() for piece in pieces(value)):
        raise InputError(name, value, "a value is missing before, between or behind the commas")
    if not _parses(f"{prefix}{key}={value}"):
        value = ",".join(_readable(prefix + key, piece) for piece in (pieces(value) if several else [value]))
    text = f"{prefix}{key}={value}"
    return _without_glob(text, name) if _CALL.fullmatch(value) else text


def tidied(arguments: Sequence[str], several: bool) -> list[str]:
    """All arguments, each tidy."""
    return [tidy(argument, several) for argument in arguments]


def repeated_settings(arguments: Sequence[str]) -> list[str]:
    """Notes on settings that are given twice, of which the last counts. InputError for a group given twice."""
    known: dict[str, str] = {}
    notes = []
    for text in arguments:
        key, value = text.partition("=")[0].lstrip("+").strip(), text.partition("=")[2]
        earlier = known.get(key, value)
        if earlier != value and key in option_groups():
            raise InputError(key, value, f"is given twice, as {key}={earlier} too; leave one out")
        if earlier != value:
            notes.append(f"{key} is given twice, {earlier} and {value}: the last one counts")
        known[key] = value
    return notes


def plain_value(argument: str) -> str:
    """The text after `=`, without quotes around it."""
    value = argument.partition("=")[2]
    if value[:1] in ("'", '"') and _parses(f"x={value}") and isinstance(text := parsed(f"x={value}").value(), str):
        return text
    return value


def quoted(argument: str) -> str:
    """One argument with a single value, tidy."""
    return tidy(argument, several=False)


def in_quotes(text: str) -> str:
    """A text quoted for Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def pieces(value: str) -> list[str]:
    """A text split at commas outside quotes and brackets."""
    separate, start, depth, quote = list[str](), 0, 0, ""
    for i, char in enumerate(value):
        if quote:
            quote = "" if char == quote and value[i - 1] != "\\" else quote
        elif char in "'\"" and not value[start:i].strip():
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
        elif char == "," and depth <= 0:
            separate.append(value[start:i])
            start = i + 1
    return [*separate, value[start:]]


def cells(arguments: Sequence[str]) -> list[list[str]]:
    """The arguments of each run of a multirun, without Hydra's own; a single run is one. InputError if it has none."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    ours = [o for o in map(parsed, tidied(arguments, several=True)) if not o.key_or_group.startswith("hydra")]
    sizes = [_size(o) for o in ours if o.is_sweep_override()]
    if not sizes:
        return [[o.input_line or "" for o in ours]]
    total = 1
    for size in sizes:
        total *= size
    if total > MOST:
        raise InputError("command line", " ".join(arguments), f"is {total} runs; at most {MOST} in one line")
    return [list(cell) for batch in BasicSweeper.split_arguments(ours, max_batch_size=None) for cell in batch]


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """One override, parsed (cached). InputError if it is no override."""
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, TypeError) as error:
        key, _, value = text.partition("=")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(key.lstrip("+~") or "command line", value, f"cannot be read ({reason})") from error


@lru_cache(maxsize=1)
def option_groups() -> tuple[str, ...]:
    """Every folder of conf/, or of the user's own, with options."""
    folders = {path.relative_to(root).as_posix() for root in (CONF, *USER_CONF) for path in root.rglob("*/")}
    return tuple(sorted(folder for folder in folders if options_of(folder)))


@lru_cache(maxsize=64)
def options_of(group: str) -> tuple[str, ...]:
    """The options of conf/GROUP, without base files, whose names begin with _."""
    return tuple(sorted({path.stem for root in (CONF, *USER_CONF) for path in (root / group).glob("[!_]*.yaml")}))


def is_choice(text: str) -> bool:
    """Whether an override chooses the option of a group, and so which files are composed."""
    return key_of(text) in option_groups()


def _size(override: Override) -> int:
    """The number of values of a sweep. InputError for one that has none."""
    key, value = override.key_or_group, override.value()
    typed = (override.input_line or "").partition("=")[2]
    if isinstance(value, IntervalSweep):
        remedy = f"is a range without values; give some: {key}=A,B,C or {key}=range(FIRST,END,STEP)"
        raise InputError(key, typed, remedy)
    try:
        if isinstance(value, RangeSweep):
            steps = value.range()
            size = len(steps) if isinstance(steps, range) else sum(1 for _ in itertools.islice(steps, MOST + 1))
        else:
            size = len(list(override.sweep_string_iterator()))
    except (HydraException, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(key, typed, f"has no values ({error})") from error
    if not size:
        raise InputError(key, typed, "has no values")
    return size


def _parses(text: str) -> bool:
    try:
        parsed(text)
    except InputError:
        return False
    return True


def _readable(key: str, value: str) -> str:
    return value if _parses(f"{key}={value}") else in_quotes(value)


def _quoted_path(value: str, last: str, several: bool) -> str:
    """A path, or several separated by commas, in quotes. Lists and mappings are left to the check of types."""
    text = value.strip()
    if text.startswith(("'", '"')) and text.endswith(text[0]) and len(text) > 1:
        inner = text[1:-1]
        return in_quotes(_at_home(inner)) if inner.startswith("~") else value
    if text.lower() in ("null", "???") or "${" in text:
        return value
    path = _at_home(text)
    if _exists(path) or not text:
        return _as_text(path)
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")) or _CALL.fullmatch(text):
        return value
    paths = pieces(text)
    if len(paths) > 1 and (several or last not in OUTPUTS):
        return ",".join(_quoted_path(piece, last, several) for piece in paths)
    return _as_text(path)


def _as_text(path: str) -> str:
    """A path in quotes, if Hydra would read it differently without."""
    return path if _parses(f"x={path}") and parsed(f"x={path}").value() == path else in_quotes(path)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _at_home(path: str) -> str:
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # no such user
        return path


def _reward_term(prefix: str, key: str, value: str) -> tuple[str, str]:
    """The prefix and key of a reward term's setting, with ++ since the term may be new; reward.terms.NAME=MODULE.FUNCTION is
    short for reward.terms.NAME.function=MODULE.FUNCTION."""
    short = "." not in key.removeprefix(TERMS) and all(DOTTED.fullmatch(piece.strip()) for piece in pieces(value))
    return "++" if prefix != "~" else prefix, f"{key}.function" if short else key


def _without_glob(text: str, name: str) -> str:
    """The override with glob(...) replaced by the matching options; other functions stay."""
    value = parsed(text).value()
    if not isinstance(value, Glob):
        return text
    typed = text.partition("=")[2]
    options = options_of(name)
    if not options:
        raise InputError(name, typed, f"glob() chooses among the options of a group{nearest(name, option_groups())}")
    chosen = value.filter(list(options))
    if not chosen:
        raise InputError(name, typed, f"matches no option; there are {', '.join(options)}")
    return f"{text.partition('=')[0]}={','.join(chosen)}"

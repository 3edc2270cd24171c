"""The name of a run, and so its folder: its axes, its seed, then every setting that differs from the default.

drgrpo-none-nano_math-nano-s0-optimizer.lr=0.0001-steps=5. Long values are shortened: a path to its file's name, a structure to
the last word of its target. A name with a shortened value ends in a hash of what was typed, so that runs with different
settings never share a folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zero.config.compose import choices_among, default_choices, defaults, select
from zero.config.identity import PLACE, PLACES
from zero.config.overrides import PATHS, is_choice, parsed
from zero.errors import InputError

AXES = ("algo", "template", "questions", "model")
OVERLAYS = ("size", "debug")  # groups that change what the others are by default
LONGEST, SHORTEST, HASH = 120, 6, 8  # characters of a name, of a value in it, of a hash
SHORTEST_KEY = 4  # characters of a setting in a name
GENERIC = ("model", "data", "train")  # names of many folders and files: the folder above is named too


def run_name(root: str, choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """The name of one run of python -m zero.ROOT: `choices` holds the option of each axis, `overrides` what was typed."""
    values = {o.key_or_group + (f"@{o.package}" if o.package else ""): o for o in map(parsed, overrides)}
    seed = values.pop("seed", None)
    typed = {key: "deleted" if o.is_delete() else o.value() for key, o in values.items()}
    texts = [o.input_line or "" for o in values.values()]
    named = {key: value for key, value in typed.items() if not _is_place(key)}
    if "run" not in named:  # else the defaults are those of another run
        named = {key: value for key, value in named.items() if not _is_default(root, key, value, texts)}
    shown = {key: _shown(key, value) for key, value in sorted(named.items())}
    start = "-".join([*(choices[axis] for axis in AXES if axis in choices), f"s{seed.value() if seed else 0}"])
    return _joined(_plain(start), shown, {key: str(value) for key, value in named.items()})


def check_name(name: Any) -> None:
    """InputError for an invalid name of a run."""
    if name is None:
        return
    if not re.fullmatch(r"\w[\w.=+ -]*", str(name)) or len(str(name)) > LONGEST:
        raise InputError(
            "name",
            name,
            f"must be of letters, digits, spaces and . _ - + =, begin with a letter or digit, and be at most {LONGEST} long",
        )


def _is_place(key: str) -> bool:
    return key in (*AXES, *PLACES) or key.split(".")[0] in PLACE or key.startswith("hydra")


def _is_default(root: str, key: str, value: Any, texts: Sequence[str]) -> bool:
    """Whether the run would be the same without this override."""
    chosen = choices_among(texts)
    if is_choice(key):
        overlays = [text for text in chosen if text.partition("=")[0].lstrip("+") in OVERLAYS]
        return default_choices(root, overlays).get(key, "None") == str(value)
    raw, default = defaults(root, chosen, raw=True), select(defaults(root, chosen), key)
    read = {word.partition(".")[0] for word in _read_by(raw, key)}
    others = {text.lstrip("+~").partition("=")[0].partition(".")[0] for text in texts if not is_choice(text)}
    others -= {key.partition(".")[0]} if key.partition(".")[0] not in read else set()
    return type(default) is type(value) and default == value and not read & others


def _read_by(raw: Mapping[str, Any], key: str) -> set[str]:
    """The settings that the default of a setting refers to, directly or through others."""
    names, left = set[str](), [key]
    while left:
        words = set(re.findall(r"\$\{(?:\w+(?:\.\w+)*:)?([\w.]+)", str(select(raw, left.pop()))))
        left += words - names
        names |= words
    return names


def _shown(key: str, value: Any) -> tuple[str, bool]:
    """The text of a value in the name, and whether it is complete."""
    if value is None or isinstance(value, bool | int | float):
        return ("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)), True
    if isinstance(value, list):
        items = [_shown("", item) for item in value]
        whole = all(exact and "+" not in text for text, exact in items)
        return "+".join(text for text, _ in items) or "none", whole and bool(items)
    if isinstance(value, Mapping):
        return _plain(_innermost(value)), False
    text = str(value)
    if key.rpartition(".")[2] in PATHS and ("/" in text or "\\" in text):
        path = Path(text)
        names = [path.stem if path.suffix in (".jsonl", ".json", ".parquet", ".csv", ".txt") else path.name]
        text = "-".join([path.parent.name, *names] if names[0] in GENERIC and path.parent.name else names)
        return _plain(text), False
    plain = _plain(text)
    return plain, plain == text and "=" not in text and bool(text)


def _innermost(value: Mapping[str, Any]) -> str:
    """The last word of the innermost function in a structure."""
    for inner in value.values():
        if isinstance(inner, Mapping) and (word := _innermost(inner)):
            return word
    return str(value.get("_target_") or "+".join(map(str, value))).rpartition(".")[2]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text)


def _joined(start: str, shown: Mapping[str, tuple[str, bool]], full: Mapping[str, str]) -> str:
    """The whole name. If it is too long, keys are cut to their last word (two words where another key ends in the same one),
    then the longest values are shortened, then the longest keys, so that as many settings as possible remain visible."""
    names, texts = {key: key for key in shown}, {key: text for key, (text, _) in shown.items()}
    whole = start == _plain(start) and all(exact for _, exact in shown.values())

    def name(extra: str = "") -> str:
        return "-".join([start, *(f"{names[key]}={texts[key]}" for key in texts), *([extra] if extra else [])])

    limit = LONGEST - HASH - 1
    if len(name()) > (LONGEST if whole else limit):
        whole = False
        words = {key: key.split(".") for key in names}
        ends = Counter(split[-1] for split in words.values())
        names = {key: _plain(".".join(split[-2 if ends[split[-1]] > 1 else -1 :])) for key, split in words.items()}
        while len(name()) > limit and max(map(len, texts.values()), default=0) > SHORTEST:
            longest = max(texts, key=lambda key: len(texts[key]))
            texts[longest] = texts[longest][: max(SHORTEST, len(texts[longest]) - (len(name()) - limit))]
        if len(name()) > limit:
            names = {key: _plain(split[-1]) for key, split in words.items()}
        while len(name()) > limit and max(map(len, names.values()), default=0) > SHORTEST_KEY:
            longest = max(names, key=lambda key: len(names[key]))
            names[longest] = names[longest][:-1]
    names = {key: _plain(text) for key, text in names.items()}
    if whole:
        return name()
    digest = sha256(repr((start, sorted(full.items()))).encode()).hexdigest()[:HASH]
    return f"{name()[:limit]}-{digest}"

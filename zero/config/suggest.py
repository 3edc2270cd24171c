"""Suggestions for a mistyped name of a setting, or one of another library's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from zero.config.aliases import NEEDS, REMARKS, TARGETS

MOST = 3  # names that an error proposes
CLOSE, TYPO = 0.6, 0.76  # least similarity of a close spelling, and of a typing error
INTERNAL = ("model.recipe.", "template.extract.", "questions.check.", "benchmarks.sets.")  # not proposed: rarely meant
GENERIC = set("path file name enable type url host n".split())  # last words that say little without those before
FILLERS = {"every", "max", "min", "num", "total", "size", "use", "per", "train", "eval", "model", "name", "path", "top"}


def suggestion(key: str, value: str, known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """'; did you mean ...' for an unknown name, or ''. `known`: the existing settings; `groups`: the options of each group,
    which are suggested first."""
    word = key.strip("+~ ").replace("-", "_").lower()
    last = word.rpartition(".")[2].rpartition("/")[2]
    if remark := REMARKS.get(word) or REMARKS.get(last):
        return f"; {remark}"
    exists = {*groups, *known, *section_names(known)}
    known = [name for name in known if not name.rpartition(".")[2].startswith("_") and not name.startswith(INTERNAL)]
    aliases = _aliases([word], exists, groups)
    names = list(aliases)
    holding = [group for group, options in groups.items() if _option(value, options) and "/" not in group]
    if "." not in word and not aliases:
        close = nearest_names(word, list(groups))
        names += [group for group in close if group in holding] + close
    if value and len(holding) <= 2:
        names += holding
    if "." in word and not aliases:
        above = word.split(".")[-2::-1] if last in GENERIC else []
        same = [
            target for target in _aliases([last], exists, groups) if target.startswith(word.rpartition(".")[0] + ".")
        ]
        names += same or _elsewhere(word, known) or _aliases([*above, last], exists, groups)
    if not names:
        names += _spelled(word, last, known)
    best = list(dict.fromkeys(names))[:MOST]
    shown = [f"{name}={option}" if (option := _option(value, groups.get(name, ()))) else name for name in best]
    return f"; did you mean {' or '.join(shown)}?" if shown else ""


def _option(value: str, options: Sequence[str]) -> str:
    """The option that a value means, whatever its dashes and capitals, or ''."""
    plain = {re.sub(r"[\W_]", "", option).lower(): option for option in options}
    return value if value in options else plain.get(re.sub(r"[\W_]", "", value).lower() or "-", "")


def _aliases(words: Sequence[str], exists: set[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The targets in this command of the first word that is an alias."""
    for word in words:
        if names := [text for target in TARGETS.get(word, ()) if (text := _reachable(target, exists, groups))]:
            return names
    return []


def section_names(known: Sequence[str]) -> set[str]:
    """The names of all sections that hold settings."""
    return {name[: match.start()] for name in known for match in re.finditer(r"\.", name)}


def _reachable(target: str, exists: set[str], groups: Mapping[str, Sequence[str]]) -> str:
    """An alias's target if this command has it, with the option that it needs, or ''."""
    name = target.partition("=")[0]
    if name in exists:
        return target
    need = next((choice for begins, choice in NEEDS.items() if name.startswith(begins)), "")
    return f"{target} (with {need})" if need.partition("=")[0] in groups else ""


def _elsewhere(word: str, known: Sequence[str]) -> list[str]:
    """A setting under a section that is another library's, or misspelt: actor.optim.lr, reward.term.mine."""
    words = word.split(".")
    for first in range(1, len(words) - 1):
        if (name := ".".join(words[first:])) in known:
            return [name]
    sections = section_names(known)
    for cut in range(len(words) - 1, 0, -1):
        section, below = ".".join(words[:cut]), ".".join(words[cut:])
        if section in sections:  # the last word is the one that is wrong
            leaves = [name.removeprefix(f"{section}.") for name in known if name.startswith(f"{section}.")]
            return [f"{section}.{leaf}" for leaf in difflib.get_close_matches(below, leaves, n=MOST, cutoff=CLOSE)]
        if close := difflib.get_close_matches(section, sorted(sections), n=1, cutoff=TYPO + 0.05):
            new = f"{close[0]}.{below}"
            return [new] if new in known or close[0] == "reward.terms" else []
    return []


def _spelled(word: str, last: str, known: Sequence[str]) -> list[str]:
    """Settings of a close spelling, of the whole name or of its last word; then those that share a word of it."""
    names = difflib.get_close_matches(word, known, n=MOST, cutoff=TYPO if "." in word else CLOSE)
    leaves: dict[str, str] = {}
    for name in known:
        leaf = name.rpartition(".")[2]
        leaves.setdefault(leaf, name)  # the first: those of the command itself come before deeper ones
    close = difflib.get_close_matches(last, list(leaves), n=MOST, cutoff=TYPO)
    if len(last) > 2:
        close += [leaf for leaf in leaves if leaf.startswith(last)]
    tokens = {token for token in last.split("_") if len(token) > 2} - FILLERS
    close += [leaf for leaf in leaves if tokens & set(leaf.split("_"))]
    return names + [leaves[leaf] for leaf in close]


def nearest_names(word: str, names: Sequence[str]) -> list[str]:
    """Names of a close spelling, then those that begin with the word or hold it, or that it holds."""
    close = difflib.get_close_matches(word, names, n=MOST, cutoff=CLOSE)
    if len(word) > 2:
        close += sorted(
            (name for name in names if name.startswith(word) or word in name or (len(name) > 3 and name in word)),
            key=len,
        )
    return list(dict.fromkeys(close))[:MOST]


def nearest(word: str, names: Sequence[str]) -> str:
    """'; did you mean ...' among plain names."""
    close = nearest_names(word.lower(), names)
    return f"; did you mean {' or '.join(close)}?" if close else ""

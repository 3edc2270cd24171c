"""What conf/algo and docstrings say of each algorithm, as cards."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zero.config.check import check
from zero.paths import CONF

FUNCTIONS = ("advantage", "estimator", "critic", "weight", "surrogate", "correction")  # in the order of a page


@dataclass(frozen=True)
class Function:
    """One function of an algorithm. `says` is the sentence with its equation, `notes` what its docstring adds."""

    slot: str
    target: str  # dotted path
    call: str  # its name and arguments
    says: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """All that the code says of one algorithm."""

    name: str
    header: str
    family: str
    functions: tuple[Function, ...]
    # (setting, value, what it means) where it differs from conf/algo/_base.yaml
    extras: tuple[tuple[str, str, str], ...]
    papers: tuple[str, ...]  # keys of the sources that the header names
    sources: tuple[str, ...]  # these, and what each function cites first

    @property
    def calls(self) -> dict[str, str]:
        return {one.slot: one.call for one in self.functions}


# -------------------------------------------------------------------------------------------------------------- the cards


def cards(names: Sequence[str]) -> list[Card]:
    """A card for each option of conf/algo, those of one family together, the default algorithm's family first."""
    default = card(default_name(), None)
    every = [card(name, default) for name in names]
    order = list(dict.fromkeys(one.family for one in [card(default.name, default), *every]))
    return sorted(every, key=lambda one: order.index(one.family))


def card(name: str, default: Card | None) -> Card:
    """What conf/algo/NAME.yaml and the docstrings of its functions say; `default` decides what it is grouped with."""
    path = CONF / "algo" / f"{name}.yaml"
    algo, raw = check("train", [f"algo={name}"])["algo"], read(path)
    functions = tuple(function(slot, algo[slot], raw.get(slot)) for slot in slots(algo))
    common = CONF / "algo" / "_base.yaml"
    comments = dict(re.findall(r"^(\w+):.*?\s#\s*(.*)$", common.read_text(), flags=re.MULTILINE))
    extras = tuple(
        (key, setting_text(algo[key]), comments.get(key, ""))
        for key, usual in read(common).items()
        if key not in FUNCTIONS and algo[key] != usual
    )
    words = header(path)
    papers = tuple(key for key, text in sources().items() if cites(text, words))
    cited = [key for one in functions for key in re.findall(r"\[(\w+)\]", " ".join((one.says, *one.notes)))[:1]]
    keys = tuple(dict.fromkeys([*papers, *(key for key in cited if key in sources())]))
    return Card(name, words, family(algo, functions, default), functions, extras, papers, keys)


def slots(algo: Mapping[str, Any]) -> list[str]:
    """The functions that an algorithm has; the KL only where it is in use."""
    return [slot for slot in (*FUNCTIONS, "kl") if algo[slot] and (slot != "kl" or algo["beta"] or algo["measure_kl"])]


def function(slot: str, config: Mapping[str, Any], raw: Any) -> Function:
    """A function with the arguments that its yaml gives it: the algorithm's own file, or the function's if it has one."""
    target = config["_target_"]
    own = raw if isinstance(raw, dict) else option_of(slot, target)
    given = {key: value for key, value in own.items() if not key.startswith("_") and key != "defaults"}
    module, name = target.rsplit(".", 1)
    thing = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(importlib.import_module(module) if inspect.isclass(thing) else thing) or ""
    silent = set(inspect.signature(thing).parameters) - given.keys()
    first, *others = statements(text)
    notes = tuple(note for note in others if not any(f"`{argument}`" in note for argument in silent))
    arguments = ", ".join(f"{key}={setting_text(value)}" for key, value in given.items())
    return Function(slot, target, f"{name}({arguments})" if arguments else name, first, notes)


def option_of(slot: str, target: str) -> dict[str, Any]:
    """The yaml of conf/SLOT that makes `target`."""
    files = [read(path) for path in sorted((CONF / slot).glob("*.yaml"))]
    return next((content for content in files if content.get("_target_") == target), {})


def family(algo: Mapping[str, Any], functions: Sequence[Function], default: Card | None) -> str:
    """Which algorithms are compared in one figure: by what judges a response, then by the loss."""
    if algo["critic"]:
        return "A critic tells the tokens of a response apart"
    if algo["min_group"] < 2:
        return "Siblings are not compared"
    calls = {one.slot: one.call for one in functions}
    if default is None or calls["surrogate"] == default.calls["surrogate"]:
        return f"Siblings are compared, surrogate {calls['surrogate']}"
    return "Siblings are compared, another surrogate"


def statements(docstring: str) -> list[str]:
    """A docstring's sentences, each with the citations that follow it."""
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        for sentence in re.split(r"(?<=\.)(?<!\bDr\.)\s+(?=[^\W\d_a-z]|[-`\[|])", " ".join(paragraph.split())):
            if sentence.startswith("[") and sentences:
                sentences[-1] += " " + sentence
            else:
                sentences.append(sentence)
    return sentences or [""]


@cache
def sources() -> dict[str, str]:
    """Citation key -> reference, from the head of zero/objective.py."""
    text = importlib.import_module("zero.objective").__doc__ or ""
    return dict(re.findall(r"^\s+\[(\w+)\]\s+(.+)$", text, flags=re.MULTILINE))


def cites(reference: str, words: str) -> bool:
    """Whether a text names a paper: by its arXiv number, or by author and year if it has none."""
    numbers = re.findall(r"\d{4}\.\d{5}", reference)
    return any(number in words for number in numbers) if numbers else reference.split(",")[0] in words


def header(path: Path) -> str:
    """The comment at the head of a yaml file, as one paragraph that ends with a full stop."""
    lines = path.read_text().splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ") for line in lines[:count])
    return text if text.endswith(".") else text + "."


def read(path: Path) -> dict[str, Any]:
    """A yaml file as it stands, interpolations unresolved."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def default_name() -> str:
    """The algorithm of a run that names none."""
    return next(entry["algo"] for entry in read(CONF / "train.yaml")["defaults"] if "algo" in entry)


def setting_text(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {setting_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        link = re.fullmatch(r"\$\{([\w.]+)\}", value)
        return link[1] if link else repr(value).replace("'", '"') if not value.isidentifier() else value
    return (
        f"{value:g}" if isinstance(value, float) else str(value).lower() if value in (True, False, None) else str(value)
    )

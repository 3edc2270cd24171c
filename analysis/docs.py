"""The generated parts of docs/: what the settings mean, what there is to choose from, the metrics, the algorithms.

    python -m analysis.docs            write them
    python -m analysis.docs --check    only say which are stale; exit code 1 if any is

A page of docs/ holds `<!-- generated: NAME -->` and `<!-- /generated -->`; what stands between them is written from the comments
of conf/*.yaml, from zero/tracking/glossary.py or from docstrings. Edit those. docs/algorithms.md is generated as a whole.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zero.config.overrides import options_of
from zero.errors import ArgumentParser, InputError, one_line_errors
from zero.paths import CONF, ROOT
from zero.tracking.glossary import markdown as glossary

DOCS = ROOT / "docs"
ALGORITHMS = "algorithms.md"
BLOCK = re.compile(r"(<!-- generated: ([\w /.]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
HIDDEN = ("defaults", "hydra", "_target_", "_partial_", "stages")  # what no command line sets
# Files of conf/ whose settings a page lists under one heading: those that a user changes one by one
SETTINGS = {
    "train": ("train",),
    "evaluate": ("evaluate",),
    "pretrain": ("pretrain", "corpus/text", "corpus/questions"),
    "algo": ("algo/_base", "critic/value_model", "critic/monte_carlo"),
    "optimizer": ("optimizer/adamw", "optimizer/scratch"),
    "sampling": ("sampling/default",),
    "rollout": tuple(f"rollout/{name}" for name in ("native", "vllm", "vllm_server", "openai", "gold")),
    "environment": ("environment/_base",),
    "learner": tuple(f"learner/{name}" for name in ("torch", "lora", "deepspeed", "deepspeed_lora")),
    "questions": ("questions/file", "questions/hub", "questions/code"),
    "curriculum": ("curriculum/band", "curriculum/pools", "curriculum/levels"),
    "template": ("template/chat",),
    "model": ("model/hf", "model/recipe/1b"),
    "tracker": ("tracker/mlflow", "lens/every10"),
    "launcher": ("hydra/launcher/local", "hydra/launcher/slurm"),
    "reflection": ("reflection",),
}


@dataclass(frozen=True)
class Setting:
    """One line of a yaml file: a dotted key, its value as it is written, and the comment that explains it."""

    key: str
    value: str
    meaning: str


def settings_of(path: Path) -> list[Setting]:
    """The settings of a file of conf/, in its order, without Hydra's own."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    return list(_settings(root, "", text.splitlines())) if isinstance(root, yaml.MappingNode) else []


def _settings(node: yaml.MappingNode, prefix: str, lines: Sequence[str]) -> Iterator[Setting]:
    for i, (key, value) in enumerate(node.value):
        if key.value in HIDDEN or key.value.startswith("override "):
            continue
        name, inner, target = f"{prefix}{key.value}", isinstance(value, yaml.MappingNode), _target(value)
        meaning = "" if node.flow_style else _meaning(key, value, lines, above=i > 0)
        if target or not inner:
            yield Setting(f"{name}._target_" if target and inner else name, target or _written(value, lines), meaning)
        elif meaning:
            yield Setting(name, "", meaning)
        if inner:
            yield from _settings(value, f"{name}.", lines)


def _meaning(key: yaml.Node, value: yaml.Node, lines: Sequence[str], above: bool) -> str:
    """The comment behind a setting, and, if wanted, that above it."""
    block = isinstance(value, yaml.MappingNode) and not value.flow_style
    line, column = (
        (key.end_mark.line, key.end_mark.column + 1) if block else (value.end_mark.line, value.end_mark.column)
    )
    behind = re.match(r"[^#]*?(?:^|\s)#\s*(.*)$", lines[line][column:]) if line < len(lines) else None
    first = number = key.start_mark.line
    while above and first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    texts = ([behind[1].strip()] if behind else []) + [" ".join(line.lstrip("# ") for line in lines[first:number])]
    return ". ".join(text.removesuffix(".") for text in texts if text)


def _target(node: yaml.Node) -> str:
    """The function or class that a mapping stands for; "" if it is none."""
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in entries if key.value == "_target_"), "")


def _written(node: yaml.Node, lines: Sequence[str]) -> str:
    """A value as it stands in the file, on one line."""
    begin, end = node.start_mark, node.end_mark
    text = "\n".join(lines[begin.line : end.line + 1])
    text = text[begin.column : len(text) - (len(lines[end.line]) - end.column if end.line < len(lines) else 0)]
    return " ".join(text.split())


def head(path: Path) -> list[str]:
    """The lines of the comment at the head of a yaml file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ").rstrip() for line in lines[:count] if "@package" not in line]


def first_sentence(lines: Sequence[str]) -> str:
    """Up to the first full stop that ends a sentence; lines that are set in are examples."""
    words = " ".join(line for line in lines if not line.startswith(" "))
    return re.split(r"(?<!\bDr)\. (?=[A-Z])", words, maxsplit=1)[0].rstrip(".")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


def settings(name: str) -> str:
    """The tables of the files of one heading."""
    out = []
    for file in SETTINGS[name]:
        path = CONF / f"{file}.yaml"
        rows = [(f"`{_full(file, s.key)}`", f"`{s.value}`" if s.value else "", s.meaning) for s in settings_of(path)]
        source = f"[conf/{file}.yaml](../conf/{file}.yaml)"
        out += [
            f"{source}: {first_sentence(head(path))}.".replace(": .", ""),
            table(("setting", "default", "meaning"), rows),
        ]
    return "\n\n".join(out)


def _full(file: str, key: str) -> str:
    """The setting as it is typed on a command line."""
    group = file.rpartition("/")[0] if "/" in file else ""
    group = "algo.critic" if group == "critic" else group.replace("/", ".")
    return f"{group}.{key}" if group else key


def options(group: str) -> str:
    """What there is to choose from in a group: each option with the first sentence of its file."""
    files = [CONF / group / f"{option}.yaml" for option in options_of(group)]
    rows = [(f"[`{path.stem}`](../conf/{group}/{path.name})", first_sentence(head(path))) for path in files]
    return table((f"`{group.rpartition('/')[2]}=`", "what it is"), rows)


def models(_: str) -> str:
    """Every option of conf/model with what it loads."""
    rows = []
    for path in (CONF / "model" / f"{option}.yaml" for option in options_of("model")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = next((entry["recipe"] for entry in content["defaults"] if "recipe" in entry), "")
        what, *takes = head(path)
        link = f"[`{path.stem}`](../conf/model/{path.name})"
        rows.append((link, f"`{content['path']}`", f"`{recipe}`", what, " ".join(" ".join(takes).split())))
    return table(("`model=`", "loads", "recipe", "what it is", "what it takes"), rows)


def recipes(_: str) -> str:
    """The settings that come with a model, side by side by size."""
    files = [path for path in (CONF / "model" / "recipe").glob("*.yaml") if path.stem != "by_size"]
    loaded = {path.stem: settings_of(path) for path in files}
    names = sorted(loaded, key=lambda name: float(next(s.value for s in loaded[name] if s.key == "upto")))
    keys = {s.key: s.meaning for s in loaded[names[0]] if s.key not in ("name", "defaults")}
    cell = {name: {s.key: s.value for s in loaded[name]} for name in names}
    rows = [(f"`{key}`", meaning, *(cell[name].get(key, "") for name in names)) for key, meaning in keys.items()]
    return table(("", "what it sets", *(f"`{name}`" for name in names)), rows)


def experiments(_: str) -> str:
    """Every experiment with what it claims and costs."""
    rows = []
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        cost = re.search(r"Cost:\s+(.*?)(?= Expected:|$)", " ".join(" ".join(head(path)).split()))
        link = f"[`{path.stem}`](../conf/experiment/{path.name})"
        rows.append((link, content["title"], str(len(content.get("claims") or ())), cost[1] if cost else ""))
    return table(("`experiment=`", "in a sentence", "claims", "cost"), rows)


def gym(_: str) -> str:
    """The sets of reasoning-gym, from the numbers that make check-gym keeps beside the page."""
    path = DOCS / "gym.json"
    sets = json.loads(path.read_text(encoding="utf-8"))["sets"].values() if path.exists() else ()
    rows = [
        (
            f"`{each['set']}`",
            each["category"],
            str(each["question"]),
            str(each["answer"]),
            f"{each['row_ms']:g}",
            f"{each['honest']}/{each['answered']}" if each["answered"] else "none given",
            _held(each),
        )
        for each in sets
    ]
    return table(("set", "kind", "question", "answer", "ms a row", "own answers right", "hostile answers"), rows)


def _held(each: Mapping[str, Any]) -> str:
    """Whether a scorer held, and the outcomes that are not simply wrong answers."""
    outcomes = [
        f"{count} {name}" for name, count in each["hostile"].items() if name in ("failed", "timeout", "unparsed")
    ]
    return ", ".join(["NOT HELD" if each["executed"] or each["accepted"] else "held", *outcomes])


BLOCKS: Mapping[str, Callable[[str], str]] = {
    "settings": settings,
    "options": options,
    "models": models,
    "recipes": recipes,
    "experiments": experiments,
    "gym": gym,
    "metrics": lambda _: glossary(),
}


def fill_blocks(text: str) -> str:
    """The text of a page with its generated parts as they should be. KeyError for a name that is none."""

    def one(match: re.Match[str]) -> str:
        kind, _, name = match[2].partition(" ")
        return f"{match[1]}\n{BLOCKS[kind](name)}\n\n{match[3]}"

    return BLOCK.sub(one, text)


def algorithms() -> str:
    """The page of algorithms, from the numbers that are kept beside it."""
    from analysis import algorithms as page
    from analysis.algorithm_cards import cards
    from analysis.algorithm_page import markdown

    numbers = json.loads((DOCS / "algorithms.json").read_text(encoding="utf-8"))
    return markdown(cards(page.algorithms()), numbers, page.OWN)


def pages() -> dict[Path, str]:
    """Every page with generated parts as it should be."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    return {path: fill_blocks(text) for path, text in texts.items() if BLOCK.search(text)}


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if something is stale and was only to be checked."""
    parser = ArgumentParser("python -m analysis.docs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say which pages are stale")
    options_given = parser.parse_args(arguments)
    if not DOCS.is_dir():
        raise InputError(
            "docs", DOCS, "no such folder; the documentation is a part of the repository, not of the package"
        )
    wanted = pages() | {DOCS / ALGORITHMS: algorithms()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not options_given.check:
            path.write_text(wanted[path], encoding="utf-8")
        print(f"{'stale' if options_given.check else 'written'}: {path.relative_to(ROOT)}")
    return int(bool(stale) and options_given.check)


if __name__ == "__main__":
    sys.exit(main())

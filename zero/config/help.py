"""The text of `--help`: that of conf/NAME.yaml with the options and settings of the command filled in, each setting with the
comment from its file. Hydra's own listing would take three times as long as all else: it copies its state for each group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from zero.config.compose import composing, explained, groups_of, refuse_no_options
from zero.config.overrides import tidied
from zero.paths import CONF, conf_file

COLUMN = 44  # of comments, or right after a longer line
_LINE = re.compile(r"( *)(?:([A-Za-z_][\w.]*):|- )(?=\s|$)(.*)")
_COMMENT = re.compile(r"""^((?:[^'"#]|'[^']*'|"(?:[^"\\]|\\.)*")*?)\s+#\s*(.*)$""")


def help_text(name: str, overrides: Sequence[str]) -> str:
    """The whole help text of a command. InputError for wrong overrides."""
    typed = tidied(overrides, several=False)
    refuse_no_options(name, typed)
    try:
        with composing():
            config = compose(name, overrides=typed, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(name, typed, error) from error
    listed = "".join(f"{group}: {', '.join(options)}\n" for group, options in groups_of(name).items())
    template, choices = config.hydra.help.template, dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    settings = with_comments(OmegaConf.to_yaml(config), comments_of(name, choices))
    return Template(template).substitute(APP_CONFIG_GROUPS=listed, CONFIG=settings)


def comments_of(name: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """The comment of each setting, by its dotted key, from conf/NAME.yaml and the files of the chosen options."""
    comments = dict(_comments(CONF / f"{name}.yaml", ""))
    for group, option in choices.items():
        folder, _, package = str(group).partition("@")
        path = conf_file(f"{folder}/{option}.yaml")
        if path.is_file() and not folder.startswith("hydra"):
            where = "" if "@package _global_" in path.read_text(encoding="utf-8") else f"{package or folder}."
            for key, text in _with_bases(path, folder, where):
                comments.setdefault(key, text)
    return comments


def with_comments(yaml: str, comments: Mapping[str, str]) -> str:
    """The text of a config with the comment of each setting at the end of its line."""
    lines = []
    for key, line in _keyed(yaml.splitlines()):
        text = comments.get(key, "")
        lines.append(f"{line:<{COLUMN}} # {text}" if text else line)
    return "\n".join(lines) + "\n"


def _with_bases(path: Path, folder: str, where: str) -> Iterator[tuple[str, str]]:
    """The comments of an option's file, then those of its base files."""
    yield from _comments(path, where)
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("defaults: [", "  - ")):
            continue
        for base in re.findall(r"(?:\[|, |  - )(\w+)(?=,|\]|\s*$)", line):
            if base != "_self_":
                yield from _comments(conf_file(f"{folder}/{base}.yaml"), where)


def _comments(path: Path, where: str) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for key, line in _keyed(path.read_text(encoding="utf-8").splitlines()):
            if key and (match := _COMMENT.match(line)):
                yield where + key, match[2].strip()


def _keyed(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line of a block of YAML with the dotted key that it sets, or ""."""
    above: list[tuple[int, str]] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2] is None:
            yield "", line
            continue
        depth = len(match[1])
        above = [entry for entry in above if entry[0] < depth] + [(depth, match[2])]
        yield ".".join(word for _, word in above), line

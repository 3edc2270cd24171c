"""A user's own yaml files: --config-dir DIR, or hydra.searchpath=[file://DIR], a folder that is laid out like conf/.

DIR/algo/mine.yaml is the option algo=mine. The folders stand in zero.paths.OWN; Hydra is told of them by a plugin, so that
every composition of this process has them. A sweep freezes their files beside those of conf/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from zero.config import compose
from zero.config.overrides import key_of, option_groups, options_of, parsed
from zero.errors import InputError
from zero.paths import CONF, USER_CONF, user_files

FLAGS, KEY = ("--config-dir", "-cd"), "hydra.searchpath"
SCHEME = "file://"


class OwnFolders(SearchPathPlugin):
    """Lets Hydra find the files of zero.paths.OWN."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in USER_CONF:
            search_path.append("own", f"{SCHEME}{folder}")


def take(words: Sequence[str]) -> list[str]:
    """A command line without the words that name folders of yaml files; these count from now on. InputError for a folder
    that cannot be one."""
    remaining, folders, words = list[str](), list[tuple[str, str]](), list(words)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if flag in FLAGS:
            if not equals and not words:
                raise InputError(flag, "", "names no folder")
            folders.append((FLAGS[0], value if equals else words.pop(0)))
        elif key_of(word) == KEY and equals:
            folders += [(KEY, entry) for entry in _entries(word)]
        else:
            remaining.append(word)
    if folders:
        use([_folder(key, typed) for key, typed in folders])
    return remaining


def use(folders: Sequence[Path]) -> None:
    """Let these folders count beside conf/, and none else. InputError if one holds no option, or one that there is already."""
    USER_CONF.clear()
    _forget()
    taken = set[str]()
    for folder in folders:
        files = user_files(folder)
        if not files:
            remedy = f"holds no option; lay it out like conf/: {folder / 'algo' / 'NAME.yaml'} is the option algo=NAME"
            raise InputError(FLAGS[0], folder, remedy)
        for name in files:
            if (CONF / name).exists() or name in taken:
                raise InputError(FLAGS[0], folder, f"holds {name}, and there is one of that name; give yours another")
        taken |= set(files)
    USER_CONF.extend(folders)
    Plugins.instance().register(OwnFolders)
    _forget()


def _forget() -> None:
    for cached in (option_groups, options_of, compose._composed, compose.groups_of):
        cached.cache_clear()


def _entries(word: str) -> list[str]:
    """The folders of hydra.searchpath=[file://DIR,...]."""
    value: Any = parsed(word).value()
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not str(entry).startswith(SCHEME):
            raise InputError(KEY, entry, f"must be [{SCHEME}FOLDER]")
    return [str(entry).removeprefix(SCHEME) for entry in entries]


def _folder(key: str, typed: str) -> Path:
    folder = Path(typed).expanduser().absolute()
    if not folder.is_dir():
        raise InputError(key, typed, "no such folder")
    return folder

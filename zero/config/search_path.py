"""A user's own yaml files: --config-dir DIR, or hydra.searchpath=[file://DIR], a folder laid out like conf/.

DIR/algo/mine.yaml is the option algo=mine. The folders are in zero.paths.USER_CONF; a Hydra plugin adds them to every
composition of this process. A sweep freezes their files with those of conf/.
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
    """Adds the folders in zero.paths.USER_CONF to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in USER_CONF:
            search_path.append("own", f"{SCHEME}{folder}")


def take(words: Sequence[str]) -> list[str]:
    """The command line without the words that name folders of yaml files, which are then in use. InputError for an invalid
    folder."""
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
    """Use these folders besides conf/, and no others. InputError if one holds no option, or one that exists already."""
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

"""Where the project's own files lie: in a checkout `conf/` stands beside the packages, in an installed copy inside `zero`."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

PROJECT = "r1-zero-suite"
ROOT = Path(__file__).resolve().parent.parent  # absolute: a relative path depends on how the program was started
CONF = next((place for place in (ROOT / "conf", ROOT / "zero" / "conf") if place.is_dir()), ROOT / "conf")
USER_CONF: list[Path] = []  # a user's own folders of yaml files, laid out like conf/: zero/config/search_path.py


def cache_folder() -> Path:
    """Where this user's programs keep what is quicker to read than to make anew. RuntimeError for an account without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PROJECT


def conf_file(name: str) -> Path:
    """The path of a file of conf/ or of the user's own folders; its path in conf/ if it does not exist."""
    return next((folder / name for folder in (CONF, *USER_CONF) if (folder / name).is_file()), CONF / name)


def user_files(folder: Path) -> list[str]:
    """The yaml files of a user's own folder that are options of one of conf's groups, relative to the folder."""
    groups = [place.name for place in CONF.iterdir() if place.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for group in groups for path in (folder / group).rglob("*.yaml"))


def pip_install(extra: str) -> str:
    """The command that installs an extra: in a checkout by its name; an installed copy lists the packages that it needs."""
    if not (ROOT / "pyproject.toml").is_file():
        requirements = [re.split(r"\s*;", text) for text in metadata.requires(PROJECT) or ()] if _installed() else []
        if packages := [
            name for name, *marker in requirements if marker and f'"{extra}"' in marker[0].replace("'", '"')
        ]:
            return "pip install " + " ".join(f"'{name}'" for name in packages)
    return f"pip install -e '.[{extra}]'"


def version() -> str:
    """The version of the checkout, else that of the installed package."""
    file = ROOT / "pyproject.toml"
    if file.is_file() and (line := re.search(r'^version = "(.+)"$', file.read_text(), re.MULTILINE)):
        return line[1]
    return metadata.version(PROJECT) if _installed() else "unknown"


def _installed() -> bool:
    try:
        metadata.distribution(PROJECT)
    except metadata.PackageNotFoundError:
        return False
    return True

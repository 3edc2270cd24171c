"""The code of a sweep: a copy made when it is submitted. Every attempt runs that copy, whatever is edited afterwards."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from launch.sweep.files import CODE
from zero.errors import InputError
from zero.files import read_json, write_json
from zero.paths import ROOT
from zero.tracking.provenance import FROZEN, digest, git_commit, sources


def freeze(folder: Path, root: Path = ROOT, replace: bool = False) -> dict[str, Any]:
    """Copy the code into folder/code, unless there is a copy already. Returns {commit, digest, time} of the copy. `replace`:
    put the present code in its place. The copy appears whole or not at all."""
    target = folder / CODE
    if (target / FROZEN).exists() and not replace:
        return read_json(target / FROZEN)
    partial = folder / f".code.{uuid.uuid4().hex[:6]}"
    try:
        for name, path in sources(root):
            copy = partial / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        record = {"commit": git_commit(), "digest": digest(partial), "time": time.time()}
        write_json(partial / FROZEN, record)
        if target.exists():
            target.rename(folder / f".code.old.{uuid.uuid4().hex[:6]}")
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        problem = f"the code cannot be copied there ({error.strerror})"
        raise InputError("hydra.launcher.folder", folder, problem) from error
    for old in folder.glob(".code.old.*"):
        shutil.rmtree(old, ignore_errors=True)
    return record


def refuse_pathsep(folder: Path) -> None:
    """InputError for a folder whose path cannot stand in PYTHONPATH, so that cells could not import its copy of the code."""
    if os.pathsep in str(folder):
        remedy = f"holds a {os.pathsep!r}, and PYTHONPATH cannot name its code; choose another folder"
        raise InputError("hydra.launcher.folder", folder, remedy)

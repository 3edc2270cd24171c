"""The code of a sweep: a copy taken at its submission, which every attempt runs, whatever is edited afterwards."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from launch.sweep.files import CODE, write_json
from zero.errors import InputError
from zero.paths import ROOT
from zero.tracking.provenance import FROZEN as RECORD
from zero.tracking.provenance import digest as digest_of
from zero.tracking.provenance import git_commit, sources


def freeze(folder: Path, root: Path = ROOT, replace: bool = False) -> dict[str, Any]:
    """Copy the code into folder/code, unless it is there. Returns {commit, digest, time} of the copy that is there.

    `replace`: take the present code although another is there. The copy appears whole or not at all.
    """
    from launch.sweep.files import read_json

    target = folder / CODE
    if (target / RECORD).exists() and not replace:
        return read_json(target / RECORD)
    partial = folder / f".code.{uuid.uuid4().hex[:6]}"
    try:
        for path in sources(root):
            place = partial / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        record = {"commit": git_commit(), "digest": digest(partial), "time": time.time()}
        write_json(partial / RECORD, record)
        if target.exists():
            target.rename(folder / f".code.old.{uuid.uuid4().hex[:6]}")
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            "hydra.launcher.folder", folder, f"the code cannot be copied there ({error.strerror})"
        ) from error
    for old in folder.glob(".code.old.*"):
        shutil.rmtree(old, ignore_errors=True)
    return record


def refuse_cut(folder: Path) -> None:
    """InputError if cells could not run the copy of the code that lies in the folder."""
    if os.pathsep in str(folder):
        remedy = f"holds a {os.pathsep!r}, and PYTHONPATH cannot name its code; choose another folder"
        raise InputError("hydra.launcher.folder", folder, remedy)


def digest(root: Path = ROOT) -> str:
    """That of the code as it is now: zero/tracking/provenance.py."""
    return digest_of(root)

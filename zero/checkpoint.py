"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before they are trusted.

checkpoints/step_000050/        whatever the learner saved
             manifest.json      step, and the SHA-256 of every file
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zero.distributed import World
from zero.errors import InputError
from zero.files import step_folders

MANIFEST = "manifest.json"


def save(folder: Path, step: int, write: Callable[[Path], None], keep: int, world: World = World()) -> Path:  # noqa: B008
    """Let `write` fill a new folder, rename it atomically to step_NNNNNN, then delete all but the `keep` newest checkpoints.

    A full disk is an InputError, other errors propagate; either way the older checkpoints stay. Every rank calls this and
    has its `write` called with the same folder; rank 0 does the rest.
    """
    final, partial = folder / f"step_{step:06d}", folder / f".partial_{step:06d}"
    try:
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        world.barrier()
        write(partial)
        world.barrier()
        if not world.is_main:
            return final
        files = {p.name: _digest(p) for p in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "sha256": files}, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if disk_is_full(error):
            raise no_space(folder.parent, f"the checkpoint of step {step}") from error
        raise
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(folder)
    for old in list(step_folders(folder).values())[:-keep]:
        shutil.rmtree(old)
    return final


def newest(folder: Path, warn: Callable[[str], None]) -> tuple[int, Path] | None:
    """Step and path of the newest checkpoint whose files all match their hashes; `warn` gets a line for each damaged one.
    None if there is no checkpoint; InputError if all are damaged."""
    damaged: list[str] = []
    for path in reversed(step_folders(folder).values()):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            for name, digest in manifest["sha256"].items():
                if _digest(path / name) != digest:
                    raise ValueError(f"{name} has changed")
            return manifest["step"], path
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(path.name)
            warn(f"checkpoint {path} is damaged ({error}); trying the one before")
    if damaged:
        remedy = f"no checkpoint is left that can be read ({', '.join(reversed(damaged))} are damaged); restore one, or remove "
        raise InputError("run_dir", folder.parent, f"{remedy}{folder} to start over from step 0")
    return None


def newest_of_rank_0(folder: Path, warn: Callable[[str], None], world: World) -> tuple[int, Path] | None:
    """`newest` for all ranks; only rank 0 reads and hashes the files.

    InputError, on every rank, if all checkpoints are damaged, or if another rank does not see the one that rank 0 chose:
    the ranks would resume from different steps.
    """
    result: tuple[int, str] | tuple[str, Any, str] | None = None
    if world.is_main:
        try:
            sound = newest(folder, warn)
            result = (sound[0], sound[1].name) if sound else None
        except InputError as error:
            result = (error.key, error.value, error.remedy)
    chosen: Any = world.all_gather([result])[0]
    if chosen is None:
        return None
    if len(chosen) == 3:
        raise InputError(*chosen)
    step, path = chosen[0], folder / chosen[1]
    manifest = path / MANIFEST
    digests = world.all_gather([_digest(manifest) if manifest.is_file() else None])
    mismatched = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    if mismatched:
        remedy = (
            f"rank {', '.join(mismatched)} does not see the checkpoint of step {step} that rank 0 found; "
            "choose a folder that all nodes share"
        )
        raise InputError("run_dir", folder.parent, remedy)
    return step, path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_space(run_dir: Path, what: str) -> InputError:
    """The error for a full disk."""
    return InputError(
        "run_dir",
        run_dir,
        f"no space left for {what}; free some and run the same command again: it continues from the last checkpoint, "
        "which is intact",
    )


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that there is no space left. Libraries wrap it: safetensors gives only a message."""
    full = (errno.ENOSPC, errno.EDQUOT)
    words = str(error).lower()
    return (isinstance(error, OSError) and error.errno in full) or "no space left" in words or "disk quota" in words

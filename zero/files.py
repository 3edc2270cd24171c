"""Atomic writes, appends of whole lines, and bounded reads: the only place that replaces files or knows torn lines.

Only regular files are read, up to a size limit: a name in a run folder may be a pipe, which blocks, a device that never
ends, or a file of terabytes. Each of them raises OSError here.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 1 << 30  # bytes of a file that is read whole: a journal of a million steps has less
LARGEST_RECORD = 1 << 26  # bytes of a JSON or yaml file
LONGEST = 1 << 26  # bytes of one line


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; at the end of the block it atomically becomes `path`.

    Readers see the old file or the new one, also after a kill; an error leaves the old one. The name is unique to this
    process: several may replace one file. `sync`: fsync before the rename.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:6]}.partial")
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(path)  # the name that the user knows
        raise


def write_atomically(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Replace a file (text as UTF-8) as `replacing` does. OSError propagates."""
    with replacing(path, sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, record: Mapping[str, Any], sync: bool = True) -> None:
    """Write one JSON object atomically."""
    write_atomically(path, json.dumps(record, indent=1, default=str) + "\n", sync)


def append_whole(path: Path, lines: bytes) -> None:
    """Append whole lines, on disk when this returns. A last line torn by a kill is ended first, so that it stays apart.
    OSError, also for a partial write (full disk), leaves the file as it was."""
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        torn = False
        if end:
            file.seek(end - 1)
            torn = file.read(1) != b"\n"
        data = b"\n" + lines if torn else lines
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON object as a line, as `append_whole` does."""
    append_whole(path, json.dumps(record, default=str).encode() + b"\n")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file (or a link to one) for reading. OSError for anything else, without blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe without a writer would block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file. OSError for anything else, and for one of more than `largest` bytes."""
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"is larger than {largest >> 20} MiB", str(path))
    return content


def read_lines(path: Path, longest: int = LONGEST) -> Iterator[bytes]:
    """The lines of a regular file, one at a time. Stops after the first `longest` bytes of a line longer than that."""
    with open_regular(path) as file:
        while line := file.readline(longest):
            yield line
            if len(line) == longest and not line.endswith(b"\n"):
                return


def json_object(text: bytes | str) -> dict[str, Any] | None:
    """The JSON object in `text`; None if it is torn, damaged or no object."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_json(path: Path, largest: int = LARGEST_RECORD) -> dict[str, Any]:
    """The object in a JSON file; {} if the file is missing, unreadable or holds no object."""
    try:
        return json_object(read_regular(path, largest)) or {}
    except OSError:
        return {}


def json_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Every line of a JSON Lines file, with its object; None for a torn or damaged line."""
    for line in content.splitlines(keepends=True):
        yield line, json_object(line)


def read_json_lines(path: Path, largest: int = LARGEST) -> list[dict[str, Any]]:
    """The objects in a JSON Lines file, without torn and damaged lines; [] if the file cannot be read."""
    try:
        content = read_regular(path, largest)
    except OSError:
        return []
    return [record for _, record in json_lines(content) if record is not None]


def step_folders(folder: Path) -> dict[int, Path]:
    """The folders step_N in `folder` by N, ascending as numbers; everything else is ignored."""
    names = {path: path.name.removeprefix("step_") for path in folder.glob("step_*") if path.is_dir()}
    return dict(sorted((int(digits), path) for path, digits in names.items() if digits.isdecimal()))

"""Reading files that others wrote: ordinary files only, and never more than fits in memory. Writing files whole or not at all.

A name in a run folder may be a pipe, which would be waited for, a device that never ends, or a file of terabytes; each of them
is an OSError here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST = 1 << 30  # bytes of a file that is read whole: a journal of a million steps has less
LONGEST = 1 << 26  # bytes of one line


def open_regular(path: Path) -> BinaryIO:
    """An ordinary file (or a link to one) for reading. OSError for anything else, at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer opens at once, too
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, largest: int = LARGEST) -> bytes:
    """The content of an ordinary file. OSError for anything else, and for one of more than `largest` bytes."""
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"is larger than {largest >> 20} MiB", str(path))
    return content


def lines_of(path: Path, longest: int = LONGEST) -> Iterator[bytes]:
    """The lines of an ordinary file, one at a time; of one that is longer than `longest` the beginning, and nothing
    of what follows it."""
    with open_regular(path) as file:
        while line := file.readline(longest):
            yield line
            if len(line) == longest and not line.endswith(b"\n"):
                return


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside `path`, then rename it: a reader sees the old content or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)

"""One process at a time, on any file system: flock where it works, else a file that only one process can make.

Lustre mounted without flock says ENOSYS, NFS without its lock daemon ENOLCK: that nobody can lock there is not that
somebody has locked it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
POLL = 0.2  # seconds between two tries of whoever waits


class Held(Exception):
    """Another process has the lock; its text says which, as far as it is known."""


@contextmanager
def lock(path: Path, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs; a kill releases it. Another one holds it: Held, or with `waits`, which is told by
    whom, wait for it. OSError if the file cannot be made."""
    with path.open("a+") as file:
        take(file.fileno(), path, waits)
        try:
            note_owner(path)
            yield
        finally:
            guard(path).unlink(missing_ok=True)


def take(handle: int, path: Path, waits: Callable[[str], None] | None) -> None:
    """Return once the lock is ours, or raise Held."""
    announced = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = path.read_text(errors="replace").strip() or "another process"
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            owner = make_guard(path)
            if not owner:
                return
        if waits is None:
            raise Held(owner)
        if not announced:
            waits(owner)
            announced = True
        time.sleep(POLL)


def guard(path: Path) -> Path:
    """The file that stands for the lock where there is no flock."""
    return path.with_name(path.name + ".owner")


def make_guard(path: Path) -> str:
    """Make the file if there is none; "" once it is ours, else whose it is. One left by a process of this machine that is
    gone is taken away; of other machines nobody here can know."""
    place = guard(path)
    try:
        handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        owner = place.read_text(errors="replace").strip()
        host, _, pid = owner.partition(" ")
        if host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            place.unlink(missing_ok=True)
            return make_guard(path)
        return f"process {pid or '?'} on {host or 'another machine'} (if it is gone: rm {place})"
    os.write(handle, f"{socket.gethostname()} {os.getpid()}\n".encode())
    os.close(handle)
    return ""


def note_owner(path: Path) -> None:
    """For whoever waits: who holds it. Not worth failing for."""
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")

"""One process at a time, on any file system: flock where it works, else a file that only one process can create.

Lustre mounted without flock answers ENOSYS, NFS without its lock daemon ENOLCK: that does not mean that the lock is held. Not
zero/lock.py: that one holds a whole run folder, fails instead of waiting, and lets a newer copy of a cell take over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zero.lock import NO_LOCKS

POLL = 0.2  # seconds between two tries


class Held(Exception):
    """Another process has the lock. The text says which, as far as that is known."""


@contextmanager
def lock(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs; a kill releases it. If another process holds it: Held, or with `on_wait`, which is
    called once with a description of that process, wait. OSError if the file cannot be created."""
    with path.open("a+") as file:
        acquire(file.fileno(), path, on_wait)
        try:
            write_owner(path)
            yield
        finally:
            guard_file(path).unlink(missing_ok=True)


def acquire(handle: int, path: Path, on_wait: Callable[[str], None] | None) -> None:
    """Return once this process has the lock, or raise Held."""
    announced = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = path.read_text(errors="replace").strip() or "another process"
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            owner = make_guard(path)
            if not owner:
                return
        if on_wait is None:
            raise Held(owner)
        if not announced:
            on_wait(owner)
            announced = True
        time.sleep(POLL)


def guard_file(path: Path) -> Path:
    """The file that is the lock where there is no flock."""
    return path.with_name(path.name + ".owner")


def make_guard(path: Path) -> str:
    """Create the file, and return "", or the owner of the file that is there. A file of a dead process of this machine is
    removed; whether a process of another machine lives cannot be known here."""
    file = guard_file(path)
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        owner = file.read_text(errors="replace").strip()
        host, _, pid = owner.partition(" ")
        if host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)
            return make_guard(path)
        return f"process {pid or '?'} on {host or 'another machine'} (if it is gone: rm {file})"
    os.write(handle, f"{socket.gethostname()} {os.getpid()}\n".encode())
    os.close(handle)
    return ""


def write_owner(path: Path) -> None:
    """Say who holds the lock, for those who wait; a failure does no harm."""
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")

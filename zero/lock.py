"""One process at a time in a folder: a file that is locked as long as its owner lives, and says who that is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zero.errors import InputError

FILE = ".lock"
NO_LOCKS = (
    errno.ENOSYS,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOTSUP,
)  # what file systems without them say


@contextmanager
def owned(folder: Path, key: str = "run_dir") -> Iterator[None]:
    """Own an existing folder inside. InputError on `key` that names the owner if another process has it.

    Of the ranks of a run the first one owns it for all. The lock ends with its process, however that ends. A file system
    without locks is trusted as far as the file goes: an owner of this machine that is dead owns nothing. A folder in which
    nothing was kept goes with its lock.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = _locked(folder / FILE, folder, key)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [FILE] and _is(handle, folder / FILE):
                (folder / FILE).unlink()
                folder.rmdir()
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.close(handle)


def _locked(path: Path, folder: Path, key: str) -> int:
    """The open file, locked, with our name in it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)  # it may just have gone with the last owner's lock
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        owner = _read(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for _ in range(20):  # it may be about to write its name
                if owner := _read(handle):
                    break
                time.sleep(0.05)
            os.close(handle)
            if not _takes_over(owner):
                raise InputError(key, folder, _in_use(owner, key)) from None
            with suppress(FileNotFoundError):  # whatever still holds it, a child of the dead or a copy that gives way
                path.unlink()
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
            if _runs_here(owner) and not _takes_over(owner):
                os.close(handle)
                raise InputError(key, folder, _in_use(owner, key)) from None
            print(f"note: {folder}: its file system has no locks ({error.strerror}); start one process in it at a time",
                  file=sys.stderr)  # fmt: skip
        if _is(handle, path):
            break
        os.close(handle)  # another one has taken it over in between
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(_ourselves()).encode(), 0)
    return handle


def _ourselves() -> dict[str, Any]:
    pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "pid": pid,
        "host": _host(),
        "since": since,
        "began": _began(pid),
        "lease": os.environ.get("ZERO_LEASE", ""),
    }


def _host() -> str:
    """This machine; a container's process numbers are its own, and so is its name here."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{os.uname().nodename} {space}".strip()


def _began(pid: int) -> str:
    """When a process began, in the kernel's clock: its number may be another's by now. "" where that cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _takes_over(owner: dict[str, Any]) -> bool:
    """Whether its owner is dead, or is another copy of our cell of a sweep, which gives way to the one with the lease."""
    ours, theirs = (str(one.get("lease", "")).rpartition(":")[0] for one in (_ourselves(), owner))
    dead = owner.get("host") == _host() and not _runs_here(owner)
    return dead or bool(ours and ours == theirs)


def _runs_here(owner: dict[str, Any]) -> bool:
    """Whether it is a process of this machine that lives, and not this one."""
    pid = owner.get("pid")
    if owner.get("host") != _host() or not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return owner.get("began") == _began(pid)


def _in_use(owner: dict[str, Any], key: str) -> str:
    who = "another process"
    if owner:
        who = f"process {owner.get('pid')} on {str(owner.get('host')).split()[0]} since {owner.get('since')}"
    return f"is in use by {who}; wait for its end, stop it, or choose another {key}"


def _read(handle: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(handle, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

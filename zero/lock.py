"""One process at a time: a lock file that names its owner and is locked as long as the owner lives.

`owned` is for the folder of a run: it fails at once, and lets a newer copy of a sweep's cell take over. `lock` is for what
takes a moment: it can wait. Lustre mounted without flock answers ENOSYS, NFS without its lock daemon ENOLCK: that does not
mean that the lock is held.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.files import json_object

FILE = ".lock"
# Errors of file systems without locks
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP)
POLL = 0.2  # seconds between two tries of a process that waits


class LockTaken(Exception):
    """Another process has the lock. The text says which, as far as that is known."""


@contextmanager
def owned(folder: Path, key: str = "run_dir") -> Iterator[None]:
    """Hold the lock of a folder. InputError on `key` that names the owner if another process has it.

    Rank 0 holds it for all ranks of a run. The lock ends with its process, however that ends. On a file system without
    locks the content of the file decides: a dead owner on this machine does not count. A folder that holds nothing but
    the lock is removed at the end.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = _locked(folder / FILE, folder, key)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [FILE] and _same_file(handle, folder / FILE):
                (folder / FILE).unlink()
                folder.rmdir()
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.close(handle)


def _locked(path: Path, folder: Path, key: str) -> int:
    """Open the file, lock it and write this process's record into it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)  # the last owner may just have removed it with its lock
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        owner = _read(handle)
        try:
            has_locks = _flock(handle)
        except BlockingIOError:
            for _ in range(20):  # the owner may be about to write its record
                if owner := _read(handle):
                    break
                time.sleep(0.05)
            os.close(handle)
            if not _takes_over(owner):
                raise InputError(key, folder, _in_use(owner, key)) from None
            # Still locked by a child of the dead owner, or by a copy that gives way: start a new file
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        except OSError:
            os.close(handle)
            raise
        if not has_locks:
            if _runs_here(owner) and not _takes_over(owner):
                os.close(handle)
                raise InputError(key, folder, _in_use(owner, key))
            print(f"note: {folder}: its file system has no locks; start one process in it at a time", file=sys.stderr)
        if _same_file(handle, path):
            break
        os.close(handle)  # another process has replaced the file in between
    _sign(handle)
    return handle


@contextmanager
def lock(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs; a kill releases it. If another process holds it: Held, or with `on_wait`, which is
    called once with a description of that process, wait. OSError if the file cannot be created.

    Where there are no locks, a second file that only one process can create stands for it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    guard = path.with_name(path.name + ".owner")
    try:
        _wait_for(handle, guard, on_wait)
        try:
            with suppress(OSError):  # for those who wait; a failure does no harm
                _sign(handle)
            yield
        finally:
            guard.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _wait_for(handle: int, guard: Path, on_wait: Callable[[str], None] | None) -> None:
    """Return once this process has the lock, or raise Held."""
    announced = False
    while True:
        try:
            owner = "" if _flock(handle) else _make_guard(guard)
        except BlockingIOError:
            owner = _who(_read(handle))
        if not owner:
            return
        if on_wait is None:
            raise LockTaken(owner)
        if not announced:
            on_wait(owner)
            announced = True
        time.sleep(POLL)


def _make_guard(guard: Path) -> str:
    """Create the file, and return "", or the owner of the file that is there. A file of a dead process of this machine is
    removed; whether a process of another machine lives cannot be known here."""
    try:
        handle = os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        owner = json_object(guard.read_bytes()) or {}
        if owner.get("pid") != os.getpid() and _dead(owner):
            guard.unlink(missing_ok=True)
            return _make_guard(guard)
        return f"{_who(owner)} (if it is gone: rm {guard})"
    _sign(handle)
    os.close(handle)
    return ""


def _flock(handle: int) -> bool:
    """True: the file is locked; False: its file system has no locks. BlockingIOError: another process has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _sign(handle: int) -> None:
    """Write into an open file who we are."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(_own_record()).encode(), 0)


def _own_record() -> dict[str, Any]:
    pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "pid": pid,
        "host": _host(),
        "since": since,
        "began": _start_time(pid),
        "lease": os.environ.get("ZERO_LEASE", ""),
    }


def _host() -> str:
    """This machine and PID namespace: a container has process ids of its own."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{os.uname().nodename} {namespace}".strip()


def _start_time(pid: int) -> str:
    """When a process started, in kernel ticks, to recognize a reused process id. "" where that is unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _takes_over(owner: dict[str, Any]) -> bool:
    """Whether this process may take the lock: the owner is dead, or is another copy of the same cell of a sweep, which gives
    way to the one with the lease."""
    own_lease, other_lease = (str(record.get("lease", "")).rpartition(":")[0] for record in (_own_record(), owner))
    return _dead(owner) or bool(own_lease and own_lease == other_lease)


def _dead(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine, and is over."""
    return owner.get("host") == _host() and not _runs_here(owner)


def _runs_here(owner: dict[str, Any]) -> bool:
    """Whether the owner is a living process on this machine, other than this one."""
    pid = owner.get("pid")
    if owner.get("host") != _host() or not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return owner.get("began") == _start_time(pid)


def _in_use(owner: dict[str, Any], key: str) -> str:
    since = f" since {owner['since']}" if "since" in owner else ""
    return f"is in use by {_who(owner)}{since}; wait for its end, stop it, or choose another {key}"


def _who(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid')} on {str(owner.get('host')).split()[0]}" if owner else "another process"


def _read(handle: int) -> dict[str, Any]:
    return json_object(os.pread(handle, 4096, 0)) or {}


def _same_file(handle: int, path: Path) -> bool:
    try:
        at_path = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (at_path.st_dev, at_path.st_ino) == (opened.st_dev, opened.st_ino)

"""The kernel's own calls that Python has no name for, through the C library; each raises OSError with what it was about."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct

# The library is called with Python's lock held: a fork in the middle of a released lock would leave the child without it.
_LIBC = ctypes.PyDLL(None, use_errno=True)
_X86 = platform.machine() == "x86_64"

NEW_NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
ALL_NAMESPACES = sum(NEW_NAMESPACES.values())
# Of a single program: it has the fork server's network, in which there is nothing and over which it has no right. One of
# its own costs half a millisecond, and the kernel as much again when it ends
OWN_NAMESPACES = ALL_NAMESPACES & ~NEW_NAMESPACES["net"]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
# Same number everywhere since 2019; the rest differ between architectures.
_MOUNT_SETATTR = 442
_CLONE, _PIVOT_ROOT, _CAPSET, _PROCESS_VM_READV = (56, 155, 126, 310) if _X86 else (220, 41, 91, 270)


def system_call(what: str, number: int, *arguments: object) -> int:
    """Any system call; `what` is what an OSError says of it."""
    return _checked(what, _LIBC.syscall(ctypes.c_long(number), *arguments))


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones."""
    _checked("unshare", _LIBC.unshare(ctypes.c_int(flags)))


def fork_into(namespaces: int) -> int:
    """os.fork, but the child begins in new namespaces: with a new pid namespace it is process 1, and all die with it.

    Of an interpreter of one thread, which therefore holds no lock that somebody else would have to give back: Python's own
    handlers around a fork are about these, and cost a millisecond.
    """
    flags = ctypes.c_ulong(namespaces | signal.SIGCHLD)
    pid: int = _LIBC.syscall(ctypes.c_long(_CLONE), flags, *[ctypes.c_long(0)] * 4)
    return _checked("clone", pid)


def map_user(proc: int, user: tuple[int, int], group: tuple[int, int]) -> None:
    """Say who this process is in the user namespace that it has just made: (inside, outside) of user and group.

    `proc` is a descriptor of a /proc, which need not be mounted where this process is.
    """
    texts = {"setgroups": "deny", "uid_map": f"{user[0]} {user[1]} 1", "gid_map": f"{group[0]} {group[1]} 1"}
    for name, text in texts.items():
        try:
            descriptor = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OSError(error.errno, f"write {name}: {error.strerror}") from error


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    status = _LIBC.mount(*words, ctypes.c_ulong(flags), os.fsencode(options) if options else None)
    _checked(f"mount {kind or 'bind'} {target}", status)


def make_read_only(path: str, flags: int = MS_RDONLY | MS_NOSUID | MS_NODEV) -> None:
    """The mount at `path` and every mount below it: read-only, without set-user-id programs, without devices."""
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)  # the first four MOUNT_ATTR_ bits are those of mount(2)
    where = os.fsencode(path)
    system_call(
        f"mount_setattr {path}",
        _MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        where,
        ctypes.c_int(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def make_root(path: str) -> None:
    """Make the mount at `path` the root of this mount namespace, and let go of everything else."""
    os.chdir(path)
    system_call("pivot_root", _PIVOT_ROOT, b".", b".")  # the old root now lies on top of the new one
    _checked("umount", _LIBC.umount2(b".", ctypes.c_int(MNT_DETACH)))
    os.chdir("/")


def drop_capabilities() -> None:
    """No capability, and none to be had by running a program."""
    no_new_privileges()
    header, nothing = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    system_call("capset", _CAPSET, header, nothing)


def no_new_privileges() -> None:
    """What Landlock and seccomp ask for: no program can be run that has more rights than its caller."""
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """SIGKILL as soon as the process that made this one ends."""
    _prctl("pdeathsig", _PR_SET_PDEATHSIG, signal.SIGKILL)


def readable_by_own_user() -> None:
    """What a change of user took away: /proc/self may be written again, and a parent may read the memory."""
    _prctl("dumpable", _PR_SET_DUMPABLE, 1)


def read_text_at(pid: int, address: int, most: int = 4096) -> bytes:
    """A C string in another process's memory; b"" where it cannot be read."""
    text = b""
    while len(text) < most:
        size = min(256, 4096 - address % 4096)  # never across a page that may not be there
        piece = ctypes.create_string_buffer(size)
        local = struct.pack("PN", ctypes.addressof(piece), size)
        remote = struct.pack("PN", address, size)
        vectors = ctypes.c_ulong(1)
        count = _LIBC.syscall(
            ctypes.c_long(_PROCESS_VM_READV), ctypes.c_int(pid), local, vectors, remote, vectors, ctypes.c_ulong(0)
        )
        if count <= 0:
            return text
        text += piece.raw[:count]
        if b"\0" in text:
            return text.partition(b"\0")[0]
        address += count
    return text


def describe(error: OSError) -> str:
    """'unshare: Operation not permitted', whoever raised it."""
    text = error.strerror or str(error)
    return text if error.filename is None else f"{error.filename}: {text}"


def _prctl(what: str, option: int, value: int) -> None:
    zeros = [ctypes.c_ulong(0)] * 3
    _checked(f"prctl {what}", _LIBC.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *zeros))


def _checked(what: str, status: int) -> int:
    if status == -1:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return status

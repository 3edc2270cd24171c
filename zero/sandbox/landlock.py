"""Landlock: which files a process may touch, decided by the process itself, for good, without any privilege.

It stands behind the mounts of the jail: were a program to find a way out of them, the kernel would still refuse every file
outside of these rules, every mount, every TCP port, and signals and abstract sockets of processes outside.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress

from zero.sandbox.kernel import system_call

# The three calls were added together, with the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# Rights that a kernel knows: the first version had 13; moving between folders, truncation and device ioctls came later.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_TCP_RIGHTS, _SCOPES = 0b11, 0b11  # bind and connect (version 4); abstract sockets and signals (version 6)

READ = _EXECUTE | _READ_FILE | _READ_DIR
USE_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE


def version() -> int:
    """Of this kernel's Landlock; 0 where there is none."""
    with suppress(OSError):
        return system_call("landlock", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))
    return 0


def restrict(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str] = ()) -> None:
    """From now on this process reads and runs files below `readable`, does what it likes below `writable`, reads and
    writes `devices`, and touches nothing else. Paths that do not exist are passed over. Needs no_new_privileges."""
    known = version()
    every = _FILE_RIGHTS[min(known, 5)]
    attributes = struct.pack("QQQ", every, _TCP_RIGHTS if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = system_call("landlock", _CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for paths, rights in ((readable, READ), (writable, every & ~_IOCTL_DEV), (devices, USE_DEVICE)):
            for path in paths:
                _add(ruleset, path, rights & every)
        system_call("landlock_restrict_self", _RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _add(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= ~_READ_DIR
        rule = struct.pack("=Qi", rights, place)
        system_call(
            f"landlock rule {path}",
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            rule,
            ctypes.c_uint(0),
        )
    finally:
        os.close(place)

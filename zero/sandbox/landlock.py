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
from functools import cache

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

Rule = tuple[int, int]  # a descriptor of a file or of a folder, and the rights on it and below it


@cache
def version() -> int:
    """Of this kernel's Landlock; 0 where there is none."""
    with suppress(OSError):
        return system_call("landlock", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))
    return 0


def rules(paths: Iterable[str], rights: int) -> tuple[Rule, ...]:
    """The rights below each path, as `restrict` takes them: opened once, for every process. Paths that do not exist are passed
    over."""
    opened = []
    for path in paths:
        with suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            opened.append((place, rights if os.path.isdir(path) else rights & ~_READ_DIR))
    return tuple(opened)


def restrict(allowed: Iterable[Rule], writable: Iterable[str]) -> None:
    """From now on this process does what the rules allow, what it likes below `writable`, and touches nothing else. Needs
    no_new_privileges."""
    known = version()
    every = _FILE_RIGHTS[min(known, 5)]
    attributes = struct.pack("QQQ", every, _TCP_RIGHTS if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = system_call("landlock", _CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    own = rules(writable, every & ~_IOCTL_DEV)
    try:
        for place, rights in (*allowed, *own):
            rule = struct.pack("=Qi", rights & every, place)
            system_call(
                "landlock rule",
                _ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(_RULE_PATH_BENEATH),
                rule,
                ctypes.c_uint(0),
            )
        system_call("landlock_restrict_self", _RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        for descriptor in (ruleset, *(place for place, _ in own)):
            os.close(descriptor)

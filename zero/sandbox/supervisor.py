"""Attempts: the system calls in which the filter holds a program, read by the fork server, which decides what they were."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from zero.sandbox import kernel, seccomp
from zero.sandbox.rootfs import DEVICES, HOME
from zero.sandbox.syscalls import MEANING

MOST_OPENINGS = 5000  # of files, each of which costs the server some of its time
_AT_FDCWD = 0xFFFFFF9C
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# What libraries look for by themselves, on any machine, to do without it: nobody's attempt
_LOOKED_FOR = (
    os.path.dirname(__file__),  # our own code, whose lines a traceback wants to show
    "/etc/localtime",
    "/etc/ld.so.",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/",
    "/usr/lib/locale/",
    "/usr/share/locale",
    "/usr/share/zoneinfo",
    "/usr/lib/zoneinfo",
    "/usr/share/lib/zoneinfo",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/self/maps",
    "/proc/self/status",
    "/sys/devices/system/",
    "/sys/kernel/mm/",
    "/sys/fs/cgroup",
)


@dataclass
class Supervisor:
    """Of one program: what it may open, and what it has tried.

    readable    folders that it may read
    executions  programs that it may still run: the one that it is to become
    """

    readable: tuple[str, ...]
    executions: int = 0
    attempt: str = ""  # network, files, processes or privileges: the first thing tried
    call: str = ""
    openings: int = field(default=0, repr=False)

    def decide(self, notification: seccomp.Notification) -> bool:
        """Whether the held call may happen. If not, the attempt has been written down, and the program is to end."""
        kind, call = MEANING.get(notification.number, ("privileges", f"call {notification.number}"))
        if call == "execve" and self.executions > 0:
            self.executions -= 1
            return True
        if kind == "files":
            self.openings += 1
            path, writes = _opening(call, notification)
            if self.openings <= MOST_OPENINGS and self._visible(path, writes):
                return True
            call = f"{call} {path}" if self.openings <= MOST_OPENINGS else f"{MOST_OPENINGS} times {call}"
        if call == "clone" and notification.arguments[0] & kernel.ALL_NAMESPACES:
            kind = "privileges"
        self.attempt, self.call = kind, call[:300]
        return False

    def _visible(self, path: str, writes: bool) -> bool:
        """Whether somebody who means no harm would open this path. A relative one begins in HOME."""
        place = os.path.normpath(os.path.join(HOME, path))
        if place == HOME or place.startswith(HOME + "/") or place in DEVICES:
            return True
        if writes:
            return False
        return any(place == p or place.startswith(p + "/") for p in self.readable) or place.startswith(_LOOKED_FOR)


def _opening(call: str, notification: seccomp.Notification) -> tuple[str, bool]:
    """(path, whether it is opened for writing). Below a folder that is open already, the path counts as harmless: what
    the kernel lets it open is decided by the mounts and by Landlock, not by this count of attempts."""
    arguments = notification.arguments
    if call == "openat":
        folder, address, flags = arguments[0] & 0xFFFFFFFF, arguments[1], arguments[2]
    else:
        folder, address = _AT_FDCWD, arguments[0]
        flags = arguments[1] if call == "open" else os.O_WRONLY if call == "creat" else 0
    path = os.fsdecode(kernel.read_text_at(notification.pid, address))
    if folder != _AT_FDCWD and not path.startswith("/"):
        return HOME, False
    return path or HOME, bool(flags & _WRITING)

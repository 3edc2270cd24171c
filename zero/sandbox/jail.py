"""One program's own jail: what a freshly forked process does to itself before any foreign code runs in it.

It is process 1 of its namespaces, so that nothing it starts can outlive it. In this order: an identity, an empty /tmp, its
request, no capabilities, Landlock, limits, the filter of system calls.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from zero.sandbox import kernel, landlock, seccomp
from zero.sandbox.records import Level, Limits
from zero.sandbox.rootfs import HOME

PROGRAM = f"{HOME}/program"  # machine code lies here
INSIDE_ID = 1000  # the user and group that a program sees
LINK = 3  # the descriptor by which the program and its tests talk
_REPORT = 9
_MB = 1 << 20
_STACK = 64 * _MB  # deep recursion is ordinary in programs for contests


@dataclass(frozen=True)
class Jail:
    """What a fork server knows of every jail that it makes."""

    level: Level
    readable: tuple[str, ...]  # the interpreter and its libraries; a compiler's too
    rules: tuple[landlock.Rule, ...]  # of Landlock: they and the devices
    proc: int  # a descriptor of /proc, where a process writes down who it is
    uid: int  # of the server
    gid: int


def open_jail(jail: Jail, limits: Limits, runs_files: bool) -> None:
    """An identity without a name in it, and an empty /tmp. This process has just entered new namespaces."""
    if jail.level is not Level.FULL:
        return
    kernel.map_user(jail.proc, (INSIDE_ID, jail.uid), (INSIDE_ID, jail.gid))
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | (0 if runs_files else kernel.MS_NOEXEC)
    options = f"size={limits.tmp_mb}m,nr_inodes={64 * limits.tmp_mb},mode=700"
    kernel.mount("tmpfs", HOME, "tmpfs", flags, options)
    os.chdir(HOME)


def write_files(files: Mapping[str, bytes]) -> None:
    """Into the program's folder. A name is one word: no folders, no way out."""
    for name, content in files.items():
        with open(os.path.join(HOME, os.path.basename(name)), "wb") as file:
            file.write(content)


def standard_input(content: bytes) -> int:
    """A descriptor that gives the content, whether it is read, sought or mapped; it can be neither changed nor grown."""
    descriptor = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def arrange(standard: list[int], link: int | None, report: int) -> None:
    """The standard descriptors, the link as LINK, the report as _REPORT, and no other one of the server's many."""
    wanted = dict(enumerate(standard)) | ({} if link is None else {LINK: link}) | {_REPORT: report}
    # first out of the way, then to their places: no place may hold what another one still needs
    parked = {place: fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for place, descriptor in wanted.items()}
    for place, descriptor in parked.items():
        os.dup2(descriptor, place, inheritable=place != _REPORT)
    edges = sorted(wanted)
    for low, high in zip(edges, [*edges[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


@cache
def instructions(level: Level, fork: bool, watch_files: bool) -> bytes:
    """The filter of a process that is number 1 of its namespace, or else has the number that it has now."""
    full = level is Level.FULL
    return seccomp.Filter(1 if full else os.getpid(), fork, watch_files, own_files=full).instructions()


def restrict_files(jail: Jail) -> None:
    """No capabilities, and no file beyond those of the jail. The server's descriptors, by which it names them, are still open."""
    kernel.drop_capabilities()
    landlock.restrict(jail.rules, [HOME] if jail.level is Level.FULL else [])


def lock(jail: Jail, limits: Limits, watch_files: bool) -> None:
    """Limits and the filter. After this nothing but foreign code can go wrong."""
    os.setsid()
    _limit(jail, limits)
    listener = seccomp.install(instructions(jail.level, limits.fork, watch_files))
    with socket.socket(fileno=_REPORT) as report:
        seccomp.send_listener(report, listener)
    os.close(listener)


def _limit(jail: Jail, limits: Limits) -> None:
    full = jail.level is Level.FULL
    values = {
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_AS: limits.memory_mb * _MB,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_mb * _MB if full else 0,
        resource.RLIMIT_STACK: _STACK,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if full:  # without an own user this number would count what the user runs elsewhere
        values[resource.RLIMIT_NPROC] = limits.processes
    for name, value in values.items():
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))

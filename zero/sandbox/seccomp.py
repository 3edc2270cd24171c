"""The filter of system calls: a program for the kernel's own small machine (BPF), written here instruction by instruction.

A call is allowed, does not exist (ENOSYS), is not permitted (EPERM), or is an attempt: then the caller is held inside of
the call until the supervisor has read what was tried (supervisor.py). What counts as an attempt stands in syscalls.py.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import platform
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from zero.sandbox.kernel import system_call
from zero.sandbox.syscalls import ALLOWED, ATTEMPTS, CHECKED

_SECCOMP = 317 if platform.machine() == "x86_64" else 277
_AUDIT_ARCH = 0xC000003E if platform.machine() == "x86_64" else 0xC00000B7
_X32 = 0x40000000  # x86_64's second table of calls begins here
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3

# Instructions: load a word of the call's data, jump if equal, jump if at least, jump, mask, return
_LOAD, _EQUAL, _AT_LEAST, _JUMP, _AND, _RETURN = 0x20, 0x15, 0x35, 0x05, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

KILL, ALLOW, NOTIFY = 0x80000000, 0x7FFF0000, 0x7FC00000
NOT_THERE, NOT_PERMITTED = 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EPERM
NO_TERMINAL = 0x00050000 | errno.ENOTTY

_CLONE_THREAD = 0x00010000
_ALL_NEW = 0x7E020000  # every namespace that clone can make
_HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # terminal? size? bytes waiting, flags
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing on somebody's terminal
_HARMLESS_PRCTLS = (3, 15, 16, 0x53564D41)  # dumpable?, a thread's name, a memory region's name
_AF_UNIX = 1
_ATTRIBUTES = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat")
_FOR_PROCESSES = ("fork", "vfork", "execve", "execveat", "tkill")

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


@dataclass(frozen=True)
class Filter:
    """What a program may do beyond what every program may.

    pid          the only process that it may signal: itself
    fork         make processes, signal them, run further programs
    watch_files  hold each opening of a file, for the supervisor to look at
    own_files    it has a /tmp of its own. Otherwise what Landlock does not know is refused here: to change the rights and
                 the times of a file, and sockets that may send letters to strangers, even if they end in itself
    """

    pid: int
    fork: bool = False
    watch_files: bool = True
    own_files: bool = True

    def instructions(self) -> bytes:
        """The filter as the kernel takes it."""
        code: list[Instruction] = [
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_EQUAL, 1, 0, _AUDIT_ARCH),
            (_RETURN, 0, 0, KILL),
            (_LOAD, 0, 0, _NUMBER),
            (_AT_LEAST, 0, 1, _X32),
            (_RETURN, 0, 0, KILL),
        ]
        return b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, *_search(self._segments())])

    def _segments(self) -> list[tuple[int, list[Instruction]]]:
        """What follows from a call's number: (first number, what to do) in ascending order, each up to the next."""
        verdicts = {number: self._checked(name) for name, number in CHECKED.items()}
        for name, number in ALLOWED.items():
            refused = name in _ATTRIBUTES and not self.own_files
            verdicts[number] = _always(NOT_PERMITTED if refused else ALLOW)
        for kind, names in ATTEMPTS.items():
            for name, number in names.items():
                allowed = (self.fork and name in _FOR_PROCESSES) or (kind == "files" and not self.watch_files)
                verdicts[number] = _always(ALLOW if allowed else NOTIFY)
        segments = [(0, _always(NOT_THERE))]
        for number in range(max(verdicts) + 2):
            verdict = verdicts.get(number, _always(NOT_THERE))
            if verdict != segments[-1][1]:
                segments.append((number, verdict))
        return segments

    def _checked(self, name: str) -> list[Instruction]:
        if name == "clone":  # new namespaces: an attempt; a thread: allowed; a process: as `fork` says
            return [
                *_argument(0),
                (_AND, 0, 0, _ALL_NEW),
                (_EQUAL, 1, 0, 0),
                (_RETURN, 0, 0, NOTIFY),
                *_argument(0),
                (_AND, 0, 0, _CLONE_THREAD),
                (_EQUAL, 1, 0, 0),
                (_RETURN, 0, 0, ALLOW),
                (_RETURN, 0, 0, ALLOW if self.fork else NOTIFY),
            ]
        if name == "clone3":  # its flags lie in memory, where a filter cannot look: the C library falls back on clone
            return [(_RETURN, 0, 0, NOT_THERE)]
        if name in ("kill", "tgkill"):
            return [(_RETURN, 0, 0, ALLOW)] if self.fork else _one_of(0, [self.pid], NOTIFY)
        if name == "socketpair":
            return _one_of(0, [_AF_UNIX] if self.own_files else [], NOTIFY)
        if name == "ioctl":
            harmless, typing = _any_of(_HARMLESS_IOCTLS, ALLOW), _any_of(_TERMINAL_INPUT, NOTIFY)
            return [*_argument(1), *harmless, *typing, (_RETURN, 0, 0, NO_TERMINAL)]
        if name == "prctl":
            return _one_of(0, _HARMLESS_PRCTLS, NOT_PERMITTED)
        return _one_of(0, [0], NOT_PERMITTED)  # prlimit64: of itself


def _always(verdict: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, verdict)]


def _search(segments: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search for the accumulator's segment: the kernel tries every call when it takes a filter, so that a list of
    comparisons costs every program a third of a millisecond."""
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    lower, upper = _search(segments[:middle]), _search(segments[middle:])
    return [(_AT_LEAST, 0, 1, segments[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _argument(index: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * index)]  # the lower half: both architectures are little-endian


def _any_of(values: Iterable[int], verdict: int) -> list[Instruction]:
    """`verdict` if the accumulator holds one of the values."""
    return [instruction for value in values for instruction in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict))]


def _one_of(index: int, values: Iterable[int], otherwise: int) -> list[Instruction]:
    """Allowed if the argument is one of the values, else `otherwise`."""
    return [*_argument(index), *_any_of(values, ALLOW), (_RETURN, 0, 0, otherwise)]


def install(instructions: bytes) -> int:
    """Put this process, for good, under the filter. Returns the descriptor on which its attempts are told.

    Needs no_new_privileges.
    """
    held = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(held))
    return system_call("seccomp", _SECCOMP, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_NEW_LISTENER), program)


# The other side: who reads the attempts

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("QIIiIQ6Q")
_CONTINUE = 1


@dataclass(frozen=True)
class Notification:
    """A call in which a process is being held."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notification | None:
    """The next held call; None if its caller has died meanwhile."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError:
        return None
    identity, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, pid, number, tuple(arguments))


def let_go(listener: int, notification: Notification) -> None:
    """Let the held call happen."""
    try:
        fcntl.ioctl(listener, _SEND, bytearray(struct.pack("QqiI", notification.id, 0, 0, _CONTINUE)))
    except OSError:
        return  # the caller has died


def send_listener(channel: socket.socket, listener: int) -> None:
    """To the process that is to read the attempts; the one under the filter must not keep it."""
    socket.send_fds(channel, [b"l"], [listener])

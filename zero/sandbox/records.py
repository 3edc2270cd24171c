"""What the sandbox is told and what it tells: limits, tasks, and how a program ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How much of the kernel stands between a program and the machine."""

    FULL = "full"  # namespaces, an own root, Landlock, seccomp, limits
    LANDLOCK = "landlock"  # Landlock, seccomp and limits alone: for kernels that forbid namespaces


class Ending(StrEnum):
    """How a program ended: facts of the kernel, not the program's own words."""

    FINISHED = "finished"
    TIMED_OUT = "timed out"  # of its CPU seconds, or of the wall clock's backstop
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"  # an exception that nobody caught, a signal, an exit code other than 0
    EXITED_EARLY = "exited early"  # gone, without an error, before all tests had asked
    TOO_MUCH_OUTPUT = "too much output"
    FORBIDDEN = "forbidden"  # it tried what programs may not; `Execution.attempt` says what
    BROKEN_TEST = "broken test"  # not the program's doing: the tests cannot be compiled, or name what nobody defines
    TOO_LONG = "too long"  # never run: the text is longer than the limit


@dataclass(frozen=True)
class Limits:
    """Of one program. All but the wall clock are the kernel's own."""

    cpu_s: int = 2  # of each process
    memory_mb: int = 256  # of address space of each process
    processes: int = 32  # and threads, at once
    open_files: int = 64
    file_mb: int = 8  # the largest file
    tmp_mb: int = 16  # all files in /tmp together
    output_kb: int = 256  # of standard output, or of one value
    wall_s: float = 10.0  # a backstop for those that sleep
    source_kb: int = 256  # the longest program
    fork: bool = False  # whether it may start processes and programs, as a compiler must


@dataclass(frozen=True)
class Task:
    """One program and what to do with it.

    kind    script: run it, with `stdin`; solution: run it, then `tests`, statements that call `names` of it, one by one,
            in a process of their own; binary: run the machine code `binary`; compile: C++ to machine code
    """

    kind: str
    source: str = ""
    stdin: bytes = b""
    arguments: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)  # in the program's folder, before it starts
    names: tuple[str, ...] = ()
    setup: str = ""  # statements before the tests, in the tests' process
    tests: tuple[str, ...] = ()
    binary: bytes = b""


@dataclass(frozen=True)
class Execution:
    """What happened."""

    ending: Ending
    output: bytes = b""  # of a script or a compiler; at most the limit
    detail: str = ""  # the last line that the program wrote of its own end: its words, of no consequence
    attempt: str = ""  # network, files, processes or privileges
    call: str = ""  # the system call of the attempt, with a path where there is one
    passed: tuple[bool, ...] = ()  # for each test
    cpu_s: float = 0.0
    memory_mb: float = 0.0

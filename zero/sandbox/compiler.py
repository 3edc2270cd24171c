"""C++ to machine code, where there is a compiler: in a sandbox of its own that holds one, since no program needs it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from zero.errors import InputError
from zero.sandbox.jail import PROGRAM
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Execution, Level, Limits, Task

LIMITS = Limits(
    cpu_s=20,
    memory_mb=2048,
    processes=64,
    open_files=256,
    file_mb=64,
    tmp_mb=128,
    output_kb=16 << 10,
    wall_s=60,
    fork=True,
)
_NAMES = ("g++", "clang++", "c++")
_SOURCE = f"{PROGRAM}.cpp"


class Compiler:
    """g++ or clang++ in a sandbox of its own. InputError if there is none, or at a level that lets no program write."""

    def __init__(self, level: Level = Level.FULL, workers: int = 2, source_kb: int = LIMITS.source_kb) -> None:
        path = next((path for name in _NAMES if (path := shutil.which(name))), None)
        if path is None:
            raise InputError("language", "cpp", f"no compiler: none of {', '.join(_NAMES)} is on the path; install one")
        if level is not Level.FULL:
            raise InputError(
                "language", "cpp", f"a compiler needs files of its own: questions.sandbox.level={Level.FULL}"
            )
        self._command = (path, "-O2", "-std=c++17", "-o", PROGRAM, _SOURCE)
        self._sandbox = Sandbox(level, workers, compiler=path)
        self._limits = replace(LIMITS, source_kb=source_kb)

    def compile(self, sources: Sequence[str]) -> list[Execution]:
        """Of each source its machine code, as the output; or the compiler's errors as the detail of a crash."""
        name = _SOURCE.rpartition("/")[2]
        tasks = [
            Task("compile", arguments=self._command, files={name: source.encode(errors="replace")})
            for source in sources
        ]
        return self._sandbox.run(tasks, self._limits)

    def close(self) -> None:
        """End every process."""
        self._sandbox.close()

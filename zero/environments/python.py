"""A Python session as a tool, in the sandbox (docs/sandbox.md).

State is kept by replay: each call is one program, in a jail of its own, that runs the earlier calls of the episode in silence and
then the new one. A live process for each episode was measured beside it, in the same sandbox on two cores: 3.4 ms to start and
then 0.05 ms a call, where replay takes 6 ms a call; if each call works for 3 ms, eight of them take 28 and 170 ms. Replay is taken
all the same, since a turn takes the policy tenths of seconds: nothing lives between the turns, so that hundreds of episodes hold no
memory and leave nothing behind; a call that hits a limit is undone, whatever it did; and the limit of CPU seconds, which is of all
calls of an episode together, bounds what replay costs.
"""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path

from zero.environments.python_driver import BEGIN, END, RECORD
from zero.environments.tool_calls import CallFailed
from zero.environments.tool_schema import KEY
from zero.errors import InputError
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Execution, Level, Limits, Task
from zero.sandbox.server import KEY as SANDBOX_KEY

MOST_OUTPUT = 16_384  # bytes that a call prints before the rest is thrown away; what a policy reads is most_result
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # differ between two fork servers
_DRIVER = Path(__file__).with_name("python_driver.py").read_text(encoding="utf-8")
_UNDONE = "Variables are as they were before this call."
_ANEW = "The session has been started anew: variables of earlier calls are gone."


class Python:
    """The interpreter of one episode. Its variables, functions and files are those of all calls so far; a call that hits a limit
    or tries what the sandbox forbids leaves nothing behind.

    level      full, or landlock where the kernel forbids namespaces (docs/sandbox.md); with landlock no files can be written
    cpu_s      CPU seconds of all calls of an episode together
    memory_mb  of address space
    wall_s     a backstop for calls that wait; time.sleep takes none

    The same calls give the same results in every process: the clock and os.urandom are not the machine's (python_driver.py),
    and addresses of objects are not shown. InputError for settings out of range, and where this machine can run no foreign program.
    """

    name = "python"

    def __init__(self, level: str = "full", cpu_s: int = 2, memory_mb: int = 256, wall_s: float = 20.0) -> None:
        if level not in list(Level):
            raise InputError(f"{KEY}.level", level, f"must be {' or '.join(Level)}")
        for key, value, least, most in (
            ("cpu_s", cpu_s, 1, 600),
            ("memory_mb", memory_mb, 64, 1 << 16),
            ("wall_s", wall_s, 0.1, 3600),
        ):
            whole = type(value) is int or (key == "wall_s" and type(value) is float)
            if not whole or not least <= value <= most:
                kind = "number" if key == "wall_s" else "whole number"
                raise InputError(f"{KEY}.{key}", value, f"must be a {kind} from {least} to {most}")
        output_kb = 2 * MOST_OUTPUT // 1024  # for what evades the driver's own bound
        self._limits = Limits(cpu_s=cpu_s, memory_mb=memory_mb, wall_s=float(wall_s), output_kb=output_kb)
        self._sandbox = _sandbox(Level(level), os.getpid())
        self._calls: list[str] = []  # that are the session's state

    def __call__(self, code: str) -> str:
        """Run Python code and return what it prints, and the value of an expression on its last line. Variables, functions and
        imports of earlier calls exist; the standard library can be imported, and there is no network.

        Args:
            code: lines of Python
        """
        execution = self._run([*self._calls, code])
        anew = bool(self._calls) and not execution.output.startswith(BEGIN)
        if anew:  # an earlier call did not end as it had before, by the clock or by chance
            self._calls = []
            execution = self._run([code])
        printed, error, keep = _read(execution)
        if keep:
            self._calls.append(code)
        else:
            error = f"{error or self._problem(execution)}. {_UNDONE if not anew else ''}".strip()
        text = "\n".join(filter(None, (_ANEW if anew else "", printed, f"error: {error}" if error else "")))
        if error:
            raise CallFailed(text)
        return text

    def _run(self, calls: list[str]) -> Execution:
        request = json.dumps({"calls": calls, "most": MOST_OUTPUT}).encode()
        return self._sandbox.run([Task("script", _DRIVER, stdin=request)], self._limits)[0]

    def _problem(self, execution: Execution) -> str:
        """Why a call did not come to its end."""
        match execution.ending:
            case Ending.TIMED_OUT:
                return f"timed out: the calls of an episode have {self._limits.cpu_s} CPU seconds together"
            case Ending.OUT_OF_MEMORY:
                return f"out of memory: there are {self._limits.memory_mb} MB"
            case Ending.FORBIDDEN:
                return f"forbidden: the code tried what is not allowed here ({execution.attempt}: {execution.call})"
            case Ending.TOO_MUCH_OUTPUT:
                return "too much output"
            case _:
                return "the interpreter ended within the call"


def _read(execution: Execution) -> tuple[str, str, bool]:
    """(what the latest call printed, its error or "", whether it is part of the session now)."""
    output = execution.output.removeprefix(BEGIN)
    printed, record, last = output.rpartition(RECORD)
    if execution.ending is Ending.FINISHED and record and last.endswith(END):
        try:
            outcome = json.loads(last.removesuffix(END))
            return _text(printed), str(outcome["error"]), outcome["keep"] is True
        except (ValueError, TypeError, KeyError, RecursionError):  # it has written such a record itself
            return _text(printed), "", False
    return _text(output), "", False


def _text(output: bytes) -> str:
    return _ADDRESS.sub(" at 0x0", output.decode(errors="replace")).rstrip("\n")


@lru_cache(maxsize=8)
def _sandbox(level: Level, process: int) -> Sandbox:
    """One for all episodes of a process, which shares it with no process that it forks. InputError where there can be none."""
    sandbox = Sandbox(level, workers=1)
    try:
        sandbox.run([Task("script", "")])
    except InputError as error:
        key = f"{KEY}.level"
        raise InputError(key, level, error.remedy.replace(SANDBOX_KEY, key)) from error
    return sandbox

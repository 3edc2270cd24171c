"""One task while it runs: its processes' pipes, what came out of them, and what to make of it."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from zero.errors import Broken
from zero.sandbox import tests
from zero.sandbox.program import NO_MEMORY, frame
from zero.sandbox.records import Ending, Execution, Limits, Task
from zero.sandbox.server import Server

# The limit of CPU seconds goes by clock ticks, what is reported afterwards by the exact clock: on a busy machine they
# differ. Whatever was killed with this share of its seconds used up was killed for them.
_USED_UP = 0.5
_NEARLY = 0.9  # of its memory: a crash so close to the limit is one for want of it
_MOST_ERRORS = 2000  # bytes of standard error, the last ones


@dataclass
class Process:
    """One of a task's processes, and what it has said."""

    number: int
    channel: socket.socket  # the request goes in, standard error comes out
    output: int  # the reading end of its standard output
    text: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    written: int = 0  # bytes to standard error
    end: dict[str, Any] | None = None  # what the fork server says of its end
    flooded: bool = False  # it wrote more than it may
    killed: bool = False  # by us


class TaskRun:
    """A task at work. `deadline` is the wall clock's; `done` once every process has ended and has been read."""

    def __init__(
        self, number: int, task: Task, limits: Limits, server: Server, selector: selectors.BaseSelector
    ) -> None:
        self._task, self._limits, self._server, self._selector = task, limits, server, selector
        self.deadline = time.monotonic() + limits.wall_s
        self._timed_out = False
        self._program: Process | None = None
        self._tests: Process | None = None
        self._number = number

    def start(self) -> None:
        """Ask for the processes, and give them what they are to run."""
        if self._task.kind != "solution":
            self._program = self._start(2 * self._number, self._task.kind, None)
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._program = self._start(2 * self._number, "solution", ours.fileno())
            self._tests = self._start(2 * self._number + 1, "tests", theirs.fileno())

    def _start(self, number: int, kind: str, link: int | None) -> Process:
        channel, theirs = socket.socketpair()
        output, writing = os.pipe()
        with theirs:
            links = [] if link is None else [link]
            self._server.spawn(number, kind, self._limits, [theirs.fileno(), writing, *links])
        os.close(writing)
        # the program's side never learns what is expected of it, nor the tests' side what the program is
        request = replace(self._task, tests=(), setup="") if kind == "solution" else self._task
        request = replace(request, source="") if kind == "tests" else request
        process = Process(number, channel, output)
        with suppress(OSError):  # it died first; the server will say of what
            channel.sendall(frame(request))
        channel.setblocking(False)
        os.set_blocking(output, False)
        for descriptor in (channel.fileno(), output):
            self._selector.register(descriptor, selectors.EVENT_READ, partial(self._read, process, descriptor))
        return process

    def _processes(self) -> list[Process]:
        return [process for process in (self._program, self._tests) if process is not None]

    @property
    def done(self) -> bool:
        return all(process.end is not None for process in self._processes())

    def _read(self, process: Process, descriptor: int) -> bool:
        """Take in what there is. False if there will be no more, or no more is wanted."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        limit = self._limits.output_kb * 1024
        if descriptor == process.output:
            process.text += data
        else:
            process.written += len(data)
            process.errors = (process.errors + data)[-_MOST_ERRORS:]
        if len(process.text) > limit or process.written > limit:
            process.flooded = True
            del process.text[limit:]
            self._kill(process)
            data = b""
        if not data:
            with suppress(KeyError):
                self._selector.unregister(descriptor)
        return bool(data)

    def _kill(self, process: Process) -> None:
        if process.end is None and not process.killed:
            process.killed = True
            self._server.kill(process.number)

    def time_out(self) -> None:
        """The wall clock has had enough of it."""
        self._timed_out = True
        for process in self._processes():
            self._kill(process)

    def report(self, message: dict[str, Any]) -> None:
        """A process has ended, perhaps one of this task's. Broken if it never had a jail."""
        for process in self._processes():
            if process.number == message["id"]:
                if "error" in message and not (process.killed and "status" in message):
                    raise Broken(f"the sandbox could not make a jail for a program: {message['error']}")
                process.end = message
                for descriptor in (process.output, process.channel.fileno()):  # all writers are dead: read what is left
                    while not process.flooded and self._read(process, descriptor):
                        pass
                self._close(process)
        if self._tests is not None and self._tests.end is not None and self._program is not None:
            self._kill(self._program)  # nobody will ask it any more

    def abandon(self) -> None:
        """The server is gone, and everything with it."""
        for process in self._processes():
            if process.end is None:
                self._close(process)

    def _close(self, process: Process) -> None:
        for descriptor in (process.output, process.channel.fileno()):
            with suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        os.close(process.output)
        process.channel.close()

    def execution(self) -> Execution:
        """What happened, of a task that is done."""
        program = self._program
        assert program is not None and program.end is not None
        ending, passed = self._verdict(program) if self._tests else (self._ending(program), ())
        return Execution(
            ending,
            output=bytes(program.text),
            detail=bytes(program.errors).decode(errors="replace").strip(),
            attempt=program.end["attempt"],
            call=program.end["call"],
            passed=passed,
            cpu_s=program.end["cpu_s"],
            memory_mb=program.end["memory_mb"],
        )

    def _ending(self, process: Process) -> Ending:
        """Of one process, by what the kernel and the fork server say."""
        end, limits = process.end, self._limits
        assert end is not None
        if end["attempt"]:
            return Ending.FORBIDDEN
        if process.flooded:
            return Ending.TOO_MUCH_OUTPUT
        if self._timed_out:
            return Ending.TIMED_OUT
        code = os.waitstatus_to_exitcode(end["status"])
        if code == -signal.SIGKILL and end["cpu_s"] >= _USED_UP * limits.cpu_s:
            return Ending.TIMED_OUT
        if code in (-signal.SIGKILL, NO_MEMORY) or (code < 0 and end["memory_mb"] > _NEARLY * limits.memory_mb):
            return Ending.OUT_OF_MEMORY
        return Ending.FINISHED if code == 0 else Ending.CRASHED

    def _verdict(self, program: Process) -> tuple[Ending, tuple[bool, ...]]:
        """Of a solution: how it ended, and which of its tests it has passed. Tests that were not reached it has not."""
        assert self._tests is not None and program.end is not None
        lines = bytes(self._tests.text).splitlines()
        verdicts = [line == tests.PASS for line in lines if line in (tests.PASS, tests.FAIL)][: len(self._task.tests)]
        passed = tuple(verdicts + [False] * (len(self._task.tests) - len(verdicts)))
        last = lines[-1] if lines else b""
        if program.end["attempt"]:
            return Ending.FORBIDDEN, passed
        if last.startswith(tests.BROKEN):
            program.errors = bytearray(last.removeprefix(tests.BROKEN))
            return Ending.BROKEN_TEST, passed
        if last == tests.GARBLED:
            program.errors = bytearray(b"what it sent to its tests was no value")
            return Ending.CRASHED, passed
        if last == tests.GONE:
            ending = self._ending(program)
            return (Ending.EXITED_EARLY if ending is Ending.FINISHED else ending), passed
        return (Ending.FINISHED if last == tests.END else self._ending(self._tests)), passed

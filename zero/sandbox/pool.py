"""Tasks in, executions out: the side that trusts nobody. It talks to a fork server and to the pipes of what runs behind it.

Several programs run at once. Whatever a program does, its task ends: by the kernel's limits, else by the wall clock, else
with the fork server itself, which takes every process down with it and is replaced.
"""

from __future__ import annotations

import atexit
import selectors
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence

from zero.sandbox.records import Ending, Execution, Level, Limits, Task
from zero.sandbox.server import Server, start
from zero.sandbox.task_run import TaskRun

_FOLDER = 1 << 16  # bytes of /tmp for the folder itself, and for the last pages of its files
GRACE_S = 10.0  # wall seconds that a fork server may take to kill, before it is killed itself


class Sandbox:
    """Runs tasks, `workers` at once. Starts its fork server with the first task. InputError where the kernel forbids it.

    level      Level.FULL, or by explicit choice Level.LANDLOCK
    bubblewrap whether to have it make the jail where it is installed (not as root, who needs no help)
    """

    def __init__(
        self, level: Level = Level.FULL, workers: int = 2, bubblewrap: bool = True, compiler: str = ""
    ) -> None:
        self._level, self._workers, self._bubblewrap, self._compiler = level, workers, bubblewrap, compiler
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._count = 0
        atexit.register(self.close)  # were we killed instead, the server ends with its socket

    def close(self) -> None:
        """End every process."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def run(self, tasks: Sequence[Task], limits: Limits | None = None) -> list[Execution]:
        """What happened to each, in order. Broken if no jail can be made for a program."""
        limits = limits or Limits()
        with self._lock:
            executions: list[Execution | None] = [self._refused(task, limits) for task in tasks]
            waiting = deque((i, task, 0) for i, task in enumerate(tasks) if executions[i] is None)
            while waiting:
                self._round(waiting, executions, limits)
            return [execution for execution in executions if execution is not None]

    def _refused(self, task: Task, limits: Limits) -> Execution | None:
        try:
            size = len(task.source.encode())
        except UnicodeEncodeError:
            return Execution(Ending.CRASHED, detail="SyntaxError: the program is no valid UTF-8")
        files = sum(map(len, task.files.values()))
        if task.kind == "compile":
            size += files
        if size > limits.source_kb * 1024:
            return Execution(Ending.TOO_LONG, detail=f"the program has {size} bytes, over {limits.source_kb} KB")
        if self._level is Level.FULL and files + len(task.binary) > (limits.tmp_mb << 20) - _FOLDER:
            return Execution(Ending.TOO_LONG, detail=f"it does not fit into /tmp, which has {limits.tmp_mb} MB")
        return None

    def _round(self, waiting: deque[tuple[int, Task, int]], executions: list[Execution | None], limits: Limits) -> None:
        """Run until all is done or the server dies; what ran then goes back to the queue, once."""
        self._server = server = self._server or start(self._level, self._bubblewrap, self._compiler)
        active: dict[int, tuple[int, Task, int, TaskRun]] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(server.control.fileno(), selectors.EVENT_READ)
            try:
                while waiting or active:
                    while waiting and len(active) < self._workers:
                        index, task, tries = waiting.popleft()
                        self._count += 1
                        running = TaskRun(self._count, task, limits, server, selector)
                        active[self._count] = (index, task, tries, running)
                        running.start()
                    self._wait(server, selector, [entry[3] for entry in active.values()])
                    for number in [n for n, entry in active.items() if entry[3].done]:
                        index, _, _, running = active.pop(number)
                        executions[index] = running.execution()
            except BaseException as error:
                self.close()
                for index, task, tries, running in active.values():
                    running.abandon()
                    if tries:
                        executions[index] = Execution(Ending.CRASHED, detail="the fork server died over it, twice")
                    else:
                        waiting.append((index, task, tries + 1))
                if not isinstance(error, OSError | EOFError):  # those are the server's death
                    raise
                warnings.warn(
                    f"the sandbox's fork server died: {error}; another takes over", RuntimeWarning, stacklevel=2
                )

    def _wait(self, server: Server, selector: selectors.BaseSelector, active: list[TaskRun]) -> None:
        """Until something has happened: news of a process, something to read, or a deadline."""
        soonest = min(running.deadline for running in active)
        for key, _ in selector.select(max(0.0, min(soonest - time.monotonic(), 1.0))):
            if key.fd == server.control.fileno():
                message = server.receive()
                for running in active:
                    running.report(message)
            elif key.fd in selector.get_map():  # else it was closed by what has just been reported
                key.data()
        now = time.monotonic()
        for running in active:
            if now >= running.deadline + GRACE_S and not running.done:
                raise EOFError("it does not answer")
            if now >= running.deadline:
                running.time_out()

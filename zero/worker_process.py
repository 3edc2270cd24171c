"""python -m zero.worker_process FD SERVE MODULE...: a process that imports once, and then forks workers on request; and, for the
process that asks, its view of both.

A forked worker costs milliseconds instead of the second that sympy takes to import, so that one can be lost with every
hostile answer. Each calls SERVE, a function by its dotted path, with a stream: one request in, one line out, and so on. Nothing
outlives the process that asked, even if that is killed: the warm process ends with its socket, and its workers with it.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO

from zero.errors import Broken
from zero.sandbox import kernel

SEND_S = 30.0  # wall seconds within which a worker must take a request, or finish a line that it has begun
# The first worker waits for its parent's imports: seconds, but minutes on a busy machine or a cold network folder. One that
# dies meanwhile is noticed at once.
START_S = 600.0
REAP_S = 2.0  # wall seconds within which a killed process is gone, unless the kernel itself waits
ATTEMPTS = 2  # for a request whose worker ended, and nobody knows how
_UNKNOWN = "?"


def main() -> None:
    """Import, then fork a worker for each socket that arrives, until the other side is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGHUP):  # the trainer handles Ctrl-C and a closing terminal
        signal.signal(number, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # libraries log every formula that they cannot read
    serve = pkgutil.resolve_name(sys.argv[2])
    for module in sys.argv[3:]:
        imported = import_module(module)
        getattr(imported, "warm_up", int)()  # fills caches once instead of in every worker
    gc.freeze()
    parent, workers = os.getpid(), set[int]()
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 64, 1)
        except ConnectionResetError:  # killed with a reply unread
            break
        if not message:
            break
        if not descriptors:
            pid = int(message)
            workers.discard(pid)
            control.send(f"{pid} {_exit_code(pid)}".encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            try:
                _become_worker(parent)
                stream: Any = socket.socket(fileno=descriptors[0]).makefile("rwb")
                send_line(stream, str(os.getpid()))
                serve(stream)
            finally:
                os._exit(0)
        workers.add(pid)
        os.close(descriptors[0])
    for pid in workers:
        kill_group(pid)


def _become_worker(parent: int) -> None:
    """A process group of its own, which is killed as a whole, and with the parent."""
    os.setpgid(0, 0)
    kernel.die_with_parent()
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


def _exit_code(pid: int) -> str:
    """How a killed worker ended: its exit code, or a signal's number with a minus."""
    deadline = time.monotonic() + REAP_S
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return str(os.waitstatus_to_exitcode(status))
            time.sleep(0.001)
    return _UNKNOWN


def kill_group(pid: int) -> None:
    """End a worker and the processes that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def send_line(stream: BinaryIO, text: str) -> None:
    """Send a text without line breaks. What is not ASCII is escaped."""
    stream.write(text.encode("ascii", "backslashreplace") + b"\n")
    stream.flush()


class WarmProcess:
    """The process that forks workers. `serve` is the dotted path of what each of them does, `modules` are imported before."""

    def __init__(self, serve: str, modules: Sequence[str]) -> None:
        # Messages, not a stream: a request is never read together with the next one
        self._control, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        # A fixed hash seed: sympy's choices follow the order of sets, and verdicts must not depend on chance
        python_path = os.pathsep.join(path or os.getcwd() for path in sys.path)  # the same modules as here
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
        command = [sys.executable, "-m", "zero.worker_process", str(worker_end.fileno()), serve, *modules]
        self._process = subprocess.Popen(
            command, pass_fds=[worker_end.fileno()], env=environment, stdin=subprocess.DEVNULL
        )
        worker_end.close()
        atexit.register(self.close)  # if this process is killed, they end when their sockets close

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self) -> Worker:
        """A new worker. OSError or EOFError if none can be had: the process has died, or its imports fail."""
        ours, worker_end = socket.socketpair()
        with self._lock:
            socket.send_fds(self._control, [b"w"], [worker_end.fileno()])
        worker_end.close()
        return Worker(ours, self)

    def exit_code(self, pid: int) -> int | None:
        """How a killed worker ended, as subprocess has it; None if nobody knows."""
        with self._lock, suppress(OSError, ValueError):
            self._control.settimeout(REAP_S + SEND_S)
            self._control.send(str(pid).encode())
            asked, code = "", ""
            while asked != str(pid):  # a reply that came too late for its question is passed over
                asked, code = self._control.recv(64).decode().split()
            return int(code)
        return None

    def close(self) -> None:
        """End every process."""
        self._control.close()
        self._process.wait()


class Worker:
    """One forked process, its current task and that task's deadline."""

    def __init__(self, ours: socket.socket, parent: WarmProcess) -> None:
        self.socket, self._parent = ours, parent
        self.task: Any = None
        self.deadline = 0.0
        self.pid = int(self._line(START_S, 64))

    def send(self, task: Any, request: bytes, wall_s: float) -> None:
        """Give it a task, to be done within so many wall seconds. OSError if it is dead."""
        self.task, self.deadline = task, time.monotonic() + wall_s
        self.socket.settimeout(SEND_S)
        self.socket.sendall(request)

    def alive(self) -> bool:
        """Whether an idle worker is still there; the kernel may have killed it for memory."""
        self.socket.settimeout(0)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def receive(self, most: int = 1 << 16) -> str:
        """The reply, once the socket is readable. OSError or EOFError if the worker died, ValueError if it is longer than `most`
        bytes or no text."""
        return self._line(SEND_S, most)

    def _line(self, wall_s: float, most: int) -> str:
        self.socket.settimeout(wall_s)
        received = bytearray()
        while not received.endswith(b"\n"):
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise EOFError("the worker is gone")
            received += chunk
            if len(received) > most:
                raise ValueError(f"over {most} bytes")
        return received.decode().rstrip("\n")

    def end(self) -> int | None:
        """Kill it and what it has started. How it ended: None if nobody knows."""
        self.socket.close()
        kill_group(self.pid)
        return self._parent.exit_code(self.pid)


class WorkerDied(Exception):
    """A request ended its worker. `code`: how, as subprocess has it; None: it was late."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class OneWorker:
    """One worker for one request at a time, from any thread; started when it is needed, and anew after one that died."""

    def __init__(self, serve: str, modules: Sequence[str]) -> None:
        self._serve, self._modules = serve, modules
        self._lock = threading.Lock()
        self._warm: WarmProcess | None = None
        self._worker: Worker | None = None

    def ask(self, request: bytes, wall_s: float) -> str:
        """The reply to a request. WorkerDied if it ended the worker, or took longer than so many seconds. Broken if there can be no
        worker."""
        with self._lock:
            for _ in range(ATTEMPTS):
                worker, self._worker = self._live(), None  # it comes back after a whole reply
                try:
                    reply = _reply(worker, request, wall_s)
                except (OSError, EOFError, ValueError):
                    code = worker.end()
                    if code is None:  # the process that forked it was killed, too: not for this request
                        continue
                    raise WorkerDied(code) from None
                except BaseException:
                    worker.end()
                    raise
                self._worker = worker
                return reply
            raise Broken(f"the workers of {self._serve} were killed {ATTEMPTS} times, and nobody knows why")

    def _live(self) -> Worker:
        if self._worker and self._worker.alive():
            return self._worker
        for _ in range(2):
            try:
                self._warm = self._warm or WarmProcess(self._serve, self._modules)
                return self._warm.fork()
            except (OSError, EOFError, ValueError) as error:  # it was killed: another one
                if self._warm:
                    self._warm.close()
                self._warm, problem = None, error
        raise Broken(f"no worker for {self._serve} could start ({problem}); its own error stands above") from problem


def _reply(worker: Worker, request: bytes, wall_s: float) -> str:
    worker.send(None, request, wall_s)
    poll = select.poll()
    poll.register(worker.socket, select.POLLIN)
    if not poll.poll(1000 * wall_s):
        raise WorkerDied(None)
    return worker.receive()


if __name__ == "__main__":
    main()

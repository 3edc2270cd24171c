"""Processes as a user starts them, `python -m MODULE ...`, without the six seconds of CPU time that importing torch takes.

A server for each worker of pytest imports what every program of this package imports, and forks for each process that is
asked for. The process has its own arguments, environment, folder and signals, and can be killed like any other. What was
imported before the fork is the only difference: tests of start-up, of `--help` and of environment variables that a library
reads at its import use subprocess.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "torch",
    "transformers",
    "transformers.models.qwen2.modeling_qwen2",
    "hydra",
    "omegaconf",
    "safetensors.torch",
    "rich",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "zero.config.cli",
    "zero.build",
    "zero.loop",
    "zero.learner.torch",
    "zero.rollout.native",
    "zero.models.load",
)


class Process:
    """A process of the server, with the part of subprocess.Popen that the tests use, as text. `errors`: standard error by itself,
    else in standard output."""

    def __init__(
        self, *argv: str, env: Mapping[str, str] | None = None, cwd: Path | str = ROOT, errors: bool = False
    ) -> None:
        self.args, self.returncode = list(argv), None
        self.pid, self.outputs = server().fork(self.args, dict(os.environ if env is None else env), str(cwd), errors)

    def poll(self) -> int | None:
        self.returncode: int | None = server().status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            server().wait(0.2)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All its output until its end; TimeoutExpired kills nothing."""
        until = None if timeout is None else time.monotonic() + timeout
        texts = dict.fromkeys(self.outputs, b"")
        with selectors.DefaultSelector() as ready:
            for output in self.outputs:
                ready.register(output, selectors.EVENT_READ)
            while ready.get_map():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                for key, _ in ready.select(left):
                    chunk = os.read(key.fd, 1 << 16)
                    texts[key.fileobj] += chunk  # type: ignore[index]
                    if not chunk:
                        ready.unregister(key.fileobj)
        self.wait(None if until is None else max(0.1, until - time.monotonic()))
        for output in self.outputs:
            output.close()
        printed = [text.decode() for text in texts.values()]
        return printed[0], printed[1] if len(printed) > 1 else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def completed(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """As subprocess.run."""
        out, err = self.communicate(timeout)
        return subprocess.CompletedProcess(self.args, self.wait(), out, err)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


class Server:
    """This worker's end of the server."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self.ended: dict[int, int] = {}
        self.forked: list[int] = []

    def fork(self, argv: list[str], env: dict[str, str], cwd: str, errors: bool) -> tuple[int, list[IO[bytes]]]:
        pipes = [os.pipe() for _ in range(2 if errors else 1)]
        request = os.memfd_create("request")
        os.write(request, json.dumps({"argv": argv, "env": env, "cwd": cwd}).encode())
        os.lseek(request, 0, os.SEEK_SET)
        theirs = [request, *(write for _, write in pipes)]
        socket.send_fds(self.socket, [b"fork"], theirs)
        for fd in theirs:
            os.close(fd)
        while not self.forked:
            self._receive()
        return self.forked.pop(), [os.fdopen(read, "rb", buffering=0) for read, _ in pipes]

    def status(self, pid: int) -> int | None:
        """The exit code of a process, negative after a signal; None while it runs."""
        while self.wait(0.0):
            pass
        return self.ended.get(pid)

    def wait(self, seconds: float) -> bool:
        """Whether the server has sent something within this time."""
        with selectors.DefaultSelector() as ready:
            ready.register(self.socket, selectors.EVENT_READ)
            if not ready.select(seconds):
                return False
        self._receive()
        return True

    def _receive(self) -> None:
        message = self.socket.recv(4096)
        assert message, f"the server has ended with {self.child.wait()}"
        entry = json.loads(message)
        if "forked" in entry:
            self.forked.append(entry["forked"])
        else:
            self.ended[entry["pid"]] = entry["status"]


_server: list[Server] = []


def server() -> Server:
    if not _server:
        _server.append(Server())
    return _server[0]


def serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns only in the new processes, with their request."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as ready:
        ready.register(connection, selectors.EVENT_READ)
        ready.register(reader, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj == reader:
                    os.read(reader, 4096)
                    continue
                message, fds, _, _ = socket.recv_fds(connection, 64, 3)
                if not message:
                    os._exit(0)
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for fd in (reader, writer, connection.detach()):
                        os.close(fd)
                    return _become(*fds)
                for fd in fds:
                    os.close(fd)
                connection.send(json.dumps({"forked": pid}).encode())
            _reap(connection)


def _reap(connection: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        connection.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _become(request: int, output: int, errors: int | None = None) -> dict[str, Any]:
    """Become the requested process: its files, environment, folder and signals."""
    with os.fdopen(request) as file:
        process: dict[str, Any] = json.load(file)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, place in ((null, 0), (output, 1), (output if errors is None else errors, 2)):
        os.dup2(fd, place)
    for fd in filter(None, (null, output, errors)):
        os.close(fd)
    os.environ.clear()
    os.environ.update(process["env"])
    os.chdir(process["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    return process


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest; this server ends with it
    for name in PRELOADED:
        __import__(name)
    gc.freeze()
    process = serve(connection)
    sys.path[0] = process["cwd"] or os.getcwd()
    sys.argv = process["argv"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

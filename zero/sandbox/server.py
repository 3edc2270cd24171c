"""A fork server as its user sees it: start, messages, end; and in words why one cannot be had on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.sandbox import fork_server
from zero.sandbox.records import Level, Limits

_INHERITED = ("PATH", "LD_LIBRARY_PATH")  # to find a compiler, bubblewrap, and the interpreter's own library
START_S = 60.0  # wall seconds within which a server must have made its root
KEY = "questions.sandbox.level"


class Server:
    """One fork server and the socket to it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # the interpreter itself and not that of a virtual environment; no site packages, nothing of our environment,
        # a fixed hash seed: the order of a set is the same in every run
        interpreter = os.path.realpath(sys.executable)
        command = [interpreter, "-S", "-s", "-P", "-B", str(Path(fork_server.__file__)), str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, json.dumps(config | {"owner": os.getpid()})],  # so that `ps` tells whose it is
            pass_fds=[theirs.fileno()],
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"} | {k: v for k, v in os.environ.items() if k in _INHERITED},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        self.control.settimeout(START_S)

    def receive(self) -> dict[str, Any]:
        """The next message. EOFError if the server is gone."""
        data = self.control.recv(1 << 16)
        if not data:
            raise EOFError("it is gone")
        message: dict[str, Any] = json.loads(data)
        return message

    def spawn(self, number: int, kind: str, limits: Limits, descriptors: list[int]) -> None:
        """Ask for a process that has these descriptors: its channel, its output, and perhaps a link."""
        message = {"id": number, "kind": kind, "limits": asdict(limits)}
        socket.send_fds(self.control, [json.dumps(message).encode()], descriptors)

    def kill(self, number: int) -> None:
        """Kill a process and all that it has started."""
        self.control.send(json.dumps({"kill": number}).encode())

    def close(self) -> None:
        """End the server, and every process with it."""
        self.control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
            return
        self._process.kill()
        self._process.wait()


def start(level: Level, bubblewrap: bool = True, compiler: str = "") -> Server:
    """A server that is ready. InputError where this machine has none."""
    config = {"level": str(level), "compiler": compiler}
    if level is Level.FULL and bubblewrap and os.geteuid() != 0 and (path := shutil.which("bwrap")):
        config["bubblewrap"] = path
    server = Server(config)
    try:
        message = server.receive()
    except (OSError, EOFError) as error:
        server.close()
        raise InputError(KEY, level, f"the sandbox's interpreter could not start ({error})") from error
    if "error" in message:
        server.close()
        raise InputError(KEY, level, refusal(level, message["error"]))
    server.control.settimeout(None)
    return server


def refusal(level: Level, error: str) -> str:
    """Why, and what to do about it."""
    if "andlock" in error:
        remedy = "foreign programs need Linux 5.13 or later with Landlock switched on (lsm=...,landlock on the kernel's line)"
    elif level is Level.FULL:
        remedy = (
            "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0; in a container --security-opt seccomp=unconfined), or accept less: "
            f"{KEY}=landlock (of a benchmark: benchmarks.sets.NAME.sandbox.level) has no namespaces and no memory of its own"
        )
    else:
        remedy = "this kernel can hold no foreign program"
    return f"this machine forbids what foreign programs are run with ({error}); {remedy}"

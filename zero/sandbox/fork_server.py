"""python fork_server.py FD CONFIG: a warm interpreter in the sandbox's root that forks one process for each program.

One message a program on the socket FD: which limits, and the descriptors that the program is to have; one message back when
it has ended. It never sees a program: the child reads that itself, from its own descriptor, in its own jail.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # run as a file by an interpreter without any search path of ours
    sys.path.insert(0, str(Path(__file__).parents[2]))

from zero.sandbox import kernel, landlock, program, rootfs, seccomp
from zero.sandbox.jail import (
    PROGRAM,
    Jail,
    arrange,
    instructions,
    lock,
    open_jail,
    restrict_files,
    standard_input,
    write_files,
)
from zero.sandbox.records import Level, Limits
from zero.sandbox.supervisor import Supervisor

EXECUTIONS = {"binary": 1}  # programs that a task of this kind becomes
# Imported once, so that programs need not: what short programs import most
_WARM = """
    abc array ast bisect builtins calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions
    functools heapq io itertools json math numbers operator os queue random re statistics string struct sys textwrap threading
    time traceback types typing unicodedata
""".split()


@dataclass
class Child:
    """A program that runs."""

    id: int
    pid: int
    pidfd: int
    report: socket.socket
    supervisor: Supervisor
    listener: int = -1
    error: str = ""  # of its jail, before any foreign code ran


class ForkServer:
    """Forks, watches attempts, kills on demand, and tells how each child ended."""

    def __init__(self, control: socket.socket, jail: Jail) -> None:
        self._control, self._jail = control, jail
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._children: dict[int, Child] = {}

    def serve(self) -> None:
        """Until the other side is gone; as process 1 of its namespace it then takes everything with it."""
        self._watch(self._control.fileno(), self._message)
        self._send({"ready": True, "landlock": landlock.version()})
        while self._control.fileno() >= 0:
            ready = [(descriptor, self._actions[descriptor]) for descriptor, _ in self._poll.poll()]
            for descriptor, action in ready:
                if (
                    self._actions.get(descriptor) is action
                ):  # else it was closed, and perhaps given to another, just now
                    action()

    def _watch(self, descriptor: int, action: Callable[[], None]) -> None:
        self._actions[descriptor] = action
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, descriptor: int) -> None:
        if self._actions.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            self._control.close()  # whoever asked is gone

    def _message(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 8)
        if not data:
            self._control.close()
            return
        message = json.loads(data)
        if "kill" in message:
            if child := self._children.get(message["kill"]):
                os.kill(child.pid, 9)
            return
        try:
            self._spawn(message["id"], message["kind"], Limits(**message["limits"]), descriptors)
        except OSError as error:
            self._send({"id": message["id"], "error": kernel.describe(error)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, identity: int, kind: str, limits: Limits, descriptors: list[int]) -> None:
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        full = self._jail.level is Level.FULL
        if full:
            instructions(Level.FULL, limits.fork, kind != "compile")  # kept, for this child and those after it
        pid = kernel.fork_into(kernel.OWN_NAMESPACES if full else 0)
        if pid == 0:
            _become(self._jail, kind, limits, descriptors, theirs)
        theirs.close()
        supervisor = Supervisor(self._jail.readable, EXECUTIONS.get(kind, 0))
        child = Child(identity, pid, os.pidfd_open(pid), report, supervisor)
        self._children[identity] = child
        self._watch(child.pidfd, lambda: self._ended(child))
        self._watch(report.fileno(), lambda: self._reported(child))

    def _reported(self, child: Child) -> None:
        """The jail is locked and here is its listener, or it could not be made."""
        data, descriptors, _, _ = socket.recv_fds(child.report, 4096, 1)
        self._forget(child.report.fileno())
        child.report.close()
        if descriptors:
            child.listener = descriptors[0]
            self._watch(child.listener, lambda: self._attempted(child))
        else:
            child.error = data[1:].decode(errors="replace") or "it died before it was locked in"

    def _attempted(self, child: Child) -> None:
        notification = seccomp.receive(child.listener)
        if notification is None:  # its caller is dead; as soon as nobody is left under the filter, nobody will call
            self._forget(child.listener)
        elif child.supervisor.decide(notification):
            seccomp.let_go(child.listener, notification)
        else:
            os.kill(child.pid, 9)

    def _ended(self, child: Child) -> None:
        if child.report.fileno() >= 0:
            self._reported(child)
        _, status, usage = os.wait4(child.pid, 0)
        for descriptor in (child.pidfd, child.listener):
            if descriptor >= 0:
                self._forget(descriptor)
                os.close(descriptor)
        del self._children[child.id]
        message = {
            "id": child.id,
            "status": status,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "memory_mb": usage.ru_maxrss / 1024,
            "attempt": child.supervisor.attempt,
            "call": child.supervisor.call.encode("ascii", "backslashreplace").decode(),
        }
        self._send(message | ({"error": child.error} if child.error else {}))


def _become(jail: Jail, kind: str, limits: Limits, descriptors: list[int], report: socket.socket) -> NoReturn:
    """The child's whole life. `descriptors`: the channel of its request and its errors, its output, and perhaps a link."""
    try:
        open_jail(jail, limits, runs_files=kind == "binary")
        channel, output, *link = descriptors
        request = program.read_request(channel)
        write_files(request.files)
        if request.binary:
            write_files({os.path.basename(PROGRAM): request.binary})
            os.chmod(PROGRAM, 0o700)
        standard = [standard_input(request.stdin), output, channel]
        restrict_files(jail)
        arrange(standard, link[0] if link else None, report.detach())
        lock(jail, limits, watch_files=kind != "compile")
    except BaseException as error:
        text = kernel.describe(error) if isinstance(error, OSError) else repr(error)
        try:
            os.write(report.fileno() if report.fileno() >= 0 else 9, b"e" + text.encode(errors="replace")[:2000])
        finally:
            os._exit(1)
    program.run(kind, request)


def main() -> None:
    """Make the root, in new namespaces, then serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(sys.argv[2])
    try:
        jail = _enter(config, control)
        for name in _WARM:
            import_module(name)
        program.forget_where_this_is()
        _try_jail(jail)
    except OSError as error:
        control.send(json.dumps({"error": kernel.describe(error)}).encode())
        sys.exit(1)
    gc.collect()
    gc.freeze()
    ForkServer(control, jail).serve()


def _enter(config: dict[str, Any], control: socket.socket) -> Jail:
    """What every jail shares, once this process stands where jails are made. OSError where the kernel forbids it."""
    level, proc, paths = Level(config["level"]), config.get("proc", -1), config.get("paths")
    if landlock.version() == 0:
        raise OSError(0, "no Landlock")
    if paths is None:
        paths = rootfs.interpreter_paths()
        if compiler := config.get("compiler"):
            paths = sorted({*paths, *rootfs.compiler_paths(compiler)})
        if level is Level.FULL:
            proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
            if config.get("bubblewrap"):
                _through_bubblewrap(config | {"paths": paths, "proc": proc}, control)
            rootfs.enter(paths, proc, in_parent=control.close)
    if level is Level.FULL:
        kernel.drop_capabilities()
        kernel.readable_by_own_user()
    kernel.die_with_parent()
    readable = rootfs.with_aliases(paths)
    rules = landlock.rules(readable, landlock.READ) + landlock.rules(rootfs.DEVICES, landlock.USE_DEVICE)
    return Jail(level, readable, rules, proc, os.getuid(), os.getgid())


def _through_bubblewrap(config: dict[str, Any], control: socket.socket) -> NoReturn:
    """Become bubblewrap, which makes the root and runs this program again in it."""
    package = Path(__file__).parent
    options = rootfs.bubblewrap_options(
        config["paths"], rootfs.hidden_paths(), [str(package.parent / "__init__.py"), str(package)]
    )
    for descriptor in (control.fileno(), config["proc"]):
        os.set_inheritable(descriptor, True)
    command = [sys.executable, "-S", "-s", "-P", "-B", __file__, sys.argv[1], json.dumps(config)]
    os.execv(config["bubblewrap"], [config["bubblewrap"], *options, "--", *command])


def _try_jail(jail: Jail) -> None:
    """One without a program in it. OSError if this kernel lets nobody make one."""
    reading, writing = os.pipe()
    full = jail.level is Level.FULL
    pid = kernel.fork_into(kernel.OWN_NAMESPACES if full else 0)
    if pid == 0:
        try:
            open_jail(jail, Limits(), runs_files=False)
            restrict_files(jail)
            seccomp.install(instructions(jail.level, fork=False, watch_files=False))
        except OSError as error:
            os.write(writing, kernel.describe(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        problem = pipe.read()
    os.waitpid(pid, 0)
    if problem:
        raise OSError(0, problem)


if __name__ == "__main__":
    main()

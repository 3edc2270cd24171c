"""What runs in a program's jail, once it is locked: a script, a solution that its tests call, or machine code."""

from __future__ import annotations

import atexit
import io
import json
import marshal
import os
import random
import signal
import struct
import sys
import threading
import traceback
from types import ModuleType
from typing import Any, NoReturn

from zero.sandbox import tests, values
from zero.sandbox.jail import LINK, PROGRAM
from zero.sandbox.records import Task
from zero.sandbox.rootfs import HOME

FINISHED, UNCAUGHT, NO_MEMORY = 0, 1, 77  # exit codes
_MOST_DETAIL = 2000
_LENGTH = struct.Struct("Q")


def frame(task: Task) -> bytes:
    """A request as `read_request` takes it."""
    request = marshal.dumps(tuple(dict(v) if f == "files" else v for f, v in vars(task).items()))
    return _LENGTH.pack(len(request)) + request


def read_request(channel: int) -> Task:
    """From our own side, before anything foreign runs."""
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    return Task(*marshal.loads(_exactly(channel, length)))  # not pickle: that would import what defines a Task


def _exactly(channel: int, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = os.read(channel, min(1 << 20, length - len(pieces)))
        if not piece:
            raise EOFError("the request ends early")
        pieces += piece
    return bytes(pieces)


def run(kind: str, task: Task) -> NoReturn:
    """Never returns, whatever the program does: this process is a copy of the server, and must not go on as one."""
    code = UNCAUGHT
    try:
        _as_if_fresh(task)
        code = _RUNS[kind](task)
    except BaseException as error:
        code = explain(error)
    finally:
        os._exit(code)


def forget_where_this_is() -> None:
    """Of the server: what its programs shall not inherit, done once for all of them. It imports nothing of ours any more."""
    for name in [name for name in sys.modules if name == "zero" or name.startswith("zero.")]:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update({"HOME": HOME, "PATH": os.defpath, "LANG": "C.UTF-8"})
    sys.path[:] = [HOME, *[path for path in sys.path if path.startswith(sys.base_prefix)]]
    random.seed(0)


def _as_if_fresh(task: Task) -> None:
    """The state of an interpreter that has just been started for this program alone."""
    sys.argv[:] = ["program.py", *task.arguments]
    sys.stdin = sys.__stdin__ = _text_stream(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text_stream(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text_stream(2, "w", line_buffering=True)  # type: ignore[misc]
    random.seed(0)  # what a program draws without a seed of its own is the same every time


def _text_stream(descriptor: int, mode: str, line_buffering: bool = False) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, mode, closefd=False)
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="surrogateescape", line_buffering=line_buffering)


def load(source: str, name: str) -> dict[str, Any]:
    """The names that a program defines, once it has run as module `name`."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _script(task: Task) -> int:
    code = FINISHED
    try:
        load(task.source, "__main__")
    except BaseException as error:
        code = explain(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that a script leaves to do its work
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        code = code or explain(error)
    return code


def explain(error: BaseException) -> int:
    """The exit code that Python itself gives; the error's last line goes to standard error, as Python's does."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        line = str(error.code)
    else:
        line = "".join(traceback.format_exception_only(error)).strip()
    os.write(2, line.encode(errors="backslashreplace")[-_MOST_DETAIL:])
    return NO_MEMORY if isinstance(error, MemoryError) else UNCAUGHT


def _binary(task: Task) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(PROGRAM, [PROGRAM, *task.arguments], dict(os.environ))


def _compile(task: Task) -> int:
    """Run a compiler; the machine code that it has left in PROGRAM goes to standard output."""
    command = list(task.arguments)
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        os.execve(command[0], command, dict(os.environ))
    _, status = os.waitpid(pid, 0)
    if status == 0:
        with open(PROGRAM, "rb") as binary, open(1, "wb", closefd=False) as output:
            output.write(binary.read())
    return FINISHED if status == 0 else UNCAUGHT


# A solution: it runs once, then its tests, in their own process, call what it has defined.


def _solution(task: Task) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # functions print what they like
    objects: list[Any] = []
    try:
        namespace = load(task.source, "solution")
    except SystemExit:
        return FINISHED
    except BaseException as error:
        return explain(error)
    objects.append(namespace)
    for line in io.BufferedReader(io.FileIO(LINK, closefd=False)):
        try:
            reply = _answer(json.loads(line), objects)
            text = json.dumps(reply)
        except SystemExit as error:
            return explain(error)
        except BaseException as error:
            explain(error)
            text = json.dumps({"error": type(error).__name__, "text": str(error)[:_MOST_DETAIL]})
        write_line(LINK, text)
    return FINISHED


def write_line(descriptor: int, text: str) -> None:
    """One line, all of it."""
    view = memoryview(text.encode() + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]


def _answer(request: dict[str, Any], objects: list[Any]) -> dict[str, Any]:
    """One question of the tests: a name of the program, a part of an object, or a call."""

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    target = objects[request["object"]]
    if "name" in request:
        name = request["name"]
        return {"value": values.encode(target[name] if target is objects[0] else getattr(target, name), keep)}
    before = json.dumps(request["arguments"])
    arguments, options = values.decode(request["arguments"], objects.__getitem__)
    value = values.encode(target(*arguments, **options), keep)
    after = values.encode([arguments, options], keep)
    return {"value": value} if json.dumps(after) == before else {"value": value, "arguments": after}


_RUNS = {"script": _script, "solution": _solution, "tests": tests.run, "binary": _binary, "compile": _compile}

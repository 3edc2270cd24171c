"""The tests' own process: statements about functions of a program that runs elsewhere, in a jail of its own.

A name of the program is, here, a `Remote`: calling it sends the arguments as text and gets the value back as text. What is
expected never leaves this process, and nothing of the program ever enters it but plain data.
"""

from __future__ import annotations

import builtins
import json
import math
import os
from typing import Any

from zero.sandbox import values
from zero.sandbox.jail import LINK
from zero.sandbox.records import Task

PASS, FAIL, GONE, GARBLED, BROKEN, END = b"pass", b"fail", b"gone", b"garbled", b"broken ", b"end"
_MOST = 4 << 20  # bytes of one reply


class Gone(BaseException):
    """The program answers no more."""


class Link:
    """The line to the program."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._received = descriptor, b""
        self.errors: list[BaseException] = []  # that the program's replies have raised here
        self.lost = b""  # why there will be no more replies: GONE or GARBLED

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request. Gone if there is none, or none that is of any use."""
        try:
            self._send(json.dumps(request).encode() + b"\n")
            reply = json.loads(self._line())
        except (OSError, EOFError) as error:
            raise self.lose(GONE) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.lose(GARBLED) from error
        if not isinstance(reply, dict):
            raise self.lose(GARBLED)
        if "error" in reply:
            raise self._raised(str(reply["error"]), str(reply.get("text", "")))
        return reply

    def lose(self, why: bytes) -> Gone:
        """Nothing that comes from now on counts."""
        self.lost = self.lost or why
        return Gone()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            piece = os.read(self._descriptor, 1 << 16)
            if not piece:
                raise EOFError
            if len(self._received) > _MOST:
                raise ValueError
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _raised(self, name: str, text: str) -> BaseException:
        """An exception of the program, as the tests may expect it: by the name of one that Python has."""
        kind = getattr(builtins, name, None)
        known = isinstance(kind, type) and issubclass(kind, Exception)
        try:
            error = kind(text) if known else RuntimeError(f"{name}: {text}")  # type: ignore[misc]
        except TypeError:  # some want more than a text
            error = RuntimeError(f"{name}: {text}")
        self.errors.append(error)
        return error


class Remote:
    """Something of the program's: it can be called, and asked for its parts. It equals nothing but itself."""

    def __init__(self, link: Link, number: int) -> None:
        self.__link, self.__number = link, number

    def __repr__(self) -> str:
        return f"<object {self.__number} of the program>"

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        sent = values.encode([list(arguments), options], self.__sent)
        reply = self.__link.ask({"object": self.__number, "arguments": sent})
        if "arguments" in reply:
            changed, changed_options = self.__received(reply["arguments"])
            for mine, theirs in zip(
                [*arguments, *options.values()], [*changed, *changed_options.values()], strict=True
            ):
                _take_over(mine, theirs)
        return self.__received(reply.get("value"))

    def __getattr__(self, name: str) -> Any:
        return self.__received(self.__link.ask({"object": self.__number, "name": name}).get("value"))

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __len__(self) -> int:
        return int(self.__getattr__("__len__")())

    def __str__(self) -> str:
        return str(self.__getattr__("__str__")())

    def __received(self, data: Any) -> Any:
        try:
            return values.decode(data, lambda number: Remote(self.__link, int(number)))
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
            raise self.__link.lose(GARBLED) from error

    def __sent(self, value: Any) -> int:
        if isinstance(value, Remote):
            return value.__number
        raise TypeError(f"a value of type {type(value).__name__} cannot be sent to the program")


def _take_over(mine: Any, theirs: Any) -> None:
    """What the program did to an argument in place."""
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and isinstance(theirs, dict | set):
        mine.clear()
        mine.update(theirs)


def same(value: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Equal, where a list may stand for a tuple and floating point for what it is near to."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(same(one, other, tolerance) for one, other in pairs)
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same(value[key], expected[key], tolerance) for key in expected)
    if isinstance(value, bool) != isinstance(expected, bool):
        return False
    if isinstance(value, float) or isinstance(expected, float):
        numbers = isinstance(value, int | float) and isinstance(expected, int | float)
        return numbers and math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(value == expected)


def run(task: Task) -> int:
    """Each test in turn; a line for each on standard output, which no test can write to."""
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    link = Link(LINK)
    program = Remote(link, 0)
    # inf and nan: how `repr` writes those numbers, with which tests of published sets are made
    namespace: dict[str, Any] = {"__name__": "tests", "same": same, "inf": math.inf, "nan": math.nan}
    try:
        exec(compile(task.setup, "setup", "exec", dont_inherit=True), namespace)
        for name in task.names:
            namespace[name] = getattr(program, name)
        for test in task.tests:
            verdict = _outcome(test, namespace, link)
            if link.lost:  # even if the test caught that
                raise Gone
            os.write(report, verdict + b"\n")
    except Gone:
        os.write(report, link.lost + b"\n")
    except Exception as error:
        if any(error is raised for raised in link.errors):  # the program lacks a name that every test needs
            os.write(report, b"".join([FAIL + b"\n"] * len(task.tests)))
        else:
            os.write(report, BROKEN + repr(error).encode(errors="replace")[:500].replace(b"\n", b" ") + b"\n")
    else:
        os.write(report, END + b"\n")
    return 0


def _outcome(test: str, namespace: dict[str, Any], link: Link) -> bytes:
    try:
        code = compile(test, "test", "exec", dont_inherit=True)
        exec(code, namespace)
    except (SyntaxError, NameError) as error:
        if not any(error is raised for raised in link.errors):
            raise
        return FAIL
    except Exception:  # an assertion, or what a wrong value led to
        return FAIL
    return PASS

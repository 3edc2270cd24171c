"""Runs in the sandbox, as a script: the earlier calls of an episode in silence, then the latest one. zero.environments.python sends
it as text and reads what it writes; it imports the standard library alone.

Standard input: {"calls": [source, ...], "most": bytes of output}. Output: BEGIN, what the latest call prints, RECORD, a JSON object
{"error", "keep"}, END. All this is in reach of the foreign code, which can deceive nobody by it but its own policy.

What a program draws from the machine comes from here instead, so that the earlier calls do what they did before: a clock that
time.sleep moves, and each look at it a little; random bytes that are the same every time. Left alone are time.monotonic, by which
asyncio and threads wait in earnest, and random.Random() without a seed.
"""

from __future__ import annotations

import ast
import datetime
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

BEGIN, RECORD, END = b"\x02", b"\x1e", b"\x03"
LONGEST_ERROR = 500  # characters
NOW = 1_767_225_600 * 10**9  # nanoseconds: each session begins with the year 2026, UTC
LOOK = 10_000  # nanoseconds that a look at the clock takes


class Bounded(io.RawIOBase):
    """Standard output up to a number of bytes; more is taken and forgotten, so that a call that prints too much goes on."""

    left = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data[: max(0, self.left)])
        self.left -= len(data)
        while piece:
            piece = piece[os.write(1, piece) :]
        return len(data)


class Clock:
    """What time it is, in nanoseconds."""

    def __init__(self) -> None:
        self._now = NOW

    def look(self) -> int:
        """The time."""
        self._now += LOOK
        return self._now

    def seconds(self) -> float:
        """The time as time.time gives it."""
        return self.look() / 1e9

    def sleep(self, seconds: float) -> None:
        """Move the clock on; other threads may run."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self._now += int(seconds * 1e9)
        _SLEEP(0)


_SLEEP = time.sleep


class FixedDatetime(datetime.datetime):
    """datetime.datetime, whose C code would ask the machine's clock; the rest of its module asks time.time."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    def __repr__(self) -> str:
        return super().__repr__().replace("FixedDatetime", "datetime.datetime", 1)


def fix_the_world(clock: Clock) -> None:
    """Put the clock and the random bytes in place of the machine's."""
    for name in ("time", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, clock.seconds)
        setattr(time, f"{name}_ns", clock.look)
    time.sleep = clock.sleep  # type: ignore[assignment]
    for name in ("gmtime", "localtime", "ctime"):
        setattr(time, name, _with_default(getattr(time, name), clock.seconds, 0))
    for name, place in (("asctime", 0), ("strftime", 1)):
        setattr(time, name, _with_default(getattr(time, name), time.localtime, place))
    datetime.datetime = FixedDatetime  # type: ignore[misc]
    os.urandom = random._urandom = random.Random(0).randbytes  # type: ignore[attr-defined]
    random.seed = _with_default(random.seed, int, 0)


def _with_default(function: Callable[..., Any], default: Callable[[], Any], place: int) -> Callable[..., Any]:
    """The function, whose argument at `place` is the default's value where it is None or not given."""

    def call(*arguments: Any, **named: Any) -> Any:
        given = [*arguments]
        if len(given) == place and not named:
            given.append(None)
        if len(given) > place and given[place] is None:
            given[place] = default()
        return function(*given, **named)

    return call


def run(source: str, names: dict[str, Any], place: str) -> tuple[str, bool]:
    """(its error in one line or "", whether what it did is to be kept). The value of an expression at its end is printed."""
    try:
        tree = ast.parse(source, place)
        last = [ast.Interactive([tree.body.pop()])] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        exec(compile(tree, place, "exec", dont_inherit=True), names)
        for expression in last:
            exec(compile(expression, place, "single", dont_inherit=True), names)
        sys.stdout.flush()
    except SystemExit:
        return "", True
    except MemoryError:
        return "MemoryError", False
    except BaseException as error:
        return describe(error, place), True
    return "", True


def describe(error: BaseException, place: str) -> str:
    """'ValueError: what it says (line 3)', of the call's own lines."""
    try:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        trace, line = error.__traceback__, 0
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == place else line
            trace = trace.tb_next
        text += f" (line {line})" if line else ""
    except BaseException:  # an exception whose own text cannot be had
        text = "an exception without a text"
    return " ".join(text[:LONGEST_ERROR].split())


def main() -> None:
    request = json.load(sys.stdin)
    *earlier, latest = request["calls"]
    sys.stdin = io.StringIO()
    output, silence = os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    raw = Bounded()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
    fix_the_world(Clock())
    session = ModuleType("__main__")
    sys.modules["__main__"] = session
    for number, source in enumerate(earlier, 1):
        sys.stdout = sys.stderr = stream
        run(source, session.__dict__, f"<call {number}>")
    sys.stdout = sys.stderr = stream
    stream.flush()
    raw.left = request["most"]
    os.dup2(output, 1)
    os.write(1, BEGIN)
    error, keep = run(latest, session.__dict__, f"<call {len(earlier) + 1}>")
    stream.flush()
    record = json.dumps({"error": error, "keep": keep}).encode()
    os.write(1, RECORD + record + END)
    os._exit(0)  # threads that it has left end here


if __name__ == "__main__":
    main()

"""How a process is asked to stop: by a signal, by Ctrl-C, by a file. What it does is saved first; asked twice, it stops at once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CTRL_C = "Ctrl-C"
SECOND_CTRL_C = 130  # exit code: 128 + SIGINT, as shells have it
# Seconds within which several processes' launcher may pass on the Ctrl-C that the terminal has sent already
AGAIN = 1.0


class LeaseLost(Exception):
    """Another copy of this run has taken its folder over: nothing more may be written there. Exit code 76."""


class StopSignal:
    """Set by SIGTERM, Ctrl-C, SIGHUP (a terminal that closed), SIGUSR1 (which Slurm sends ahead of a time limit) or a file;
    asked at the end of each step. A second Ctrl-C raises KeyboardInterrupt, as the first does before `begun` is set, when
    nothing is there to save; a third ends the process.

    The file is named by ZERO_STOP_FILE. ZERO_LEASE=PATH:TOKEN names a JSON file whose token says who owns the run: asking
    raises LeaseLost once it is another's. One that is not there, or cannot be read now, takes nothing away.
    `piece` is what is finished before anything is saved.
    """

    def __init__(self, piece: str = "this step") -> None:
        self.received: str | None = None
        self.started = False
        self._piece, self._at, self._terminals = piece, 0.0, [fd for fd in (1, 2) if _is_terminal(fd)]
        self._file = os.environ.get("ZERO_STOP_FILE")
        self._lease, _, self._token = os.environ.get("ZERO_LEASE", "").rpartition(":")

    def __bool__(self) -> bool:
        if self._lease and (owner := self._owner()) not in (None, self._token):
            raise LeaseLost(f"{owner} has taken this run over")
        if self._file and self.received is None and os.path.exists(self._file):
            self.received = "a stop file"
        return self.received is not None

    def _owner(self) -> str | None:
        try:
            with open(self._lease, "rb") as file:
                return str(json.load(file)["token"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received == CTRL_C
        self.received = CTRL_C if number == signal.SIGINT else signal.Signals(number).name
        if number == signal.SIGHUP:
            self._leave_terminals()
        if number != signal.SIGINT:
            return
        if self.started and not again:
            self._at = time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                _say(f"saving after {self._piece}; Ctrl-C again stops at once")
        elif time.monotonic() - self._at > AGAIN or os.environ.get("WORLD_SIZE", "1") == "1":
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt

    def _leave_terminals(self) -> None:
        """Output to a terminal that is gone would fail, and the run with it, before it is saved."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for fd in self._terminals:
                os.dup2(nowhere, fd)
            os.close(nowhere)

    @contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """Handle the signals inside, restore the former handlers after. Only the main thread can. What whoever started
        this process has it ignore (nohup: SIGHUP; a shell's background job: Ctrl-C) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        wanted = [signal.SIGTERM, signal.SIGUSR1]
        wanted += [n for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._receive) for number in wanted}
        try:
            yield self
        finally:
            for number, handler in former.items():
                if signal.getsignal(number) != signal.SIG_DFL:  # a third Ctrl-C may still come
                    signal.signal(number, handler)


def _is_terminal(fd: int) -> bool:
    with suppress(OSError):
        return os.isatty(fd)
    return False


def _say(line: str) -> None:
    """A line on standard error, from within a signal handler: the stream may be in the middle of another one."""
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
    except (OSError, ValueError):
        pass

"""Requests to stop a process: by a signal, Ctrl-C or a file. Its state is saved first; a second Ctrl-C stops at once."""

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
# Seconds within which a launcher of several processes may pass on the Ctrl-C that the terminal has sent them already
DUPLICATE_SECONDS = 1.0


class LeaseLost(Exception):
    """Another copy of this run has taken over its folder: nothing more may be written there. Exit code 76."""


class StopSignal:
    """Set by SIGTERM, Ctrl-C, SIGHUP (the terminal closed), SIGUSR1 (which Slurm sends ahead of a time limit) or a file;
    read as a bool at the end of each step. A second Ctrl-C raises KeyboardInterrupt, as does the first before `started` is
    set, when there is nothing to save; a third ends the process.

    ZERO_STOP_FILE names the file. ZERO_LEASE=PATH:TOKEN names a JSON file whose token says who owns the run: once it is
    another's, reading raises LeaseLost; a lease file that is missing or unreadable is ignored.
    `piece` names what is completed before the state is saved.
    """

    def __init__(self, piece: str = "this step") -> None:
        self.received: str | None = None
        self.started = False
        self._piece, self._interrupted_at = piece, 0.0
        self._terminals = [fd for fd in (1, 2) if _is_terminal(fd)]
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
        second = self.received == CTRL_C
        self.received = CTRL_C if number == signal.SIGINT else signal.Signals(number).name
        if number == signal.SIGHUP:
            self._leave_terminals()
        if number != signal.SIGINT:
            return
        if self.started and not second:
            self._interrupted_at = time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                _print_line(f"saving after {self._piece}; Ctrl-C again stops at once")
        elif time.monotonic() - self._interrupted_at > DUPLICATE_SECONDS or os.environ.get("WORLD_SIZE", "1") == "1":
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt

    def _leave_terminals(self) -> None:
        """Send further output to /dev/null: writing to a closed terminal would fail, and the run with it, before it is saved."""
        with suppress(OSError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            for fd in self._terminals:
                os.dup2(devnull, fd)
            os.close(devnull)

    @contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """Handle the signals inside, restore the former handlers after; does nothing outside the main thread. Signals that
        the process was started to ignore (SIGHUP under nohup, Ctrl-C in a background job) stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = [signal.SIGTERM, signal.SIGUSR1]
        numbers += [n for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in former.items():
                if signal.getsignal(number) != signal.SIG_DFL:  # set for a third Ctrl-C, which may still come
                    signal.signal(number, handler)


def _is_terminal(fd: int) -> bool:
    with suppress(OSError):
        return os.isatty(fd)
    return False


def _print_line(line: str) -> None:
    """A line on standard error, from a signal handler, which may have interrupted another print."""
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
    except (OSError, ValueError):
        pass

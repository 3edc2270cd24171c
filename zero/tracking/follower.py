"""python -m zero.tracking.follower: the process that zero.tracking.MlflowTracker starts beside a run.

It reads JSON lines: {"run": ..., "params": ..., "every": seconds}, then {"artifact": FILE} any number of times and
{"close": STATUS}. When they end without a word the run is dead, and it leaves at once: a resumed run has a follower of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zero.tracking.mlflow import InTrash, Remote, say
from zero.tracking.store import import_mlflow

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts on a store that fails


class Follower:
    """What the run has said, and the loop that delivers. `status` and `wake` are set by the thread that listens."""

    def __init__(self, remote: Remote, every: float) -> None:
        self._remote, self._every = remote, every
        self._status: str | None = None
        self._wake = threading.Event()

    def listen(self, lines: Iterator[str]) -> None:
        """Take what the run says, until it is gone."""
        try:
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "artifact" in message:
                    self._remote.artifacts.append(Path(message["artifact"]))
                if "close" in message:
                    self._status = message["close"]
                    self._wake.set()
        finally:
            os._exit(1)  # also after half a line, the last of a run that was killed: nobody is left to follow

    def work(self) -> None:
        """Deliver until the run has closed and MLflow has everything."""
        pause, failed = FIRST_PAUSE, False
        while True:
            status = self._status  # read before delivering: what was journalled before close is then delivered
            try:
                self._remote.deliver()
                if status:
                    self._remote.end(status)
                    return
                pause = FIRST_PAUSE
                self._wake.wait(self._every)
            except Exception as error:
                self._remote.disconnect()
                if not failed:
                    reason = why(error, self._remote.uri)
                    say(f"cannot deliver ({reason}); the run goes on, metrics.jsonl holds everything")
                failed = True
                if status and isinstance(error, InTrash):  # waiting does not help
                    os._exit(1)
                # Before close, close interrupts the pause; after it, short pauses use up the run's patience.
                if status:
                    time.sleep(min(pause, 2.0))
                else:
                    self._wake.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


def why(error: Exception, uri: str) -> str:
    """What keeps the store from taking the run, in one line, with the remedy where the cause is plain."""
    text = str(error).strip()
    if "ConnectionPool(" in text:  # of an HTTP client: refused, no such host, no route
        return f"nothing answers at {uri}: start MLflow there, or give another tracker.uri"
    kind = "" if isinstance(error, InTrash) else f"{type(error).__name__}: "
    return f"{kind}{text}".split("\n")[0][:300]


def main() -> None:
    first = json.loads(sys.stdin.readline() or "null")
    if first is None:  # the run died as it was born
        return
    remote = Remote(**first["run"])
    remote.params |= first["params"]
    follower = Follower(remote, first["every"])
    threading.Thread(target=follower.listen, args=(sys.stdin,), daemon=True).start()
    import_mlflow()
    follower.work()
    os._exit(0)  # the listener still reads


if __name__ == "__main__":
    main()

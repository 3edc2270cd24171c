"""A process beside a run that brings its folder into a store: the run pays neither for a tracker's library nor for its calls,
and never waits for a server before its end.

The run folder is the protocol. The process follows it until a new result.json says that the run has ended, and leaves once
everything is delivered; it leaves at once when the run is gone without that, for a resumed run has a follower of its own.
Starting, resuming after SIGKILL, coming back after an outage are one path: `Tracker.deliver`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zero.config.check import instantiate
from zero.paths import ROOT
from zero.tracking import DeliveryError, Tracker, delivered, folder, journal, read_link, waiting

COMMAND = (sys.executable, "-m", "zero.tracking.follower")
EVERY = 2.0  # seconds between deliveries
TICK = 0.1  # seconds between looks at the run
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts on a store that fails
LAST_PAUSE = 2.0  # the longest one, once the run has ended
# A scheduler signals every process of a job; the run saves, closes and so ends its follower
FOR_THE_RUN = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class Follower:
    """The process, as the run sees it. `settings`: the tracker's section of the config. Nothing here blocks but `close`."""

    def __init__(self, settings: Mapping[str, Any], run_dir: Path, run_name: str) -> None:
        self._settings, self._run_dir, self._run_name = dict(settings), run_dir.absolute(), run_name
        self._process: subprocess.Popen[bytes] | None = None
        # It leaves its link in the run folder: what the process cannot deliver is known to wait
        self._tracker = make_tracker(self._settings, self._run_dir, run_name)

    @property
    def pid(self) -> int | None:
        """The process, once it was started."""
        return self._process.pid if self._process else None

    def delivered(self) -> bool:
        """Whether nothing is left to do for a finished run."""
        return delivered(self._tracker.link)

    def start(self, ended: bool = False) -> None:
        """Follow the run, whose folder holds its settings and this start of it already; `ended`: it has ended, too."""
        before = 0 if ended else folder.result_time(self._run_dir)
        job: dict[str, Any] = {"run_dir": str(self._run_dir), "run_name": self._run_name, "settings": self._settings}
        job |= {"result_before": before, "run_process": os.getpid()}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)  # a process inherits what is blocked
        try:
            self._process = subprocess.Popen(
                [*COMMAND, json.dumps(job)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def close(self, status: str) -> None:
        """Wait until the store knows that the run has ended so; one line if that takes too long.

        A finished run has time: it waits as long as something arrives, `patience` for each sign of that.
        """
        if self._process is None:
            return
        link, patience = self._tracker.link, self._tracker.patience
        before = read_link(link)
        while True:
            try:
                self._process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                now = read_link(link)
                if status != "finished" or now == before:
                    self._process.kill()
                    break
                before = now
        if self._process.wait():
            count = waiting(link)
            what = f"{count} steps wait in {self._run_dir / journal.FILE}" if count else "it lacks the end of the run"
            say(link, f"{what} (tracker.patience={patience:g} s passed); running the same command again delivers them")


def make_tracker(settings: Mapping[str, Any], run_dir: Path, run_name: str) -> Tracker:
    """The tracker that a section of the config names, for one run."""
    tracker: Tracker = instantiate(settings, "tracker")(run_dir=run_dir, run_name=run_name)
    return tracker


def follow(tracker: Tracker, ending: Callable[[], str | None]) -> bool:
    """Deliver until the run has ended, as `ending` says, and the store has everything; False if it will not take it."""
    pause, failed = FIRST_PAUSE, False
    while True:
        status = ending()  # before delivering: what was journalled before the end is then delivered
        try:
            tracker.deliver(status)
            if status:
                return True
            pause = FIRST_PAUSE
            wait(EVERY, ending)
        except Exception as error:
            if not failed:
                reason = str(error) if isinstance(error, DeliveryError) else f"{type(error).__name__}: {error}"
                say(tracker.link, f"cannot deliver ({reason}); the run goes on, {journal.FILE} holds everything")
            failed = True
            if status and isinstance(error, DeliveryError) and error.hopeless:
                return False
            # Before the end, that interrupts the pause; after it, short pauses use up the run's patience.
            if status:
                time.sleep(min(pause, LAST_PAUSE))
            else:
                wait(pause, ending)
            pause = min(2 * pause, LONGEST_PAUSE)


def wait(seconds: float, ending: Callable[[], str | None]) -> None:
    """Until the time has passed or the run has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not ending():
        time.sleep(TICK)


def leave_with(process: int) -> None:
    """End this process when its parent is gone, whatever it is doing: a second follower may soon deliver the same run."""
    while os.getppid() == process:
        time.sleep(TICK)
    os._exit(1)


def say(link: Path, text: str) -> None:
    """A line for the person who started the run, under the name of the tracker."""
    print(f"{link.stem}: {text}", file=sys.stderr, flush=True)


def main() -> None:
    job = json.loads(sys.argv[-1])
    threading.Thread(target=leave_with, args=(job["run_process"],), daemon=True).start()
    run_dir = Path(job["run_dir"])
    tracker = make_tracker(job["settings"], run_dir, job["run_name"])
    complete = follow(tracker, lambda: folder.ending(run_dir, job["result_before"]))
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()

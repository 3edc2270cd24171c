"""What a run calls: the journal first, then whatever shows or follows it; opened from a config, closed with a result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from zero.files import write_json
from zero.records import Metrics
from zero.tracking import folder
from zero.tracking.follower import Follower
from zero.tracking.journal import Journal
from zero.tracking.mlflow import stored_in
from zero.tracking.store import dashboard_command


class View(Protocol):
    """What a person watches: zero.tracking.terminal.Progress."""

    def metrics(self, values: Metrics, step: int) -> None: ...
    def evaluation(self, step: int, results: Sequence[Any]) -> None: ...
    def close(self, status: str) -> None: ...


class Trackers:
    """The journal, whose errors are raised; a view and a follower, whose errors cost one line and never the run. Without a journal
    nothing is kept: another process keeps it."""

    def __init__(self, journal: Journal | None, view: View | None = None, follower: Follower | None = None) -> None:
        self._journal, self._view, self._follower = journal, view, follower
        self._reported: set[str] = set()

    def rewind(self, step: int) -> None:
        """Begin after `step` steps; -1 before the evaluation of step 0. Call once, before the first metrics."""
        if self._journal:
            self._journal.rewind(step)
        if follower := self._follower:
            self._guard(follower, lambda: follower.start())

    def metrics(self, values: Metrics, step: int) -> None:
        """One line of metrics.jsonl. Raises the journal's KeyError, ValueError and OSError."""
        if self._journal:
            self._journal.append(values, step)
        if view := self._view:
            self._guard(view, lambda: view.metrics(values, step))

    def evaluation(self, step: int, results: Sequence[Any]) -> None:
        """Show benchmark results; their numbers reach the journal with the metrics of the step."""
        if view := self._view:
            self._guard(view, lambda: view.evaluation(step, results))

    def close(self, status: str) -> None:
        """The run has ended as its result.json says: "finished", "preempted" or "failed". Call once, whatever happened."""
        if view := self._view:
            self._guard(view, lambda: view.close(status))
        if follower := self._follower:
            self._guard(follower, lambda: follower.close(status))  # last: it may wait for a server

    def _guard(self, source: object, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if type(source).__name__ not in self._reported:  # once is news, every step would be noise
                self._reported.add(type(source).__name__)
                _report(type(source).__name__, error)


def open_trackers(config: Mapping[str, Any], run_dir: Path, name: str, view: View | None = None) -> Trackers:
    """The journal of a run, what is shown of it, and a follower if its config names a tracker."""
    return Trackers(Journal(run_dir), view, open_follower(config, run_dir, name))


def open_follower(config: Mapping[str, Any], run_dir: Path, name: str) -> Follower | None:
    """A follower for the tracker of the config; None without one, or, with a warning, if it cannot be opened."""
    if "_target_" not in config["tracker"]:
        return None
    try:
        return Follower(config["tracker"], run_dir, name)
    except Exception as error:
        _report("tracker", error)
        return None


def close(run_dir: Path, trackers: Trackers, outcome: Mapping[str, Any], curves: bool) -> None:
    """Write, if asked for, curves.png, and then result.json, by which a follower knows that the run has ended; wait for it."""
    from zero.tracking.curves_png import draw

    try:
        try:
            if curves:
                draw(run_dir)
        finally:
            write_json(run_dir / folder.RESULT, outcome)
    except OSError as error:  # the run's own error, if any, says more
        print(f"{run_dir}: {error}", file=sys.stderr)
    trackers.close(outcome["status"])


def deliver(config: Mapping[str, Any], run_dir: Path, name: str) -> None:
    """Hand a finished run to its tracker, if that does not know all of it: a server was away when the run ended."""
    follower = open_follower(config, run_dir, name)
    if follower and not follower.delivered():
        follower.start(ended=True)
        follower.close("finished")


def where_to_look(run_dir: Path, before: str = "") -> None:
    """Print where a finished run's files are; `before`: a line for a run that had finished earlier."""
    if before:
        print(before)
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    print(f"finished: {shown}")
    if (run_dir / "curves.png").exists():
        print(f"  curves        {shown / 'curves.png'}")
    print(f"  model         {shown / 'model'}")
    print(f"  all metrics   {shown / 'metrics.jsonl'}")
    print(f"  compare runs in MLflow:  {dashboard_command(stored_in(run_dir))}")


def _report(name: str, error: Exception) -> None:
    print(f"{name}: {type(error).__name__}: {error}; the run goes on, metrics.jsonl holds everything", file=sys.stderr)

"""Where a run's numbers go: always to metrics.jsonl, to the terminal, and to whatever tracker the config names.

glossary.py   what each number is called, its unit and meaning
journal.py    metrics.jsonl, the truth
link.py       mlflow.json, how far that is in MLflow
mlflow.py     MLflow, which follows the journal;  follower.py: in a process of its own
store.py      where MLflow keeps it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from zero.config.identity import science
from zero.records import Metrics
from zero.tracking.glossary import GLOSSARY, describe, markdown
from zero.tracking.journal import JsonlTracker
from zero.tracking.link import delivered, stored_in, waiting
from zero.tracking.mlflow import MlflowTracker
from zero.tracking.provenance import Start
from zero.tracking.store import dashboard_command

__all__ = [
    "GLOSSARY", "JsonlTracker", "MlflowTracker", "Tracker", "Trackers", "View", "dashboard_command", "delivered", "describe",
    "markdown", "stored_in", "waiting",
]  # fmt: skip

AXES = ("algo", "template", "questions", "model")


class Tracker(Protocol):
    """Called as rewind or close first, then metrics with ascending steps, then close, once."""

    def rewind(self, step: int) -> None:
        """The run begins after `step` steps (-1: before its first evaluation): forget what is beyond."""

    def params(self, flat: dict[str, str]) -> None:
        """The settings of the run, as flat dotted keys."""

    def metrics(self, values: Metrics, step: int) -> None:
        """The numbers of one step; step 0 is before training."""

    def artifact(self, path: Path) -> None:
        """A file of the run folder, complete."""

    def close(self, status: str) -> None:
        """The run ends: "finished", "preempted" or "failed"."""


class View(Protocol):
    """What a person watches: zero.tracking.terminal.Progress."""

    def metrics(self, values: Metrics, step: int) -> None: ...
    def evaluation(self, step: int, results: Sequence[Any]) -> None: ...
    def close(self, status: str) -> None: ...


class Trackers:
    """The journal first, whose errors pass; then view and followers, whose errors cost one line and never the run.
    Without a journal nothing is kept: another process keeps it."""

    def __init__(
        self, journal: JsonlTracker | None, followers: Sequence[Tracker] = (), view: View | None = None
    ) -> None:
        self._journal, self._followers, self._view = journal, followers, view
        self._reported: set[str] = set()

    @classmethod
    def open(
        cls,
        *,
        config: Mapping[str, Any],
        start: Start,
        run_dir: Path,
        name: str,
        signature: str,
        tracker: Callable[..., Tracker] | None = None,
        view: View | None = None,
    ) -> Trackers:
        """The trackers of a run that was started so. `tracker`: config.tracker instantiated; what is no partial is the
        journal alone."""
        followers: list[Tracker] = []
        if callable(tracker):
            try:
                tags = run_tags(start, config["seed"], signature)
                followers.append(tracker(run_dir=run_dir, run_name=name, tags=tags))
            except Exception as error:
                _report(tracker, error)
        trackers = cls(JsonlTracker(run_dir), followers, view)
        choices = start["choices"]
        named = {axis: choices[axis] for axis in AXES if axis in choices}  # "algo": "drgrpo", what dashboards group by
        flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in science(config).items()}
        trackers.params(named | flat)
        return trackers

    def rewind(self, step: int) -> None:
        """Begin after `step` steps; -1 before the evaluation of step 0. Call once, before the first metrics."""
        if self._journal:
            self._journal.rewind(step)
        self._tell(lambda tracker: tracker.rewind(step))

    def params(self, flat: dict[str, str]) -> None:
        """The settings of the run."""
        self._tell(lambda tracker: tracker.params(flat))

    def metrics(self, values: Metrics, step: int) -> None:
        """One line of metrics.jsonl. KeyError, ValueError and OSError of the journal pass."""
        if self._journal:
            self._journal.metrics(values, step)
        self._show(lambda view: view.metrics(values, step))
        self._tell(lambda tracker: tracker.metrics(values, step))

    def evaluation(self, step: int, results: Sequence[Any]) -> None:
        """Show benchmark results; their numbers reach the journal with the metrics of the step."""
        self._show(lambda view: view.evaluation(step, results))

    def artifact(self, path: Path) -> None:
        """A file of the run folder, complete."""
        self._tell(lambda tracker: tracker.artifact(path))

    def close(self, status: str) -> None:
        """The run ends: "finished", "preempted" or "failed". Call once, whatever happened."""
        if self._journal:
            self._journal.close(status)
        self._show(lambda view: view.close(status))
        self._tell(lambda tracker: tracker.close(status))  # last: it may wait for a server

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self._followers:
            self._guard(tracker, lambda tracker=tracker: call(tracker))  # type: ignore[misc]

    def _show(self, call: Callable[[View], None]) -> None:
        if (view := self._view) is not None:
            self._guard(view, lambda: call(view))

    def _guard(self, source: object, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if type(source).__name__ not in self._reported:  # once is news, every step would be noise
                self._reported.add(type(source).__name__)
                _report(source, error)


def run_tags(start: Start, seed: int, signature: str) -> dict[str, str]:
    """What runs are searched and grouped by. Runs are flat, never nested: MLflow's charts hide nested ones."""
    tags = {"kind": "train", "seed": str(seed), "signature": signature}
    tags |= {axis: start["choices"][axis] for axis in AXES if axis in start["choices"]}
    tags |= {key: str(start[key]) for key in ("code", "host", "processor", "device", "ranks") if key in start}
    if user := start.get("user"):
        tags["mlflow.user"] = user
    if commit := start.get("commit"):
        tags |= {"git_commit": commit, "mlflow.source.git.commit": commit.removesuffix("-dirty")}
    return tags | {f"version.{package}": version for package, version in start.get("versions", {}).items()}


def _report(source: object, error: Exception) -> None:
    name = type(source).__name__ if not callable(source) else "tracker"
    print(f"{name}: {type(error).__name__}: {error}; the run goes on, metrics.jsonl holds everything", file=sys.stderr)

"""Where a run's numbers go: always to metrics.jsonl and the terminal, and to the store of the tracker that the config names.

glossary.py   what each number is called, its unit and meaning
journal.py    metrics.jsonl, the truth
trackers.py   what a run calls: the journal, its view on the terminal, its follower
follower.py   the process beside a run that brings its folder into a store
folder.py     what a run folder says to a tracker
mlflow.py     the tracker for MLflow;  store.py: where that keeps its runs

Another tracker is a class like MlflowTracker and an option of conf/tracker that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from zero.files import read_json
from zero.tracking import journal


class Tracker(Protocol):
    """Brings the folder of one run into one store. Made with `run_dir`, `run_name` and its section of the config.

    The folder is the truth, and `deliver` is called again and again, from processes that may be killed in the middle of it:
    in the follower beside a run, in launch.sync for the cells of a sweep. What it knows from before stands in `link`.
    """

    link: Path
    """A JSON file in the run folder, there as soon as the tracker is made: {"delivered": the last step that the store is known
    to hold, -1 for none, "status": "running" or how the run ended in the store, and whatever the tracker must remember}."""

    patience: float
    """Seconds that the end of a run waits for the store without any change of `link`."""

    def deliver(self, status: str | None = None) -> None:
        """Send what the store lacks of the run folder, nothing twice; with a status ("finished", "preempted" or "failed") end
        the run there. DeliveryError, or any other, if that failed: the next call starts from what the store holds."""


class DeliveryError(Exception):
    """Why a store does not take a run, in one line, with the remedy where the cause is plain. `hopeless`: until a person acts."""

    def __init__(self, line: str, hopeless: bool = False) -> None:
        super().__init__(line)
        self.hopeless = hopeless


def read_link(link: Path) -> dict[str, Any]:
    """What a tracker's link holds; a damaged file counts as none."""
    record = read_json(link)
    return record if {"delivered", "status"} <= record.keys() else {}


def waiting(link: Path) -> int:
    """Steps in the journal that are not known to be in the store; 0 if the run never went there."""
    record = read_link(link)
    return sum(line["step"] > record["delivered"] for line in journal.read(link.parent)) if record else 0


def delivered(link: Path) -> bool:
    """Whether the store knows of a finished run all there is to know."""
    return read_link(link).get("status") == "finished" and waiting(link) == 0

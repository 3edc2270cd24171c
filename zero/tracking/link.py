"""mlflow.json in a run folder: where its numbers went, and how far they are there. zero/tracking/mlflow.py writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zero.files import read_json
from zero.tracking import journal

LINK = "mlflow.json"


def waiting(run_dir: Path) -> int:
    """Steps in the journal that are not known to be in MLflow; 0 if the run does not use MLflow."""
    link = read_link(run_dir)
    return sum(line["step"] > link["delivered"] for line in journal.read(run_dir)) if link else 0


def delivered(run_dir: Path) -> bool:
    """Whether a finished run has nothing left to tell MLflow (also if it never used MLflow)."""
    link = read_link(run_dir)
    return not link or (link["status"] == "finished" and waiting(run_dir) == 0)


def stored_in(run_dir: Path) -> str | None:
    """The uri of the store that a run went to, without a password; None if it never used MLflow."""
    return read_link(run_dir).get("uri")


def read_link(run_dir: Path) -> dict[str, Any]:
    """What mlflow.json holds; a damaged file counts as none."""
    link = read_json(run_dir / LINK)
    return link if {"run_id", "token", "delivered", "status"} <= link.keys() else {}

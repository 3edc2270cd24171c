"""Where MLflow keeps its runs: by default one embedded SQLite file beside the run folders, no server."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from zero.lock import lock
from zero.paths import ROOT

SQLITE = "sqlite:///"


def default_store(run_dir: Path) -> str:
    """mlflow.db in the nearest folder above the run that is called "runs", else in the run's parent: runs share one."""
    above = run_dir.absolute().parents
    home = next((folder for folder in above if folder.name == "runs"), above[0])
    return f"{SQLITE}{home / 'mlflow.db'}"


def absolute(uri: str) -> str:
    """The uri with a relative SQLite path made absolute: jobs of a sweep may run elsewhere."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def artifact_root(uri: str) -> str | None:
    """Where the artifacts of an embedded store lie: mlartifacts beside the file. None: the server decides."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()


def dashboard_command(uri: str | None) -> str:
    """What shows the runs of a store side by side. `uri`: where a run went to; None: nowhere."""
    if uri is None:
        return "tracker=mlflow brings them there; this run is not in MLflow"
    if not uri.startswith(SQLITE):
        return f"{uri}   (prepared pages: python -m launch.dashboard --uri {uri})"
    runs = Path(uri.removeprefix(SQLITE)).parent
    if runs != Path.cwd() / "runs":
        return f"python -m launch.dashboard --runs {runs}"
    return "make dashboard" if Path.cwd() == ROOT and (ROOT / "Makefile").is_file() else "python -m launch.dashboard"


def without_password(uri: str) -> str:
    """The uri as it may be written down."""
    return re.sub(r"^([\w+.-]+://)[^/?#]*@", r"\1", uri)


def create_schema(uri: str) -> None:
    """Create an embedded store that does not exist, exactly once among any number of processes.

    MLflow itself breaks a fresh SQLite file that several processes open together, for good. The file appears whole or
    not at all: it is made under another name while a lock is held, so that a kill leaves nothing half made.
    """
    if not uri.startswith(SQLITE):
        return
    import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(path.name + ".lock"), on_wait=lambda owner: None):
        if path.exists() and path.stat().st_size > 0:
            return
        partial = path.with_name(f".{path.name}.partial")
        for leftover in (partial, partial.with_name(partial.name + "-journal")):
            leftover.unlink(missing_ok=True)
        store: Any = SqlAlchemyStore(f"{SQLITE}{partial}", artifact_root(uri))
        store.engine.dispose()
        partial.replace(path)


def import_mlflow() -> None:
    """Import mlflow (1.7 s) quietly, without its telemetry; it must neither retry for minutes nor print."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we retry, and know what has arrived
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)

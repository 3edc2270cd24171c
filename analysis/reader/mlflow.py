"""Runs out of an MLflow store, in the form in which analysis/reader/runs.py has them from folders.

Runs, params and tags come in one search. Points come in bulk: from an embedded SQLite file by one query for each run, from
a server or another database by one call for each metric and up to 100 runs. What was not finite is not in MLflow.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.reader import journals
from analysis.reader.folders import AXES, COMPLETIONS, axes_of
from analysis.reader.journals import Journal
from analysis.reader.records import Run
from zero.errors import InputError
from zero.tracking.store import SQLITE, absolute, import_mlflow, without_password

STATUS = {"FINISHED": "finished", "KILLED": "preempted", "FAILED": "failed", "RUNNING": "running"}
# Runs of a search, runs of a bulk call, points of its reply: MLflow's limits
A_PAGE, A_CALL, A_REPLY = 1000, 100, 25000
RUN_TAGS = ("kind", "zero.token")  # tags of which a run of this suite has one
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"

Point = tuple[str, int, float]  # metric, step, value


def read_store(uri: str, wanted: Callable[[str], bool]) -> list[tuple[Run, Journal]]:
    """The training runs of a store, in the order of their start. InputError if it cannot be read."""
    uri = absolute(uri)
    client = connect(uri)
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs_read = list(_search(client, experiments))
        runs = [
            run
            for run in runs_read
            if run.data.tags.get("kind", "train") == "train" and set(RUN_TAGS) & set(run.data.tags)
        ]
        names = sorted({name for run in runs for name in run.data.metrics if wanted(name)})
        points = _points(client, uri, [run.info.run_id for run in runs], names)
        return [(_run(run, uri), _journal(points(run.info.run_id), wanted)) for run in runs]
    except Exception as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:200]
        raise InputError("FOLDER", without_password(uri), f"cannot be read as an MLflow store ({reason})") from error


def connect(uri: str) -> Any:
    """MLflow's client. InputError for an SQLite file that is not there: MLflow would make an empty one."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise InputError("FOLDER", uri, "no such file; runs with tracker=mlflow make mlflow.db beside their folders")
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def _search(client: Any, experiments: Sequence[str]) -> Iterator[Any]:
    page = None
    while True:
        runs = client.search_runs(
            experiments, order_by=["attributes.start_time ASC"], max_results=A_PAGE, page_token=page
        )
        yield from runs
        if not (page := runs.token):
            return


def _run(run: Any, uri: str) -> Run:
    """A run with the axes and settings that its tags and params hold."""
    tags, params = run.data.tags, run.data.params
    settings = {key: _decoded(value) for key, value in params.items() if key not in AXES}
    choices = {axis: tags.get(axis) or params.get(axis) or "" for axis in AXES}
    seed = tags.get("seed", settings.get("seed", ""))
    axes = axes_of({**_nested(settings), "seed": seed}, choices, [])
    status = STATUS.get(run.info.status, "unknown")
    source = f"{without_password(uri)}#{run.info.run_id}"
    name = run.info.run_name or run.info.run_id
    return Run(name, None, status, axes, settings, {"status": status}, source=source, starts=[start_of(tags)])


def start_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """What zero.tracking.folder.tags tells of the newest start."""
    start: dict[str, Any] = {key: tags[key] for key in ("code", "host", "processor", "device") if key in tags}
    start |= {"ranks": int(tags["ranks"])} if tags.get("ranks", "").isdecimal() else {}
    start |= {"commit": tags["git_commit"]} if "git_commit" in tags else {}
    versions = {key.partition(".")[2]: value for key, value in tags.items() if key.startswith("version.")}
    return start | {"versions": versions}


def _decoded(value: str) -> Any:
    """A param as it was before MLflow made text of it."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        place = nested
        for name in above:
            inner = place.get(name)
            if not isinstance(inner, dict):
                inner = place[name] = {}
            place = inner
        place[last] = value
    return nested


# ---------------------------------------------------------------------------------------------------------------- points


def _points(client: Any, uri: str, runs: Sequence[str], names: Sequence[str]) -> Callable[[str], list[Point]]:
    """From a run's id to its points, the later written last."""
    if uri.startswith(SQLITE):
        return lambda run: _from_sqlite(uri, run)
    held: dict[str, list[Point]] = {run: [] for run in runs}
    for name in names:
        for start in range(0, len(runs), A_CALL):
            for run, step, value in fetch_points(client, list(runs[start : start + A_CALL]), name):
                held[run].append((name, step, value))
    return lambda run: held.pop(run)


def _from_sqlite(uri: str, run: str) -> list[Point]:
    """All points of a run, by one query that changes nothing in the file."""
    path = Path(uri.removeprefix(SQLITE)).as_uri()
    connection = sqlite3.connect(f"{path}?mode=ro", uri=True, timeout=30)
    try:
        query = 'SELECT "key", step, value FROM metrics WHERE run_uuid = ? AND NOT is_nan ORDER BY timestamp'
        return connection.execute(query, (run,)).fetchall()
    finally:
        connection.close()


def fetch_points(client: Any, runs: list[str], name: str) -> list[tuple[str, int, float]]:
    """(run, step, value) of one metric of several runs; a reply that was cut is asked for again in two halves."""
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        history = store.get_metric_history_bulk(runs, name, max_results=1 << 31)
        return [(point.run_id, point.step, point.value) for point in history]
    from mlflow.utils.rest_utils import http_request

    reply = http_request(store.get_host_creds(), BULK, "GET", params={"run_id": runs, "metric_key": name})
    if reply.status_code != 200:  # a server that has no such call
        return [(run, p.step, p.value) for run in runs for p in client.get_metric_history(run, name)]
    points = reply.json().get("metrics", [])
    if len(points) < A_REPLY:
        return [(point["run_id"], int(point["step"]), float(point["value"])) for point in points]
    if len(runs) == 1:
        return [(runs[0], p.step, p.value) for p in client.get_metric_history(runs[0], name)]
    half = len(runs) // 2
    return fetch_points(client, runs[:half], name) + fetch_points(client, runs[half:], name)


def _journal(points: list[Point], wanted: Callable[[str], bool]) -> Journal:
    """Points as columns; of two of one step the later counts."""
    wanted_points = [point for point in points if wanted(point[0])]
    if not wanted_points:
        return journals.empty("MLflow holds no step of it yet")
    steps = np.unique(np.array([step for _, step, _ in points], np.int64))
    row = {int(step): i for i, step in enumerate(steps)}
    columns: dict[str, np.ndarray] = {}
    for name, step, value in wanted_points:
        if name not in columns:
            columns[name] = np.full(len(steps), np.nan)
        columns[name][row[step]] = value if abs(value) < 1e308 else np.nan  # MLflow's stand-in for infinity
    return Journal(steps, columns, journals.gaps(steps))


# ----------------------------------------------------------------------------------------------------------- completions


def stored_completions(run: Run, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The tables of responses that a run left as artifacts, fetched one at a time."""
    uri, _, run_id = run.source.rpartition("#")
    client = connect(uri)
    try:
        paths = [info.path for info in client.list_artifacts(run_id, "completions")]
    except Exception as error:  # an artifact store may raise anything
        tell(f"its completions cannot be fetched ({type(error).__name__})")
        return
    known = ((path, COMPLETIONS.match(Path(path).name)) for path in paths)
    for step, benchmark, path in sorted((int(m["step"]), m["benchmark"] or "", path) for path, m in known if m):
        try:
            with tempfile.TemporaryDirectory(prefix="completions-") as folder:
                table = json.loads(Path(client.download_artifacts(run_id, path, folder)).read_bytes())
            rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        except Exception as error:
            tell(f"{path} cannot be fetched ({type(error).__name__})")
            continue
        yield from (row | {"step": step, "benchmark": benchmark} for row in rows)

"""The tracker for MLflow: one MLflow run for one run folder, brought up to the folder's journal and files.

Nothing remembers what was sent: after a kill or an outage it connects, asks which (metric, step) pairs MLflow has, and
sends the others.

mlflow.json in the run folder: {"uri", "run_id", "token", "delivered": last step known to be in MLflow, "status", "files"}

A step that a killed run delivered beyond its checkpoint is computed again on resume, but stays in MLflow as it was
first delivered. Values that are not finite (null in the journal) are not sent.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from zero.files import json_lines, read_json, write_json
from zero.tracking import DeliveryError, folder, journal, provenance
from zero.tracking.store import (
    absolute,
    artifact_root,
    create_schema,
    default_store,
    import_mlflow,
    without_password,
)

LINK = "mlflow.json"
METRICS_A_CALL, PARAMS_A_CALL, VALUE_LENGTH, TAG_LENGTH = 1000, 100, 6000, 8000  # limits of MLflow 3
STATUS = {"finished": "FINISHED", "preempted": "KILLED", "failed": "FAILED"}
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's pages know that an artifact is a table
CELL, TOKEN = "zero.cell", "zero.token"  # the tags that say whose life a run is, and which one


class MlflowTracker:
    """A Tracker: the run as MLflow holds it.

    `uri`: sqlite:///FILE or http://HOST; None takes MLFLOW_TRACKING_URI, else `default_store(run_dir)`. `sweep`, `cell`, `tags`:
    tags beside those that the folder tells; `cell` is shared by all lives of a cell whose folder was deleted in between.
    """

    def __init__(
        self,
        run_dir: Path,
        run_name: str,
        uri: str | None = None,
        experiment: str = "zero",
        sweep: str | None = None,
        cell: str | None = None,
        patience: float = 15.0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.link, self.patience = run_dir / LINK, patience
        self._uri = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(run_dir))
        self._run_dir, self._run_name, self._experiment, self._cell = run_dir, run_name, experiment, cell
        self._more_tags = ({"sweep": sweep} if sweep else {}) | ({CELL: cell} if cell else {}) | dict(tags or {})
        self._record: dict[str, Any] = {"run_id": None, "delivered": -1, "status": "running", "files": {}}
        self._record |= {"uri": without_password(self._uri)}
        if not self.link.exists():
            self._remember()
        self._client: Any = None
        self._run_id = ""
        self._known: dict[str, set[int]] = {}  # metric -> steps that MLflow held when we connected
        self._offset = 0  # bytes of the journal that are delivered
        self._tables: list[dict[str, str]] = []

    def deliver(self, status: str | None = None) -> None:
        """Bring MLflow up to the journal and the files of the folder; with a status end the run there."""
        try:
            if self._client is None:
                import_mlflow()
                self._connect()
            self._send_metrics()
            self._send_files()
            if status:
                self._end(status)
        except Exception as error:
            self._client = None  # the next call asks MLflow what it holds
            raise error if isinstance(error, DeliveryError) else DeliveryError(why(error, self._uri)) from error

    def _end(self, status: str) -> None:
        """Mark the run as ended at the time of its last step."""
        times = [line["time/unix"] for line in journal.read(self._run_dir) if line.get("time/unix")]
        end = int(1000 * times[-1]) if times else None
        self._client.set_terminated(self._run_id, STATUS.get(status, "FAILED"), end)
        self._record["status"] = status
        self._remember()

    def _connect(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self._record |= {"token": self._new_token(), **read_json(self.link)}
        self._record |= {"uri": without_password(self._uri), "status": "running"}
        self._remember()
        create_schema(self._uri)
        client = MlflowClient(self._uri, registry_uri=self._uri)
        tags = self.tags()
        run = self._find_run(client) or self._create_run(client, tags)
        self._run_id = run.info.run_id
        if self._record["run_id"] != self._run_id:
            self._record |= {"run_id": self._run_id, "files": {}}
        self._remember()
        self._retire_earlier(client, run.info.experiment_id)
        if run.info.status != "RUNNING":
            client.update_run(self._run_id, status="RUNNING")
        params = {key_of(name): value[:VALUE_LENGTH] for name, value in folder.params(self._run_dir).items()}
        missing = [Param(name, value) for name, value in params.items() if name not in run.data.params]
        for i in range(0, len(missing), PARAMS_A_CALL):
            client.log_batch(self._run_id, params=missing[i : i + PARAMS_A_CALL])
        changed = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        if changed:
            client.log_batch(self._run_id, tags=changed)
        self._tables = json.loads(run.data.tags.get(TABLES, "[]"))
        self._known = {
            name: {point.step for point in client.get_metric_history(self._run_id, name)} for name in run.data.metrics
        }
        self._offset = 0
        self._client = client

    def _new_token(self) -> str:
        """By which MLflow knows this run if its id was not remembered, after a kill or the loss of mlflow.json: the same for
        every process that delivers the folder, another one for a cell whose folder was deleted and that ran anew."""
        first = provenance.starts(self._run_dir)[:1]
        text = json.dumps([self._cell or str(self._run_dir.absolute()), first], sort_keys=True)
        return sha256(text.encode()).hexdigest()[:32]

    def tags(self) -> dict[str, str]:
        """What runs are searched and grouped by there. Runs are flat, never nested: MLflow's charts hide nested ones."""
        tags = folder.tags(self._run_dir) | self._more_tags
        if user := folder.user(self._run_dir):
            tags["mlflow.user"] = user
        if commit := folder.commit(self._run_dir):
            tags |= {"git_commit": commit, "mlflow.source.git.commit": commit.removesuffix("-dirty")}
        return {key_of(name): value[:TAG_LENGTH] for name, value in tags.items()}

    def _find_run(self, client: Any) -> Any:
        """The run this folder already has, unless somebody deleted it."""
        from mlflow.exceptions import MlflowException

        if self._record["run_id"]:
            try:
                run = client.get_run(self._record["run_id"])
                if run.info.lifecycle_stage == "active":
                    return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            restore = f"mlflow experiments restore -x {experiment.experiment_id}"
            where = f"restore it (MLFLOW_TRACKING_URI={without_password(self._uri)} {restore})"
            line = f"experiment {self._experiment} is in MLflow's trash; {where} or set another tracker.experiment"
            raise DeliveryError(line, hopeless=True)
        runs = client.search_runs([experiment.experiment_id], f"tags.`{TOKEN}` = '{self._record['token']}'")
        return runs[0] if runs else None

    def _retire_earlier(self, client: Any, experiment: str) -> None:
        """Runs of other lives of this cell go to MLflow's trash: their folder is deleted, and tables count the cell once."""
        if self._cell:
            for run in client.search_runs([experiment], f"tags.`{CELL}` = '{self._cell}'"):
                if run.info.run_id != self._run_id:
                    client.set_tag(run.info.run_id, "zero.superseded_by", self._run_id)
                    client.delete_run(run.info.run_id)

    def _create_run(self, client: Any, tags: Mapping[str, str]) -> Any:
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                client.create_experiment(self._experiment, artifact_location=artifact_root(self._uri))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by a run that started at the same time
                    raise
            experiment = client.get_experiment_by_name(self._experiment)
        times = [line["time/unix"] for line in journal.read(self._run_dir)[:1] if line.get("time/unix")]
        start = int(1000 * min([time.time(), *times]))
        tags = {**tags, TOKEN: self._record["token"]}
        return client.create_run(experiment.experiment_id, start_time=start, tags=tags, run_name=self._run_name)

    def _send_metrics(self) -> None:
        from mlflow.entities import Metric

        path = self._run_dir / journal.FILE
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            lines = [line for line in file if line.endswith(b"\n")]  # a line still being written is next time's
        batch: list[Any] = []
        size = 0
        for i, raw in enumerate(lines):
            line = json.loads(raw)
            step = line.pop("step")
            stamp = int(1000 * (line.get("time/unix") or time.time()))
            batch += [
                Metric(key_of(name), value, stamp, step)
                for name, value in line.items()
                if value is not None and step not in self._known.get(key_of(name), ())
            ]
            size += len(raw)
            last = i + 1 == len(lines)
            if last or len(batch) > METRICS_A_CALL - 100:  # whole steps, so that `delivered` is true of every metric
                for k in range(0, len(batch), METRICS_A_CALL):
                    self._client.log_batch(self._run_id, metrics=batch[k : k + METRICS_A_CALL])
                self._offset += size
                self._record["delivered"] = step
                batch, size = [], 0
                self._remember()

    def _send_files(self) -> None:
        """Those that are new, or newer than when they were sent."""
        for path in folder.files(self._run_dir):
            name, written = path.relative_to(self._run_dir).as_posix(), path.stat().st_mtime_ns
            if self._record["files"].get(name) != written:
                self._upload(path, Path(name))
                self._record["files"][name] = written
                self._remember()

    def _upload(self, path: Path, inside: Path) -> None:
        """Send a file; one of JSON Lines becomes a table."""
        if path.suffix != ".jsonl":
            parent = inside.parent.as_posix()
            self._client.log_artifact(self._run_id, str(path), None if parent == "." else parent)
            return
        name = inside.with_suffix(".json").as_posix()
        self._client.log_dict(self._run_id, table(path), name)
        entry = {"path": name, "type": "table"}
        if entry not in self._tables:
            # The pages open the first: the newest evaluation, whose questions all runs share.
            self._tables = sorted([entry, *self._tables], key=lambda table: "/eval_" not in table["path"])
            while len(json.dumps(self._tables)) > TAG_LENGTH:
                self._tables.pop()  # the oldest stay as files, but are no longer shown as tables
            self._client.set_tag(self._run_id, TABLES, json.dumps(self._tables))

    def _remember(self) -> None:
        write_json(self.link, self._record, sync=False)


def stored_in(run_dir: Path) -> str | None:
    """The uri of the store that a run went to, without a password; None if it never used MLflow."""
    return read_json(run_dir / LINK).get("uri")


def why(error: Exception, uri: str) -> str:
    """What keeps MLflow from taking a run, in one line, with the remedy where the cause is plain."""
    text = str(error).strip()
    if "ConnectionPool(" in text:  # of an HTTP client: refused, no such host, no route
        return f"nothing answers at {without_password(uri)}: start MLflow there, or give another tracker.uri"
    return f"{type(error).__name__}: {text}".split("\n")[0][:300]


def table(path: Path) -> dict[str, Any]:
    """Rows of a JSON Lines file in the form that MLflow's pages show as a table, the first image of each row in a column of its
    own, if every row has one."""
    rows = [row for _, row in json_lines(path.read_bytes()) if row is not None]
    if all(row.get("images") for row in rows):
        rows = [row | {"image": _image_cell(str(row["images"][0]))} for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(
        key=lambda name: {"question": 0, "response": 1, "image": 2}.get(name, 3)
    )  # the pages compare the second column
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def _image_cell(name: str) -> dict[str, str]:
    """An artifact as a cell that MLflow's pages show as an image."""
    return {"type": "image", "filepath": name, "compressed_filepath": name}


def key_of(name: str) -> str:
    return re.sub(r"[^\w .:/-]", "_", name)[:250]

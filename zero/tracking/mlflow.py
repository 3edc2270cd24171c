"""MLflow as a follower of the journal: a process beside the run reads metrics.jsonl and delivers what MLflow does not hold.

The training loop never waits and never fails here, pays neither MLflow's import nor its calls, and nothing remembers what
was sent. Starting, resuming after SIGKILL, coming back after an outage are one path: connect, ask which (metric, step)
pairs MLflow has, send the others.

mlflow.json in the run folder: {"uri", "run_id", "token", "delivered": last step known to be in MLflow, "status"}

A step that a killed run delivered beyond its checkpoint is computed again on resume, but stays in MLflow as it was
first delivered. Values that are not finite (null in the journal) are not sent.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zero.files import json_lines, write_json
from zero.paths import ROOT
from zero.records import Metrics
from zero.tracking import journal
from zero.tracking.link import LINK, read_link, waiting
from zero.tracking.store import absolute, artifact_root, create_schema, default_store, without_password

METRICS_A_CALL, PARAMS_A_CALL, VALUE_LENGTH, TAG_LENGTH = 1000, 100, 6000, 8000  # limits of MLflow 3
STATUS = {"finished": "FINISHED", "preempted": "KILLED", "failed": "FAILED"}
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's pages know that an artifact is a table
CELL = "zero.cell"  # the tag that says whose life a run is
FOLLOWER = (sys.executable, "-m", "zero.tracking.follower")
# A scheduler signals every process of a job; the run saves, closes and so ends its follower
FOR_THE_RUN = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class MlflowTracker:
    """One MLflow run for one run folder. Nothing it does blocks; `close` waits at most `patience` seconds.

    `uri`: sqlite:///FILE or http://HOST; None takes MLFLOW_TRACKING_URI, else `default_store(run_dir)`. `every`: seconds
    between deliveries. `sweep`, `cell`: tags; the second is shared by all lives of a cell whose folder was deleted in between.
    Needs the journal: metrics are read from it, not from the calls.
    """

    def __init__(
        self,
        run_dir: Path,
        run_name: str,
        tags: Mapping[str, str],
        uri: str | None = None,
        experiment: str = "zero",
        sweep: str | None = None,
        cell: str | None = None,
        patience: float = 15.0,
        every: float = 2.0,
    ) -> None:
        uri = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(run_dir))
        tags = dict(tags) | ({"sweep": sweep} if sweep else {}) | ({CELL: cell} if cell else {})
        self._run_dir, self._patience = run_dir.absolute(), patience
        self._run: dict[str, Any] = {"run_dir": str(self._run_dir), "uri": uri}
        self._run |= {"experiment": experiment, "run_name": run_name, "tags": tags}
        self._params: dict[str, str] = {}
        self._every = every
        self._follower: subprocess.Popen[str] | None = None
        Remote(**self._run)  # leaves its mark in the run folder: what the follower cannot deliver is known to wait

    def rewind(self, step: int) -> None:
        """Start following the journal, which has been rewound already."""
        self._started()

    def params(self, flat: dict[str, str]) -> None:
        """Remember the settings of the run; values are cut to MLflow's limit."""
        self._params |= {key_of(name): value[:VALUE_LENGTH] for name, value in flat.items()}

    def metrics(self, values: Metrics, step: int) -> None:
        """Nothing: the follower finds the step in the journal."""

    def artifact(self, path: Path) -> None:
        """Upload a file of the run folder; completions in JSON Lines become a table."""
        tell(self._started(), {"artifact": str(path.absolute())})

    def close(self, status: str) -> None:
        """Deliver the rest and end the run as finished, preempted or failed; one line if that takes too long.

        A finished run has time: it waits as long as something arrives, `patience` for each sign of that.
        """
        follower = self._started()
        tell(follower, {"close": status})
        before = read_link(self._run_dir)
        while True:
            try:
                follower.wait(self._patience)
                break
            except subprocess.TimeoutExpired:
                now = read_link(self._run_dir)
                if status != "finished" or now == before:
                    follower.kill()
                    break
                before = now
        if follower.wait():
            count = waiting(self._run_dir)
            what = f"{count} steps wait in {self._run_dir / journal.FILE}" if count else "it lacks the end of the run"
            say(f"{what} (tracker.patience={self._patience:g} s passed); running the same command again delivers them")

    def _started(self) -> subprocess.Popen[str]:
        if self._follower is None:
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)  # a process inherits what is blocked
            try:
                self._follower = subprocess.Popen(
                    FOLLOWER, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                    env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            tell(self._follower, {"run": self._run, "params": self._params, "every": self._every})
        return self._follower


def tell(follower: subprocess.Popen[str], line: Mapping[str, Any]) -> None:
    """One line to a follower; one that was killed is missed when the run closes."""
    assert follower.stdin is not None
    with suppress(OSError):
        follower.stdin.write(json.dumps(line) + "\n")
        follower.stdin.flush()


class InTrash(Exception):
    """Nothing can be delivered until a person acts; the message says how."""


class Remote:
    """The run as MLflow holds it. Every method may raise; after `disconnect` a delivery starts from the facts."""

    def __init__(self, run_dir: Path | str, uri: str, experiment: str, run_name: str, tags: Mapping[str, str]) -> None:
        self.params: dict[str, str] = {}
        self.artifacts: deque[Path] = deque()
        self._run_dir, self._uri, self._experiment, self._run_name = Path(run_dir), uri, experiment, run_name
        self._tags = {key_of(name): value[:TAG_LENGTH] for name, value in tags.items()}
        self._link: dict[str, Any] = {
            "uri": without_password(uri),
            "run_id": None,
            "token": uuid.uuid4().hex,
            "delivered": -1,
        }
        self._link |= read_link(self._run_dir) | {"uri": without_password(uri), "status": "running"}
        self._remember()  # the token first: a run whose creation was cut short by a kill is found by it
        self._client: Any = None
        self._run_id = ""
        self._known: dict[str, set[int]] = {}  # metric -> steps that MLflow held when we connected
        self._offset = 0  # bytes of the journal that are delivered
        self._swept = False  # whether files of an earlier life were looked for
        self._tables: list[dict[str, str]] = []

    @property
    def uri(self) -> str:
        """Where the store is, without a password."""
        return without_password(self._uri)

    def disconnect(self) -> None:
        """Forget the connection: the next delivery asks MLflow what it holds."""
        self._client = None

    def deliver(self) -> None:
        """Bring MLflow up to the journal, then send waiting files."""
        if self._client is None:
            self._connect()
        self._deliver_metrics()
        self._deliver_artifacts()

    def end(self, status: str) -> None:
        """Mark the run as ended at the time of its last step."""
        times = [line["time/unix"] for line in journal.read(self._run_dir) if line.get("time/unix")]
        end = int(1000 * times[-1]) if times else None
        self._client.set_terminated(self._run_id, STATUS.get(status, "FAILED"), end)
        self._link["status"] = status
        self._remember()

    def _connect(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        create_schema(self._uri)
        client = MlflowClient(self._uri, registry_uri=self._uri)
        run = self._find_run(client) or self._create_run(client)
        self._run_id = self._link["run_id"] = run.info.run_id
        self._remember()
        self._retire_earlier(client, run.info.experiment_id)
        if run.info.status != "RUNNING":
            client.update_run(self._run_id, status="RUNNING")
        params = [Param(name, value) for name, value in self.params.items() if name not in run.data.params]
        for i in range(0, len(params), PARAMS_A_CALL):
            client.log_batch(self._run_id, params=params[i : i + PARAMS_A_CALL])
        changed = [RunTag(name, value) for name, value in self._tags.items() if run.data.tags.get(name) != value]
        if changed:
            client.log_batch(self._run_id, tags=changed)
        self._tables = json.loads(run.data.tags.get(TABLES, "[]"))
        self._known = {
            name: {point.step for point in client.get_metric_history(self._run_id, name)} for name in run.data.metrics
        }
        self._offset, self._swept = 0, False
        self._client = client

    def _find_run(self, client: Any) -> Any:
        """The run this folder already has, unless somebody deleted it."""
        from mlflow.exceptions import MlflowException

        if self._link["run_id"]:
            try:
                run = client.get_run(self._link["run_id"])
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
            raise InTrash(
                f"experiment {self._experiment} is in MLflow's trash; {where} or set another tracker.experiment"
            )
        runs = client.search_runs([experiment.experiment_id], f"tags.`zero.token` = '{self._link['token']}'")
        return runs[0] if runs else None

    def _retire_earlier(self, client: Any, experiment: str) -> None:
        """Runs of other lives of this cell go to MLflow's trash: their folder is deleted, and tables count the cell once."""
        if cell := self._tags.get(CELL):
            for run in client.search_runs([experiment], f"tags.`{CELL}` = '{cell}'"):
                if run.info.run_id != self._run_id:
                    client.set_tag(run.info.run_id, "zero.superseded_by", self._run_id)
                    client.delete_run(run.info.run_id)

    def _create_run(self, client: Any) -> Any:
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
        tags = self._tags | {"zero.token": self._link["token"]}
        return client.create_run(experiment.experiment_id, start_time=start, tags=tags, run_name=self._run_name)

    def _deliver_metrics(self) -> None:
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
                self._link["delivered"] = step
                batch, size = [], 0
                self._remember()

    def _deliver_artifacts(self) -> None:
        if not self._swept:
            stored = {info.path for folder in (None, "completions") for info in self._list(folder)}
            files = [self._run_dir / name for name in ("config.yaml", "result.json", "curves.png")]
            files += sorted((self._run_dir / "completions").glob("*.jsonl"))
            self.artifacts.extend(p for p in files if p.exists() and self._remote_name(p) not in stored)
            self._swept = True
        while self.artifacts:
            path = self.artifacts[0]
            if path.exists():
                self._upload(path)
            self.artifacts.popleft()
            self._link["files"] = self._link.get("files", 0) + 1
            self._remember()

    def _list(self, folder: str | None) -> list[Any]:
        return list(self._client.list_artifacts(self._run_id, folder))

    def _remote_name(self, path: Path) -> str:
        inside = path.relative_to(self._run_dir) if path.is_relative_to(self._run_dir) else Path(path.name)
        return inside.with_suffix(".json").as_posix() if path.suffix == ".jsonl" else inside.as_posix()

    def _upload(self, path: Path) -> None:
        name = self._remote_name(path)
        if path.suffix != ".jsonl":
            folder = Path(name).parent.as_posix()
            self._client.log_artifact(self._run_id, str(path), None if folder == "." else folder)
            return
        self._client.log_dict(self._run_id, table(path), name)
        entry = {"path": name, "type": "table"}
        if entry not in self._tables:
            # The pages open the first: the newest evaluation, whose questions all runs share.
            self._tables = sorted([entry, *self._tables], key=lambda table: "/eval_" not in table["path"])
            while len(json.dumps(self._tables)) > TAG_LENGTH:
                self._tables.pop()  # the oldest stay as files, but are no longer shown as tables
            self._client.set_tag(self._run_id, TABLES, json.dumps(self._tables))

    def _remember(self) -> None:
        write_json(self._run_dir / LINK, self._link, sync=False)


def table(path: Path) -> dict[str, Any]:
    """Rows of a JSON Lines file in the form that MLflow's pages show as a table."""
    rows = [row for _, row in json_lines(path.read_bytes()) if row is not None]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: {"question": 0, "response": 1}.get(name, 2))  # the pages compare the second column
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def key_of(name: str) -> str:
    return re.sub(r"[^\w .:/-]", "_", name)[:250]


def say(text: str) -> None:
    print(f"mlflow: {text}", file=sys.stderr, flush=True)

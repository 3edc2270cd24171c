"""python -m launch.sync SWEEP: bring the journals of a sweep's cells into MLflow. Any number of times: what is there
already is not sent again, and a run is never made twice.

Cells become flat runs, tagged with sweep, cell and axes: MLflow's charts hide nested ones. A cell that reports to a
tracker server by itself is left to it while it lives. Run where the store is: an SQLite file is opened by this process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from launch.sweep import files as records
from launch.sweep import states as state
from launch.sweep.files import Cell, Sweep
from launch.sweep.lock import lock
from launch.sweep.states import Status
from zero.errors import InputError

ENDS = {state.FINISHED: "finished", state.FAILED: "failed", state.CANCELLED: "failed", state.LOST: "failed"}
LINK = "mlflow.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver. Exit codes: 0 all delivered, 1 something could not be, 2 bad input."""
    parser = argparse.ArgumentParser("python -m launch.sync", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", help="folder of the sweep, or its name in runs/sweeps")
    parser.add_argument(
        "--uri", help="sqlite:///FILE or http://HOST:PORT (default: the sweep's, else mlflow.db beside the runs)"
    )
    options = parser.parse_args(arguments)
    try:
        folder = records.find_sweep(options.sweep)
        sweep = records.read_sweep(folder)
        sent, failed = sync(folder, sweep, state.states(folder, sweep, None), options.uri)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT
    print(f"{sent} cells brought up to date in {store(folder, sweep, options.uri)}; {len(failed)} could not be")
    for name, line in failed.items():
        print(f"  {name}: {line}", file=sys.stderr)
    return 1 if failed else 0


def store(folder: Path, sweep: Sweep, uri: str | None = None) -> str:
    """Where the runs of a sweep go: what was asked for, then the sweep's setting, then the store beside the runs."""
    from zero.tracking.store import absolute, default_store

    chosen = uri or sweep.settings.get("store") or os.environ.get("MLFLOW_TRACKING_URI")
    return absolute(str(chosen)) if chosen else default_store(folder / "cell")


def sync(folder: Path, sweep: Sweep, of: Mapping[str, Status], uri: str | None = None) -> tuple[int, dict[str, str]]:
    """(cells that something was sent for, why others could not be). One process at a time; a second finds nothing to do
    once it may, and never makes a second run."""
    where = store(folder, sweep, uri)
    sent, failed = 0, {}
    with lock(folder / ".syncing", waits=lambda owner: None):  # released with the process, also by a kill
        for name, cell in sweep.cells.items():
            if not due(folder / name, cell, of[name], where):
                continue
            try:
                deliver(folder, sweep, cell, of[name], where)
                sent += 1
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:200]
                if len(failed) >= 3 and not sent:  # the store, not the cells
                    failed["..."] = "the store does not take anything; the rest was not tried"
                    break
    return sent, failed


def due(place: Path, cell: Cell, status: Status, uri: str) -> bool:
    """Whether MLflow may lack something of the cell."""
    from zero.tracking.store import without_password

    if cell.root != "train" or not (place / "metrics.jsonl").exists():
        return False
    link = records.read_json(place / LINK)
    if reports(place) and status.live:
        return False  # it follows its journal itself
    if link.get("uri") != without_password(uri):
        return True
    if link.get("status") != ENDS.get(status.state, "running"):
        return True
    last = state.tail(place / "metrics.jsonl")
    return bool(last) and last[-1]["step"] > link.get("delivered", -1)


def undelivered(folder: Path, sweep: Sweep, of: Mapping[str, Status]) -> int:
    """Cells of which MLflow may lack something, and which do not report themselves."""
    where = store(folder, sweep)
    return sum(
        of[name].step is not None and due(folder / name, cell, of[name], where) for name, cell in sweep.cells.items()
    )


def reports(place: Path) -> bool:
    """Whether the cell was given a tracker server of its own."""
    config = records.read_json(place / records.CELL).get("config") or {}
    return "_target_" in config.get("tracker", {})


def deliver(folder: Path, sweep: Sweep, cell: Cell, status: Status, uri: str) -> None:
    """All that the journal of one cell holds and MLflow does not; its settings, tags and files. Whatever fails is raised."""
    from zero.config.identity import science
    from zero.tracking import AXES, provenance, run_tags
    from zero.tracking import mlflow as follower

    place = folder / cell.name
    claim(place, sweep, cell, uri)
    config: Mapping[str, Any] = records.read_cell(folder, cell.name).config or {}
    start = (provenance.starts(place) or [{}])[-1] | {"choices": cell.choices}
    start |= {"commit": start.get("commit") or sweep.code.get("commit")}
    tags = run_tags(start, config["seed"], cell.signature) | {"sweep": sweep.name, "cell": cell.name}
    tags |= {follower.CELL: records.cell_id(sweep.id or sweep.name, cell.name)}
    tags |= {f"axis.{axis}": value for axis, value in cell.axes.items()}
    flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in science(config).items()}
    params = {axis: cell.choices[axis] for axis in AXES if axis in cell.choices} | flat
    bring(place, uri, sweep.experiment, cell.name, tags, params, ENDS.get(status.state))


def bring(
    place: Path,
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    end: str | None,
) -> None:
    """Deliver one run folder here and now, instead of in a thread; mark the run as ended unless `end` is None."""
    from zero.tracking import mlflow as follower
    from zero.tracking.store import import_mlflow

    import_mlflow()
    remote = follower.Remote(place, uri, experiment, name, tags)
    remote.params |= {follower.key_of(key): value[: follower.VALUE_LENGTH] for key, value in params.items()}
    remote.deliver()
    if end:
        remote.end(end)


def claim(place: Path, sweep: Sweep, cell: Cell, uri: str) -> None:
    """Say under which token MLflow knows this cell: made from the cell and its first start, so that whoever delivers, and
    however often, finds the one run that there is; a cell whose folder was deleted and that ran anew is another run."""
    from zero.tracking import provenance
    from zero.tracking.store import without_password

    first = json.dumps(provenance.starts(place)[:1], sort_keys=True)
    token = sha256(f"{sweep.id or sweep.name}\n{cell.name}\n{cell.signature}\n{first}".encode()).hexdigest()[:32]
    link = records.read_json(place / LINK)
    if not {"run_id", "token", "delivered", "status"} <= link.keys():
        link = {"run_id": None, "token": token, "delivered": -1, "status": "running", "uri": without_password(uri)}
        records.write_json(place / LINK, link)


if __name__ == "__main__":
    sys.exit(main())

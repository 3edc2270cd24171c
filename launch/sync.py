"""python -m launch.sync SWEEP: bring the journals of a sweep's cells into MLflow. It can be repeated: what is there already is
not sent again, and no cell becomes two runs.

Each cell becomes a run, tagged with sweep, cell and axes; runs are not nested, since MLflow's charts hide nested ones. A cell
that reports to a tracking server itself is left alone while it lives. To be run where the store is: this process opens an
SQLite file itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.sweep import files, states
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status
from zero.errors import ArgumentParser, one_line_errors
from zero.files import read_json
from zero.lock import lock
from zero.tracking import DeliveryError

MLFLOW_STATUS = {
    states.FINISHED: "finished",
    states.FAILED: "failed",
    states.CANCELLED: "failed",
    states.LOST: "failed",
}


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver. Exit codes: 0 all delivered, 1 a cell could not be, 2 bad input."""
    parser = ArgumentParser("python -m launch.sync", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", help="folder of the sweep, or its name in runs/sweeps")
    parser.add_argument(
        "--uri", help="sqlite:///FILE or http://HOST:PORT (default: the sweep's, else mlflow.db beside the runs)"
    )
    options = parser.parse_args(arguments)
    folder = files.find_sweep(options.sweep)
    sweep = files.read_sweep(folder)
    sent, failed = sync(folder, sweep, states.read_statuses(folder, sweep, None), options.uri)
    print(f"{sent} cells brought up to date in {store(folder, sweep, options.uri)}; {len(failed)} could not be")
    for name, line in failed.items():
        print(f"  {name}: {line}", file=sys.stderr)
    return 1 if failed else 0


def store(folder: Path, sweep: Sweep, uri: str | None = None) -> str:
    """Where the runs of a sweep go: `uri`, else the sweep's setting, else the store beside the runs."""
    from zero.tracking.store import absolute, default_store

    chosen = uri or sweep.settings.get("store") or os.environ.get("MLFLOW_TRACKING_URI")
    return absolute(str(chosen)) if chosen else default_store(folder / "cell")


def sync(
    folder: Path, sweep: Sweep, statuses: Mapping[str, Status], uri: str | None = None
) -> tuple[int, dict[str, str]]:
    """(number of cells brought up to date, by name why others were not). Only one process at a time does this; a second one
    waits."""
    where = store(folder, sweep, uri)
    sent, failed = 0, {}
    with lock(folder / ".syncing", on_wait=lambda owner: None):  # released with the process, also by a kill
        for name, cell in sweep.cells.items():
            if not needs_sync(folder / name, cell, statuses[name], where):
                continue
            try:
                deliver(folder, sweep, cell, statuses[name], where)
                sent += 1
            except (DeliveryError, OSError) as error:
                failed[name] = str(error)[:200]
                if len(failed) >= 3 and not sent:  # the fault is the store's, not the cells'
                    failed["..."] = "the store does not take anything; the rest was not tried"
                    break
    return sent, failed


def needs_sync(cell_dir: Path, cell: Cell, status: Status, uri: str) -> bool:
    """Whether MLflow may lack something of the cell."""
    from zero.tracking.mlflow import LINK
    from zero.tracking.store import without_password

    if cell.root != "train" or not (cell_dir / "metrics.jsonl").exists():
        return False
    link = read_json(cell_dir / LINK)
    if reports_itself(cell_dir) and status.live:
        return False  # its own process delivers its journal
    if link.get("uri") != without_password(uri):
        return True
    if link.get("status") != MLFLOW_STATUS.get(status.state, "running"):
        return True
    last = states.journal_tail(cell_dir / "metrics.jsonl")
    return bool(last) and last[-1]["step"] > link.get("delivered", -1)


def count_undelivered(folder: Path, sweep: Sweep, statuses: Mapping[str, Status]) -> int:
    """The number of cells of which MLflow may lack something."""
    where = store(folder, sweep)
    return sum(
        statuses[name].step is not None and needs_sync(folder / name, cell, statuses[name], where)
        for name, cell in sweep.cells.items()
    )


def reports_itself(cell_dir: Path) -> bool:
    """Whether the cell reports to an MLflow server itself."""
    config = read_json(cell_dir / files.CELL).get("config") or {}
    return config.get("tracker", {}).get("_target_") == files.MLFLOW


def deliver(folder: Path, sweep: Sweep, cell: Cell, status: Status, uri: str) -> None:
    """Send what MLflow lacks of one cell: journal, settings, tags and files. DeliveryError if that fails."""
    from zero.tracking.mlflow import MlflowTracker

    tags = {"cell": cell.name} | {f"axis.{axis}": value for axis, value in cell.axes.items()}
    tracker = MlflowTracker(
        folder / cell.name,
        cell.name,
        uri,
        sweep.experiment,
        sweep.name,
        files.cell_id(sweep.id or sweep.name, cell.name),
        tags=tags,
    )
    tracker.deliver(MLFLOW_STATUS.get(status.state))


if __name__ == "__main__":
    sys.exit(main())

"""The trackers of a run: opened from its config, closed with its result, and caught up later if a server was away."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zero.config import check as configs
from zero.config import identity
from zero.files import write_json
from zero.tracking import Trackers, View, dashboard_command, delivered, provenance, stored_in


def open_trackers(
    config: Mapping[str, Any], start: provenance.Start, run_dir: Path, name: str, view: View | None = None
) -> Trackers:
    """The journal of a run, what is shown of it, and whatever tracker the config names."""
    return Trackers.open(
        config=config,
        start=start,
        run_dir=run_dir,
        name=name,
        signature=identity.signature(config),
        tracker=configs.tracker(config),
        view=view,
    )


def close(run_dir: Path, trackers: Trackers, outcome: Mapping[str, Any], curves: bool) -> None:
    """Write result.json and, if asked for, curves.png, and let the trackers deliver what they hold."""
    from zero.tracking.curves_png import draw

    result = run_dir / "result.json"
    try:
        write_json(result, outcome)
        for path in (run_dir / "config.yaml", result, *([draw(run_dir)] if curves else [])):
            trackers.artifact(path)
    except OSError as error:  # the run's own error, if any, says more
        print(f"{run_dir}: {error}", file=sys.stderr)
    trackers.close(outcome["status"])


def deliver(config: Mapping[str, Any], choices: Mapping[str, str], run_dir: Path, name: str) -> None:
    """Hand a finished run to its tracker, if that could not be reached when the run ended."""
    if not delivered(run_dir):
        starts = [{"choices": dict(choices)}, *provenance.starts(run_dir)]  # a full disk may have cost the line
        open_trackers(config, starts[-1], run_dir, name).close("finished")


def where_to_look(run_dir: Path, before: str = "") -> None:
    """Print where a finished run's files are; `before`: a line for a run that had finished earlier."""
    if before:
        print(before)
    folder = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    print(f"finished: {folder}")
    if (run_dir / "curves.png").exists():
        print(f"  curves        {folder / 'curves.png'}")
    print(f"  model         {folder / 'model'}")
    print(f"  all metrics   {folder / 'metrics.jsonl'}")
    print(f"  compare runs in MLflow:  {dashboard_command(stored_in(run_dir))}")

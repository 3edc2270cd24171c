"""What a run folder says to a tracker, beside its journal: settings, tags, files, and how the run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zero.config.check import read_config
from zero.config.identity import science, signature
from zero.files import read_json
from zero.tracking import provenance

AXES = ("algo", "template", "questions", "model")
CONFIG, RESULT = "config.yaml", "result.json"


def params(run_dir: Path) -> dict[str, str]:
    """The settings of the run as flat dotted keys, and the option of each axis ("algo": "drgrpo"), what dashboards group by."""
    flat = science(read_config(run_dir / CONFIG))
    return _axes(_last_start(run_dir)) | {k: v if isinstance(v, str) else json.dumps(v) for k, v in flat.items()}


def tags(run_dir: Path) -> dict[str, str]:
    """What runs are searched and grouped by."""
    config, start = read_config(run_dir / CONFIG), _last_start(run_dir)
    labels = {"kind": "train", "seed": str(config["seed"]), "signature": signature(config), **_axes(start)}
    labels |= {key: str(start[key]) for key in ("code", "host", "processor", "device", "ranks") if key in start}
    return labels | {f"version.{package}": version for package, version in start.get("versions", {}).items()}


def user(run_dir: Path) -> str | None:
    """Who started the run; None where that is not known."""
    return _last_start(run_dir).get("user")


def commit(run_dir: Path) -> str | None:
    """The commit of the code that the run was started with, with -dirty if a file differed; None where there is none."""
    return _last_start(run_dir).get("commit")


def files(run_dir: Path) -> list[Path]:
    """The files that belong in a store, those that are there. Each may be replaced by a newer one."""
    single = [run_dir / name for name in (CONFIG, RESULT, "curves.png")]
    # Images first: the pages of a store show them in the tables
    tables = [*sorted((run_dir / "images").glob("*.png")), *sorted((run_dir / "completions").glob("*.jsonl"))]
    return [path for path in single if path.exists()] + tables


def result_time(run_dir: Path) -> int:
    """When result.json was written, in nanoseconds; 0 if there is none."""
    try:
        return (run_dir / RESULT).stat().st_mtime_ns
    except OSError:
        return 0


def ending(run_dir: Path, before: int) -> str | None:
    """How the run ended: the status of a result.json that is another than the one `before` (its `result_time`); None if it
    goes on."""
    return read_json(run_dir / RESULT).get("status") if result_time(run_dir) not in (0, before) else None


def _last_start(run_dir: Path) -> dict[str, Any]:
    return (provenance.starts(run_dir) or [{}])[-1]


def _axes(start: provenance.Start) -> dict[str, str]:
    choices = start.get("choices", {})
    return {axis: choices[axis] for axis in AXES if axis in choices}

"""The identity of a run, known before it runs: the resolved settings that can change a number, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zero.errors import InputError

# Settings of where a run is stored and how it is watched, which change no number. All others are its science.
PLACE = (
    "name",
    "run_dir",
    "tracker",
    "lens",
    "checkpoint",
    "curves",
    "progress",
    "sync_check",
    "probe",
    "debug",
    "resume_with",
    "gpu_share",
)
# Where the server of an engine over HTTP is, and how it is reached; how many processes share the work
PLACES = (
    *(
        f"{engine}.{key}"
        for engine in ("rollout", "rollout.engine")
        for key in ("url", "folder", "transport", "timeout", "concurrency", "key_env", "retries")
    ),
    "environment.workers",
)

SOURCE = "model.recipe."  # only the source of other settings' defaults, which are compared themselves

NAMED = 8  # differing settings that an error lists


def science(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resolved config that can change a number, as flat dotted keys."""
    flat = flatten({key: value for key, value in config.items() if key not in PLACE})
    return {key: value for key, value in flat.items() if key not in PLACES and not key.startswith(SOURCE)}


def signature(config: Mapping[str, Any]) -> str:
    """Twelve hex digits: a hash of the science, equal for equal settings, whether typed or by default."""
    canonical = json.dumps(science(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differing(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The keys in which the science of two configs differs."""
    old, new = science(stored), science(config)
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def refuse_if_different(stored: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path, more: str = "") -> None:
    """InputError with the keys in which the run stored in `run_dir` differs from the requested one; `more` is another
    remedy."""
    old, new = science(stored), science(config)
    changed = [f"{k}: {old.get(k, 'absent')} -> {new.get(k, 'absent')}" for k in differing(stored, config)]
    if changed:
        left_out = f"; and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        listed = "; ".join(changed[:NAMED]) + left_out
        remedy = (
            f"holds a run with other settings ({listed}); choose another name or run_dir or the same settings{more}"
        )
        raise InputError("run_dir", run_dir, remedy)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level of dotted keys."""
    if isinstance(config, Mapping):
        items = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, list | tuple):
        items = [(str(i), value) for i, value in enumerate(config)]
    else:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat or {prefix: config if prefix else None}

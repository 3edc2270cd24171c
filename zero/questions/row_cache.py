"""Rows that take long to draw, kept in the user's cache folder: a second run, or a resumed one, starts at once.

Nothing depends on it: a file that is missing, damaged or cannot be written only costs the time of drawing the rows again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from zero.files import read_regular, write_atomically
from zero.paths import cache_folder


def load(name: str) -> list[dict[str, Any]] | None:
    """The rows of a file of the cache; None if there is none, or if it is not as it was written."""
    try:
        digest, _, content = read_regular(cache_folder() / name).partition(b"\n")
    except (OSError, RuntimeError):  # the latter: an account without a home
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    return [json.loads(line) for line in content.splitlines()]


def store(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep rows, if the cache folder can be written."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with suppress(OSError, RuntimeError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(
            cache_folder() / name, hashlib.sha256(content).hexdigest().encode() + b"\n" + content, sync=False
        )

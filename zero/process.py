"""This process itself: its start without garbage collection, and its end beside others."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection: what is imported and built at the start stays anyway, and scanning it takes two seconds."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave(code: Any) -> None:
    """End one of several processes at once, now that all is written: at the interpreter's exit torch's threads sometimes abort,
    which a launcher would take for a failure."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

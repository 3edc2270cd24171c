"""The ways in which a sandbox can be made here, and every attempt in each: as whom, by what, with which wall taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.sandbox.outside import NOBODY

ROOT = Path(__file__).parents[2]
# name -> (as nobody, words for tests/sandbox/contain.py)
WAYS = {
    "as this user": (False, ["full"]),
    "as nobody": (True, ["full"]),
    "by bubblewrap": (True, ["full", "bubblewrap"]),
    "landlock alone": (False, ["landlock"]),
    "without seccomp": (False, ["full", "without=seccomp"]),
    "without Landlock": (False, ["full", "without=landlock"]),
    "with Landlock as the only wall before files": (False, ["full", "without=seccomp+mounts"]),
}


def contained(way: str) -> list[dict[str, Any]] | None:
    """The rows of tests/sandbox/contain.py, or None where this machine has no such way."""
    nobody, words = WAYS[way]
    if "bubblewrap" in words and shutil.which("bwrap") is None:
        return None
    command = ["-m", "tests.sandbox.contain", *words]
    return json.loads(run(command, nobody and os.geteuid() == 0))


def run(command: list[str], as_nobody: bool = False) -> str:
    """The output of the interpreter, with nothing but its standard library and this checkout."""
    interpreter = os.path.realpath(sys.executable)
    start = [interpreter, *command]
    if (
        as_nobody
    ):  # who may not be able to reach the interpreter where it lies: for this process it lies in /mnt as well
        prefix = Path(interpreter).parents[1]
        inner = f'mount --bind {prefix} /mnt && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups -- "$@"'
        start = ["unshare", "-m", "sh", "-c", inner, "sh", f"/mnt/bin/{Path(interpreter).name}", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        start, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300
    ).stdout

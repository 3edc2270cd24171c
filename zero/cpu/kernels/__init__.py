"""The project's arithmetic in C++, for float32 on one thread of a CPU: built by the machine's own compiler when it is first asked
for, and kept in the user's cache. Without a compiler everything runs on torch alone, only slower.

    decode.cpp   a forward pass of a few rows with a cache of keys and values           zero/cpu/decoder.py
    train.cpp    a layer over a packed batch, forward and backward, and any product     zero/cpu/layers.py
    tiles.h      what both stand on
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
OPTIONS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of this machine; None if there is no compiler, or it cannot build them."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    sources = sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp")])
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    key = "\0".join([*(path.read_text() for path in sources), version, _processor(), *OPTIONS])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1-zero-suite"
    built = home / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        if not built.exists():
            home.mkdir(parents=True, exist_ok=True)
            # Two processes may build at once: each renames its own
            with tempfile.TemporaryDirectory(dir=home) as folder:
                compiled = Path(folder) / "kernels.so"
                units = [str(path) for path in sources if path.suffix == ".cpp"]
                subprocess.run([compiler, *OPTIONS, "-o", str(compiled), *units], capture_output=True, check=True)
                compiled.replace(built)
        loaded = ctypes.CDLL(str(built))
    except (OSError, subprocess.CalledProcessError):
        return None
    for name in ("decode_room", "train_room"):
        loaded[name].restype = ctypes.c_int64
    return loaded


def constant(kernels: ctypes.CDLL, name: str) -> int:
    """`panel`: the columns of one, of which the widths of a model must be multiples. `product_room`: floats that a product needs
    to work in."""
    return ctypes.c_int64.in_dll(kernels, name).value


def _processor() -> str:
    """Which instructions there are: a home folder may be shared among machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return platform.machine() + next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )

"""C++ kernels for float32 on one thread of a CPU: compiled at first use by the machine's own compiler, and kept in the user's
cache folder. Without a compiler everything runs in torch alone, only slower.

    decode.cpp   a forward pass of a few rows with a key-value cache                    zero/cpu/decoder.py
    train.cpp    a layer over a packed batch, forward and backward, and any product     zero/cpu/layers.py
    tiles.h      shared by both
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

from zero.paths import cache_folder

HERE = Path(__file__).parent
OPTIONS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled for this machine; None if there is no compiler, or it cannot build them."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    sources = sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp")])
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    except OSError:  # a container may have no process left
        return None
    key = "\0".join([*(path.read_text() for path in sources), version, _processor(), *OPTIONS])
    home = cache_folder()
    built = home / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        if not built.exists():
            home.mkdir(parents=True, exist_ok=True)
            # Two processes may build at once: each renames a file of its own
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
    """A constant of the kernels. `panel`: columns of a panel, of which a model's widths must be multiples. `product_room`: floats
    of working memory of a product."""
    return ctypes.c_int64.in_dll(kernels, name).value


def _processor() -> str:
    """The processor's instruction sets: machines of different kinds may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return platform.machine() + next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )

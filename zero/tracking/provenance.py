"""Where the numbers of a run come from: starts.jsonl in its folder has a line for each time that it was started.

    {"time": ..., "choices": {"algo": "drgrpo", ...}, "commit": ..., "code": ..., "versions": {"torch": ...}, "host": ...,
     "ranks": 1, "device": "cpu", "processor": ..., "kernels": true, "engine": "NativeEngine", "engine_precision": "float32",
     "precision": "float32", "after_step": 0, "resume_with": {"optimizer.lr": 1e-06}}

`resume_with`, only there if this start changed something, holds from after_step on; see zero/run_folder.py. Nothing else in it
can change a number by itself, so nothing of it belongs to a run's identity.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from zero.cpu.kernels import library
from zero.files import append_line, read_json_lines
from zero.paths import CONF, ROOT, USER_CONF, user_files

FILE = "starts.jsonl"
PACKAGES = ("torch", "transformers", "vllm", "deepspeed", "hydra-core", "mlflow")  # those that can change a number
FROZEN = "frozen.json"  # beside the packages of a sweep's copy of the code, with its commit
LARGEST = 1 << 26  # bytes of the file
CODE = ("zero", "conf", "launch", "analysis")  # the folders of the code
SKIPPED = ("__pycache__", ".mypy_cache", ".ruff_cache")
NONE = "None"  # what Hydra calls a group without an option


Start = dict[str, Any]  # a line of the file


def start(choices: Mapping[str, str], device: str, ranks: int) -> Start:
    """What a start is noted as. `choices`: the option of each group; `device`: "cpu" or the name of a GPU, of which each of
    the `ranks` has one."""
    return {
        "time": round(time.time(), 1),
        "choices": {group: option for group, option in choices.items() if option != NONE and "/" not in group},
        **({"config_dirs": [str(folder) for folder in USER_CONF]} if USER_CONF else {}),
        "commit": git_commit(),
        "code": code_digest(),
        "versions": package_versions(),
        "host": platform.node(),
        "user": user(),
        "processor": processor(),
        "kernels": library()
        is not None,  # the project's own (zero/cpu/kernels): without them the last digits are others
        "device": device,
        "ranks": ranks,
    }


def on_engine(line: Start, engine: Any, learner: str | None = None) -> str:
    """Add what settings may leave to the machine: the engine (rollout=auto), its precision and the learner's (auto). Returns
    the same in words."""
    sampler = engine
    while hasattr(sampler, "engine"):  # one that plays episodes, or reads solutions, is around another
        sampler = sampler.engine
    name, precision = type(sampler).__name__, str(engine.dtype).removeprefix("torch.")
    line |= {"engine": name, "engine_precision": precision} | ({"precision": learner} if learner else {})
    words = f"engine   {name} in {precision}, on {line['device']}"
    return f"{words}; the learner in {learner}" if learner else words


def other_engine(run_dir: Path, line: Start) -> str:
    """In words, if the run was sampled by another engine, or in another precision, than this start would; else ""."""
    before = [{key: start.get(key) for key in ("engine", "engine_precision")} for start in starts(run_dir)[-1:]]
    now = {key: line[key] for key in ("engine", "engine_precision")}
    if not before or None in before[0].values() or before[0] == now:
        return ""
    was, will = (" in ".join(map(str, engine.values())) for engine in (before[0], now))
    return f"its samples came from {was} and come from {will} here: numbers differ from those of one machine"


def note(run_dir: Path, line: Start) -> None:
    """Append a start to the run folder. A disk that is full costs the line, not the run, unless the line changes the run."""
    try:
        append_line(run_dir / FILE, line)
    except OSError as error:
        if "resume_with" in line:
            raise
        print(f"{run_dir / FILE}: {error}; the run goes on", file=sys.stderr)


def starts(run_dir: Path) -> list[Start]:
    """The lines of a run folder's starts, without those that a kill tore; none if it has no such file."""
    return read_json_lines(run_dir / FILE, LARGEST)


def user() -> str | None:
    """Who started the run; None where the account has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def processor() -> str:
    """The name of the CPU."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the source tree this package runs from, with -dirty if a tracked file differs; None without one. A copy
    that a sweep has frozen says which commit it is of."""
    if (ROOT / FROZEN).exists():
        return json.loads((ROOT / FROZEN).read_text()).get("commit")

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT:
            return None  # installed into a folder that some other repository holds
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def code_digest() -> str:
    """The digest of the code this process runs: as a sweep's frozen copy records it, else of the files as they are now."""
    try:
        return str(json.loads((ROOT / FROZEN).read_bytes())["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        return digest(ROOT)


def digest(root: Path) -> str:
    """16 hex digits of the names and contents of the code under a root; what is edited or removed meanwhile is left out."""
    code = sha256()
    for name, path in sources(root):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        code.update(f"{name}\0{len(content)}\0".encode())
        code.update(content)
    return code.hexdigest()[:16]


def sources(root: Path) -> list[tuple[str, Path]]:
    """Every file of the code under its name in a copy, in a fixed order. A user's own yaml files are there as if they lay in
    conf/."""
    files = []
    for above, below, names in (step for name in CODE for step in os.walk(root / name)):
        below[:] = [name for name in below if name not in SKIPPED]
        files += [Path(above) / name for name in names if not name.endswith((".pyc", ".partial"))]
    named = [(path.relative_to(root).as_posix(), path) for path in files]
    if USER_CONF and root == ROOT:
        conf = CONF.relative_to(ROOT)
        named += [((conf / name).as_posix(), folder / name) for folder in USER_CONF for name in user_files(folder)]
    return sorted(named)


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a number, read without importing them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions

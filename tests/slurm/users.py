"""What a user types on the test cluster: the command lines themselves, each in its own process, and their output.

Scenarios, one function each, run side by side; they return what was seen at each moment. Files are read here, but nothing
of launch/ is called: that is what the command lines are for.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep import files
from tests.conftest import ROOT
from tests.integration.runs import SMALL
from tests.slurm.sweeps import all_logs, reached, until
from zero.files import read_json_lines

MULTIRUN, SUBMIT, STATUS = ("zero.train", "-m"), ("launch.submit",), ("launch.status",)
LAUNCHER = {"shared": "true", "poll_s": 1, "signal_delay_s": 20, "mem_gb": 1.5, "timeout_min": 10}
LITTLE = ["steps=3", "checkpoint.every=2", "evaluation.every=0", "benchmarks.limit=4"]  # more settings of SMALL
STEADY = ["steps=40", "checkpoint.every=5", "evaluation.every=0", "benchmarks.limit=4"]  # long enough to be cancelled
EVALUATION = {"evaluate": "'n=1 benchmarks=nano benchmarks.limit=4'"}
HOLD = {"additional_parameters.hold": "true"}
Facts = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """The output and cost of a command: wall seconds, CPU seconds, and peak memory in MiB."""

    code: int
    out: str
    err: str
    seconds: float
    cpu: float
    mib: float

    def __str__(self) -> str:
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


def typed(*words: object, **environment: str) -> Finished:
    """A command line of the suite, run to its end."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command(words), cwd=ROOT, stdout=out, stderr=err, env=os.environ | environment)
        most = 0.0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            most = max(most, memory(child.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        _, status, used = ended
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Finished(child.returncode, out.read(), err.read(), seconds, used.ru_utime + used.ru_stime, most)


def memory(pid: int) -> float:
    """Peak MiB so far. Not ru_maxrss: that of a child is never less than its parent's was when it was forked."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0


def command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def cell(*line: str) -> list[str]:
    """The settings of a tiny cell: each key once, as a user types them."""
    keys = {text.partition("=")[0] for text in line}
    return [*(text for text in SMALL if text.partition("=")[0] not in keys), *line]


def launcher_settings(folder: Path, **settings: object) -> list[str]:
    """The launcher's part of a command line."""
    values = {**LAUNCHER, "folder": folder, **settings}
    return ["hydra/launcher=slurm", *(f"hydra.launcher.{key}={value}" for key, value in values.items())]


def planned(done: Finished) -> list[str]:
    """The names of the cells that a plan wants to start."""
    return re.findall(r"^  to start +\w+  (\S+)", done.out, re.MULTILINE)


def states(folder: Path, **environment: str) -> dict[str, str]:
    """What launch.status --json says of each cell."""
    done = typed(*STATUS, folder, "--json", "--all", **environment)
    assert done.code in (0, 1), done
    return {record["cell"]: record["state"] for record in map(json.loads, done.out.splitlines())}


def jobs(folder: Path) -> list[list[str]]:
    """The cells of each array that was submitted."""
    return [line["cells"] for line in read_json_lines(folder / files.JOBS)]


def contents(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Files that describe cells and their attempts and must not change any more."""
    paths = [f"{name}/{file}" for name in names for file in (files.CELL, files.ATTEMPTS, files.RESULT, "metrics.jsonl")]
    return {path: (folder / path).read_bytes() for path in paths if (folder / path).exists()}


def queued(name: str, which: str = "all") -> list[str]:
    """Slurm's tasks of the sweeps of this name."""
    words = ["squeue", "-h", "-r", "-t", which, "-n", name, "-o", "%i %T"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def multirun(folder: Path) -> Facts:
    """One line with rehearsal and evaluation, followed to its end; again; with one value more; with another setting."""

    def line(*cells: str, **settings: object) -> list[str]:
        return [*cell(*LITTLE, *cells), *launcher_settings(folder, smoke="true", **EVALUATION, **settings)]

    seen: Facts = {"first": typed(*MULTIRUN, *line("seed=0,1")), "jobs": jobs(folder)}
    seen |= {"again": typed(*MULTIRUN, *line("seed=0,1")), "jobs again": jobs(folder)}
    seen |= {"more": typed(*MULTIRUN, *line("seed=0,1,2")), "jobs more": jobs(folder)}
    old = sorted({name for array in seen["jobs more"] for name in array})
    seen["old"] = contents(folder, old)
    # held: it is enough that they are new
    seen["edited"] = typed(*SUBMIT, *line("seed=0,1,2", "optimizer.lr=2e-5", **HOLD))
    seen["jobs edited"] = jobs(folder)
    seen["held"] = queued(folder.name, "PENDING")
    # the same number, written otherwise
    seen["cancel"] = typed(*STATUS, folder, "cancel", "optimizer.lr=0.00002", "--yes")
    seen["old after"], seen["states"] = contents(folder, old), states(folder)
    return seen


def failing(folder: Path) -> Facts:
    """A cell that cannot write its completions; then it can."""
    line = [*cell(*LITTLE, "seed=0,1"), *launcher_settings(folder, **EVALUATION)]
    bad, good, *_ = names = planned(typed(*SUBMIT, *line, "--dry-run"))
    (folder / bad).mkdir(parents=True)
    (folder / bad / "completions").write_text("no folder")
    seen: Facts = {"names": names, "bad": bad, "good": good, "run": typed(*MULTIRUN, *line), "states": states(folder)}
    seen |= {"attempts": {name: files.read_attempts(folder / name) for name in names}, "kept": contents(folder, [good])}
    seen |= {"again": typed(*SUBMIT, *line), "logs": typed(*STATUS, folder, "logs", bad)}
    (folder / bad / "completions").unlink()
    seen["unsure"] = typed(*STATUS, folder, "retry")
    seen["retry"] = typed(*STATUS, folder, "retry", "--failed")
    seen["follow"] = typed(*STATUS, folder, "--follow")
    return seen | {"states after": states(folder), "kept after": contents(folder, [good])}


def abandoned(folder: Path) -> Facts:
    """The submitting process is killed; other processes list, cancel and resume its cells."""
    # an axis that changes no bit
    line = [*cell(*STEADY, "samples.groups=2,3,4"), *launcher_settings(folder, array_parallelism=1)]
    child = subprocess.Popen(command([*MULTIRUN, *line]), cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: jobs(folder), what=lambda: all_logs(folder))
    child.kill()
    child.wait()
    (names,) = jobs(folder)
    first, _, third = names
    reached(folder / first, 1)
    seen: Facts = {"names": names, "before": states(folder)}
    seen["cancel"] = typed(*STATUS, folder, "cancel", "samples.groups=2|3", "--yes")
    until(lambda: files.read_attempts(folder / third), what=lambda: all_logs(folder))
    until(lambda: "CANCELLED" in " ".join(queued(folder.name)), what=lambda: all_logs(folder))  # no longer COMPLETING
    seen["cancelled"] = states(folder)
    seen["silent"] = "exit" not in files.read_attempts(folder / first)[-1]
    blind = forgetful(folder.with_name("no-accounting"))
    seen["blind"] = states(folder, PATH=f"{blind}:{os.environ['PATH']}", ASKED=str(folder / "asked"))
    seen["asked"] = (folder / "asked").exists()
    seen["table"] = typed(*STATUS, folder)
    seen["again"] = typed(*SUBMIT, *line)
    seen["end"] = typed(*STATUS, folder, "--follow")
    until(lambda: not queued(folder.name, "RUNNING,COMPLETING"))  # its result is there a moment before its process ends
    seen["still"], seen["tasks"] = states(folder), queued(folder.name)
    seen["resume"] = typed(*STATUS, folder, "resume")
    seen["follow"] = typed(*STATUS, folder, "--follow")
    seen |= {"resumed": states(folder), "logs": typed(*STATUS, folder, "logs", "samples.groups=3")}
    seen["collect"] = typed(*STATUS, folder, "collect")
    with (folder / "collect.csv").open(newline="") as file:
        seen["rows"] = list(csv.DictReader(file))
    return seen


def forgetful(folder: Path) -> Path:
    """A folder for PATH: a squeue that has forgotten every ended job, and a sacct that does not answer but records the call."""
    folder.mkdir()
    programs = {
        "squeue": f'for word; do shift; [ "$word" = all ] && word=R,PD; set -- "$@" "$word"; done\n'
        f'exec {shutil.which("squeue")} "$@"\n',
        "sacct": 'touch "$ASKED"\necho "sacct: error: Slurm accounting storage is disabled" >&2\nexit 1\n',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    return folder


SCENARIOS = [abandoned, multirun, failing]
REFUSED: Mapping[str, tuple[Sequence[str], Mapping[str, object], str]] = {
    # typed overrides, settings of the launcher, the error line
    "one bad cell": (["algo=grpo", "seed=0,1", "group_size=4,1"], {},
                     r"error: group_size=1: this algorithm compares siblings; it must be at least 2"),
    "partition": (["seed=0,1"], {"partition": "gpus"},
                  r"error: hydra.launcher.partition=gpus: no such partition; did you mean gpu\? There are .*preempt.*"),
    "GPUs": (["seed=0,1"], {"gpus_per_node": 3}, r"error: hydra.launcher.gpus_per_node=3: a node here has at most 2 GPUs"),
    "unwritable": (["seed=0,1"], {"folder": "/proc/self/sweep"},
                   r"error: hydra.launcher.folder=/proc/self/sweep: cannot be written .*; choose another"),
    "not shared": (["seed=0,1"], {"shared": "false"}, r"error: \S+: lies on /tmp, which nodes do not see; .*shared=true.*"),
    "no Slurm": (["seed=0,1"], {}, r"error: hydra/launcher=slurm: no Slurm on this machine .*hydra/launcher=local.*"),
}  # fmt: skip

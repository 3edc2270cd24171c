"""Whether this cluster can run what the settings ask for: checked before anything is written or submitted."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from launch.places import submitit_executor
from launch.places.slurm_jobs import QUEUE_FULL, Unreachable, call, first_number, job_request, max_array_size
from launch.places.slurm_script import Settings
from zero.errors import InputError


def check(settings: Settings, folder: Path, count: int) -> None:
    """InputError if this cluster cannot run `count` cells with these settings."""
    if not installed():
        remedy = "no Slurm on this machine (sbatch not found); hydra/launcher=local does it here"
        raise InputError("hydra/launcher", "slurm", remedy)
    check_folder(folder, settings.shared)
    try:
        table = call("sinfo", "-h", "-o", "%R|%D|%c|%G|%a", limit=30)
    except Unreachable as error:
        remedy = "try again later, or hydra/launcher=local"
        raise InputError("hydra/launcher", "slurm", f"the controller does not answer ({error}); {remedy}") from error
    partitions: dict[str, list[tuple[int, int, int]]] = {}
    for line in table.splitlines():
        name, nodes, cpus, gres, _ = line.split("|")
        partitions.setdefault(name, []).append((first_number(nodes), first_number(cpus), count_gpus(gres)))
    wanted = settings.partition
    for name in wanted.split(",") if wanted else ():
        if name not in partitions:
            close = difflib.get_close_matches(name, partitions, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            remedy = f"no such partition{hint} There are {', '.join(partitions)}"
            raise InputError("hydra.launcher.partition", name, remedy)
    chosen = [rows for name, rows in partitions.items() if not wanted or name in wanted.split(",")]
    check_size(settings, [row for rows in chosen for row in rows])
    # if all do not fit into the queue, one may: the others are submitted later
    for tasks in dict.fromkeys((min(count, max_array_size()), 1)):
        request = job_request(folder, "test", tasks, settings, "test")
        try:
            call("sbatch", "--test-only", limit=30, text=submitit_executor.batch_file(request))
            return
        except Unreachable as error:
            if QUEUE_FULL.search(str(error)):
                continue
            reason = re.sub(r"(sbatch: )?(error: )?(allocation failure: )?", "", str(error))
            raise InputError("hydra/launcher", "slurm", f"sbatch refuses it: {reason}") from error


def installed() -> bool:
    """Whether this machine has Slurm's programs."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def check_size(settings: Settings, rows: Sequence[tuple[int, int, int]]) -> None:
    """InputError if a cell needs more nodes, or more CPUs or GPUs of one, than there are. `rows`: (nodes, CPUs, GPUs)."""
    most = [max((row[i] for row in rows), default=0) for i in range(3)]
    cpus = settings.cpus_per_task * settings.ranks_per_node
    where = f"of partition {settings.partition}" if settings.partition else "here"
    if settings.gpus_per_node > most[2]:
        remedy = f"a node {where} has at most {most[2]} GPUs"
        raise InputError("hydra.launcher.gpus_per_node", settings.gpus_per_node, remedy)
    if cpus > most[1]:
        remedy = f"{settings.ranks_per_node} tasks of a node need {cpus} CPUs; a node {where} has at most {most[1]}"
        raise InputError("hydra.launcher.cpus_per_task", settings.cpus_per_task, remedy)
    if settings.nodes > sum(row[0] for row in rows):
        remedy = f"there are {sum(row[0] for row in rows)} nodes {where}"
        raise InputError("hydra.launcher.nodes", settings.nodes, remedy)


def count_gpus(gres: str) -> int:
    """The number of GPUs in sinfo's column: gpu:a100:4(S:0-1),shard:8 -> 4; (null) -> 0."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[^:,]+)?:(\d+)", plain))


def check_folder(folder: Path, shared: bool) -> None:
    """InputError if the folder cannot be written, or lies where other machines do not see it."""
    if "%" in str(folder) or "\n" in str(folder):
        raise InputError("sweep", folder, "Slurm takes % in a path for a pattern of its own; choose another name")
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        raise InputError("sweep", folder, f"cannot be written ({existing}); choose another folder")
    if not shared and (system := private_file_system(existing.resolve())):
        remedy = "use a shared file system, or hydra.launcher.shared=true if they do"
        raise InputError("sweep", folder, f"lies on {system}, which nodes do not see; {remedy}")


def private_file_system(path: Path) -> str:
    """The name of a file system that only this machine sees; "" for one that may be shared."""
    if any(path.is_relative_to(top) for top in ("/tmp", "/var/tmp", "/dev/shm", "/run")):
        return f"/{path.parts[1]}"
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    mounts = {line[1]: line[2] for line in lines}
    top = next((str(p) for p in (path, *path.parents) if str(p) in mounts), "")
    return mounts.get(top, "") if mounts.get(top) in ("tmpfs", "ramfs", "devtmpfs") else ""

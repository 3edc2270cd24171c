"""Whether this cluster can do what is asked of it: refused in one line, before anything is written or submitted."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from launch.places import executor
from launch.places.slurm import LIMITED, Unreachable, call, most_tasks, number, order_of
from launch.places.slurm_script import Settings
from zero.errors import InputError


def check(settings: Settings, folder: Path, count: int) -> None:
    """InputError for what this cluster cannot do, before anything is written or submitted: one line."""
    if not installed():
        remedy = "no Slurm on this machine (sbatch not found); hydra/launcher=local does it here"
        raise InputError("hydra/launcher", "slurm", remedy)
    writable(folder, settings.shared)
    try:
        table = call("sinfo", "-h", "-o", "%R|%D|%c|%G|%a", limit=30)
    except Unreachable as error:
        raise InputError(
            "hydra/launcher",
            "slurm",
            f"the controller does not answer ({error}); try again later, or hydra/launcher=local",
        ) from error
    partitions: dict[str, list[tuple[int, int, int]]] = {}
    for line in table.splitlines():
        name, nodes, cpus, gres, _ = line.split("|")
        partitions.setdefault(name, []).append((number(nodes), number(cpus), gpus_of(gres)))
    wanted = settings.partition
    for name in wanted.split(",") if wanted else ():
        if name not in partitions:
            close = difflib.get_close_matches(name, partitions, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(
                "hydra.launcher.partition", name, f"no such partition{hint} There are {', '.join(partitions)}"
            )
    kinds = [kind for name, kind in partitions.items() if not wanted or name in wanted.split(",")]
    rows = [row for kind in kinds for row in kind]
    fits(settings, rows)
    for tasks in dict.fromkeys((min(count, most_tasks()), 1)):  # more than there is room for goes in by and by
        order = order_of(folder, "test", tasks, settings, "test")
        try:
            call("sbatch", "--test-only", limit=30, text=executor.text(order))
            return
        except Unreachable as error:
            if LIMITED.search(str(error)):
                continue
            words = re.sub(r"(sbatch: )?(error: )?(allocation failure: )?", "", str(error))
            raise InputError("hydra/launcher", "slurm", f"sbatch refuses it: {words}") from error


def installed() -> bool:
    """Whether this machine has Slurm's programs."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def fits(settings: Settings, rows: Sequence[tuple[int, int, int]]) -> None:
    """InputError if no kind of node (nodes, CPUs, GPUs) holds what a cell asks of one."""
    most = [max((row[i] for row in rows), default=0) for i in range(3)]
    cpus = settings.cpus_per_task * settings.ranks_per_node
    where = f"of partition {settings.partition}" if settings.partition else "here"
    if settings.gpus_per_node > most[2]:
        raise InputError(
            "hydra.launcher.gpus_per_node", settings.gpus_per_node, f"a node {where} has at most {most[2]} GPUs"
        )
    if cpus > most[1]:
        remedy = f"{settings.ranks_per_node} tasks of a node need {cpus} CPUs; a node {where} has at most {most[1]}"
        raise InputError("hydra.launcher.cpus_per_task", settings.cpus_per_task, remedy)
    if settings.nodes > sum(row[0] for row in rows):
        remedy = f"there are {sum(row[0] for row in rows)} nodes {where}"
        raise InputError("hydra.launcher.nodes", settings.nodes, remedy)


def gpus_of(gres: str) -> int:
    """GPUs of sinfo's column: gpu:a100:4(S:0-1),shard:8 -> 4; (null) -> 0."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[^:,]+)?:(\d+)", plain))


def writable(folder: Path, shared: bool) -> None:
    """InputError if the folder cannot be written, or is of a kind that other machines never see."""
    if "%" in str(folder) or "\n" in str(folder):
        raise InputError("sweep", folder, "Slurm takes % in a path for a pattern of its own; choose another name")
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        raise InputError("sweep", folder, f"cannot be written ({existing}); choose another folder")
    if not shared and (kind := private(existing.resolve())):
        remedy = f"lies on {kind}, which nodes do not see; use a shared file system, or hydra.launcher.shared=true if they do"
        raise InputError("sweep", folder, remedy)


def private(path: Path) -> str:
    """The kind of a file system that belongs to one machine; "" for one that may be shared."""
    if any(path.is_relative_to(top) for top in ("/tmp", "/var/tmp", "/dev/shm", "/run")):
        return f"/{path.parts[1]}"
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    mounts = {line[1]: line[2] for line in lines}
    top = next((str(p) for p in (path, *path.parents) if str(p) in mounts), "")
    return mounts.get(top, "") if mounts.get(top) in ("tmpfs", "ramfs", "devtmpfs") else ""

"""Settings that depend on the cluster's nodes: memory where its default is too little, and bad nodes to leave out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from launch.places.slurm_jobs import FOLDER, call
from launch.places.slurm_script import Settings

MINIMUM_MEMORY = 2  # GB of a rank; the embedded model trains in 0.6


def exclude_bad_nodes(folder: Path, settings: Settings) -> Settings:
    """The settings, excluding nodes on which cells of the sweep failed at once (launch/places/guard.sh)."""
    bad = bad_nodes(folder)
    excluded = [*filter(None, (settings.exclude or "").split(",")), *bad]
    return replace(settings, exclude=",".join(dict.fromkeys(excluded))) if bad else settings


def bad_nodes(folder: Path) -> dict[str, str]:
    """Nodes on which cells failed at once, and what guard.sh has noted of each."""
    try:
        lines = (folder / FOLDER / "excluded").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {node: reason for node, _, reason in (line.partition(" ") for line in lines) if node}


def with_enough_memory(settings: Settings) -> Settings:
    """The settings, with the memory that a small cell needs if neither they nor the user's variables ask for memory and the
    cluster's default is less. Unreachable if Slurm does not answer."""
    if settings.mem_gb or any(name.startswith("SBATCH_MEM_") for name in os.environ):
        return settings
    if any(str(key).replace("_", "-").startswith("mem") for key in settings.additional_parameters or {}):
        return settings
    words = ["scontrol", "show", "partition", *([settings.partition.split(",")[0]] if settings.partition else [])]
    blocks = call(*words, limit=30).split("PartitionName=")[1:]
    block = next((text for text in blocks if settings.partition or "Default=YES" in text), "")
    defaults = {key: int(value) for key, value in re.findall(r"(DefMemPerCPU|DefMemPerNode)=(\d+)", block)}
    cpus = settings.cpus_per_task * settings.ranks_per_node
    megabytes = defaults.get("DefMemPerNode", 0) or defaults.get("DefMemPerCPU", 0) * cpus  # 0: all of a node
    minimum = MINIMUM_MEMORY * settings.ranks_per_node
    return replace(settings, mem_gb=minimum) if 0 < megabytes < 1024 * minimum else settings

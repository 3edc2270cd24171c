"""What the settings leave to the cluster, as its nodes are: memory where the default is too little, nodes that are left out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from launch.places.slurm import FOLDER, call
from launch.places.slurm_script import Settings

LEAST_MEMORY = 2  # GB of a rank: the embedded model trains in 0.6


def without_bad_nodes(folder: Path, settings: Settings) -> Settings:
    """The settings, leaving out the nodes that the sweep's cells have shown to be bad (launch/places/guard.sh)."""
    bad = bad_nodes(folder)
    named = [*filter(None, (settings.exclude or "").split(",")), *bad] if bad else []
    return replace(settings, exclude=",".join(dict.fromkeys(named))) if bad else settings


def bad_nodes(folder: Path) -> dict[str, str]:
    """Nodes on which cells failed at once, and what was noted of them."""
    try:
        lines = (folder / FOLDER / "excluded").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {node: why for node, _, why in (line.partition(" ") for line in lines) if node}


def enough_memory(settings: Settings) -> Settings:
    """The settings, asking for what a small cell needs if neither they do nor the cluster's default gives it. Unreachable."""
    if settings.mem_gb or any(name.startswith("SBATCH_MEM_") for name in os.environ):
        return settings
    if any(str(key).replace("_", "-").startswith("mem") for key in settings.additional_parameters or {}):
        return settings
    words = ["scontrol", "show", "partition", *([settings.partition.split(",")[0]] if settings.partition else [])]
    blocks = call(*words, limit=30).split("PartitionName=")[1:]
    block = next((text for text in blocks if settings.partition or "Default=YES" in text), "")
    found = dict(re.findall(r"(DefMemPerCPU|DefMemPerNode)=(\d+)", block))
    cpus = settings.cpus_per_task * settings.ranks_per_node
    default = int(found.get("DefMemPerNode", 0)) or int(found.get("DefMemPerCPU", 0)) * cpus  # MB; 0: all of a node
    least = LEAST_MEMORY * settings.ranks_per_node
    return replace(settings, mem_gb=least) if 0 < default < 1024 * least else settings

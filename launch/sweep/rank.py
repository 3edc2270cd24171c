"""Where an attempt of a cell runs: which rank of how many, which copy of its cell, and how the ranks find each other.

Slurm's variables count only when the batch script asks for it (ZERO_CELL_JOB): a local sweep started inside an
allocation must not take that for its own.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = range(15000, 32000)  # below those that Linux hands out by itself
STRIDE = 101  # between the first choices of two restarts: a socket of the last one may still linger


@dataclass(frozen=True)
class Place:
    """One process of one attempt. `job`: JOB_TASK, "" without Slurm. `address`: of the first node, as others know it."""

    job: str = ""
    restart: int = 0
    rank: int = 0
    size: int = 1
    local: int = 0
    address: str = "127.0.0.1"

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> Place:
        """From the variables that the batch script and srun set; without them, one process on this machine."""
        job = environment.get("ZERO_CELL_JOB", "")
        if not job:
            return cls()
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or socket.gethostname()
        return cls(
            job=job,
            restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
            rank=int(environment.get("SLURM_PROCID") or 0),
            size=int(environment.get("SLURM_NTASKS") or 1),
            local=int(environment.get("SLURM_LOCALID") or 0),
            address=first_node(nodes),
        )

    @property
    def first(self) -> bool:
        """Whether this rank writes the files of the cell."""
        return self.rank == 0

    @property
    def token(self) -> str:
        """What names this copy of the cell: the same for all of its ranks, and for nobody else ever."""
        return f"{self.job}.{self.restart}" if self.job else f"{socket.gethostname()}.{os.getpid()}"

    def variables(self, port: int, environment: Mapping[str, str]) -> dict[str, str]:
        """What torch.distributed and zero.runtime read. One process alone needs none of it."""
        if self.size == 1:
            return {"LOCAL_RANK": "0"} if self.job else {}
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        devices = len(visible.split(",")) if visible else 0
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            # a cluster that shows each task its own GPU alone numbers all of them 0
            "LOCAL_RANK": str(self.local % devices if devices else self.local),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
        }


def first_node(nodes: str) -> str:
    """The first host of Slurm's list: n[1-3,7],m2 -> n1; rack1-[08-10]-ib -> rack1-08-ib."""
    found = re.match(r"([^,\[]+)(?:\[([^\]]*)\]([^,\[]*))?", nodes)
    if not found:
        return nodes
    prefix, ranges, suffix = found.groups()
    return prefix + (re.split(r"[-,]", ranges)[0] + suffix if ranges else "")


def free_port(job: str, restart: int) -> int:
    """A port that nobody listens on here now, first that of the job and its restart: the one before may still be held."""
    digits = int("0" + "".join(re.findall(r"\d", job)))
    wanted = digits + restart * STRIDE
    for i in range(len(PORTS)):
        port = PORTS[(wanted + i) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return PORTS[wanted % len(PORTS)]


def newer(token: str, than: str) -> bool:
    """Whether a copy was submitted or restarted after another; False if they cannot be compared (no Slurm)."""
    a, b = (re.fullmatch(r"(\d+)(?:_(\d+))?\.(\d+)", t) for t in (token, than))
    if not a or not b:
        return False
    return (int(a[1]), int(a[3])) > (int(b[1]), int(b[3]))

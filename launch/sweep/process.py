"""The processes of an attempt: which rank of how many each is, of which copy of its cell, and how the ranks meet.

Slurm's variables count only if the batch script has set ZERO_CELL_JOB: a local sweep that is started inside an allocation
must not take that one's variables for its own.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = range(15000, 32000)  # below those that Linux hands out by itself
STRIDE = 101  # between the ports of two restarts: a socket of the last one may still be held


@dataclass(frozen=True)
class Process:
    """One process of one attempt. `job`: JOB_TASK, "" without Slurm. `address`: of the first node, as other nodes know it."""

    job: str = ""
    restart: int = 0
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Process:
        """The process that the variables of the batch script and srun describe; without them, the only one, on this machine."""
        job = environment.get("ZERO_CELL_JOB", "")
        if not job:
            return cls()
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or socket.gethostname()
        return cls(
            job=job,
            restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
            rank=int(environment.get("SLURM_PROCID") or 0),
            world_size=int(environment.get("SLURM_NTASKS") or 1),
            local_rank=int(environment.get("SLURM_LOCALID") or 0),
            address=first_node(nodes),
        )

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files of the cell."""
        return self.rank == 0

    @property
    def token(self) -> str:
        """The id of this copy of the cell: all of its ranks have the same, and no other copy ever has."""
        return f"{self.job}.{self.restart}" if self.job else f"{socket.gethostname()}.{os.getpid()}"

    def torch_variables(self, port: int, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables that torch.distributed and zero.runtime read. A single process needs none."""
        if self.world_size == 1:
            return {"LOCAL_RANK": "0"} if self.job else {}
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        devices = len(visible.split(",")) if visible else 0
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            # where each task sees only its own GPU, that one is number 0
            "LOCAL_RANK": str(self.local_rank % devices if devices else self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
        }


def first_node(nodes: str) -> str:
    """The first host of Slurm's list: n[1-3,7],m2 -> n1; rack1-[08-10]-ib -> rack1-08-ib."""
    match = re.match(r"([^,\[]+)(?:\[([^\]]*)\]([^,\[]*))?", nodes)
    if not match:
        return nodes
    prefix, ranges, suffix = match.groups()
    return prefix + (re.split(r"[-,]", ranges)[0] + suffix if ranges else "")


def free_port(job: str, restart: int) -> int:
    """A port that nobody listens on here now. The search begins at another one for each job and each restart."""
    first = int("0" + "".join(re.findall(r"\d", job))) + restart * STRIDE
    for i in range(len(PORTS)):
        port = PORTS[(first + i) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return PORTS[first % len(PORTS)]


def is_newer(token: str, than: str) -> bool:
    """Whether a copy was submitted or restarted after another; False if they cannot be compared (no Slurm)."""
    a, b = (re.fullmatch(r"(\d+)(?:_(\d+))?\.(\d+)", t) for t in (token, than))
    if not a or not b:
        return False
    return (int(a[1]), int(a[3])) > (int(b[1]), int(b[3]))

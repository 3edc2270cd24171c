"""What machine this process has: device, threads, and the other processes of its run."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import (
    ReduceOp,
    all_gather_object,
    all_reduce,
    destroy_process_group,
    init_process_group,
    is_initialized,
)

Item = TypeVar("Item")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# For another rank: the slowest sampling of a step must fit. It is not how a death is noticed: gloo's ranks see the connection end
# within a second, and NCCL's are ended by torchrun or by Slurm (--kill-on-bad-exit).
PROCESS_GROUP_TIMEOUT = timedelta(hours=2)


def prepare(threads: int, tf32: bool = False) -> torch.device:
    """Fix the number of CPU threads and pick the device. On a CPU one thread per process is fastest by far on a busy
    machine; several processes use several cores better than several threads do. With `tf32` a GPU's products of float32
    are rounded to TF32."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        _keep_freed_memory()
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cuda", torch.cuda.current_device())


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed, in blocks of up to 1 GiB: handed back to the system, each of their pages must be asked
    for anew, and under a large vocabulary that takes longer than the arithmetic on them. Other C libraries stay as they are."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def has_bfloat16(device: torch.device) -> bool:
    """Whether precision=auto is bfloat16 here: on a GPU that has it. On a CPU float32 runs on kernels of our own."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def device_name() -> str:
    """The GPU that this process computes on, by its name, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class World:
    """The processes of a run, one for each device. Each samples and grades its own prompts; then all hold the whole batch
    of the step, each works on its own rows of it, and adds its sums to those of the others. One alone adds nothing."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """The world that torchrun, or whoever sets RANK and WORLD_SIZE, has begun; without them, this process alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not is_initialized():
            both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            init_process_group(both, timeout=PROCESS_GROUP_TIMEOUT)
        return cls(int(os.environ["RANK"]), size)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks for all."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's stretch of what all have; `gather` puts the stretches together in order."""
        start, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[start:end]

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        """What all ranks have, in the order of ranks."""
        if self.size == 1:
            return list(items)
        said: list[Any] = [None] * self.size
        all_gather_object(said, list(items))
        return [item for part in said for item in part]

    def balanced_rows(self, length_N: Tensor) -> Tensor:
        """This rank's rows [n]: dealt out by length, to and fro, so that every rank has about as many tokens."""
        if self.size == 1:
            return torch.arange(len(length_N))
        order = torch.sort(length_N, descending=True, stable=True).indices
        turn = torch.arange(len(order)) % (2 * self.size)
        return order[torch.minimum(turn, 2 * self.size - 1 - turn) == self.rank].sort().values

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over ranks."""
        if self.size > 1:
            for tensor in tensors:
                all_reduce(tensor, ReduceOp.SUM)

    def gather_dicts(self, value: dict[str, float]) -> list[dict[str, float]]:
        """What each rank says, in the order of ranks."""
        return self.all_gather([value])

    def any_rank(self, fact: bool) -> bool:
        """Whether it is so for any rank. A moment at which all ranks meet."""
        return any(self.all_gather([fact]))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any_rank(False)

    def shutdown(self) -> None:
        """Once every rank is here, end what connects them. A process that ends with its group alive may abort: the
        group's own threads then meet an interpreter that is gone."""
        if self.size > 1:
            self.barrier()
            destroy_process_group()

"""The processes of a run and what they send to one another, in the words of torch.distributed."""

from __future__ import annotations

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
# Must outlast the slowest rank's rollout. A rank that dies is noticed sooner: gloo's ranks see the connection end within a
# second, and NCCL's are ended by torchrun or by Slurm (--kill-on-bad-exit).
PROCESS_GROUP_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """The processes of a run, one for each device. Each samples and grades its own prompts; then every rank holds the step's
    whole batch, computes on its own rows of it, and sums are reduced over ranks. With one process nothing is sent."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """The world that torchrun, or whoever sets RANK and WORLD_SIZE, has started; without them, this process alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            init_process_group(backend, timeout=PROCESS_GROUP_TIMEOUT)
        return cls(int(os.environ["RANK"]), size)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks for all."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's contiguous share of `items`, which all ranks have; `all_gather` joins the shares in order."""
        start, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[start:end]

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all ranks, in the order of ranks."""
        if self.size == 1:
            return list(items)
        shards: list[Any] = [None] * self.size
        all_gather_object(shards, list(items))
        return [item for shard in shards for item in shard]

    def balanced_rows(self, length_N: Tensor) -> Tensor:
        """This rank's rows [n]: sorted by length and dealt out in a zigzag, so that every rank has about as many tokens."""
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
        """The dictionary of each rank, in the order of ranks."""
        return self.all_gather([value])

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank. Waits for all ranks."""
        return any(self.all_gather([flag]))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any_rank(False)

    def shutdown(self) -> None:
        """Once every rank is here, destroy the process group. A process that ends with its group alive may abort: the
        group's own threads outlive the interpreter."""
        if self.size > 1:
            self.barrier()
            destroy_process_group()

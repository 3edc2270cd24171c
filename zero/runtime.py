"""What machine this process has: device, threads, the other processes of its run, and the signal that asks it to stop."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
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
PATIENCE = timedelta(hours=2)  # for another rank: the slowest sampling of a step, not a fault's discovery


def prepare(threads: int) -> torch.device:
    """Fix the number of CPU threads and pick the device. On a CPU one thread per process is fastest by far on a busy
    machine; several processes use several cores better than several threads do."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        _keep_freed_memory()
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
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
    """Whether bfloat16 products are faster than float32 here."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


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
            init_process_group(both, timeout=PATIENCE)
        return cls(int(os.environ["RANK"]), size)

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks for all."""
        return self.rank == 0

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's stretch of what all have; `gather` puts the stretches together in order."""
        start, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[start:end]

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """What all ranks have, in the order of ranks."""
        if self.size == 1:
            return list(items)
        said: list[Any] = [None] * self.size
        all_gather_object(said, list(items))
        return [item for part in said for item in part]

    def share(self, length_N: Tensor) -> Tensor:
        """This rank's rows [n]: dealt out by length, to and fro, so that every rank has about as many tokens."""
        if self.size == 1:
            return torch.arange(len(length_N))
        order = torch.sort(length_N, descending=True, stable=True).indices
        turn = torch.arange(len(order)) % (2 * self.size)
        return order[torch.minimum(turn, 2 * self.size - 1 - turn) == self.rank].sort().values

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over ranks."""
        if self.size > 1:
            for tensor in tensors:
                all_reduce(tensor, ReduceOp.SUM)

    def every(self, value: dict[str, float]) -> list[dict[str, float]]:
        """What each rank says, in the order of ranks."""
        return self.gather([value])

    def any(self, fact: bool) -> bool:
        """Whether it is so for any rank. A moment at which all ranks meet."""
        return any(self.gather([fact]))

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    def part_ways(self) -> None:
        """Once every rank is here, end what connects them. A process that ends with its group alive may abort: the
        group's own threads then meet an interpreter that is gone."""
        if self.size > 1:
            self.meet()
            destroy_process_group()


class GaveWay(Exception):
    """Another copy of this run has taken its folder over: nothing more may be written there. Exit code 76."""


class StopRequest:
    """Set by SIGTERM, by SIGUSR1 (which Slurm sends ahead of a time limit) or by a file; asked at the end of each step.

    The file is named by ZERO_STOP_FILE. ZERO_LEASE=PATH:TOKEN names a JSON file whose token says who owns the run: asking
    raises GaveWay once it is another's. One that is not there, or cannot be read now, takes nothing away.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._file = os.environ.get("ZERO_STOP_FILE")
        self._lease, _, self._token = os.environ.get("ZERO_LEASE", "").rpartition(":")

    def __bool__(self) -> bool:
        if self._lease and (owner := self._owner()) not in (None, self._token):
            raise GaveWay(f"{owner} has taken this run over")
        if self._file and self.received is None and os.path.exists(self._file):
            self.received = "a stop file"
        return self.received is not None

    def _owner(self) -> str | None:
        try:
            with open(self._lease, "rb") as file:
                return str(json.load(file)["token"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals inside, restore the former handlers after. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

"""What machine this process has: device, threads, the other processes of its run, and the signal that asks it to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor
from torch.distributed import ReduceOp, all_gather_object, all_reduce


def prepare(threads: int) -> torch.device:
    """Fix the number of CPU threads and pick the device. On a CPU one thread per process is fastest by far on a busy
    machine; several processes use several cores better than several threads do."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 here."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class World:
    """The processes of a run, one for each device. Each holds the whole batch of a step, works on its own rows of it, and
    adds its sums to those of the others; one process alone adds nothing. The process group is made by whoever starts."""

    rank: int = 0
    size: int = 1

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
        if self.size == 1:
            return [value]
        said: list[dict[str, float]] = [{}] * self.size
        all_gather_object(said, value)
        return said


class StopRequest:
    """Set by SIGTERM (and SIGUSR1, which Slurm sends ahead of a time limit); asked at the end of each step."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __bool__(self) -> bool:
        return self.received is not None

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

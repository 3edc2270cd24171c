"""What machine this process has: device, threads, and the signal that asks it to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch


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

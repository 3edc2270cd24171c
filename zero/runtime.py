"""What machine this process has: its device and its threads."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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
    """Have glibc keep freed blocks of up to 1 GiB. If they went back to the system, each page would have to be mapped anew,
    which takes longer than the arithmetic on it where the vocabulary is large. Other C libraries stay as they are."""
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

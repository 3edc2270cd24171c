"""The device and threads of this process."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare(threads: int, tf32: bool = False) -> torch.device:
    """Set the number of CPU threads and choose the device. On a busy machine one thread per process is fastest by far, and
    several processes use several cores better than threads do. With `tf32` a GPU rounds float32 products to TF32."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        _keep_freed_memory()
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return torch.device("cuda", torch.cuda.current_device())


def _keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 1 GiB: with a large vocabulary, mapping their pages again would take longer than
    the arithmetic on them. Does nothing with other C libraries."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def has_bfloat16(device: torch.device) -> bool:
    """Whether precision=auto is bfloat16: on a GPU that supports it. On a CPU it is float32, which our kernels compute."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def device_name() -> str:
    """The name of the GPU that this process uses, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

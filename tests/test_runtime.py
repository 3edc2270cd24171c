"""What `prepare` does to the process, in one of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, sys, torch
from zero.runtime import prepare
if sys.argv[1] == "prepared":
    prepare(threads=1)
torch.ones(10_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):  # the first few still find new places
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
@pytest.mark.slow
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True).stdout
        )

    assert faults("prepared") < faults("plain") / 2

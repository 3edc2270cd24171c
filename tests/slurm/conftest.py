"""The test cluster: one for each test file, brought up with what the file asks for and taken down after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.slurm.sweeps import LONG, cluster, straight

AT_ONCE = 5  # scenarios; most of their time is waiting


def reason_to_skip() -> str:
    if os.geteuid() != 0:
        return "the test cluster needs root"
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return "no Slurm, and no apt-get to install it"
    return ""


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster with the module's CLUSTER settings, with SLURM_CONF and LAB in the environment, and a folder for its sweeps."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("lab")
    os.environ["LAB"] = str(home / "cluster")
    cluster("up.sh", **request.module.CLUSTER)
    os.environ["SLURM_CONF"] = str(home / "cluster" / "etc" / "slurm.conf")
    try:
        yield home
    finally:
        cluster("down.sh", *(["--keep-logs"] if request.session.testsfailed else []))
        os.environ.pop("SLURM_CONF")


@pytest.fixture(scope="module")
def undisturbed(lab: Path) -> Path:
    """An uninterrupted run of LONG, without Slurm."""
    return straight(lab / "straight", LONG)


@pytest.fixture(scope="module")
def happened(request: pytest.FixtureRequest, lab: Path, undisturbed: Path) -> Iterator[dict[str, Future[object]]]:
    """The result of each function of the module's SCENARIOS, each called with its own folder; all run side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {f.__name__: pool.submit(f, lab / f.__name__) for f in request.module.SCENARIOS}

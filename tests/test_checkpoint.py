"""Checkpoints: whole or absent, verified, retained; a full disk leaves the last good one."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zero import checkpoint
from zero.errors import InputError


def writer(text: str) -> object:
    def write(path: Path) -> None:
        (path / "weights").write_text(text * 1000)
        (path / "state").write_text(text)

    return write


def test_the_newest_sound_one_is_found_and_only_keep_remain(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, writer(str(step)), keep=2)  # type: ignore[arg-type]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step_000020", "step_000030"]
    assert checkpoint.newest(tmp_path, warn=pytest.fail) == (30, tmp_path / "step_000030")  # type: ignore[arg-type]


def test_steps_beyond_a_million_come_after_those_before(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 1_000_001):
        checkpoint.save(tmp_path, step, writer(str(step)), keep=2)  # type: ignore[arg-type]
    (tmp_path / "step_by_hand").mkdir()
    assert {p.name for p in tmp_path.iterdir()} == {"step_1000000", "step_1000001", "step_by_hand"}
    assert checkpoint.newest(tmp_path, warn=pytest.fail) == (1_000_001, tmp_path / "step_1000001")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, writer(str(step)), keep=2)  # type: ignore[arg-type]
    file = tmp_path / "step_000020" / ("manifest.json" if damage == "manifest" else "weights")
    match damage:
        case "flip":
            file.write_bytes(b"X" + file.read_bytes()[1:])
        case "truncate" | "manifest":
            file.write_bytes(file.read_bytes()[:-7])
        case _:
            file.unlink()
    notes: list[str] = []
    assert checkpoint.newest(tmp_path, notes.append) == (10, tmp_path / "step_000010")
    assert "step_000020" in notes[0] and "damaged" in notes[0]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent", pytest.fail) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: No space left on device (28)")],
)
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, error: Exception) -> None:
    checkpoint.save(tmp_path, 10, writer("a"), keep=1)  # type: ignore[arg-type]

    def fail(path: Path) -> None:
        (path / "weights").write_text("half")
        raise error

    with pytest.raises(InputError, match=r"no space left for the checkpoint of step 20.*last checkpoint"):
        checkpoint.save(tmp_path, 20, fail, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000010"]
    assert checkpoint.newest(tmp_path, pytest.fail) is not None  # type: ignore[arg-type]


def test_remains_of_a_killed_save_are_no_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, writer("a"), keep=2)  # type: ignore[arg-type]
    (tmp_path / ".partial_000020").mkdir()
    (tmp_path / ".partial_000020" / "weights").write_text("half")
    assert checkpoint.newest(tmp_path, pytest.fail) == (10, tmp_path / "step_000010")  # type: ignore[arg-type]
    checkpoint.save(tmp_path, 20, writer("b"), keep=2)  # type: ignore[arg-type]
    assert (tmp_path / "step_000020" / "weights").read_text() == "b" * 1000


RANK = """
import sys
from pathlib import Path
from zero import checkpoint
from zero.errors import InputError
from zero.distributed import World

world = World.join()
for folder in sys.argv[1:]:
    try:
        print(checkpoint.newest_of_rank_0(Path(folder), lambda text: None, world))
    except InputError as error:
        print(error)
world.part_ways()
"""


@pytest.mark.slow
def test_ranks_agree_on_a_checkpoint_or_say_that_they_cannot(tmp_path: Path) -> None:
    """Two nodes: a folder that both see, one that only the second has written, one in which they differ."""
    a, b, shared = (tmp_path / name / "checkpoints" for name in ("a", "b", "shared"))
    for folder, step in ((a, 10), (b, 10), (b, 20), (shared, 30)):
        checkpoint.save(folder, step, writer(f"{folder}{step}"), keep=2)  # type: ignore[arg-type]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *map(str, folders)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank, folders in enumerate([(shared, tmp_path / "empty", a), (shared, b, b)])
    ]
    outputs = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    assert outputs[0][:2] == outputs[1][:2] == [str((30, shared / "step_000030")), "None"]
    for lines, folder in zip(outputs, (a, b), strict=True):
        assert lines[2].startswith(
            f"run_dir={folder.parent}: rank 1 does not see the checkpoint of step 10 that rank 0 found"
        )

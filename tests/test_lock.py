"""A folder has one owner, as long as that lives."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zero.errors import InputError
from zero.lock import owned

HOLDER = """
import sys, time
from pathlib import Path
from zero.lock import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, **environment: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert child.stdout is not None and child.stdout.readline() == "mine\n"
    return child


def no_locks(handle: int, how: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False])
def test_the_owner_is_named_and_a_dead_one_owns_nothing(
    tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = holder(tmp_path)
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match=f"is in use by process {child.pid} on .* since 20"), owned(tmp_path):
        pass
    monkeypatch.setenv("RANK", "1")  # of a run whose first rank owns the folder
    with owned(tmp_path):
        pass
    monkeypatch.delenv("RANK")
    child.kill()
    child.wait()
    with owned(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()
    assert ("has no locks" in capsys.readouterr().err) is not locks
    with owned(tmp_path):  # again, one after another
        pass


def test_the_copies_of_a_cell_settle_it_by_their_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = holder(tmp_path, ZERO_LEASE=f"{tmp_path}/lease:1")
    try:
        with pytest.raises(InputError, match="is in use"), owned(tmp_path):
            pass
        monkeypatch.setenv("ZERO_LEASE", f"{tmp_path}/lease:2")
        with owned(tmp_path):
            assert "lease:2" in (tmp_path / ".lock").read_text()
    finally:
        child.kill()
        child.wait()


def test_any_user_who_may_write_to_a_folder_may_own_it_next(tmp_path: Path) -> None:
    """A group that shares its files (umask 002) goes on with each other's runs."""
    before = os.umask(0o002)
    try:
        with owned(tmp_path):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)

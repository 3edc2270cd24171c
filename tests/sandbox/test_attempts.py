"""Every attempt, in every sandbox that this machine has, on the real kernel; and with one wall less."""

from __future__ import annotations

import pytest

from tests.sandbox.ways import WAYS, contained
from zero.sandbox.records import Level
from zero.sandbox.server import start


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    start(Level.FULL).close()  # where the kernel forbids it, every test of this file fails with its one line


@pytest.mark.parametrize(
    "way", [way if way == "as this user" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
def test_no_attempt_succeeds(way: str) -> None:
    rows = contained(way)
    if rows is None:
        pytest.skip(f"this machine has no such way: {way}")
    assert len(rows) > 150
    assert not [row for row in rows if row["problem"]]

"""One sandbox of each level for all tests of this folder: a fork server costs half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Level


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="session")
def landlocked() -> Iterator[Sandbox]:
    sandbox = Sandbox(Level.LANDLOCK)
    yield sandbox
    sandbox.close()

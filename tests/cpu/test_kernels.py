"""Kernels are built once for each compiler and processor; without them everything still runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zero.cpu import kernels

COMPILER = shutil.which("c++")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and the compiler told not to optimise: a fifth of the time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hasty = tmp_path / "hasty"
    hasty.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" -O0\n')
    hasty.chmod(0o755)
    if COMPILER:
        monkeypatch.setenv("CXX", str(hasty))
    kernels.library.cache_clear()
    yield tmp_path / "cache"
    kernels.library.cache_clear()


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_they_are_built_once(own_cache: Path) -> None:
    assert kernels.library() is not None
    [built] = own_cache.rglob("*.so")
    built_at = built.stat().st_mtime_ns
    kernels.library.cache_clear()
    assert kernels.library() is not None
    assert [path.stat().st_mtime_ns for path in own_cache.rglob("*") if path.is_file()] == [built_at]


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_another_compiler_or_processor_has_its_own(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.library()
    monkeypatch.setattr(kernels, "_processor", lambda: "another")
    kernels.library.cache_clear()
    kernels.library()
    assert len(list(own_cache.rglob("*.so"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_processes_that_build_at_once_do_not_disturb_each_other(own_cache: Path) -> None:
    code = "from zero.cpu import kernels; assert kernels.library() is not None"
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len(list(own_cache.rglob("*.so"))) == 1 and len(list(own_cache.rglob("*"))) == 2, "nothing is left behind"


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_that_works_there_are_none(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert kernels.library() is None


def test_without_a_writable_cache_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernels.library() is None

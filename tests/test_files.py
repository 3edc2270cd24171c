"""A file is whole or absent, and a torn line costs itself alone."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from zero.files import (
    append_line,
    json_lines,
    read_json,
    read_json_lines,
    replacing,
    step_folders,
    write_atomically,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half \ud800")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["file.json"]
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2} and os.listdir(tmp_path) == ["file.json"]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "file", "text")
    assert caught.value.filename == str(tmp_path / "none" / "file")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff{}", b"[" * 100_000])
def test_what_is_no_object_reads_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_json(tmp_path / "file") == {} and read_json_lines(tmp_path / "file") == []
    assert read_json(tmp_path / "none") == {} and read_json_lines(tmp_path / "none") == []


def test_a_torn_line_stays_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "torn')  # killed here
    assert read_json_lines(path) == [{"n": 1}]
    append_line(path, {"n": 3})
    assert read_json_lines(path) == [{"n": 1}, {"n": 3}]
    content = path.read_bytes()
    assert [line for line, _ in json_lines(content)] == content.splitlines(keepends=True)
    assert [record for _, record in json_lines(content)] == [{"n": 1}, None, {"n": 3}]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError):
            append_line(path, {"n": 2})
        with pytest.raises(OSError):
            write_atomically(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["lines.jsonl"]


def test_steps_are_in_order_and_strangers_are_passed_over(tmp_path: Path) -> None:
    for name in ("step_000002", "step_1000000", "step_x", "step_", ".partial_000003", "step_000010"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_000001").write_text("a file")
    assert list(step_folders(tmp_path)) == [2, 10, 1_000_000]
    assert step_folders(tmp_path / "none") == {}

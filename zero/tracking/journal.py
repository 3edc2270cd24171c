"""metrics.jsonl: the one record that every run has and every reader trusts. One JSON object a line, one line a step.

{"step": 12, "train/reward": 0.4375, ..., "loss/kl": null}        null: not a finite number
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from zero.errors import InputError
from zero.records import Metrics
from zero.tracking.glossary import describe, sort_key

FILE = "metrics.jsonl"


class JsonlTracker:
    """Writes run_dir/metrics.jsonl. OSError (a full disk) passes and leaves only whole lines behind."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        self._file: IO[bytes] | None = None
        self._last = -1

    def rewind(self, step: int) -> None:
        """Drop every line after `step` (-1 drops all) and a torn last one; the file is swapped atomically."""
        self._close_file()
        whole = _whole_lines(self.path)
        lines = [line for number, line in whole if number <= step]
        self._last = max((number for number, _ in whole if number <= step), default=-1)
        data = b"".join(lines)
        if self.path.exists() and self.path.read_bytes() != data:
            partial = self.path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)

    def params(self, flat: dict[str, str]) -> None:
        """Nothing: config.yaml holds them."""

    def metrics(self, values: Metrics, step: int) -> None:
        """Append one line and force it to disk. KeyError for a name without meaning, ValueError unless steps ascend."""
        line = encode(values, step)
        if self._file is None:
            if self._last < 0:
                self.rewind(2**62)  # nothing goes but a torn last line, which would swallow the next one
            self._file = self.path.open("ab", buffering=0)
        if step <= self._last:
            raise ValueError(f"step {step} after step {self._last}: {self.path} takes each step once, in order")
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(self._file.fileno())  # a checkpoint may follow: after a power cut it must not know more than this
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise
        self._last = step

    def artifact(self, path: Path) -> None:
        """Nothing: it is in the run folder."""

    def close(self, status: str) -> None:
        """Free the file handle."""
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def encode(values: Metrics, step: int) -> bytes:
    """One line, keys in glossary order, floats that read back exactly. KeyError names every unknown metric."""
    unknown = [name for name in values if not _known(name)]
    if unknown:
        raise KeyError(f"{', '.join(unknown)}: no such metric; add its unit and meaning to zero/tracking/glossary.py")
    line: dict[str, float | int | None] = {"step": step}
    for name in sorted(values, key=sort_key):
        value = float(values[name])
        line[name] = value if math.isfinite(value) else None
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of run_dir/metrics.jsonl; none if it does not exist; a torn last line is left out."""
    return [json.loads(line) for _, line in _whole_lines(run_dir / FILE)]


def series(lines: Iterable[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it has one."""
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def benchmarks(line: Mapping[str, Any]) -> list[str]:
    """Names of the benchmarks that a line, or any metrics, holds."""
    return [name.split("/")[1] for name in line if name.startswith("eval/") and name.endswith("/accuracy")]


def _whole_lines(path: Path) -> list[tuple[int, bytes]]:
    """(step, line) of each line. InputError for damage that a kill cannot cause."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole: list[tuple[int, bytes]] = []
    for i, line in enumerate(lines):
        if not line.endswith(b"\n"):
            break  # the last one, torn by a kill
        try:
            step = json.loads(line)["step"]
            if whole and step <= whole[-1][0]:
                raise ValueError("steps do not ascend")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "run_dir", path.parent, f"line {i + 1} of {FILE} is damaged ({error}); repair it or use another run_dir"
            ) from error
        whole.append((step, line))
    return whole


def _known(name: str) -> bool:
    try:
        describe(name)
    except KeyError:
        return False
    return True

"""metrics.jsonl: the one record that every run has and every reader trusts. One JSON object a line, one line a step.

{"step": 12, "train/reward": 0.4375, ..., "loss/kl": null}        null: not a finite number
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.files import append_whole, json_lines, write_atomically
from zero.records import Metrics
from zero.tracking.glossary import describe, sort_key

FILE = "metrics.jsonl"
ACCURACY = re.compile(r"eval/[^/]+/accuracy")  # of a benchmark; its kinds and levels have one word more


class Journal:
    """Writes run_dir/metrics.jsonl. OSError (a full disk) passes and leaves only whole lines behind."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        self._last = -1

    def rewind(self, step: int) -> None:
        """Drop every line after `step` (-1 drops all) and a torn last one; the file is swapped atomically."""
        whole = _whole_lines(self.path)
        lines = [(line, record["step"]) for line, record in whole if record["step"] <= step]
        self._last = lines[-1][1] if lines else -1
        data = b"".join(line for line, _ in lines)
        if self.path.exists() and self.path.read_bytes() != data:
            write_atomically(self.path, data)

    def append(self, values: Metrics, step: int) -> None:
        """Add one line and force it to disk. KeyError for a name without meaning, ValueError unless steps ascend."""
        line = encode(values, step)
        if self._last < 0:
            self.rewind(2**62)  # nothing goes but a torn last line
        if step <= self._last:
            raise ValueError(f"step {step} after step {self._last}: {self.path} takes each step once, in order")
        append_whole(self.path, line)  # on disk: a checkpoint that follows must not know more after a power cut
        self._last = step


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
    return [record for _, record in _whole_lines(run_dir / FILE)]


def series(lines: Iterable[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it has one."""
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def benchmarks(line: Mapping[str, Any]) -> list[str]:
    """Names of the benchmarks that a line, or any metrics, holds."""
    return [name.split("/")[1] for name in line if ACCURACY.fullmatch(name)]


def kinds(names: Iterable[str], before: str = "train") -> list[str]:
    """The kinds and levels of questions that have a metric BEFORE/KIND/accuracy among these names."""
    matches = (re.fullmatch(rf"{re.escape(before)}/(.+)/accuracy", name) for name in names)
    return [match[1] for match in matches if match]


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line and its object. InputError for damage that a kill cannot cause."""
    whole: list[tuple[bytes, dict[str, Any]]] = []
    for i, (line, record) in enumerate(json_lines(path.read_bytes() if path.exists() else b"")):
        if not line.endswith(b"\n"):
            break  # the last one, torn by a kill
        problem = ""
        if record is None or not isinstance(record.get("step"), int):
            problem = "no object with a step"
        elif whole and record["step"] <= whole[-1][1]["step"]:
            problem = "steps do not ascend"
        if record is None or problem:
            remedy = f"line {i + 1} of {FILE} is damaged ({problem}); repair it or use another name or run_dir"
            raise InputError("run_dir", path.parent, remedy)
        whole.append((line, record))
    return whole


def _known(name: str) -> bool:
    try:
        describe(name)
    except KeyError:
        return False
    return True

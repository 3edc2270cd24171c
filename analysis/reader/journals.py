"""One metrics.jsonl as columns, however damaged: nothing that is left out is left out silently.

A whole journal goes through Arrow's parser, 20 times as fast as json; what Arrow or its checks refuse is read line by line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zero.files import json_lines, read_regular
from zero.tracking.journal import FILE

NAMED = 3  # lines, gaps or metrics that a note names


@dataclass(frozen=True)
class Journal:
    """`steps` [S] ascend; `columns` by metric, each [S], NaN where there is none; `notes` say what was wrong."""

    steps: np.ndarray
    columns: dict[str, np.ndarray]
    notes: tuple[str, ...] = field(default=())


def read(run_dir: Path, wanted: Callable[[str], bool] = lambda name: True) -> Journal:
    """The journal of a run folder, of the metrics that are `wanted`; no lines if there is none. Never raises for what
    stands in the file."""
    try:
        data = read_regular(run_dir / FILE)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return empty(f"has no {FILE} yet" if missing else f"{FILE} cannot be read ({error.strerror})")
    end = data.rfind(b"\n") + 1
    notes = []
    if end < len(data):  # a large copy that most journals are spared
        if data[end:].strip():
            notes.append(f"the last line of {FILE} is half written and left out")
        data = data[:end]
    if not data or data.isspace():
        return empty(*notes, f"{FILE} has no line yet")
    journal = _fast(data, wanted) or _slow(data, wanted)
    return Journal(journal.steps, journal.columns, (*notes, *journal.notes, *gaps(journal.steps)))


def empty(*notes: str) -> Journal:
    """A journal without lines."""
    return Journal(np.zeros(0, np.int64), {}, notes)


def _fast(data: bytes, wanted: Callable[[str], bool]) -> Journal | None:
    """By Arrow; None for anything but ascending steps and numbers."""
    import pyarrow as pa
    import pyarrow.json as arrow

    try:
        # given the types of most columns, Arrow need not guess; one thread a journal: several journals are read at once
        second = data.find(b"\n", data.find(b"\n") + 1) + 1
        known = {name for line in data[:second].splitlines() for name in json.loads(line)}
        schema = pa.schema([(name, pa.int64() if name == "step" else pa.float64()) for name in sorted(known)])
        options = arrow.ReadOptions(use_threads=False, block_size=max(1 << 20, len(data) + 1))
        table = arrow.read_json(
            pa.BufferReader(data), options, arrow.ParseOptions(schema, unexpected_field_behavior="infer")
        )
    except (pa.ArrowException, ValueError, OverflowError, TypeError, RecursionError):
        return None
    names = table.column_names
    if len(set(names)) < len(names) or "step" not in names or not pa.types.is_integer(table["step"].type):
        return None
    steps = table["step"].to_numpy()
    if table["step"].null_count or steps[0] < 0 or (np.diff(steps) <= 0).any():
        return None
    columns, infinite = {}, {}
    for name in names:
        kind = table[name].type
        if name == "step" or not wanted(name):
            continue
        if pa.types.is_null(kind):
            columns[name] = np.full(len(steps), np.nan)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            column = table[name] if pa.types.is_float64(kind) else table[name].cast(pa.float64(), safe=False)
            values = column.to_numpy()
            if wrong := len(values) - int(np.isfinite(values).sum()) - column.null_count:
                infinite[name] = wrong
                values = np.where(np.isfinite(values), values, np.nan)
            columns[name] = values
        else:
            return None
    return Journal(steps.astype(np.int64), columns, _not_finite(_nulls(data, columns, infinite)))


def _nulls(data: bytes, columns: dict[str, Any], matched: dict[str, int]) -> dict[str, int]:
    """How often each metric is null: Arrow cannot tell null (not finite) from absent (not measured)."""
    if b"null" in data:
        for match in re.finditer(rb'"([^"\\]+)"\s*:\s*null', data):
            name = match[1].decode(errors="replace")
            if name in columns:
                matched[name] = matched.get(name, 0) + 1
    return matched


def _slow(data: bytes, wanted: Callable[[str], bool]) -> Journal:
    """Line by line: what can be read is kept; of two lines of one step the later counts."""
    rows: dict[int, dict[str, float]] = {}
    damaged: list[int] = []
    twice: list[int] = []
    bad: dict[str, int] = {}
    last = -1
    disorder = False
    for i, (text, line) in enumerate(json_lines(data), 1):
        if not text.strip():
            continue
        step = line.pop("step", None) if line is not None else None
        if line is None or isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 62:
            damaged.append(i)
            continue
        if step in rows:
            twice.append(step)
        disorder |= step < last
        last = step
        rows[step] = {name: _number(value) for name, value in line.items() if wanted(name)}
        for name, value in rows[step].items():
            if math.isnan(value):
                bad[name] = bad.get(name, 0) + 1
    steps = np.array(sorted(rows), np.int64)
    names = dict.fromkeys(name for step in steps for name in rows[step])
    columns = {name: np.array([rows[step].get(name, math.nan) for step in steps]) for name in names}
    notes = [f"{FILE}: {_listed('line', damaged)} damaged and left out"] if damaged else []
    if twice:
        notes.append(f"{FILE} holds {_listed('step', twice)} more than once; the later line counts")
    if disorder:
        notes.append(f"the steps of {FILE} were not in order")
    return Journal(steps, columns, (*notes, *_not_finite(bad)))


def _number(value: Any) -> float:
    """A finite number, or NaN for whatever else a line may hold."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _not_finite(counts: dict[str, int]) -> tuple[str, ...]:
    if not counts:
        return ()
    named = [f"{name} at {count} step{'s' * (count > 1)}" for name, count in sorted(counts.items())]
    more = f" and {len(named) - NAMED} more metrics" if len(named) > NAMED else ""
    return (f"not a finite number: {', '.join(named[:NAMED])}{more}",)


def gaps(steps: np.ndarray) -> tuple[str, ...]:
    """A note on the steps that are missing between the first and the last."""
    if len(steps) == 0 or steps[-1] - steps[0] + 1 == len(steps):
        return ()
    holes = np.flatnonzero(np.diff(steps) > 1)
    ranges = [(int(steps[i]) + 1, int(steps[i + 1]) - 1) for i in holes[:NAMED]]
    named = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
    more = f" and {len(holes) - NAMED} more gaps" if len(holes) > NAMED else ""
    missing = int(steps[-1] - steps[0]) + 1 - len(steps)
    return (f"{missing} step{'s' * (missing > 1)} missing: {named}{more}",)


def _listed(what: str, numbers: list[int]) -> str:
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:NAMED]))}{more}"

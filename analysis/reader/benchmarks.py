"""What runs measured on benchmarks, and what they answered: the parts of analysis/reader/runs.py that few readers need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reader.folders import COMPLETIONS, TRAIN
from analysis.reader.records import EVAL, Note, Run, Runs
from zero.files import json_object, read_lines

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_FILE = re.compile(r"^completions_(?P<benchmark>.+)\.jsonl$")
STEP_FOLDER = re.compile(r"^step_(\d+)$")


def evaluations(runs: Runs) -> pd.DataFrame:
    """run, kind, the axes, benchmark, step, metric, value: a row for each number that was measured on a benchmark.

    Of a training run by its journal, and its result.json where the journal lacks it; of an evaluation by its result.
    """
    import pandas as pd

    trained = {run.name: run for run in runs.runs}
    rows: list[tuple[str, str, int, str, float]] = []
    known: set[tuple[str, str, int, str]] = set()
    for column in runs.metrics:
        if match := EVAL.match(column):
            there = runs.steps[["run", "step", column]].dropna()
            for name, step, value in there.itertuples(index=False):
                rows.append((str(name), match[1], int(step), match[2], float(value)))
                known.add(rows[-1][:4])
    for run in runs.runs:
        last = run.result.get("steps")
        if isinstance(last, int):
            rows += [row for row in _measured(run, run.result, last) if row[:4] not in known]
    for run in runs.evaluated:
        for step, entry in _entries(run):
            rows += _measured(run, entry, step)
    axes = list(dict.fromkeys([*runs.axes, *(axis for run in runs.evaluated for axis in run.axes)]))
    own = {run.name: _axes(run, trained) for run in (*runs.runs, *runs.evaluated)}
    kinds = {run.name: run.kind for run in (*runs.runs, *runs.evaluated)}
    columns: dict[str, Any] = {"run": [row[0] for row in rows], "kind": [kinds[row[0]] for row in rows]}
    columns |= {axis: [own[row[0]].get(axis, "") for row in rows] for axis in axes}
    for i, key in enumerate(("benchmark", "step", "metric", "value"), 1):
        columns[key] = [row[i] for row in rows]
    frame = pd.DataFrame(columns)
    return frame.astype(dict.fromkeys(("run", "kind", *axes, "benchmark", "metric"), "category"))


def _axes(run: Run, trained: Mapping[str, Run]) -> dict[str, str]:
    """The axes of a run; an evaluation of a training run's checkpoints has that run's, where it has none of its own."""
    if run.kind == TRAIN:
        return dict(run.axes)
    folder = str(run.settings.get("run") or "")
    own = {axis: value for axis, value in run.axes.items() if value}
    source = _run_of(folder, list(trained.values())) if folder else None
    return {**source.axes, **own, "seed": source.axes["seed"]} if source else own


def _run_of(folder: str, trained: Sequence[Run]) -> Run | None:
    """The run of a folder as written in a config. The place it was written from may be another: then the only one of that name;
    None if several are."""
    placed = [(run, run.path) for run in trained if run.path is not None]
    exact = [run for run, path in placed if Path(folder).expanduser().resolve() == path.resolve()]
    named = [run for run, path in placed if Path(folder).name == path.name]
    return exact[0] if exact else named[0] if len(named) == 1 else None


def _entries(run: Run) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(step, what result.json says of it) of an evaluation; a model that is no run's checkpoint has step 0."""
    steps = run.result.get("steps")
    if isinstance(steps, dict):
        yield from ((int(step), entry) for step, entry in steps.items() if str(step).isdigit())
    else:
        step = run.settings.get("step")
        yield step if isinstance(step, int) and not isinstance(step, bool) else 0, run.result


def _measured(run: Run, entry: Any, step: int) -> list[tuple[str, str, int, str, float]]:
    """The numbers of result.json's `evaluation` and `macro`."""
    if not isinstance(entry, dict):
        return []
    named = entry.get("evaluation")
    values: dict[str, Any] = dict(entry["macro"]) if isinstance(entry.get("macro"), dict) else {}
    for benchmark, numbers in named.items() if isinstance(named, dict) else ():
        for key, value in numbers.items() if isinstance(numbers, dict) else ():
            values[key if EVAL.match(key) else f"eval/{benchmark}/{key}"] = value
    rows = []
    for key, value in values.items():
        match = EVAL.match(key)
        if match and isinstance(value, int | float) and not isinstance(value, bool):
            rows.append((run.name, match[1], step, match[2], float(value)))
    return rows


def completions(runs: Runs, run: Run | str) -> Iterator[dict[str, Any]]:
    """Sampled responses of a run, given by itself or its name, as zero.benchmark.rows made them, with `step`, `benchmark` ("" in
    training) and, unless MLflow holds them, the `folder` of their images added; lazily, in the order of steps. Damaged lines are
    left out and noted. InputError for a name that no run has."""
    return _completions(runs, runs.run(run) if isinstance(run, str) else run)


def _completions(runs: Runs, run: Run) -> Iterator[dict[str, Any]]:
    if run.path is None:
        from analysis.reader.mlflow import stored_completions  # NumPy, for which --help need not wait

        yield from stored_completions(run, lambda text: runs.notes.append(Note(run.name, text)))
        return
    for path, benchmark, step in _files(run, run.path):
        damaged, images = 0, path.parent if path.name.startswith("completions_") else run.path
        try:
            for text in read_lines(path):
                row = json_object(text)
                if row is not None:
                    yield row | {"step": step, "benchmark": benchmark, "folder": images}
                damaged += row is None and bool(text.strip())
        except OSError as error:
            runs.notes.append(Note(run.name, f"{path.name} cannot be read ({error.strerror})"))
        if damaged:
            lines = f"{damaged} line{'s' * (damaged > 1)}"
            runs.notes.append(Note(run.name, f"{path.name}: {lines} damaged or half written, left out"))


def _files(run: Run, folder: Path) -> Iterable[tuple[Path, str, int]]:
    """(file, benchmark, step) of a run's saved responses, by step; benchmark "" for those of training."""
    files = []
    if run.kind == TRAIN:
        for path in (folder / "completions").glob("*.jsonl"):
            if match := COMPLETIONS.match(path.name):
                files.append((int(match["step"]), match["benchmark"] or "", path))
    else:
        step = run.settings.get("step")
        own = step if isinstance(step, int) and not isinstance(step, bool) else 0
        for path in (*folder.glob("completions_*.jsonl"), *folder.glob("step_*/completions_*.jsonl")):
            inner = STEP_FOLDER.match(path.parent.name) if path.parent != folder else None
            if match := EVALUATION_FILE.match(path.name):
                files.append((int(inner[1]) if inner else own, match["benchmark"], path))
    return [(path, benchmark, step) for step, benchmark, path in sorted(files)]

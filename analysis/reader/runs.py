"""The only reader of runs: folders with journals, sweeps, and MLflow stores become one table.

    runs = read(["runs/sweeps/X"])
    runs.steps            a row for each run and step: run, step, the axes, a column for each metric (NaN: none)
    runs.long([...])      the same, tidy
    evaluations(runs)     what was measured on benchmarks, by training runs and by evaluations of models and checkpoints
    completions(runs, r)  sampled responses, lazily
    runs.notes            whatever is missing, damaged or unfinished, in words

metrics.jsonl: zero/tracking/journal.py; names of metrics: zero/tracking/glossary.py.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reader.folders import EVALUATE, TRAIN, Folder, as_typed, find, load
from analysis.reader.records import AXES, RUN, STEP, WANTED, Note, Run, Runs, natural, wanted_of
from zero.config.identity import PLACE, PLACES, flatten
from zero.errors import InputError
from zero.tracking.glossary import sort_key

if TYPE_CHECKING:  # neither costs --help its second
    import pandas as pd

    from analysis.reader.journals import Journal

COLUMNS = (RUN, STEP, "name", "kind", "benchmark", "metric", "value")  # what no setting may be called as a column
MODEL_PATH, STEPS = "model.path", "steps"
OF_AXES = (*AXES[:5], "rollout", "benchmarks", "critic")  # settings below these may follow from an axis
URI = re.compile(r"^(sqlite|postgresql|mysql|https?)[+\w]*://", re.ASCII)


def read(places: Sequence[Path | str] | Path | str, metrics: Sequence[str] | None = None) -> Runs:
    """All runs of `places`: a run's folder, a folder of runs (searched), a sweep, or an MLflow store's uri.

    `metrics`: names to read (* and ? allowed); None: all. InputError if there is no run.
    """
    given = [places] if isinstance(places, Path | str) else list(places)
    wanted = wanted_of(metrics) if metrics is not None else lambda name: True
    notes: list[Note] = []
    folders, stored = [], []
    for place in given:
        if URI.match(str(place)):
            from analysis.reader.mlflow import read_store

            stored += read_store(str(place), wanted)
        else:
            folders += _search(Path(place).expanduser(), notes)
    by_path: dict[Path, Folder] = {}
    for folder in folders:
        by_path.setdefault(folder.path.resolve(), folder)
    unique = list(by_path.values())
    if not unique and not stored:
        raise InputError(
            "FOLDER", " ".join(map(str, given)) or "none", "holds no run: no folder with metrics.jsonl below"
        )
    names = _names([folder.path for folder in unique], [run.name for run, _ in stored])
    runs = [_run(folder, name) for folder, name in zip(unique, names, strict=False)]
    runs += [replace(run, name=name) for (run, _), name in zip(stored, names[len(unique) :], strict=True)]
    journals = _journals(unique, wanted) + [journal for _, journal in stored]
    for i, folder in enumerate(unique):
        notes += [Note(names[i], text) for text in folder.notes]
    training = [i for i, run in enumerate(runs) if run.kind == TRAIN]
    trained = _with_axes([runs[i] for i in training], [_typed(unique, i) for i in training])
    evaluating = [i for i, run in enumerate(runs) if run.kind == EVALUATE]
    evaluated = _with_axes([runs[i] for i in evaluating], [_typed(unique, i) for i in evaluating])
    trained_journals = [journals[i] for i in training]
    for run, journal in zip(trained, trained_journals, strict=True):
        notes += [Note(run.name, text) for text in (*journal.notes, *_unfinished(run, journal))]
    notes += _uneven(trained_journals)
    return Runs(trained, _frame(trained, trained_journals), notes, evaluated, tuple(map(str, given)))


def _search(place: Path, notes: list[Note]) -> list[Folder]:
    """The run folders of a place. InputError if it does not exist."""
    if not place.is_dir():
        raise InputError("FOLDER", place, "no such folder; give a run, a folder of runs, a sweep, or an MLflow uri")
    folders = []
    for path, why in find(place):
        if why:
            notes.append(Note(path.name, why))
        elif folder := load(path):
            folders.append(folder)
    return folders


def _run(folder: Folder, name: str) -> Run:
    history = _history(folder)
    settings = history[-1] if history else {}
    changed = {}
    for key in settings:
        values = [value for value, _ in groupby(as_typed(then[key]) for then in history if key in then)]
        if len(values) > 1:
            changed[key] = " then ".join(values)
    return Run(
        name,
        folder.path,
        folder.status,
        folder.axes,
        settings,
        folder.result,
        folder.kind,
        str(folder.path),
        folder.starts,
        folder.wanted,
        changed,
    )


def _history(folder: Folder) -> list[dict[str, Any]]:
    """The flat settings with which a run began, and those after each start that changed some (zero/run_folder.py)."""
    from zero.run_folder import KEY, with_changes

    if not folder.config:
        return []
    config, history = folder.config, [flatten(folder.config)]
    for start in folder.starts:
        if isinstance(changes := start.get(KEY), dict):
            with suppress(InputError, LookupError, TypeError):  # of a damaged folder, or an option that is gone
                config = with_changes(config, changes)
                history.append(flatten(config))
    return history


def _typed(folders: Sequence[Folder], i: int) -> Mapping[str, str]:
    return folders[i].typed if i < len(folders) else {}


def _journals(folders: Sequence[Folder], wanted: Callable[[str], bool]) -> list[Journal]:
    """The journals of training runs, several read at once; empty ones for the rest."""

    from analysis.reader import journals

    def one(folder: Folder) -> Journal:
        return journals.read(folder.path, wanted) if folder.kind == TRAIN else journals.empty()

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(one, folders))


def _names(paths: Sequence[Path], others: Sequence[str]) -> list[str]:
    """The shortest end of each path that no other has; then the names of runs without a path, numbered if they repeat."""
    parts = [path.resolve().parts for path in paths]
    depth = [1] * len(parts)
    while True:
        names = ["/".join(names_of_path[-n:]) for names_of_path, n in zip(parts, depth, strict=True)]
        counts = Counter(names)
        double = [i for i, name in enumerate(names) if counts[name] > 1 and depth[i] < len(parts[i])]
        if not double:
            break
        for i in double:
            depth[i] += 1
    seen = Counter(names)
    for name in others:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


# ------------------------------------------------------------------------------------------------------------------ axes


def _with_axes(runs: Sequence[Run], typed: Sequence[Mapping[str, str]]) -> list[Run]:
    """The runs with AXES and every other setting that differs between them, as strings."""
    flat = [
        {key: value for key, value in {**run.settings, **_until_now(run)}.items() if not _place(key)} for run in runs
    ]
    differing = _differing(runs, flat, typed)
    with_axes = []
    for run, own, cell in zip(runs, flat, typed, strict=True):
        axes = {axis: run.axes.get(axis, "") for axis in AXES}
        for key in differing:
            axes[key] = (
                cell[key]
                if key in cell and key not in run.changed
                else as_typed(own[key])
                if key in own
                else _short(own, key)
            )
        if not all(one.wanted for one in runs):  # two generations of a sweep are never one group
            axes[WANTED] = "yes" if run.wanted else "no longer"
        with_axes.append(replace(run, axes=axes))
    return with_axes


def _until_now(run: Run) -> dict[str, str]:
    """Settings under which only the later steps were made: such a run is no run of the new value, nor of the old one. One
    that was prolonged is a run of its present length."""
    return {key: text for key, text in run.changed.items() if key != STEPS}


def _place(key: str) -> bool:
    """Whether a setting says where and how a run is kept, or would be taken for a column of another meaning."""
    return key.partition(".")[0] in PLACE or key in (*PLACES, *COLUMNS)


def _short(own: Mapping[str, Any], group: str) -> str:
    """A choice that is no axis by the last word of its target: learner -> TorchLearner."""
    return str(own.get(f"{group}._target_", "")).rpartition(".")[2]


def _differing(runs: Sequence[Run], flat: Sequence[Mapping[str, Any]], typed: Sequence[Mapping[str, str]]) -> list[str]:
    """Settings that are no axis and not the same in all runs, without those that merely follow from an axis or from
    which part was chosen."""
    keys = list(dict.fromkeys(key for own in flat for key in own))
    if not all(flat):  # some settings are unknown: what is absent there says nothing
        flat = [own or next((one for one in flat if one), {}) for own in flat]
    differing = []
    for key in keys:
        values = [as_typed(own[key]) if key in own else None for own in flat]
        if len(set(values)) < 2 or key in AXES:
            continue
        group = key.partition(".")[0]
        if key == f"{group}._target_" and group not in AXES:
            differing.append(group)
            continue
        rulers = [[run.axes.get(axis, "") for run in runs] for axis in AXES[:5]] if group in OF_AXES else []
        rulers.append([str(own.get(f"{group}._target_")) for own in flat])
        # a run that starts from what another has trained has a folder of its own there, by its seed
        if key == MODEL_PATH:
            models = [run.axes["model"] for run in runs]
            rulers.append([f"{model}/{i}" if "+" in model else model for i, model in enumerate(models)])
        if "_target_" in key or any(_follows(values, ruler) for ruler in rulers):
            continue
        differing.append(key)
    if typed and all(typed):
        names = dict.fromkeys(key for cell in typed for key in cell)
        differing += [
            key
            for key in names
            if key not in (*AXES, *differing)
            and not _place(key)
            and len({cell.get(key) for cell in typed}) > 1
            and not any(other.startswith(f"{key}.") for other in differing)
        ]
    return differing


def _follows(values: Sequence[Any], ruler: Sequence[str]) -> bool:
    """Whether equal entries of `ruler` always have equal values."""
    known: dict[str, Any] = {}
    return all(known.setdefault(by, value) == value for by, value in zip(ruler, values, strict=True))


# ----------------------------------------------------------------------------------------------------------------- frame


def _frame(runs: Sequence[Run], journals: Sequence[Journal]) -> pd.DataFrame:
    """The wide table; a column is filled run by run, so that nothing is held twice."""
    import numpy as np
    import pandas as pd

    sizes = [len(journal.steps) for journal in journals]
    ends = np.cumsum(sizes, dtype=np.int64) if sizes else np.zeros(0, np.int64)
    total = int(ends[-1]) if sizes else 0
    row_of = np.repeat(np.arange(len(runs)), sizes)
    columns: dict[str, Any] = {
        RUN: pd.Categorical.from_codes(row_of, [run.name for run in runs]),
        STEP: np.concatenate([journal.steps for journal in journals]) if total else np.zeros(0, np.int64),
    }
    for axis in dict.fromkeys([*AXES, *(axis for run in runs for axis in run.axes)]):
        values = [run.axes.get(axis, "") for run in runs]
        order = sorted(set(values), key=natural)
        codes = np.array([order.index(value) for value in values], np.int64)
        columns[axis] = pd.Categorical.from_codes(codes[row_of] if total else codes[:0], order)
    for name in sorted({name for journal in journals for name in journal.columns}, key=sort_key):
        filled = np.full(total, np.nan)
        for journal, end, size in zip(journals, ends, sizes, strict=True):
            if name in journal.columns:
                filled[end - size : end] = journal.columns.pop(name)
        columns[name] = filled
    return pd.DataFrame(columns, copy=False)


# ----------------------------------------------------------------------------------------------------------------- notes


def _unfinished(run: Run, journal: Journal) -> Iterable[str]:
    """Whether a run is still going, or ended early."""
    if changes := ", ".join(f"{key}={text}" for key, text in run.changed.items()):
        yield f"went on with other settings: {changes}"
    planned, last = run.settings.get(STEPS), int(journal.steps[-1]) if len(journal.steps) else None
    length = f" of {planned}" if planned else ""
    at = "no step" if last is None else f"step {last}{length}"
    if run.status == "running":
        yield f"still going: at {at}"
    elif run.status == "unknown":
        yield f"ended without a result, at {at}: killed, or waiting to go on"
    elif isinstance(planned, int) and last is not None and last < planned:
        yield f"holds {last} of {planned} steps"


def _uneven(journals: Sequence[Journal]) -> list[Note]:
    """A note if the runs have different numbers of steps: means over seeds then rest on fewer runs at the end."""
    lasts = [int(journal.steps[-1]) if len(journal.steps) else 0 for journal in journals]
    counts = Counter(lasts).most_common()
    if len(counts) < 2:
        return []
    named = [f"{last} ({count} run{'s' * (count > 1)})" for last, count in counts[:5]]
    more = f" and {len(counts) - 5} other numbers" if len(counts) > 5 else ""
    return [Note("", f"the runs have different numbers of steps: {', '.join(named)}{more}")]

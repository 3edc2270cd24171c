"""What analyses speak of: a run, a remark on it, and many runs as one table. analysis/reader/runs.py reads them."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reader.folders import TRAIN
from zero.errors import InputError

if TYPE_CHECKING:  # it would cost --help its second
    import pandas as pd

AXES = ("algo", "template", "questions", "model", "reward", "seed")
WANTED = "wanted"  # the axis of runs some of which their sweep no longer asks for
STEP, RUN = "step", "run"
EVAL = re.compile(r"^eval/([^/]+)/(.+)$")


@dataclass(frozen=True)
class Run:
    """One training run, or one evaluation of a model. `axes`: AXES and whatever else differs between these runs.

    `settings`: flat, resolved, keys as typed, as they are by now. `path`: its folder; None if it is read from MLflow, as
    `source` says.
    """

    name: str
    path: Path | None
    status: str  # finished, preempted, failed, running, unknown
    axes: Mapping[str, str]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    kind: str = TRAIN
    source: str = ""
    starts: Sequence[Mapping[str, Any]] = ()  # see zero/tracking/provenance.py
    wanted: bool = True  # False: a cell of other settings than the newest line of its sweep asks for
    changed: Mapping[str, str] = field(default_factory=dict)  # of settings that a start changed: "1e-06 then 1e-05"


@dataclass(frozen=True)
class Note:
    """What a reader must know of a run; run "" speaks of all."""

    run: str
    text: str


@dataclass(frozen=True)
class Runs:
    """Training runs with their steps; `evaluated`: evaluations of models, which have no steps."""

    runs: Sequence[Run]
    steps: pd.DataFrame
    notes: list[Note] = field(default_factory=list)
    evaluated: Sequence[Run] = ()
    places: Sequence[str] = ()  # what was read, as given

    @property
    def axes(self) -> list[str]:
        """The columns of `steps` that are axes."""
        return list(dict.fromkeys(axis for run in self.runs for axis in run.axes)) or list(AXES)

    @property
    def metrics(self) -> list[str]:
        """The columns of `steps` that are metrics."""
        return [name for name in self.steps.columns if name not in (RUN, STEP, *self.axes)]

    def run(self, name: str) -> Run:
        """A run by its name. InputError names those there are."""
        for run in (*self.runs, *self.evaluated):
            if run.name == name:
                return run
        there = ", ".join(run.name for run in list(self.runs)[:8])
        raise InputError("run", name, f"no such run; there are {there}")

    def restricted_to(self, cells: Collection[str]) -> Runs:
        """Those whose folders have these names, such as the cells of an experiment."""

        def chosen(run: Run) -> bool:
            return (run.path.name if run.path else run.name) in cells

        trained = [run for run in self.runs if chosen(run)]
        evaluated = [run for run in self.evaluated if chosen(run)]
        names = {run.name for run in (*trained, *evaluated)}
        steps = self.steps[self.steps[RUN].isin(names)].reset_index(drop=True)
        steps = steps.drop(columns=[name for name in self.metrics if steps[name].isna().all()])
        for column in steps.select_dtypes("category"):
            steps[column] = steps[column].cat.remove_unused_categories()
        return Runs(trained, steps, [note for note in self.notes if note.run in names], evaluated, self.places)

    def varying(self) -> list[str]:
        """The axes in which the training runs differ, without the seed: what a comparison is about."""
        return [axis for axis in self.axes if axis != "seed" and len({run.axes.get(axis, "") for run in self.runs}) > 1]

    def axes_of(self, by: Sequence[str] | None) -> list[str]:
        """The axes `by` (None: those in which the training runs differ). InputError for one that no run has."""
        for axis in by or ():
            if axis not in self.axes:
                there = ", ".join(self.axes)
                remedy = f"no such axis; there are {there}; settings that differ between the runs are axes, too"
                raise InputError("--by", axis, remedy)
        return self.varying() if by is None else list(by)

    def long(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Tidy: run, step, the axes, metric, value; no row where a metric has no value. A metric that no run has gives
        no rows; names may hold * and ?."""
        chosen = [name for name in self.metrics if metrics is None or wanted_of(metrics)(name)]
        tidy = self.steps.melt([RUN, STEP, *self.axes], chosen, var_name="metric", value_name="value")
        return tidy.dropna(subset="value").reset_index(drop=True)


def natural(text: str) -> tuple[Any, ...]:
    """A key for sorting: numbers by size, before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def wanted_of(metrics: Sequence[str]) -> Callable[[str], bool]:
    """Whether a metric is one of these names, which may hold * and ?. Only a * at the end stands for several words: eval/*/accuracy
    is of benchmarks and not of their kinds of questions, eval/* is all of them."""
    plain = {name for name in metrics if not set(name) & set("*?[")}
    patterns = [
        (re.compile(fnmatch.translate(name)), None if name.endswith("*") else name.count("/"))
        for name in metrics
        if name not in plain
    ]
    return lambda name: (
        name in plain or any(pattern.match(name) and words in (None, name.count("/")) for pattern, words in patterns)
    )


def words_of(values: Mapping[str, str], axes: Sequence[str]) -> str:
    """Values of these axes as a label: a setting by the last word of its key, if no other ends in it; one that is not there is
    left out."""
    ends = Counter(axis.rpartition(".")[2] for axis in axes)
    names = {axis: end if ends[end := axis.rpartition(".")[2]] == 1 else axis for axis in axes}
    shown = [axis for axis in axes if values[axis] or axis in AXES[:5]]
    words = [values[axis] or "none" if axis in AXES[:5] else f"{names[axis]}={values[axis]}" for axis in shown]
    return ", ".join(words) or "all runs"

"""What runs had spent by each of their steps, so that they are drawn against it and compared at equal cost.

A step's cost is one of its metrics (zero.config.experiments.X); what a run has spent is the running sum, 0 before the first step.
It begins anew in a run that starts from another one's model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from zero.config.experiments import STEP, X
from zero.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.reader.records import Run, Runs

LABELS = {
    STEP: "step",
    "tokens": "response tokens so far",
    "flops": "compute so far, FLOPs",
    "seconds": "seconds of steps so far",
}
GRID = 2000  # points of a group's common grid, at most


def running_sum(steps: pd.DataFrame, x: str) -> pd.Series:
    """What a run had spent up to each row of a table such as `Runs.steps`; the step itself for x=step. A row without the metric
    spent nothing."""
    if x == STEP:
        return steps[STEP]
    ordered = steps.sort_values(STEP, kind="stable")
    costs = ordered[X[x]].fillna(0.0) if X[x] in steps else ordered[STEP] * 0.0
    return costs.groupby(ordered["run"], observed=True).cumsum().reindex(steps.index)


def uncounted(steps: pd.DataFrame, x: str) -> list[str]:
    """The runs whose journals do not have the cost of every step."""
    if x == STEP:
        return []
    taken = steps[steps[STEP] > 0]
    lacking = taken[taken[X[x]].isna()] if X[x] in steps else taken
    return list(dict.fromkeys(lacking["run"].astype(str)))


def refuse_uncounted(steps: pd.DataFrame, x: str) -> None:
    """InputError if the cost of a step is not known."""
    if names := uncounted(steps, x):
        remedy = f"{', '.join(names[:3])}: not every step has {X[x]}; leave such runs out, or draw against another cost"
        raise InputError("--x", x, remedy)


def series(runs: Runs, subjects: Sequence[Run], x: str) -> dict[tuple[str, str], dict[int, float]]:
    """By (run, x) what it had spent at each step, for runs of which it is known."""
    names = {run.name for run in subjects} - set(uncounted(runs.steps, x))
    known: dict[tuple[str, str], dict[int, float]] = {}
    for name, step, total in zip(runs.steps["run"], runs.steps[STEP], running_sum(runs.steps, x), strict=True):
        if name in names:
            known.setdefault((str(name), x), {})[int(step)] = float(total)
    return known


def value_at(budget: float, spent: Collection[float], values: Collection[float]) -> float:
    """The value of a run once it had spent `budget`: on the line between its measurements before and after, of which there is at
    least one; the last one's beyond them; NaN before the first."""
    import numpy as np

    return float(np.interp(budget, list(spent), list(values), left=np.nan))


def on_common_grid(x_RT: np.ndarray, values_RT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x_G, values_RG): curves of runs whose x differ, NaN where there is no value, by linear interpolation at the x of all of them
    within the range that all have; NaN for a run without any value."""
    import numpy as np

    there_RT = np.isfinite(values_RT)
    points = [(x_RT[r, there], values_RT[r, there]) for r, there in enumerate(there_RT)]
    own = [x for x, _ in points if len(x)]
    low, high = max(x[0] for x in own), min(x[-1] for x in own)
    grid = np.unique(np.concatenate(own))
    grid = grid[(grid >= low) & (grid <= high)]
    if len(grid) > GRID:
        grid = np.append(grid[: -1 : -(-len(grid) // GRID)], grid[-1])
    none = np.full(len(grid), np.nan)
    return grid, np.array([np.interp(grid, x, values) if len(x) else none for x, values in points])

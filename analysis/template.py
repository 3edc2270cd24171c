"""Templates: accuracy and answering rate before training, the drop against the best one, and when training has made it good.

python -m analysis.template FOLDER... [--benchmark NAME] [--reference none] [--by algo]

How much of what reinforcement learning gains does the template take away first? [Liu et al. 2025, arXiv 2503.20783, sections
2 and 3]. Step 0 is that of training runs and of evaluations of models. Recovery: the first evaluation of a run at which it
is as accurate as the model was before training under the template of --reference; a run is measured every so many steps,
so that it lies between two. Answering: the share of responses in which the template found an answer (formatted).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from analysis.cli import Finding, command, common_parser, names
from analysis.reader.benchmarks import completions, evaluations
from analysis.reader.units import percent
from analysis.template_figure import Start, draw
from zero.errors import InputError
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    import pandas as pd

    from analysis.reader.records import Runs

METRICS = ("eval/*/accuracy*", "eval/*/formatted", "eval/*/chance")
REFERENCE = "none"
SAME = 1e-9  # by which the accuracies of runs that start alike may differ

Place = tuple[str, str]  # model, benchmark


@dataclass(frozen=True)
class Recovery:
    """A training run against its target: at `step` first at least as accurate, not yet at `before`. None: not by `last`."""

    run: str
    model: str
    benchmark: str
    template: str
    group: str
    target: float
    step: int | None
    before: int | None
    last: int


def template(
    runs: Runs, benchmark: str | None = None, reference: str = REFERENCE, by: Sequence[str] | None = None
) -> Finding:
    """The table has three kinds of rows: "start" (a model under a template before training), "run" (when a training run
    recovered) and "recovery" (the runs of a template and of the axes `by`; None: all that differ). Drops are against the
    best template of the same model and benchmark, with an interval paired over questions where all answers were saved.

    InputError if nothing was measured before training, or not on `benchmark`.
    """

    axes = [axis for axis in runs.axes_of(by) if axis not in ("template", "model")]
    measured = evaluations(runs)
    there = sorted(set(measured["benchmark"].astype(str)))
    if benchmark is not None and benchmark not in there:
        raise InputError("--benchmark", benchmark, f"no run was measured on it; there are {', '.join(there) or 'none'}")
    if benchmark is not None:
        measured = measured[measured["benchmark"] == benchmark]
    untrained = starts(measured)
    if not untrained:
        raise InputError("FOLDER", benchmark or "all", "no run was measured before training (step 0)")
    recovered = recoveries(runs, measured, untrained, reference, axes)
    drops = _drops(runs, untrained)
    rows = [_start_row(start, drops[start]) for start in untrained]
    rows += [_run_row(one) for one in recovered] + _groups(recovered)
    notes = _remarks(untrained, recovered, reference, drops)
    shown = [as_text([_shown_start(start, drops[start]) for start in untrained])]
    if recovered:
        shown += ["", as_text([_shown_group(row) for row in rows if row["kind"] == "recovery"])]
    return Finding(draw(untrained, measured, reference), _frame(rows), "\n".join([*shown, *notes]))


# ----------------------------------------------------------------------------------------------------- before training


def starts(measured: pd.DataFrame) -> list[Start]:
    """Each model under each template on each benchmark at step 0, best first. Runs that begin alike are one start."""
    rows = measured[measured["step"] == 0]
    values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for row in rows[["model", "benchmark", "template", "run", "metric", "value"]].itertuples(index=False):
        key = (str(row.model), str(row.benchmark), str(row.template))
        values.setdefault(key, {}).setdefault(str(row.run), {})[str(row.metric)] = float(row.value)
    starts_found = []
    for key, by_run in values.items():
        with_accuracy = {run: own for run, own in by_run.items() if math.isfinite(own.get("accuracy", math.nan))}
        if not with_accuracy:
            continue
        numbers = list(with_accuracy.values())
        accuracies = [one["accuracy"] for one in numbers]
        starts_found.append(
            Start(
                *key,
                tuple(with_accuracy),
                fmean(accuracies),
                _mean(numbers, "accuracy_low"),
                _mean(numbers, "accuracy_high"),
                _mean(numbers, "formatted"),
                max(accuracies) - min(accuracies),
            )
        )
    return sorted(starts_found, key=lambda start: (start.model, start.benchmark, -start.accuracy, start.template))


def _mean(numbers: Sequence[Mapping[str, float]], key: str) -> float:
    values = [one[key] for one in numbers if key in one]
    return fmean(values) if values else math.nan


def best_of(untrained: Sequence[Start]) -> dict[Place, Start]:
    """The most accurate start of each model and benchmark."""
    best: dict[Place, Start] = {}
    for start in untrained:
        best.setdefault((start.model, start.benchmark), start)  # they come best first
    return best


def _drops(runs: Runs, untrained: Sequence[Start]) -> dict[Start, tuple[float, float, float]]:
    """(drop, low, high) of each start against the best; the interval redraws questions, NaN where answers are missing."""
    from zero.statistics import mean_interval

    best = best_of(untrained)
    shares: dict[Start, dict[str, float]] = {}
    drops = {}
    for start in untrained:
        top = best[start.model, start.benchmark]
        drop = top.accuracy - start.accuracy
        low = high = math.nan
        if start is not top:
            for one in (top, start):
                if one not in shares:
                    shares[one] = _shares(runs, one)
            both = shares[top].keys() & shares[start].keys()
            whole = both and len(both) == len(shares[top]) == len(shares[start])
            exact = whole and all(abs(fmean(shares[one].values()) - one.accuracy) < 1e-6 for one in (top, start))
            if exact and len(both) > 1:  # all answers of what was measured, and nothing else
                low, high = mean_interval([shares[top][i] - shares[start][i] for i in sorted(both)], bounds=(-1, 1))
        drops[start] = (drop, low, high)
    return drops


def _shares(runs: Runs, start: Start) -> dict[str, float]:
    """Accuracy of each question in the saved answers of a start's first run that has them; {} if none has."""
    for name in start.runs:
        right: dict[str, list[bool]] = {}
        for row in completions(runs, name):
            if row["step"] != 0:
                break  # they come in the order of steps
            if row["benchmark"] == start.benchmark and "id" in row:
                right.setdefault(str(row["id"]), []).append(row.get("correct") is True)
        if right:
            return {key: fmean(values) for key, values in right.items()}
    return {}


# ------------------------------------------------------------------------------------------------------------ recovery


def recoveries(
    runs: Runs, measured: pd.DataFrame, untrained: Sequence[Start], reference: str, axes: Sequence[str]
) -> list[Recovery]:
    """When each training run under another template than `reference` was first as accurate as the reference's start."""
    target = {(s.model, s.benchmark): s.accuracy for s in untrained if s.template == reference}
    rows = measured[(measured["kind"] == "train") & (measured["metric"] == "accuracy")]
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for run, benchmark, step, value in zip(rows["run"], rows["benchmark"], rows["step"], rows["value"], strict=True):
        if math.isfinite(value):
            curves.setdefault((str(run), str(benchmark)), {})[int(step)] = float(value)
    recovered = []
    for (name, benchmark), curve in curves.items():
        run = runs.run(name)
        model, own_template = run.axes.get("model", ""), run.axes.get("template", "")
        aim = target.get((model, benchmark))
        if aim is None or own_template == reference:
            continue
        steps = sorted(curve)
        reached = next((step for step in steps if curve[step] >= aim), None)
        earlier = [step for step in steps if reached is None or step < reached]
        group = ", ".join(run.axes.get(axis, "") if axis == "algo" else f"{axis}={run.axes.get(axis)}" for axis in axes)
        before = earlier[-1] if earlier and reached is not None else None
        recovered.append(Recovery(name, model, benchmark, own_template, group, aim, reached, before, steps[-1]))
    return sorted(recovered, key=lambda one: (one.model, one.benchmark, one.template, one.group, one.run))


def _groups(recovered: Sequence[Recovery]) -> list[dict[str, Any]]:
    """A row for each template and group: how many runs recovered, and the median step, runs that did not counting as later
    than all."""
    together: dict[tuple[str, str, str, str], list[Recovery]] = {}
    for one in recovered:
        together.setdefault((one.model, one.benchmark, one.template, one.group), []).append(one)
    rows = []
    for (model, benchmark, name, group), several in together.items():
        steps = [math.inf if one.step is None else float(one.step) for one in several]
        done = [step for step in steps if math.isfinite(step)]
        middle = median(sorted(steps)) if len(done) * 2 > len(steps) else math.inf
        rows.append(
            {
                "kind": "recovery",
                "model": model,
                "benchmark": benchmark,
                "template": name,
                "group": group,
                "n": len(several),
                "target": several[0].target,
                "recovered": len(done),
                "step": middle if math.isfinite(middle) else None,
                "earliest": min(done, default=None),
                "latest": max(done) if len(done) == len(several) else None,
                "last": min(one.last for one in several),
            }
        )
    return rows


# -------------------------------------------------------------------------------------------------------- rows and remarks


def _start_row(start: Start, drop: tuple[float, float, float]) -> dict[str, Any]:
    own = {"kind": "start", "n": len(start.runs), "drop": drop[0], "drop_low": drop[1], "drop_high": drop[2]}
    return own | asdict(start)  # `runs` and `spread` are no columns of the table


def _run_row(one: Recovery) -> dict[str, Any]:
    return {"kind": "run", "n": 1, "recovered": int(one.step is not None)} | asdict(one)


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    numbers = [
        "n",
        "accuracy",
        "low",
        "high",
        "formatted",
        "drop",
        "drop_low",
        "drop_high",
        "target",
        "recovered",
        "step",
        "before",
        "earliest",
        "latest",
        "last",
    ]
    table = pd.DataFrame(rows, columns=["kind", "model", "benchmark", "template", "group", "run", *numbers])
    table[numbers] = table[numbers].astype(float)
    return table


def _shown_start(start: Start, drop: tuple[float, float, float]) -> dict[str, str]:
    interval = f"{100 * start.low:.1f} to {100 * start.high:.1f} %" if start.low == start.low else "unknown"
    dropped = f"{100 * drop[0]:.1f} points"
    dropped += f" ({100 * drop[1]:.1f} to {100 * drop[2]:.1f})" if drop[1] == drop[1] else ""
    return {
        "model": start.model,
        "benchmark": start.benchmark,
        "template": start.template or "unknown",
        "accuracy at step 0": percent(start.accuracy),
        "interval (95 %, questions)": interval,
        "answering": percent(start.formatted),
        "drop against the best": dropped,
        "runs": str(len(start.runs)),
    }


def _shown_group(row: Mapping[str, Any]) -> dict[str, str]:
    if row["step"] is None:
        middle = f"not by step {row['last']}" if not row["recovered"] else f"not more than half by step {row['last']}"
    else:
        middle = f"{row['step']:g}"
    return {
        "model": row["model"],
        "benchmark": row["benchmark"],
        "template": row["template"],
        "runs of": row["group"] or "all",
        "target": percent(row["target"]),
        "recovered": f"{row['recovered']} of {row['n']}",
        "median step": middle,
        "n": str(row["n"]),
    }


def _remarks(
    untrained: Sequence[Start],
    recovered: Sequence[Recovery],
    reference: str,
    drops: Mapping[Start, tuple[float, float, float]],
) -> list[str]:
    notes = []
    for start in untrained:
        if start.spread > SAME:
            notes.append(
                f"{start.template or 'unknown'} on {start.benchmark}: its {len(start.runs)} runs differ before training by "
                f"up to {100 * start.spread:.1f} points; the mean is shown"
            )
    places = {(start.model, start.benchmark) for start in untrained}
    for model, benchmark in sorted(places - {(s.model, s.benchmark) for s in untrained if s.template == reference}):
        notes.append(f"{model} on {benchmark}: template {reference} was not measured before training: no recovery")
    if any(not math.isfinite(drop[1]) and drop[0] > 0 for drop in drops.values()):
        notes.append("a drop without an interval: not all answers of both templates were saved")
    if recovered:
        notes.append("recovered: at the first evaluation that is at least as accurate; one lucky evaluation suffices")
    if any(one.step == 0 for one in recovered):
        notes.append("step 0: there was no drop to recover from")
    if any(row["n"] == 1 for row in _groups(recovered)):
        notes.append("n = 1 is one run: no statement about other seeds")
    return notes


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("template", __doc__)
    parser.add_argument("--benchmark", help="one benchmark alone (default: all)")
    parser.add_argument("--reference", default=REFERENCE, help=f"whose step 0 is the target of recovery ({REFERENCE})")
    parser.add_argument(
        "--by", help="axes with commas between that tell runs of a template apart (default: all that differ)"
    )
    options = parser.parse_args(arguments)
    return command(
        "template",
        options,
        METRICS,
        lambda runs: template(runs, options.benchmark, options.reference, names(options.by)),
    )


if __name__ == "__main__":
    sys.exit(main())

"""Coverage: pass@k and accuracy against temperature, from the saved answers of evaluations at several temperatures.

python -m zero.evaluate -m hydra/launcher=local hydra.launcher.name=heat n=8 sampling=default sampling.temperature=0.2,0.6,1.0
python -m analysis.coverage runs/sweeps/heat [--benchmark NAME] [--k 1,8] [--by model,template]

pass@k: the unbiased estimate from n answers to a question [Chen et al. 2021, arXiv 2107.03374], mean over
questions, with its 95 % interval over questions. pass@1 is the accuracy.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser, names
from analysis.reader.benchmarks import completions
from analysis.reader.records import AXES
from analysis.reader.units import percent
from zero.errors import InputError
from zero.tracking import palette
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    import pandas as pd

    from analysis.reader.records import Run, Runs

TEMPERATURE, RUN = "sampling.temperature", "run"
APART = ("seed", TEMPERATURE, "n", "at_once", "k", "step")  # of these no groups are made
PANELS = 8  # benchmarks and groups that the figure shows


@dataclass(frozen=True)
class Cell:
    """What was asked of whom: `group` names the axes in which evaluations differ."""

    group: str
    benchmark: str
    step: int
    temperature: float


@dataclass(frozen=True)
class Counted:
    """Answers (n, right) to each question by id, and the samplings they are from; equal ones would be the same answers."""

    questions: dict[str, tuple[int, int]] = field(default_factory=dict)
    sampled: set[str] = field(default_factory=set)

    @property
    def numbers(self) -> list[int]:
        """How many answers there are to each question."""
        return [n for n, _ in self.questions.values()]


def coverage(
    runs: Runs, benchmark: str | None = None, ks: Sequence[int] | None = None, by: Sequence[str] | None = None
) -> Finding:
    """pass@k for each of `ks` (None: 1, 2, 4, ... and the most there are) of the evaluations among `runs`, grouped `by` axes
    (None: all that differ but seed and temperature). Evaluations that differ in the seed alone add their answers.

    InputError if there is no evaluation with saved answers, if `ks` are more than there are answers to a question, and
    for a benchmark or axis that there is not.
    """
    if not runs.evaluated:
        raise no_evaluation(runs)
    axes = axes_apart(runs.evaluated, by)
    cells, remarks = _count(runs, axes, benchmark)
    if not cells:
        raise InputError("--benchmark", benchmark or "all", "no evaluation has saved answers of it")
    fewest = min(min(counted.numbers) for counted in cells.values())
    chosen = _chosen_ks(ks, cells, fewest)
    rows = pass_at_k_rows(cells, chosen)
    remarks += _remarks(cells, fewest)
    shown = [_shown(cell, [row for row in rows if row["cell"] == cell]) for cell in cells]
    text = "\n".join([as_text(shown), *_peaks(rows), *dict.fromkeys(remarks)])
    return Finding(_draw(rows, chosen), _frame(rows), text)


def no_evaluation(runs: Runs) -> InputError:
    """What to say of folders without an evaluation, with the command that makes one."""
    path = next((run.path for run in runs.runs if run.path), None)
    subject = f"run={shlex.quote(str(path))} step=all" if path else "model=MODEL sampling=default"
    remedy = f"python -m zero.evaluate {subject} n=8 run_dir=NEW_FOLDER makes one"
    return InputError("FOLDER", " ".join(runs.places), f"holds no evaluation; {remedy}")


def axes_apart(evaluated: Sequence[Run], by: Sequence[str] | None) -> list[str]:
    """The axes that tell evaluations apart, RUN among them. InputError for one that does not exist."""
    there = list(dict.fromkeys([*(axis for run in evaluated for axis in run.axes), RUN]))
    for axis in by or ():
        if axis not in there:
            raise InputError("--by", axis, f"no such axis; there are {', '.join(there)}")
    if by is not None:
        return list(by)
    return [a for a in there if a not in APART and len({_value(run, a) for run in evaluated}) > 1]


def _value(run: Run, axis: str) -> str:
    """An axis of an evaluation; RUN: the training run whose checkpoints it measured."""
    return str(run.settings.get("run") or "") if axis == RUN else run.axes.get(axis, "")


def _count(runs: Runs, axes: Sequence[str], benchmark: str | None) -> tuple[dict[Cell, Counted], list[str]]:
    """Answers to every question in each cell, in the order of temperatures; and what was left out."""
    cells: dict[Cell, Counted] = {}
    remarks = []
    others = [
        a for a in [*dict.fromkeys(a for run in runs.evaluated for a in run.axes), RUN] if a not in (*axes, *APART)
    ]
    mixed = [axis for axis in others if len({_value(run, axis) for run in runs.evaluated}) > 1]
    if mixed:
        remarks.append(f"the answers of evaluations that differ in {', '.join(mixed)} are taken together")
    # with the same seed, the answers of a smaller n are the first ones of a larger one
    for run in sorted(runs.evaluated, key=lambda run: -int(run.settings.get("n") or 0)):
        temperature = run.settings.get(TEMPERATURE)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            remarks.append(f"{run.name}: its temperature is unknown; left out")
            continue
        answers: dict[Cell, dict[str, tuple[int, int]]] = {}
        for row in completions(runs, run):
            if (benchmark is None or row["benchmark"] == benchmark) and "id" in row:
                cell = Cell(_label(run, axes), row["benchmark"], int(row["step"]), float(temperature))
                counts = answers.setdefault(cell, {})
                n, right = counts.get(str(row["id"]), (0, 0))
                counts[str(row["id"])] = (n + 1, right + (row.get("correct") is True))
        sampled = str([run.axes.get("seed", ""), *(_value(run, axis) for axis in others)])
        for cell, questions in answers.items():
            known = cells.setdefault(cell, Counted())
            if sampled in known.sampled:
                remarks.append(f"{run.name}: the same seed and settings as another evaluation: its answers count once")
                continue
            known.sampled.add(sampled)
            for key, (n, right) in questions.items():
                before = known.questions.get(key, (0, 0))
                known.questions[key] = (before[0] + n, before[1] + right)
        if not answers and benchmark is None:
            remarks.append(f"{run.name}: no saved answers")
    order = sorted(cells, key=lambda cell: (cell.group, cell.benchmark, cell.step, cell.temperature))
    return {cell: cells[cell] for cell in order}, remarks


def _label(run: Run, axes: Sequence[str]) -> str:
    words = [(_value(run, a) or "none") if a in (*AXES[:5], RUN) else f"{a}={_value(run, a)}" for a in axes]
    return ", ".join(words) or "all"


def _chosen_ks(ks: Sequence[int] | None, cells: Mapping[Cell, Counted], fewest: int) -> list[int]:
    """The ks, sorted. InputError if no cell has enough answers for one."""
    most = max(min(counted.numbers) for counted in cells.values())
    if ks is None:
        return sorted({*(1 << i for i in range(fewest.bit_length())), most})
    for k in ks:
        if not 1 <= k <= most:
            raise InputError("--k", k, f"pass@k needs 1 <= k <= n; there are {most} answers to a question")
    return sorted(set(ks))


def pass_at_k_rows(cells: Mapping[Cell, Counted], ks: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each cell and k that its questions have answers for."""
    from zero.statistics import mean_interval, pass_at_k

    rows = []
    for cell, counted in cells.items():
        for k in ks:
            if min(counted.numbers) < k:
                continue  # a part of the questions would be another benchmark
            values = [pass_at_k(n, right, k) for n, right in counted.questions.values()]
            low, high = mean_interval(values) if len(values) > 1 else (None, None)
            rows.append(
                {
                    "cell": cell,
                    "group": cell.group,
                    "benchmark": cell.benchmark,
                    "step": cell.step,
                    "temperature": cell.temperature,
                    "k": k,
                    "pass": fmean(values),
                    "low": low,
                    "high": high,
                    "questions": len(values),
                    "n": min(counted.numbers),
                    "most_n": max(counted.numbers),
                }
            )
    return rows


def _remarks(cells: Mapping[Cell, Counted], fewest: int) -> list[str]:
    remarks = []
    for cell, counted in cells.items():
        if min(counted.numbers) < max(counted.numbers):
            place = f"{cell.group}, {cell.benchmark} at temperature {cell.temperature:g}"
            some = f"{min(counted.numbers)} to {max(counted.numbers)} answers to a question"
            remarks.append(f"{place}: {some} (an evaluation that is not finished?)")
        if len(counted.questions) == 1:
            remarks.append("one question: no interval")
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        sets = [frozenset(counted.questions) for cell, counted in cells.items() if cell.benchmark == benchmark]
        if len(set(sets)) > 1:
            sizes = sorted(map(len, sets))
            some = f"not the same questions everywhere ({sizes[0]} to {sizes[-1]})"
            remarks.append(f"{benchmark}: {some}: not to be compared as they stand")
    if max(max(counted.numbers) for counted in cells.values()) > fewest:
        remarks.append(f"not as many answers everywhere (at least {fewest}): a pass@k without enough is left out")
    if any(cell.temperature == 0 for cell in cells):
        remarks.append("temperature 0: all answers to a question are the same, and pass@k is the accuracy")
    remarks.append("intervals: 95 % over questions (Wilson); they say nothing of other samples or models")
    return remarks


def _shown(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    shown = {
        "group": cell.group,
        "benchmark": cell.benchmark,
        "step": str(cell.step),
        "temperature": f"{cell.temperature:g}",
        "questions": str(rows[0]["questions"]) if rows else "",
        "n": str(rows[0]["n"]) if rows else "",
    }
    for row in rows:
        interval = f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})" if row["low"] is not None else ""
        name = "accuracy" if row["k"] == 1 else f"pass@{row['k']}"
        shown[name] = f"{percent(row['pass'])}{interval}"
    return shown


def _peaks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The temperature with the best value, for the smallest and the largest k."""
    peaks = []
    for key in dict.fromkeys((row["group"], row["benchmark"], row["step"]) for row in rows):
        group_rows = [row for row in rows if (row["group"], row["benchmark"], row["step"]) == key]
        if len({row["temperature"] for row in group_rows}) < 2:
            continue
        best = []
        for k in sorted({min(row["k"] for row in group_rows), max(row["k"] for row in group_rows)}):
            top = max((row for row in group_rows if row["k"] == k), key=lambda row: row["pass"])
            best.append(f"pass@{k} {percent(top['pass'])} at {top['temperature']:g}")
        where = f"{key[0]}, {key[1]}" + (f", step {key[2]}" if key[2] else "")
        peaks.append(f"highest of {where}: {'; '.join(best)} (the highest of several is too high by chance)")
    return peaks


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ["group", "benchmark", "step", "temperature", "k", "pass", "low", "high", "questions", "n", "most_n"]
    table = pd.DataFrame(rows, columns=columns)
    table[["pass", "low", "high"]] = table[["pass", "low", "high"]].astype(float)
    return table


def _draw(rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> Any:
    """A row for each benchmark: of one group, all k against temperature, and pass@k against k; of several, accuracy and the
    largest k against temperature."""

    groups = list(dict.fromkeys((row["group"], row["step"]) for row in rows))
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    drawn = style.figure(2, len(benchmarks[:PANELS]))
    for i, benchmark in enumerate(benchmarks[:PANELS]):
        shown = [row for row in rows if row["benchmark"] == benchmark]
        left, right = drawn.axes[2 * i], drawn.axes[2 * i + 1]
        if len(groups) == 1:
            _lines(left, shown, "temperature", "k", lambda k: "accuracy" if k == 1 else f"pass@{k}")
            _lines(right, shown, "k", "temperature", lambda t: f"T = {t:g}")
            right.set_xscale("log", base=2)
            right.set_xticks(list(ks), [str(k) for k in ks])
            style.finish(left, "temperature", "share of questions", f"{benchmark}: pass@k")
            style.finish(right, "k", "pass@k", f"{benchmark}: by temperature")
            continue
        for axis, k in ((left, min(ks)), (right, max(ks))):
            named = [{**row, "who": f"{row['group']}" + f", step {row['step']}" * (row["step"] > 0)} for row in shown]
            _lines(axis, [row for row in named if row["k"] == k], "temperature", "who", str)
            title = "accuracy" if k == 1 else f"pass@{k}"
            style.finish(axis, "temperature", title, f"{benchmark}: {title}")
    more = f"; the first {PANELS} of {len(benchmarks)} benchmarks" if len(benchmarks) > PANELS else ""
    style.caption(drawn, f"bands: 95 % interval over questions (Wilson){more}")
    return drawn


def _lines(axis: Any, rows: Sequence[Mapping[str, Any]], across: str, by: str, name: Any) -> None:
    """One line for each value of `by`, against `across`."""

    for i, value in enumerate(dict.fromkeys(row[by] for row in rows)):
        line = sorted((row for row in rows if row[by] == value), key=lambda row: row[across])
        ends = [[float("nan") if row[end] is None else row[end] for row in line] for end in ("low", "high")]
        x, y = ([row[key] for row in line] for key in (across, "pass"))
        style.line(axis, x, y, palette.line_style(i), name(value), low=ends[0], high=ends[1])
    axis.set_ylim(bottom=0)


# ------------------------------------------------------------------------------------------------------ the command line


def numbers(text: str | None) -> list[int] | None:
    """The ks as typed. InputError unless all are whole numbers."""
    if (words := names(text)) is None:
        return None
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 7 for word in words):
        raise InputError("--k", text, "must be whole numbers with commas between, such as 1,4,8")
    return [int(word) for word in words]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("coverage", __doc__)
    parser.add_argument("--benchmark", help="one benchmark alone (default: all)")
    parser.add_argument("--k", help="with commas between (default: 1, 2, 4, ... up to the answers there are)")
    parser.add_argument("--by", help="axes with commas between that tell evaluations apart (default: all that differ)")
    options = parser.parse_args(arguments)

    def ask(runs: Runs) -> Finding:
        return coverage(runs, options.benchmark, numbers(options.k), names(options.by))

    return command("coverage", options, (), ask)


if __name__ == "__main__":
    sys.exit(main())

"""Coverage: pass@k and accuracy against temperature, from the saved answers of evaluations at several temperatures.

python -m analysis.coverage FOLDER... [--benchmark NAME] [--k 1,8] [--by model,template]
python -m analysis.coverage model=hf model.path=FOLDER template=qwen_math temperatures=0.2,...,1.0 n=8 out=FOLDER

The second form has python -m zero.evaluate answer the questions first, and goes on after a kill; it takes all settings of
that command. pass@k: the unbiased estimate from n answers to a question [Chen et al. 2021, arXiv 2107.03374], mean over
questions, with its 95 % interval over questions. pass@1 is the accuracy.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis.cli import Finding, command, names, parser
from analysis.reader.benchmarks import completions
from zero.errors import Broken, InputError
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
        path = next((run.path for run in runs.runs if run.path), None) or "RUN"
        remedy = f"python -m analysis.coverage run={shlex.quote(str(path))} step=all out=NEW_FOLDER makes one"
        raise InputError("FOLDER", " ".join(runs.places), f"holds no evaluation; {remedy}")
    axes = _axes(runs.evaluated, by)
    cells, said = _count(runs, axes, benchmark)
    if not cells:
        raise InputError("--benchmark", benchmark or "all", "no evaluation has saved answers of it")
    fewest = min(min(of.numbers) for of in cells.values())
    chosen = _ks(ks, cells, fewest)
    rows = _rows(cells, chosen)
    said += _remarks(cells, fewest)
    shown = [_shown(cell, [row for row in rows if row["cell"] == cell]) for cell in cells]
    text = "\n".join([as_text(shown), *_peaks(rows), *dict.fromkeys(said)])
    return Finding(_draw(rows, chosen), _frame(rows), text)


def _axes(evaluated: Sequence[Run], by: Sequence[str] | None) -> list[str]:
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
    said = []
    rest = [a for a in [*dict.fromkeys(a for run in runs.evaluated for a in run.axes), RUN] if a not in (*axes, *APART)]
    mixed = [axis for axis in rest if len({_value(run, axis) for run in runs.evaluated}) > 1]
    if mixed:
        said.append(f"the answers of evaluations that differ in {', '.join(mixed)} are taken together")
    # with the same seed, the answers of a smaller n are the first ones of a larger one
    for run in sorted(runs.evaluated, key=lambda run: -int(run.settings.get("n") or 0)):
        warmth = run.settings.get(TEMPERATURE)
        if isinstance(warmth, bool) or not isinstance(warmth, int | float):
            said.append(f"{run.name}: its temperature is unknown; left out")
            continue
        mine: dict[Cell, dict[str, tuple[int, int]]] = {}
        for row in completions(runs, run):
            if (benchmark is None or row["benchmark"] == benchmark) and "id" in row:
                cell = Cell(_label(run, axes), row["benchmark"], int(row["step"]), float(warmth))
                of = mine.setdefault(cell, {})
                n, right = of.get(str(row["id"]), (0, 0))
                of[str(row["id"])] = (n + 1, right + (row.get("correct") is True))
        sampled = str([run.axes.get("seed", ""), *(_value(run, axis) for axis in rest)])
        for cell, questions in mine.items():
            known = cells.setdefault(cell, Counted())
            if sampled in known.sampled:
                said.append(f"{run.name}: the same seed and settings as another evaluation: its answers count once")
                continue
            known.sampled.add(sampled)
            for key, (n, right) in questions.items():
                before = known.questions.get(key, (0, 0))
                known.questions[key] = (before[0] + n, before[1] + right)
        if not mine and benchmark is None:
            said.append(f"{run.name}: no saved answers")
    order = sorted(cells, key=lambda cell: (cell.group, cell.benchmark, cell.step, cell.temperature))
    return {cell: cells[cell] for cell in order}, said


def _label(run: Run, axes: Sequence[str]) -> str:
    from analysis.reader.records import AXES

    words = [(_value(run, a) or "none") if a in (*AXES[:5], RUN) else f"{a}={_value(run, a)}" for a in axes]
    return ", ".join(words) or "all"


def _ks(ks: Sequence[int] | None, cells: Mapping[Cell, Counted], fewest: int) -> list[int]:
    """The ks, sorted. InputError if no cell has enough answers for one."""
    most = max(min(of.numbers) for of in cells.values())
    if ks is None:
        return sorted({*(1 << i for i in range(fewest.bit_length())), most})
    for k in ks:
        if not 1 <= k <= most:
            raise InputError("--k", k, f"pass@k needs 1 <= k <= n; there are {most} answers to a question")
    return sorted(set(ks))


def _rows(cells: Mapping[Cell, Counted], ks: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each cell and k that its questions have answers for."""
    from zero.statistics import mean_interval, pass_at_k

    rows = []
    for cell, of in cells.items():
        for k in ks:
            if min(of.numbers) < k:
                continue  # a part of the questions would be another benchmark
            values = [pass_at_k(n, right, k) for n, right in of.questions.values()]
            low, high = mean_interval(values) if len(values) > 1 else (None, None)
            rows.append({
                "cell": cell, "group": cell.group, "benchmark": cell.benchmark, "step": cell.step,
                "temperature": cell.temperature, "k": k, "pass": fmean(values), "low": low, "high": high,
                "questions": len(values), "n": min(of.numbers), "most_n": max(of.numbers),
            })  # fmt: skip
    return rows


def _remarks(cells: Mapping[Cell, Counted], fewest: int) -> list[str]:
    said = []
    for cell, of in cells.items():
        if min(of.numbers) < max(of.numbers):
            place = f"{cell.group}, {cell.benchmark} at temperature {cell.temperature:g}"
            some = f"{min(of.numbers)} to {max(of.numbers)} answers to a question"
            said.append(f"{place}: {some} (an evaluation that is not finished?)")
        if len(of.questions) == 1:
            said.append("one question: no interval")
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        mine = [frozenset(of.questions) for cell, of in cells.items() if cell.benchmark == benchmark]
        if len(set(mine)) > 1:
            sizes = sorted(map(len, mine))
            some = f"not the same questions everywhere ({sizes[0]} to {sizes[-1]})"
            said.append(f"{benchmark}: {some}: not to be compared as they stand")
    if max(max(of.numbers) for of in cells.values()) > fewest:
        said.append(f"not as many answers everywhere (at least {fewest}): a pass@k without enough is left out")
    if any(cell.temperature == 0 for cell in cells):
        said.append("temperature 0: all answers to a question are the same, and pass@k is the accuracy")
    said.append("intervals: 95 % over questions (Wilson); they say nothing of other samples or models")
    return said


def _shown(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    made = {
        "of": cell.group, "benchmark": cell.benchmark, "step": str(cell.step), "temperature": f"{cell.temperature:g}",
        "questions": str(rows[0]["questions"]) if rows else "", "n": str(rows[0]["n"]) if rows else "",
    }  # fmt: skip
    for row in rows:
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
        name = "accuracy" if row["k"] == 1 else f"pass@{row['k']}"
        made[name] = f"{row['pass']:.3f}{interval}"
    return made


def _peaks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The temperature with the best value, for the smallest and the largest k."""
    said = []
    for key in dict.fromkeys((row["group"], row["benchmark"], row["step"]) for row in rows):
        mine = [row for row in rows if (row["group"], row["benchmark"], row["step"]) == key]
        if len({row["temperature"] for row in mine}) < 2:
            continue
        best = []
        for k in sorted({min(row["k"] for row in mine), max(row["k"] for row in mine)}):
            top = max((row for row in mine if row["k"] == k), key=lambda row: row["pass"])
            best.append(f"pass@{k} {top['pass']:.3f} at {top['temperature']:g}")
        where = f"{key[0]}, {key[1]}" + (f", step {key[2]}" if key[2] else "")
        said.append(f"highest of {where}: {'; '.join(best)} (the highest of several is too high by chance)")
    return said


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ["group", "benchmark", "step", "temperature", "k", "pass", "low", "high", "questions", "n", "most_n"]
    table = pd.DataFrame(rows, columns=columns)
    table[["pass", "low", "high"]] = table[["pass", "low", "high"]].astype(float)
    return table


def _draw(rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> Any:
    """A row for each benchmark: of one group, all k against temperature, and pass@k against k; of several, accuracy and the
    largest k against temperature."""
    from analysis import style as figures

    groups = list(dict.fromkeys((row["group"], row["step"]) for row in rows))
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    drawn = figures.figure(2, len(benchmarks[:PANELS]))
    for i, benchmark in enumerate(benchmarks[:PANELS]):
        mine = [row for row in rows if row["benchmark"] == benchmark]
        left, right = drawn.axes[2 * i], drawn.axes[2 * i + 1]
        if len(groups) == 1:
            _lines(left, mine, "temperature", "k", lambda k: "accuracy" if k == 1 else f"pass@{k}")
            _lines(right, mine, "k", "temperature", lambda t: f"T = {t:g}")
            right.set_xscale("log", base=2)
            right.set_xticks(list(ks), [str(k) for k in ks])
            figures.finish(left, "temperature", "share of questions", f"{benchmark}: pass@k")
            figures.finish(right, "k", "pass@k", f"{benchmark}: by temperature")
            continue
        for axis, k in ((left, min(ks)), (right, max(ks))):
            part = [{**row, "who": f"{row['group']}" + f", step {row['step']}" * (row["step"] > 0)} for row in mine]
            _lines(axis, [row for row in part if row["k"] == k], "temperature", "who", str)
            title = "accuracy" if k == 1 else f"pass@{k}"
            figures.finish(axis, "temperature", title, f"{benchmark}: {title}")
    more = f"; the first {PANELS} of {len(benchmarks)} benchmarks" if len(benchmarks) > PANELS else ""
    figures.caption(drawn, f"bands: 95 % interval over questions (Wilson){more}")
    return drawn


def _lines(axis: Any, rows: Sequence[Mapping[str, Any]], across: str, of: str, name: Any) -> None:
    """One line for each value of `of`, against `across`."""
    from analysis import style as figures

    for i, value in enumerate(dict.fromkeys(row[of] for row in rows)):
        mine = sorted((row for row in rows if row[of] == value), key=lambda row: row[across])
        ends = [[float("nan") if row[end] is None else row[end] for row in mine] for end in ("low", "high")]
        x, y = ([row[key] for row in mine] for key in (across, "pass"))
        figures.line(axis, x, y, figures.look(i), name(value), low=ends[0], high=ends[1])
    axis.set_ylim(bottom=0)


# ------------------------------------------------------------------------------------------------------ the command line


def answered(settings: Sequence[str], out: Path | None) -> Path:
    """Have the questions of a model or a run answered at every temperature; returns the folder of it all. Everything is
    checked first that can be without a model. Raises InputError, or Broken if zero.evaluate fails."""
    from analysis.reflection import __main__ as reflection
    from zero.config import check as configs

    typed = dict(configs.quoted(setting).partition("=")[::2] for setting in settings)
    for key in ("run_dir", TEMPERATURE):
        if key in typed:
            raise InputError(key, typed[key], "is set for each temperature; give temperatures= and out=")
    temperatures = reflection.temperatures_of(typed.pop("temperatures", reflection.TEN))
    place = typed.pop("out", "").strip("'\"")
    trained = "run" in typed
    steps = list(dict.fromkeys(["0", typed.pop("step", "all")])) if trained else []  # before training, too
    given = {} if "n" in typed else {"n": str(reflection.N)}
    if not trained:
        given |= {} if "sampling" in typed else {"sampling": "default"}
        if "benchmarks" not in typed:
            given |= {"benchmarks": "heldout"} | ({} if "questions" in typed else {"questions": "nano_math"})
    asked = [f"{key}={value}" for key, value in (given | typed).items()]
    name = configs.run_name("evaluate", {key: typed[key] for key in configs.AXES if key in typed}, asked)
    folder = (out or Path(place or Path("runs") / "coverage" / name)).expanduser().absolute()
    if set(str(folder)) & set("'\\$"):
        raise InputError("out", folder, "must have no quotes, backslashes or dollar signs in its path")
    first = [f"step={step}" for step in steps[:1]]
    configs.check("evaluate", [*asked, *first, f"{TEMPERATURE}={temperatures[0]}"])
    reflection.answer(reflection.Plan(configs.writable_folder(folder), temperatures, steps, asked, {}))
    return folder


def is_setting(place: str) -> bool:
    """Whether an argument is KEY=VALUE of an evaluation, and neither a folder that exists nor an MLflow uri."""
    return "=" in place and "://" not in place.partition("=")[0] and not Path(place).expanduser().exists()


def numbers(text: str | None) -> list[int] | None:
    """The ks as typed. InputError unless all are whole numbers."""
    if (found := names(text)) is None:
        return None
    if not found or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in found):
        raise InputError("--k", text, "must be whole numbers with commas between, such as 1,4,8")
    return [int(part) for part in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, or 1 if an evaluation failed."""
    made = parser("coverage", __doc__)
    made.add_argument("--benchmark", help="one benchmark alone (default: all)")
    made.add_argument("--k", help="with commas between (default: 1, 2, 4, ... up to the answers there are)")
    made.add_argument("--by", help="axes with commas between that tell evaluations apart (default: all that differ)")
    made.epilog = "FOLDER may be KEY=VALUE settings of python -m zero.evaluate, temperatures=... and out=... with them"
    options = made.parse_args(arguments)
    try:
        ks = numbers(options.k)
        settings = [place for place in options.places if is_setting(place)]
        if settings:
            if len(settings) < len(options.places):
                other = next(place for place in options.places if place not in settings)
                raise InputError("FOLDER", other, "give either folders to read or KEY=VALUE settings to evaluate")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the evaluation ends, too
            folder = answered(settings, options.out)
            options.places, options.out = [folder / "answers"], folder
    except (InputError, Broken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130
    return command("coverage", options, (), lambda runs: coverage(runs, options.benchmark, ks, names(options.by)))


if __name__ == "__main__":
    sys.exit(main())

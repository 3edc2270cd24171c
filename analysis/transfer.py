"""Transfer: does training on one kind of questions help on another, and a mixture of kinds on all of them?

python -m analysis.transfer FOLDER... [--experiment transfer] [--mixture NAME]

FOLDER holds runs from one base model on single question sets (specialists) and on a mixture of them, each tested on all of these
sets: experiment=transfer. A cell of the matrix is what training on the row's questions adds to the accuracy on the column's,
mean over seeds with its 95 % interval (Student's t). All runs are compared at equal tokens, those of the run that generated
fewest: a run's accuracy there lies on the line between its evaluations around it. Claims (CLAIMS) are judged as those of
experiments are, all of this page together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser
from analysis.reader.records import EVAL
from analysis.reader.units import interval, percent, plain
from analysis.stats.claims import Claim, Statistic
from analysis.stats.spent import running_sum, value_at
from analysis.stats.verdicts import RATES, Verdict, adjust_for_page, decide
from zero.config.experiments import X
from zero.errors import InputError
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.reader.records import Run, Runs
    from analysis.stats.intervals import Estimate

ENDED = ("finished", "unknown")  # states of runs that count; an MLflow store may know none
TOKENS, ACCURACY = X["tokens"], "eval/*/accuracy"
CELL_WIDTH, CELL_HEIGHT = 1.25, 0.62  # inches

Gains = Mapping[str, Mapping[str, Mapping[str, float]]]  # trained on -> tested on -> seed -> gain


def _claim(text: str, direction: str, first: str, second: str) -> Claim:
    return Claim(text, Statistic(ACCURACY, "questions", (first, second), "change"), direction, 0.0)


MIXTURE, SPECIALISTS, UNTRAINED = "mixture", "specialists", "untrained"
# Written before any run. Each is a mean over kinds of questions, then over seeds
CLAIMS = {
    "mixture": _claim(
        "The mixture beats the mean of the specialists off the diagonal", "greater", MIXTURE, SPECIALISTS
    ),
    "transfer": _claim("Training on one kind helps on the others, off the diagonal", "greater", SPECIALISTS, UNTRAINED),
    "price": _claim("On its own kind the specialist beats the mixture at equal tokens", "less", MIXTURE, SPECIALISTS),
}


@dataclass(frozen=True)
class Matrix:
    """Gains over the untrained model. `kinds`: question sets that are trained on and tested; `tokens` that each run generated in
    all, by what it was trained on; `budget`: those at which they are compared."""

    kinds: tuple[str, ...]
    mixture: str | None
    gains: Gains
    base: Mapping[str, float]  # accuracy before training, mean over runs
    tokens: Mapping[str, Sequence[float]]
    budget: float
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """What was trained on: each kind, then the mixture."""
        return (*self.kinds, *([self.mixture] if self.mixture else []))

    def cell(self, trained: str, tested: str) -> Estimate:
        """The gain over seeds."""
        from analysis.stats.intervals import over_seeds

        return over_seeds(list(self.gains[trained].get(tested, {}).values()))


def transfer(runs: Runs, mixture: str | None = None) -> Finding:
    """The matrix, and what becomes of CLAIMS. InputError without runs on two kinds that were tested on each other's."""
    import pandas as pd

    matrix = read_matrix(runs, mixture)
    rows = [_row(matrix, trained, tested) for trained in matrix.rows for tested in matrix.kinds]
    verdicts = judge(matrix)
    shown = [
        {"trained on": trained}
        | {tested: _in_points(matrix.cell(trained, tested)) + "*" * (trained == tested) for tested in matrix.kinds}
        for trained in matrix.rows
    ]
    shown.insert(0, {"trained on": "untrained"} | {kind: percent(matrix.base[kind]) for kind in matrix.kinds})
    claims = [f"{v.word}: {v.claim.text}: {_measured(v)}. {v.why}" for v in verdicts]
    generated = ", ".join(f"{trained} {fmean(values):.0f}" for trained, values in matrix.tokens.items())
    tokens = [f"compared at {matrix.budget:.0f} generated tokens; generated in all, mean of runs: {generated}"]
    text = [as_text(shown), "gains in points of accuracy; * on the diagonal", *tokens, *matrix.notes, *claims, RATES]
    return Finding(draw(matrix, verdicts), pd.DataFrame(rows), "\n".join(text))


# -------------------------------------------------------------------------------------------------------------- the matrix


def read_matrix(runs: Runs, mixture: str | None = None) -> Matrix:
    """The runs' gains at equal tokens. `mixture`: its questions' name; None: those trained on that are no benchmark."""
    from zero.statistics import MACRO

    benchmarks = [match[1] for name in runs.metrics if (match := EVAL.match(name)) and match[2] == "accuracy"]
    trained = list(dict.fromkeys(run.axes.get("questions", "") for run in runs.runs))
    kinds = tuple(name for name in benchmarks if name in trained and name != mixture)
    if len(kinds) < 2:
        remedy = (
            "needs runs on at least two question sets, each tested on both: python -m zero.train -m experiment=transfer"
        )
        raise InputError("FOLDER", ", ".join(trained) or "no run", remedy)
    others = [name for name in trained if name not in kinds]
    if (mixture is not None and mixture not in trained) or (mixture is None and len(others) > 1):
        raise InputError("--mixture", mixture or "null", f"name one of the questions trained on: {', '.join(trained)}")
    mixture = mixture or (others[0] if others else None)
    ended, notes = _comparable(runs, kinds, mixture)
    if untrained := [name for name in benchmarks if name not in (*kinds, MACRO)]:
        notes.append(f"not in the matrix, tested on but by no specialist trained on: {', '.join(untrained)}")
    rows = [name for name in (*kinds, mixture) if name]
    journals = {run.name: _journal(runs, run) for run in ended}
    used = {name: running_sum(steps, "tokens") for name, steps in journals.items()}
    budget = min((float(spent.iloc[-1]) for spent in used.values() if len(spent)), default=math.nan)
    gains: dict[str, dict[str, dict[str, float]]] = {name: {} for name in rows}
    tokens: dict[str, list[float]] = {name: [] for name in rows}
    before: dict[str, list[float]] = {kind: [] for kind in kinds}
    for run in ended:
        name, seed, steps = run.axes["questions"], run.axes.get("seed", ""), journals[run.name]
        tokens[name].append(float(used[run.name].iloc[-1]))
        for kind in kinds:
            accuracy = steps[f"eval/{kind}/accuracy"].dropna()
            if len(accuracy) > 1:
                before[kind].append(float(accuracy.iloc[0]))
                there = value_at(budget, used[run.name][accuracy.index], accuracy)
                gains[name].setdefault(kind, {})[seed] = there - before[kind][-1]
    base = {kind: fmean(values) if values else math.nan for kind, values in before.items()}
    return Matrix(kinds, mixture, gains, base, {k: v for k, v in tokens.items() if v}, budget, tuple(notes))


def _comparable(runs: Runs, kinds: Sequence[str], mixture: str | None) -> tuple[list[Run], list[str]]:
    """The specialists' finished runs and those on the mixture by the same algorithm, and notes on others and on cells without
    one: the supervised starts of an experiment are runs on the mixture, too. InputError for two runs on the same questions
    with the same seed."""
    algorithms = {run.axes.get("algo") for run in runs.runs if run.axes.get("questions") in kinds}
    trained = [run for run in runs.runs if run.axes.get("questions") in (*kinds, mixture)]
    others = [run for run in trained if run.axes.get("algo") not in algorithms]
    by_cell: dict[tuple[str, str], Run] = {}
    for run in trained:
        if run not in others:
            same = by_cell.setdefault((run.axes["questions"], run.axes.get("seed", "")), run)
            if same is not run:
                remedy = f"trained on the same questions with the same seed as {same.name}; --experiment NAME takes one experiment"
                raise InputError("FOLDER", run.name, remedy)
    names = ", ".join(dict.fromkeys(run.axes.get("algo", "") for run in others))
    notes = [f"runs left out, {len(others)}: by {names}, which no specialist was trained by"] if others else []
    ended = {cell: run for cell, run in by_cell.items() if run.status in ENDED}
    seeds = sorted({seed for _, seed in by_cell})
    expected = [(name, seed) for name in (*kinds, mixture) if name for seed in seeds]
    absent = [f"{name} {seed}" for name, seed in expected if (name, seed) not in ended]
    if absent:
        notes.append(f"{len(absent)} of {len(expected)} cells have no finished run: {', '.join(absent)}")
    return list(ended.values()), notes


def _journal(runs: Runs, run: Run) -> pd.DataFrame:
    return runs.steps[runs.steps["run"] == run.name].sort_values("step")


# ---------------------------------------------------------------------------------------------------------------- verdicts


def judge(matrix: Matrix) -> list[Verdict]:
    """A verdict for each of CLAIMS whose runs are there, which account for one another (Holm)."""
    from analysis.stats.intervals import over_seeds

    def mixed(seed: str, kind: str) -> float:
        return _gain(matrix, matrix.mixture, kind, seed)

    values = {
        "mixture": _over_kinds(matrix, lambda seed, kind: mixed(seed, kind) - _off_diagonal(matrix, kind, seed)),
        "transfer": _over_kinds(matrix, lambda seed, kind: _off_diagonal(matrix, kind, seed)),
        "price": _over_kinds(matrix, lambda seed, kind: mixed(seed, kind) - _gain(matrix, kind, kind, seed)),
    }
    verdicts = []
    for name, claim in CLAIMS.items():
        measured = over_seeds(values[name])
        word, why, p = decide(claim, measured)
        verdicts.append(Verdict(claim, word, measured, why, (), p))
    return adjust_for_page(verdicts)


def _over_kinds(matrix: Matrix, value: Callable[[str, str], float]) -> list[float]:
    """For each seed that has all of them, the mean over kinds of `value(seed, kind)`."""
    seeds = dict.fromkeys(seed for tested in matrix.gains.values() for by_seed in tested.values() for seed in by_seed)
    means = [fmean(value(seed, kind) for kind in matrix.kinds) for seed in seeds]
    return [mean for mean in means if math.isfinite(mean)]


def _gain(matrix: Matrix, trained: str | None, tested: str, seed: str) -> float:
    return matrix.gains.get(trained or "", {}).get(tested, {}).get(seed, math.nan)


def _off_diagonal(matrix: Matrix, tested: str, seed: str) -> float:
    """The mean gain on a kind of the specialists for the other kinds."""
    return fmean(_gain(matrix, trained, tested, seed) for trained in matrix.kinds if trained != tested)


# ------------------------------------------------------------------------------------------------------------------- shown


def _row(matrix: Matrix, trained: str, tested: str) -> dict[str, Any]:
    gain = matrix.cell(trained, tested)
    return {
        "trained on": trained,
        "tested on": tested,
        "diagonal": trained == tested,
        "base": matrix.base[tested],
        "gain": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "n": gain.n,
    }


def _in_points(gain: Estimate) -> str:
    if not gain.n:
        return "none"
    ends = "" if gain.low is None or gain.high is None else f" ({interval(gain.low, gain.high, 'points')})"
    return f"{plain(gain.mean, 100.0)}{ends}"


def _measured(verdict: Verdict) -> str:
    measured = verdict.measured
    p = "" if verdict.adjusted is None else f", p {verdict.adjusted:.2g} (Holm)"
    return f"{_in_points(measured)} points, n = {measured.n}{p}" if measured.n else "no value"


def draw(matrix: Matrix, verdicts: Sequence[Verdict]) -> Figure:
    """The matrix: colour and number are the gain, a frame marks the diagonal, a gap sets the mixture apart."""
    import numpy as np
    from matplotlib.patches import Rectangle

    names, kinds = matrix.rows, matrix.kinds
    width, height = CELL_WIDTH * len(kinds) + 2.4, CELL_HEIGHT * len(names) + 2.2
    drawn = style.figure(width=width, height=height)
    axis = drawn.axes[0]
    axis.grid(False)
    cells = [[matrix.cell(trained, tested) for tested in kinds] for trained in names]
    means = np.array([[cell.mean for cell in row] for row in cells])
    most = float(np.nanmax(np.abs(means))) if np.isfinite(means).any() else 1.0
    for i, row in enumerate(cells):
        y = i + 0.15 * (names[i] == matrix.mixture)
        for j, cell in enumerate(row):
            colour = _colour(cell.mean / most if most and cell.n else math.nan)
            axis.add_patch(Rectangle((j - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
            if names[i] == kinds[j]:
                axis.add_patch(Rectangle((j - 0.46, y - 0.45), 0.92, 0.9, fill=False, edgecolor="black", linewidth=1.6))
            ends = "" if cell.low is None or cell.high is None else f"\n{interval(cell.low, cell.high, 'points')}"
            axis.text(
                j, y, (f"{100 * cell.mean:+.1f}" if cell.n else "none") + ends, ha="center", va="center", fontsize=7
            )
    axis.set_xlim(-0.5, len(kinds) - 0.5)
    axis.set_ylim(len(names) - 0.3, -0.5)
    axis.set_xticks(
        range(len(kinds)), [f"{style.plain(k)}\nbefore {percent(matrix.base[k])}" for k in kinds], fontsize=7
    )
    axis.set_yticks([i + 0.15 * (name == matrix.mixture) for i, name in enumerate(names)], map(style.plain, names))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("tested on", fontsize=9)
    axis.set_ylabel("trained on", fontsize=9)
    words = "; ".join(f"{verdict.claim.text}: {verdict.word}, {_measured(verdict)}" for verdict in verdicts)
    seeds = max((cell.n for row in cells for cell in row), default=0)
    style.caption(
        drawn,
        f"Gain in points of accuracy over the untrained model, mean over {seeds} seeds with 95 % intervals (Student's t), at equal "
        f"tokens; framed: trained on what it is tested on. {words}.",
    )
    return drawn


def _colour(share: float) -> tuple[float, float, float]:
    """White at 0, towards blue for gains and towards vermilion for losses: both light enough for black figures."""
    if not math.isfinite(share):
        return (0.93, 0.93, 0.93)
    end = (0.45, 0.70, 0.90) if share > 0 else (0.94, 0.60, 0.42)
    depth = min(1.0, abs(share))
    return tuple(1 - depth * (1 - channel) for channel in end)  # type: ignore[return-value]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("transfer", __doc__)
    parser.add_argument(
        "--mixture", metavar="NAME", help="the questions of the mixture (default: those that are no benchmark)"
    )
    options = parser.parse_args(arguments)
    return command("transfer", options, [ACCURACY, TOKENS], lambda runs: transfer(runs, options.mixture))


if __name__ == "__main__":
    sys.exit(main())

"""Sections of the report that ask the questions of analysis/: each a figure, its numbers in words, and how to ask again."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from analysis.reader.benchmarks import evaluations
from analysis.reader.records import natural, wanted_of
from analysis.reader.units import interval, percent
from analysis.report.page import drawing, heading, html, paragraph, table
from zero.config.experiments import STEP
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.cli import Finding
    from analysis.reader.records import Run, Runs
    from analysis.report.page import Request

HEALTH = (
    "loss/entropy",
    "loss/grad_norm",
    "groups/zero_advantage",
    "length/truncated",
    "reflection/share",
    "mismatch/logprob_gap",
    "train/formatted",
    "loss/clip_fraction",
)
# Kinds and levels of questions; of more curves than MOST only the first metrics are drawn
KINDS = ("train/*/accuracy", "eval/*/*/accuracy", "length/*/mean", "reward/*/mean")
LEVELS = (
    *("train/level_*/accuracy", "train/*/level_*/accuracy", "eval/*/level_*/accuracy", "eval/*/*/level_*/accuracy"),
    *("length/level_*/mean", "length/*/level_*/mean"),
)
MOST = 16
THIN = 40  # runs above which figures do without a line for each, and levels are not read from saved answers
COMPARISONS = 6
REFLECTIONS = 4  # folders of analysis.reflection that are shown
Entry = tuple[str, str, Callable[["Runs"], Markup | None]]


def figure_sections(request: Request) -> list[Entry]:
    """(id, title, function of the runs) of every question, in the order of the page. A new one is one line here."""
    by = None if request.by is None else list(request.by)
    return [
        ("curves", "Reward, accuracy and length", lambda runs: curves_of(runs, request, None)),
        ("lengths", "Lengths of correct and incorrect responses", lambda runs: _lengths(runs, request, by)),
        ("kinds", "Kinds of questions", lambda runs: kinds(runs, request)),
        ("difficulty", "Levels of difficulty", lambda runs: difficulty(runs, request)),
        ("comparisons", "Comparisons", lambda runs: _comparisons(runs, request)),
        ("templates", "Templates", lambda runs: templates(runs, request, by)),
        ("coverage", "Coverage: pass@k and temperature", lambda runs: coverage_of(runs, request)),
        ("reflection", "Self-reflection", lambda runs: _reflection(request)),
        ("health", "How training went", lambda runs: curves_of(runs, request, HEALTH)),
    ]


def finding_html(finding: Finding, name: str, command: str) -> Markup:
    """A finding as HTML: figure, text, command."""
    return drawing(finding.figure, name) + _words(finding.text) + html("command", command)


def _words(text: str) -> Markup:
    """The text of a finding: lines of tables, which have columns, as they stand; remarks as paragraphs that break."""
    body = Markup()
    for columns, lines in itertools.groupby(text.splitlines(), lambda line: "  " in line or set(line) == {"-"}):
        if columns:
            body += html("columns", "\n".join(lines))
        else:
            body += Markup().join(paragraph(line, quiet=True) for line in lines)
    return body


def command_line(name: str, request: Request, *more: str) -> str:
    """The command line that asks a question again."""
    places = [shlex.quote(place) for place in request.places]
    by = ["--by", shlex.quote(",".join(request.by))] if request.by is not None else []
    window = ["--window", str(request.window)] if request.window > 1 and name in ("curves", "lengths") else []
    more = (*more, "--experiment", request.experiment) if request.experiment else more
    return " ".join(["python -m", f"analysis.{name}", *places, *more, *(by if name != "compare" else []), *window])


def curves_of(runs: Runs, request: Request, metrics: Sequence[str] | None, x: str = STEP) -> Markup | None:
    """Metrics against steps, or against what was spent; None: the usual ones."""
    from analysis.curves import METRICS, curves

    wanted = list(METRICS) if metrics is None else [name for name in metrics if name in runs.metrics]
    if not runs.runs or not wanted or (metrics is None and runs.steps.empty):
        return None
    finding = curves(runs, wanted, request.by, request.window, seeds=len(runs.runs) <= THIN, x=x)
    more = [*(["--metrics", ",".join(wanted)] if metrics else []), *(["--x", x] if x != STEP else [])]
    against = "steps" if x == STEP else x
    return finding_html(finding, f"{', '.join(wanted)} against {against}", command_line("curves", request, *more))


def kinds(runs: Runs, request: Request) -> Markup | None:
    """Accuracy, length and reward of each kind of question, where runs have several."""
    return _by_kind(runs, request, [[name for name in _like(runs, each) if "/level_" not in name] for each in KINDS])


def difficulty(runs: Runs, request: Request) -> Markup | None:
    """Accuracy and length by level, and what a curriculum makes of it."""
    levels = [_like(runs, each) for each in LEVELS]
    return _by_kind(runs, request, [*levels, _like(runs, "curriculum/*")])


def _like(runs: Runs, pattern: str) -> list[str]:
    return list(filter(wanted_of([pattern]), runs.metrics))


def _by_kind(runs: Runs, request: Request, families: Sequence[Sequence[str]]) -> Markup | None:
    """The curves of these metrics, as many families as a figure has room for."""
    drawn: list[str] = []
    for family in families:
        if len(drawn) + len(family) <= MOST:
            drawn += family
    return curves_of(runs, request, drawn) if drawn else None


def _lengths(runs: Runs, request: Request, by: Sequence[str] | None) -> Markup | None:
    from analysis.lengths import TRAINING, lengths

    if not set(TRAINING) & set(runs.metrics):
        return None
    levels = len(runs.runs) <= THIN
    finding = lengths(runs, None, by, request.window, levels)
    return finding_html(
        finding, "lengths of responses", command_line("lengths", request, *([] if levels else ["--no-levels"]))
    )


def _comparisons(runs: Runs, request: Request) -> Markup | None:
    """Every two values of every axis that differs, as far as some runs make pairs; what only changes along with an earlier
    axis is not compared again."""
    from analysis.compare import between_of, compare

    subjects = list(runs.runs or runs.evaluated)
    body, done, left, along = Markup(), 0, [], set()
    for axis, first, second in _value_pairs(subjects):
        if axis in along:
            continue
        name = f"{axis}={first},{second}"
        command = command_line("compare", request, "--between", shlex.quote(name))
        if "," in first + second or done >= COMPARISONS:
            left.append(command)
            continue
        try:
            along |= set(between_of(subjects, name).along)
            finding = compare(runs, name)
        except InputError as error:
            body += paragraph(f"{name}: not here: {error}", quiet=True)
            continue
        done += 1
        title = f"{axis}: {first or 'none'} - {second or 'none'}"
        body += heading(title)
        body += finding_html(finding, f"differences between {first or 'none'} and {second or 'none'}", command)
    if left:
        body += paragraph(f"{len(left)} more comparisons are not on this page, such as: {left[0]}", quiet=True)
    return body or None


def _value_pairs(subjects: Sequence[Run]) -> Iterator[tuple[str, str, str]]:
    for axis in dict.fromkeys(axis for run in subjects for axis in run.axes):
        values = sorted({run.axes.get(axis, "") for run in subjects}, key=natural)
        if axis != "seed" and len(values) > 1:
            yield from ((axis, *pair) for pair in itertools.combinations(values, 2))


def templates(runs: Runs, request: Request, by: Sequence[str] | None) -> Markup | None:
    """Only where templates differ, or were measured before training."""
    from analysis.template import template

    if len({run.axes.get("template") for run in (*runs.runs, *runs.evaluated)}) < 2:
        return None
    return finding_html(template(runs, by=by), "accuracy by template", command_line("template", request))


def coverage_of(runs: Runs, request: Request) -> Markup | None:
    """Only where evaluations have several temperatures or several answers to a question."""
    several = [run for run in runs.evaluated if isinstance(n := run.settings.get("n"), int) and n > 1]
    if not several:
        return None
    from analysis.coverage import coverage

    return finding_html(coverage(runs), "pass@k against temperature", command_line("coverage", request))


def _reflection(request: Request) -> Markup | None:
    """What analysis.reflection left in or below the folders."""
    from analysis.reflection import __main__ as reflection

    body = Markup()
    for place in request.places:
        folder = Path(place).expanduser()
        files = [folder / "reflection.csv", *folder.glob("*/reflection.csv"), *folder.glob("*/*/reflection.csv")]
        for file in sorted(path for path in files if path.is_file())[:REFLECTIONS]:
            try:
                finding = reflection.as_finding(reflection.read_findings(file.parent))
            except InputError as error:
                body += paragraph(f"{file.parent.name}: {error}", quiet=True)
                continue
            body += heading(file.parent.name)
            command = f"python -m analysis.reflection {shlex.quote(str(file.parent))}"
            body += finding_html(finding, "self-reflection", command)
    return body or None


# --------------------------------------------------------------------------------------------------------------- results


def results(runs: Runs, request: Request) -> Markup | None:
    """First and last measurement of every group on every benchmark, with intervals: over seeds, else over questions."""
    every = evaluations(runs)
    measured = every[every["metric"] == "accuracy"]
    if measured.empty:
        return None
    rows = [
        row
        for label, group_runs in _groups(runs, request)
        for row in _rows(label, every, measured[measured["run"].isin([run.name for run in group_runs])])
    ]
    explanation = (
        "Accuracy, mean over seeds; runs of one seed are averaged first. Intervals at 95 %: of several seeds Student's t over "
        "seeds, which speaks of other seeds and not of other questions; of one Wilson's over its questions, which says nothing "
        "about other seeds. Guessing: random expressions of the given numbers, or random choices; p, at the first measurement: the "
        "chance that it is right at least as often."
    )
    return table(rows) + paragraph(explanation, quiet=True)


def _groups(runs: Runs, request: Request) -> Iterator[tuple[str, list[Run]]]:
    """(label, runs): groups of training runs, then each evaluation."""
    from analysis.curves import grouped

    for group in grouped(runs, request.by) if runs.runs else ():
        yield group.label.rpartition(" (n = ")[0], list(group.runs)
    for run in runs.evaluated:
        yield run.name, [run]


def _rows(label: str, every: Any, measured: Any) -> Iterator[dict[str, Any]]:
    """A row for each benchmark. Runs whose last evaluation is at another step are counted in it, and the steps are named."""
    from analysis.stats.intervals import by_seed, over_seeds

    for benchmark, rows in measured.groupby("benchmark", sort=True, observed=True):
        ordered = rows.sort_values("step", kind="stable")
        ends = {end: ordered.groupby("run", observed=True).nth(at) for end, at in (("first", 0), ("last", -1))}
        if ordered["step"].nunique() == 1:
            del ends["first"]  # one measurement is no beginning and no end of anything
        row: dict[str, Any] = {"group": label, "benchmark": str(benchmark)}
        for end, values in ends.items():
            seeds = by_seed(values[["value"]].to_numpy(), values["seed"].astype(str).tolist())
            mean = over_seeds(seeds[:, 0].tolist())
            steps = sorted(set(values["step"].tolist()))
            row[f"{end} step"] = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
            row[end] = percent(mean.mean)
            if mean.low is not None and mean.high is not None:
                row[f"interval, {end}"] = f"{interval(mean.low, mean.high, '%')} %, seeds"
            else:
                row[f"interval, {end}"] = _over_questions(every, values)
        yield row | {"n": mean.n} | _guesses(every, next(iter(ends.values())))


def _guesses(every: Any, values: Any) -> dict[str, str]:
    """What guessing scores, and how likely it is then to be right as often as the runs at their first measurement, rows of
    `values`. Nothing where it is not known."""
    here = every.merge(values[["run", "benchmark", "step"]], on=["run", "benchmark", "step"])
    chances, p = (sorted(set(here[here["metric"] == name]["value"].tolist())) for name in ("chance", "chance_p"))
    between = {
        "guessing": [percent(chance) for chance in chances],
        "p against guessing": [f"{one:.2g}" for one in p],
    }
    return {name: " to ".join(dict.fromkeys((texts[0], texts[-1]))) for name, texts in between.items() if texts}


def _over_questions(every: Any, one: Any) -> str:
    """The interval that the evaluation of one run at one step, a row of `one`, found itself."""
    if len(one) != 1:
        return "none"
    here = one.iloc[0]
    there = every[
        (every["run"] == here["run"]) & (every["benchmark"] == here["benchmark"]) & (every["step"] == here["step"])
    ]
    metrics = dict(zip(there["metric"], there["value"], strict=True))
    low, high = metrics.get("accuracy_low", math.nan), metrics.get("accuracy_high", math.nan)
    return f"{interval(low, high, '%')} %, questions" if low == low and high == high else "none"

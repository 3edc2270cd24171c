"""Experiments: what their claims came to, in one figure, one table and one sentence each.

python -m analysis.experiments SWEEP... [--experiment NAME] [--page FILE.md] [--readme FILE.md]

SWEEP is a folder that `python -m zero.train -m experiment=NAME` (or launch.submit) has made: it keeps the claims as they
were written down before the first cell ran. Verdicts: analysis/stats/verdicts.py; each accounts for all claims of the sweeps given.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import style
from analysis.cli import Finding, command, common_parser, exit_code
from analysis.reader.experiments import Experiment, in_sweeps, refuse_unknown
from analysis.reader.units import interval, plain
from analysis.sentences import in_units, replace, sentences, write
from analysis.stats.claims import parse
from analysis.stats.verdicts import NOT_SHOWN, RATES, SHOWN, UNDECIDED, Verdict, adjust_for_page
from analysis.stats.verdicts import verdict as by_itself
from zero.errors import InputError
from zero.tracking.palette import BLUE, GREY, VERMILION
from zero.tracking.text_table import as_text

if TYPE_CHECKING:
    from analysis.reader.records import Runs

COLOURS = {SHOWN: BLUE, NOT_SHOWN: VERMILION, UNDECIDED: GREY}
MARKERS = {SHOWN: "o", NOT_SHOWN: "X", UNDECIDED: "s"}
ROW, FRAME, WIDTH = 0.62, 0.7, 10.4  # inches: height of a claim and of what surrounds all, width
PAGE = f"""\
# What the experiments showed in the embedded world

Made by `python -m analysis.experiments FOLDER... --page FILE.md`; `make paper` runs all experiments. A heading is what the source
reports; a row is what was tested. Each claim was written down before the runs that count for it: statistic, direction,
smallest effect that counts; seeds that had been looked at before are left out, and named.
{textwrap.fill(RATES, 128)}
**What these models lack, and what they can build on, was planted in their corpora (zero/nano): this shows mechanisms and is no
evidence about models of useful size.** What is known of those stands in the head of each file of conf/experiment."""
LABEL = 78  # characters of a line of a claim's text


def verdicts(runs: Runs, every: Sequence[Experiment]) -> dict[str, list[Verdict]]:
    """What its own runs say of the claims of each experiment; a verdict accounts for the claims of all of them. InputError for
    a claim that is none."""
    alone = {
        experiment.name: [by_itself(own, claim) for claim in parse(experiment.claims, f"{experiment.name}.claims")]
        for experiment in every
        for own in [runs.restricted_to(experiment.cells)]
    }
    judged = iter(adjust_for_page([one for several in alone.values() for one in several]))
    return {name: [next(judged) for _ in several] for name, several in alone.items()}


def experiments(runs: Runs, every: Sequence[Experiment], only: str | None = None) -> Finding:
    """Every claim of these experiments, or of one: a row of the figure with its interval and bound, a row of the table."""
    by_name = verdicts(runs, every)
    judged = [
        (experiment, verdict)
        for experiment in every
        if only in (None, experiment.name)
        for verdict in by_name[experiment.name]
    ]
    if not judged:
        raise InputError(
            "SWEEP", only or "all", "holds no experiment with claims; python -m zero.train -m experiment=NAME makes one"
        )
    rows = [_row(experiment, verdict) for experiment, verdict in judged]
    import pandas as pd

    columns = ("experiment", "verdict", "effect", "unit", "interval", "n", "p (Holm)", "claim")
    counts = ", ".join(f"{sum(v.word == word for _, v in judged)} {word}" for word in COLOURS)
    notes = [
        f"{experiment.name}: not as registered: {' '.join(experiment.changed)}"
        for experiment, _ in judged
        if experiment.changed
    ]
    text = [as_text([{key: row[key] for key in columns} for row in rows]), counts, *dict.fromkeys(notes), RATES]
    return Finding(_draw(judged), pd.DataFrame(rows), "\n".join(text))


def page(runs: Runs, every: Sequence[Experiment], only: str | None = None) -> str:
    """All verdicts in Markdown, experiment by experiment."""
    lines, by_name = [PAGE], verdicts(runs, every)
    for experiment in every:
        if only not in (None, experiment.name):
            continue
        lines += ["", f"## {experiment.name}: {experiment.title}", ""]
        if experiment.changed:
            lines += [
                f"**Not as registered:** run with {' '.join(experiment.changed)} in place of what the experiment sets.",
                "",
            ]
        lines.append("| claim | effect | 95 % interval | smallest that counts | seeds | p (Holm) | verdict |")
        lines.append("| --- | --- | --- | --- | --- | --- | --- |")
        for verdict in by_name[experiment.name]:
            row = _row(experiment, verdict)
            word = row["verdict"] if verdict.word == SHOWN else f"**{row['verdict']}**"
            unit = f" {row['unit']}" if row["unit"] else ""
            effect = row["effect"] + unit * (verdict.measured.n > 0)
            cells = (effect, row["interval"], row["bound"] + unit, row["n"], row["p (Holm)"], word)
            lines.append(f"| {escape_pipes(verdict.claim.text)} | {' | '.join(map(str, cells))} |")
        notes: dict[str, list[int]] = {}
        for i, verdict in enumerate(by_name[experiment.name], 1):
            for note in (*verdict.notes, *([f"{verdict.why}"] if verdict.claim.every else [])):
                notes.setdefault(note, []).append(i)
        lines += [""] * bool(notes)
        for note, rows in notes.items():
            which = "" if len(rows) == len(by_name[experiment.name]) else f"Row {', '.join(map(str, rows))}: "
            lines.append(f"- {which}{escape_pipes(note[:1].upper() + note[1:])}.")
    return "\n".join(lines) + "\n"


def escape_pipes(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _row(experiment: Experiment, verdict: Verdict) -> dict[str, Any]:
    measured, (factor, unit) = verdict.measured, in_units(verdict)
    low, high = measured.low, measured.high
    same = "+-" if verdict.claim.direction == "same" else ""
    return {
        "experiment": experiment.name,
        "claim": verdict.claim.text,
        "claimed": str(verdict.claim),
        "verdict": verdict.word,
        "why": verdict.why,
        "effect": plain(measured.mean, factor) if measured.n else "none",
        "unit": unit,
        "interval": "none" if low is None or high is None else interval(low, high, unit),
        "bound": f"{same}{_bound(verdict) * factor:g}",
        "n": measured.n,
        "p": verdict.p,
        "p (Holm)": "none" if verdict.adjusted is None else f"{verdict.adjusted:.2g}",
        "as registered": not experiment.changed,
        "notes": "; ".join(verdict.notes),
    }


def _draw(judged: Sequence[tuple[Experiment, Verdict]]) -> Any:
    """A row for each claim: its text, then effect and interval against the bound, each row in its own unit."""

    drawn = style.figure(1, len(judged), width=WIDTH, height=ROW + FRAME / len(judged))
    family = judged[0][1].family
    for axis, (experiment, verdict) in zip(drawn.axes, judged, strict=True):
        claim, (factor, unit) = verdict.claim, in_units(verdict)
        measured, smallest = verdict.measured.scaled(factor), claim.smallest * factor
        colour = COLOURS[verdict.word]
        low, high = measured.low, measured.high
        ends = [0.0, smallest, -smallest] if claim.direction == "same" else [0.0, _bound(verdict) * factor]
        if measured.n:
            ends += [measured.mean] + [end for end in (low, high) if end is not None]
            axis.plot([measured.mean], [0], MARKERS[verdict.word], color=colour, markersize=7)
            if low is not None and high is not None:
                axis.plot([low, high], [0, 0], "-", color=colour, linewidth=2.4)
        axis.axvline(0, color="#333333", linewidth=0.8)
        bounds = (smallest, -smallest) if claim.direction == "same" else (_bound(verdict) * factor,)
        for bound in bounds:
            if bound:
                axis.axvline(bound, color="#333333", linewidth=0.9, linestyle=(0, (3, 2)))
        margin = 0.12 * ((max(ends) - min(ends)) or 1.0)
        axis.set_xlim(min(ends) - margin, max(ends) + margin)
        axis.set_ylim(-1, 1)
        axis.set_yticks([])
        axis.tick_params(axis="x", labelsize=7, length=2)
        axis.set_xlabel(style.plain(unit), fontsize=7, labelpad=1)
        axis.locator_params(axis="x", nbins=5)
        for side in ("left", "right", "top"):
            axis.spines[side].set_visible(False)
        label = "\n".join(textwrap.wrap(f"{claim.text} [{experiment.name}]", LABEL)[:3])
        axis.set_ylabel(style.plain(label), rotation=0, ha="right", va="center", fontsize=8)
        summary = f"{verdict.word}, n = {measured.n}"
        axis.text(1.02, 0.5, summary, transform=axis.transAxes, va="center", fontsize=8, color=colour)
    style.caption(
        drawn,
        f"Effect with its 95 % interval over seeds (Student's t), each row in the unit of its own statistic; solid line: no "
        f"effect; dashed: the smallest effect that counts. Words account for {family} claims (Holm).",
    )
    return drawn


def _bound(verdict: Verdict) -> float:
    """The smallest effect that counts, on the claim's side."""
    return -verdict.claim.smallest if verdict.claim.direction == "less" else verdict.claim.smallest


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = common_parser("experiments", __doc__)
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write all verdicts there, in Markdown")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE.md", help="write them there as sentences, between its two marks"
    )
    options = parser.parse_args(arguments)
    every, only = in_sweeps(options.places), options.experiment
    if only is not None and (code := exit_code(lambda: refuse_unknown(only, every))):
        return code
    options.experiment = None  # a verdict accounts for the claims of all experiments, whichever is shown

    def ask(runs: Runs) -> Finding:
        answer = experiments(runs, every, only)
        if options.page:
            write(options.page, "--page", page(runs, every, only))
        if options.readme:
            replace(options.readme, sentences(every, verdicts(runs, every)))
        return answer

    return command("experiments", options, None, ask)


if __name__ == "__main__":
    sys.exit(main())

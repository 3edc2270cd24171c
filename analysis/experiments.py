"""Experiments: what their claims came to, in one figure, one table and one sentence each.

python -m analysis.experiments SWEEP... [--experiment NAME] [--page FILE.md]

SWEEP is a folder that `python -m zero.train -m experiment=NAME` (or launch.submit) has made: it keeps the claims as they
were written down before the first cell ran. Verdicts: analysis/claims.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.answer import Answer, command, parser
from analysis.claims import NOT_SHOWN, SHOWN, UNDECIDED, Verdict, judge, parse
from analysis.registered import Experiment, found
from zero.errors import InputError
from zero.tables import as_text

if TYPE_CHECKING:
    from analysis.records import Runs

COLOURS = {SHOWN: "#0072b2", NOT_SHOWN: "#d55e00", UNDECIDED: "#767676"}
MARKERS = {SHOWN: "o", NOT_SHOWN: "X", UNDECIDED: "s"}
ROW, FRAME, WIDTH = 0.62, 0.7, 10.4  # inches: height of a claim and of what surrounds all, width
PAGE = """\
# What the experiments showed in the embedded world

Made by `make paper`, then `python -m analysis.experiments runs/sweeps/paper --page analysis/PAPER.md`. Every claim was written
down before its runs: statistic, direction, smallest effect that counts. Effects are means over seeds with 95 % bootstrap
intervals; shown means that all of the interval is on the claim's side of that smallest effect, not shown that none of it is.
**What these models lack, and what they can build on, was planted in their corpora (zero/nano): this shows mechanisms and is no
evidence about models of useful size.** What is known of those stands in the head of each file of conf/experiment."""
LABEL = 78  # characters of a line of a claim's text


def verdicts(runs: Runs, of: Experiment) -> list[Verdict]:
    """What its own runs say of the claims of an experiment. InputError for a claim that is none."""
    return judge(runs.of(of.cells), parse(of.claims, f"{of.name}.claims"))


def experiments(runs: Runs, every: Sequence[Experiment]) -> Answer:
    """Every claim of these experiments: a row of the figure with its interval and bound, a row of the table."""
    judged = [(of, verdict) for of in every for verdict in verdicts(runs, of)]
    if not judged:
        raise InputError(
            "SWEEP", "", "holds no experiment with claims; python -m zero.train -m experiment=NAME makes one"
        )
    rows = [_row(of, verdict) for of, verdict in judged]
    import pandas as pd

    shown = [{key: row[key] for key in ("experiment", "verdict", "effect", "interval", "n", "claim")} for row in rows]
    counts = ", ".join(f"{sum(v.word == word for _, v in judged)} {word}" for word in COLOURS)
    return Answer(_draw(judged), pd.DataFrame(rows), f"{as_text(shown)}\n{counts}")


def page(runs: Runs, every: Sequence[Experiment]) -> str:
    """All verdicts in Markdown, experiment by experiment."""
    lines = [PAGE]
    for of in every:
        lines += [
            "",
            f"## {of.name}: {of.title}",
            "",
            "| claim | effect | 95 % interval | smallest that counts | seeds | verdict |",
        ]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for verdict in verdicts(runs, of):
            row = _row(of, verdict)
            word = row["verdict"] if verdict.word == SHOWN else f"**{row['verdict']}**"
            bound = f"{'+-' if verdict.claim.direction == 'same' else ''}{_bound(verdict):g}"
            lines.append(
                f"| {of_table(verdict.claim.text)} | {row['effect']} | {row['interval']} | {bound} | {row['n']} | {word} |"
            )
    return "\n".join(lines) + "\n"


def of_table(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _row(of: Experiment, verdict: Verdict) -> dict[str, Any]:
    measured = verdict.measured.difference
    ends = "none" if measured.low is None else f"{measured.low:.3g} to {measured.high:.3g}"
    return {
        "experiment": of.name,
        "claim": verdict.claim.text,
        "claimed": str(verdict.claim),
        "verdict": verdict.word,
        "why": verdict.why,
        "effect": f"{measured.mean:.3g}" if measured.n else "none",
        "interval": ends,
        "n": measured.n,
    }


def _draw(judged: Sequence[tuple[Experiment, Verdict]]) -> Any:
    """A row for each claim: its text, then effect and interval against the bound, each row in its own unit."""
    import textwrap

    from analysis import figures

    drawn = figures.figure(1, len(judged), width=WIDTH, height=ROW + FRAME / len(judged))
    for axis, (of, verdict) in zip(drawn.axes, judged, strict=True):
        claim, measured = verdict.claim, verdict.measured.difference
        colour = COLOURS[verdict.word]
        low, high = measured.low, measured.high
        ends = [0.0, claim.smallest, -claim.smallest] if claim.direction == "same" else [0.0, _bound(verdict)]
        if measured.n:
            ends += [measured.mean] + [end for end in (low, high) if end is not None]
            axis.plot([measured.mean], [0], MARKERS[verdict.word], color=colour, markersize=7)
            if low is not None and high is not None:
                axis.plot([low, high], [0, 0], "-", color=colour, linewidth=2.4)
        axis.axvline(0, color="#333333", linewidth=0.8)
        bounds = (claim.smallest, -claim.smallest) if claim.direction == "same" else (_bound(verdict),)
        for bound in bounds:
            if bound:
                axis.axvline(bound, color="#333333", linewidth=0.9, linestyle=(0, (3, 2)))
        margin = 0.12 * ((max(ends) - min(ends)) or 1.0)
        axis.set_xlim(min(ends) - margin, max(ends) + margin)
        axis.set_ylim(-1, 1)
        axis.set_yticks([])
        axis.tick_params(axis="x", labelsize=7, length=2)
        axis.locator_params(axis="x", nbins=5)
        for side in ("left", "right", "top"):
            axis.spines[side].set_visible(False)
        label = "\n".join(textwrap.wrap(f"{claim.text} [{of.name}]", LABEL)[:3])
        axis.set_ylabel(figures.plain(label), rotation=0, ha="right", va="center", fontsize=8)
        said = f"{verdict.word}, n = {measured.n}"
        axis.text(1.02, 0.5, said, transform=axis.transAxes, va="center", fontsize=8, color=colour)
    figures.caption(
        drawn,
        "Effect with its 95 % bootstrap interval over seeds, each row in the unit of its own statistic; solid line: no effect; "
        "dashed: the smallest effect that was claimed, written down before the runs.",
    )
    return drawn


def _bound(verdict: Verdict) -> float:
    """The smallest effect that counts, on the claim's side."""
    return -verdict.claim.smallest if verdict.claim.direction == "less" else verdict.claim.smallest


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    made = parser("experiments", __doc__)
    made.add_argument("--page", type=Path, metavar="FILE.md", help="write all verdicts there, in Markdown")
    options = made.parse_args(arguments)
    every = [of for of in found(options.places) if options.experiment in (None, of.name)]

    def ask(runs: Runs) -> Answer:
        answer = experiments(runs, every)
        if options.page:
            options.page.write_text(page(runs, every))
        return answer

    return command("experiments", options, None, ask)


if __name__ == "__main__":
    sys.exit(main())

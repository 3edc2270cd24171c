"""The section of the report with the claims that were written down before the runs, and their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.report.page import listed, paragraph, text
from analysis.report.sections import when
from analysis.stats.verdicts import RATES

if TYPE_CHECKING:
    from analysis.reader.records import Run, Runs
    from analysis.stats.verdicts import Verdict


def claims(runs: Runs, file: Path | None) -> str | None:
    """Each claim with its statistic, what was measured, and the verdict."""
    from analysis.stats.claims import read
    from analysis.stats.verdicts import judge

    if file is None:
        return paragraph("No claims were written down before these runs: all that follows is exploration.", quiet=True)
    return judged(runs, judge(runs, read(file)), f"{file.name} was last changed", file.stat().st_mtime)


def judged(runs: Runs, verdicts: Sequence[Verdict], happened: str, clock: float) -> str:
    """Verdicts, and whether what `happened` at `clock` (seconds since 1970) was before the runs."""
    counts = Counter(verdict.word for verdict in verdicts)
    body = paragraph(
        f"{len(verdicts)} claim{'s' * (len(verdicts) != 1)}: "
        + (", ".join(f"{n} {word}" for word, n in counts.most_common()) or "none")
    )
    body += paragraph(_registered(runs, happened, clock))
    return body + "".join(_claim(verdict) for verdict in verdicts) + paragraph(RATES, quiet=True)


def _claim(verdict: Verdict) -> str:
    style = verdict.word.replace(" ", "-")
    said = f"measured: {measured(verdict)}. {verdict.why[:1].upper()}{verdict.why[1:]}."
    return (
        f'<div class="claim"><p><span class="verdict {text(style)}">{text(verdict.word)}</span> n = {verdict.measured.n} '
        f"{text(verdict.claim.text)}</p>{paragraph('claimed: ' + str(verdict.claim))}{paragraph(said)}"
        f"{listed(list(dict.fromkeys(verdict.notes))[:20])}</div>\n"
    )


def measured(verdict: Verdict) -> str:
    """The effect with its unit, its interval, n and p."""
    from analysis.experiments import in_units
    from analysis.reader.units import plain

    of, (factor, unit) = verdict.measured, in_units(verdict)
    if not of.n:
        return "no value"
    said = f"{plain(of.mean, factor)} {unit}".strip()
    if of.low is None or of.high is None:
        return f"{said} (n = {of.n}: no interval)"
    said += f", 95 % interval {plain(of.low, factor)} to {plain(of.high, factor)} (n = {of.n})"
    if verdict.p is None or verdict.adjusted is None:
        return said
    return f"{said}, p = {verdict.p:.2g}, {verdict.adjusted:.2g} among {verdict.family} claims (Holm)"


def _registered(runs: Runs, happened: str, written: float) -> str:
    """Whether it is older than the runs, by their starts and first steps."""
    clock = runs.steps["time/unix"].dropna().tolist() if "time/unix" in runs.metrics else []
    clock += [begun for run in (*runs.runs, *runs.evaluated) if (begun := _began(run)) is not None]
    if not clock:
        return f"{happened} {when(written)}; when the runs began is not recorded."
    began = min(clock)
    order = "before" if written <= began else "AFTER"  # a copy of the folder may have made it so
    return f"{happened} {when(written)}, {order} the first start of these runs ({when(began)})."


def _began(run: Run) -> float | None:
    """When a run was first started, as its folder says."""
    times = [start.get("time") for start in run.starts]
    return min((float(t) for t in times if isinstance(t, int | float) and not isinstance(t, bool)), default=None)

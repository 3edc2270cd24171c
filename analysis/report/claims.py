"""The section of the report with the claims that were written down before the runs, and their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from analysis.reader.units import interval, plain
from analysis.report.page import html, paragraph
from analysis.report.sections import when
from analysis.stats.verdicts import RATES

if TYPE_CHECKING:
    from analysis.reader.records import Run, Runs
    from analysis.stats.verdicts import Verdict


def claims(runs: Runs, file: Path | None) -> Markup | None:
    """Each claim with its statistic, what was measured, and the verdict."""
    from analysis.stats.claims import read
    from analysis.stats.verdicts import judge

    if file is None:
        return paragraph("No claims were written down before these runs: all that follows is exploration.", quiet=True)
    return verdicts_section(runs, judge(runs, read(file)), f"{file.name} was last changed", file.stat().st_mtime)


def verdicts_section(runs: Runs, verdicts: Sequence[Verdict], happened: str, clock: float) -> Markup:
    """Verdicts, and whether what `happened` at `clock` (seconds since 1970) was before the runs."""
    counts = Counter(verdict.word for verdict in verdicts)
    body = paragraph(
        f"{len(verdicts)} claim{'s' * (len(verdicts) != 1)}: "
        + (", ".join(f"{n} {word}" for word, n in counts.most_common()) or "none")
    )
    body += paragraph(_registered(runs, happened, clock))
    return body + Markup().join(map(_claim, verdicts)) + paragraph(RATES, quiet=True)


def _claim(verdict: Verdict) -> Markup:
    reason = f"measured: {measurement_text(verdict)}. {verdict.why[:1].upper()}{verdict.why[1:]}."
    notes = list(dict.fromkeys(verdict.notes))[:20]
    return html("claim", verdict.word, verdict.measured.n, verdict.claim.text, str(verdict.claim), reason, notes)


def measurement_text(verdict: Verdict) -> str:
    """The effect with its unit, its interval, n and p."""
    from analysis.experiments import in_units

    estimate, (factor, unit) = verdict.measured, in_units(verdict)
    if not estimate.n:
        return "no value"
    effect = f"{plain(estimate.mean, factor)} {unit}".strip()
    if estimate.low is None or estimate.high is None:
        return f"{effect} (n = {estimate.n}: no interval)"
    effect += f", 95 % interval {interval(estimate.low, estimate.high, unit)} (n = {estimate.n})"
    if verdict.p is None or verdict.adjusted is None:
        return effect
    return f"{effect}, p = {verdict.p:.2g}, {verdict.adjusted:.2g} among {verdict.family} claims (Holm)"


def _registered(runs: Runs, happened: str, written: float) -> str:
    """Whether it is older than the runs, by their starts and first steps."""
    clock = runs.steps["time/unix"].dropna().tolist() if "time/unix" in runs.metrics else []
    clock += [start for run in (*runs.runs, *runs.evaluated) if (start := _first_start(run)) is not None]
    if not clock:
        return f"{happened} {when(written)}; when the runs began is not recorded."
    first = min(clock)
    order = "before" if written <= first else "AFTER"  # a copy of the folder may have made it so
    return f"{happened} {when(written)}, {order} the first start of these runs ({when(first)})."


def _first_start(run: Run) -> float | None:
    """When a run was first started, as its folder says."""
    times = [start.get("time") for start in run.starts]
    return min((float(t) for t in times if isinstance(t, int | float) and not isinstance(t, bool)), default=None)

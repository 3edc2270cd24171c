"""Sections of the report of a sweep that is made of experiments: all verdicts, then each experiment with its own runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.experiments import experiments
from analysis.reader.experiments import Experiment
from analysis.report.claims import judged
from analysis.report.page import paragraph
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.reader.records import Runs
    from analysis.report.page import Request
    from analysis.stats.verdicts import Verdict


def summary(runs: Runs, request: Request, every: Sequence[Experiment]) -> str | None:
    """Every claim in one figure, all of the page's together."""
    from analysis.report.figures import again, shown

    if not any(of.claims for of in every):
        return paragraph("No claims were written down before these runs: all that follows is exploration.", quiet=True)
    return shown(experiments(runs, every), "claims with their intervals", again("experiments", request))


def experiment(
    runs: Runs, request: Request, of: Experiment, verdicts: Callable[[Runs, str], Sequence[Verdict]]
) -> str | None:
    """One experiment: its claims with the verdicts of the page, its curves, its benchmarks, from its own cells."""
    from analysis.report import figures

    mine, asked = runs.of(of.cells), replace(request, experiment=of.name)
    if not mine.runs and not mine.evaluated:
        return paragraph("None of its cells has begun.", quiet=True)
    body = paragraph(f"size={of.size}; {len(of.cells)} cells. Reproduce with: {of.command}", quiet=True)
    if of.changed and of.claims:
        body += paragraph(
            f"Not as registered: these cells were run with {' '.join(of.changed)} in place of what the experiment sets. Its "
            "claims were written for other runs, and the verdicts here are no verdicts on them."
        )
    if of.claims:
        body += judged(mine, verdicts(runs, of.name), "The claims were written down", of.registered)
    metrics = [name for name in of.figures if name in mine.metrics]
    for make in (
        lambda: figures.curves_of(mine, asked, metrics or None),
        lambda: figures.templates(mine, asked, None),
        lambda: figures.coverage_of(mine, asked),
        lambda: figures.results(mine, asked),
    ):
        try:
            body += make() or ""
        except InputError as error:
            body += paragraph(f"Not here: {error}", quiet=True)
    return body

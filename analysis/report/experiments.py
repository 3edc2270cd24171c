"""Sections of the report of a sweep that is made of experiments: all verdicts, then each experiment with its own runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from analysis.experiments import experiments
from analysis.reader.experiments import Experiment
from analysis.report.claims import verdicts_section
from analysis.report.page import paragraph
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.reader.records import Runs
    from analysis.report.page import Request
    from analysis.stats.verdicts import Verdict


def summary(runs: Runs, request: Request, every: Sequence[Experiment]) -> Markup | None:
    """Every claim in one figure, all of the page's together."""
    from analysis.report.figures import command_line, finding_html

    if not any(entry.claims for entry in every):
        return paragraph("No claims were written down before these runs: all that follows is exploration.", quiet=True)
    return finding_html(experiments(runs, every), "claims with their intervals", command_line("experiments", request))


def experiment(
    runs: Runs, request: Request, entry: Experiment, verdicts: Callable[[Runs, str], Sequence[Verdict]]
) -> Markup | None:
    """One experiment: its claims with the verdicts of the page, its curves, its benchmarks, from its own cells."""
    from analysis.report import figures

    own, own_request = runs.restricted_to(entry.cells), replace(request, experiment=entry.name)
    if not own.runs and not own.evaluated:
        return paragraph("None of its cells has started.", quiet=True)
    body = paragraph(f"size={entry.size}; {len(entry.cells)} cells. Reproduce with: {entry.command}", quiet=True)
    if entry.changed and entry.claims:
        body += paragraph(
            f"Not as registered: these cells were run with {' '.join(entry.changed)} in place of what the experiment sets. Its "
            "claims were written for other runs, and the verdicts here are no verdicts on them."
        )
    if entry.claims:
        body += verdicts_section(own, verdicts(runs, entry.name), "The claims were written down", entry.registered)
    metrics = [name for name in entry.figures if name in own.metrics]
    for make in (
        lambda: figures.curves_of(own, own_request, metrics or None, entry.x),
        lambda: figures.templates(own, own_request, None),
        lambda: figures.coverage_of(own, own_request),
        lambda: figures.results(own, own_request),
    ):
        try:
            body += make() or ""
        except InputError as error:
            body += paragraph(f"Not here: {error}", quiet=True)
    return body

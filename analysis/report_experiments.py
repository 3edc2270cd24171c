"""Sections of the report of a sweep that is made of experiments: all verdicts, then each experiment with its own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.experiments import experiments
from analysis.registered import Experiment
from analysis.report_claims import judged
from analysis.report_page import paragraph
from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.records import Runs
    from analysis.report_page import Request


def summary(runs: Runs, request: Request, every: Sequence[Experiment]) -> str | None:
    """Every claim in one figure."""
    from analysis.report_figures import again, shown

    if not any(of.claims for of in every):
        return paragraph("No claims were written down before these runs: all that follows is exploration.", quiet=True)
    return shown(experiments(runs, every), "claims with their intervals", again("experiments", request))


def experiment(runs: Runs, request: Request, of: Experiment) -> str | None:
    """One experiment: its claims, its curves, its benchmarks, from its own cells."""
    from analysis import report_figures as figures
    from analysis.claims import judge, parse

    mine, asked = runs.of(of.cells), replace(request, experiment=of.name)
    if not mine.runs and not mine.evaluated:
        return paragraph("None of its cells has begun.", quiet=True)
    body = paragraph(
        f"size={of.size}; {len(of.cells)} cells. Again: python -m zero.train -m experiment={of.name}", quiet=True
    )
    if of.claims:
        body += judged(
            mine, judge(mine, parse(of.claims, f"{of.name}.claims")), "The claims were written down", of.registered
        )
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

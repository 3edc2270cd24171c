"""One page about any set of runs: what was varied, every figure, claims and verdicts, samples, costs, warnings.

python -m analysis.report FOLDER... [--claims FILE] [--by algo,template] [--window 11] [--out FILE]

Writes FOLDER/report.html: one file under 10 MB that works offline, without scripts and without requests. The same folder
gives the same page. Claims are those of FOLDER/claims.yaml, as analysis/stats/claims.py describes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zero.errors import ArgumentParser, InputError
from zero.files import write_atomically

if TYPE_CHECKING:
    from markupsafe import Markup

    from analysis.reader.experiments import Experiment
    from analysis.reader.records import Runs
    from analysis.report.page import Request
    from analysis.stats.verdicts import Verdict

FILE = "report.html"
LARGEST = 10_000_000  # bytes of a page


@dataclass(frozen=True)
class SectionSpec:
    """What a section of the page answers. `make` gives HTML, or None where the runs hold nothing for it."""

    id: str
    title: str
    make: Callable[[Runs], Markup | None]


@dataclass
class Report:
    """A finished page; `failed`: sections that could not be made, and why, which stands on the page too."""

    html: str
    failed: list[str] = field(default_factory=list)


def section_specs(request: Request) -> list[SectionSpec]:
    """All sections, in the order of the page: results first. A new question of analysis/ is one line here or in
    analysis/report/figures.py."""
    from analysis.reader.experiments import in_sweeps
    from analysis.report import claims, figures, sections
    from analysis.report.samples import samples

    if (every := in_sweeps(request.places)) and request.claims is None:
        return specs_of_experiments(request, every)
    return [
        SectionSpec("results", "Results with intervals", lambda runs: figures.results(runs, request)),
        SectionSpec("claims", "Claims", lambda runs: claims.claims(runs, request.claims)),
        SectionSpec("warnings", "Warnings", sections.warnings),
        *(SectionSpec(name, title, make) for name, title, make in figures.figure_sections(request)),
        SectionSpec("samples", "Sample completions", samples),
        SectionSpec("varied", "What was varied", sections.varied),
        SectionSpec("costs", "Costs", sections.costs),
        SectionSpec("environment", "Environment", sections.environment),
    ]


def specs_of_experiments(request: Request, every: Sequence[Experiment]) -> list[SectionSpec]:
    """The sections of a sweep of experiments, whose cells have little in common: each experiment by itself, with verdicts that
    account for the claims of all."""
    from analysis.experiments import verdicts
    from analysis.report import sections
    from analysis.report.experiments import experiment, summary
    from analysis.report.samples import samples

    known: list[dict[str, list[Verdict]]] = []

    def verdicts_of(runs: Runs, name: str) -> list[Verdict]:
        if not known:
            known.append(verdicts(runs, every))
        return known[0][name]

    return [
        SectionSpec("claims", "Claims and verdicts", lambda runs: summary(runs, request, every)),
        SectionSpec("warnings", "Warnings", sections.warnings),
        *(
            SectionSpec(
                f"experiment-{one.name}",
                one.title,
                partial(experiment, request=request, entry=one, verdicts=verdicts_of),
            )
            for one in every
        ),
        SectionSpec("samples", "Sample completions", samples),
        SectionSpec("varied", "What was varied", sections.varied),
        SectionSpec("costs", "Costs", sections.costs),
        SectionSpec("environment", "Environment", sections.environment),
    ]


def report(runs: Runs, request: Request) -> Report:
    """The page. A section that fails says so on the page and costs nothing else; warnings are made last, for the others
    may find damaged files."""
    from analysis.report.page import Section, page, paragraph
    from analysis.report.sections import lead

    wanted = section_specs(request)
    sections: dict[str, Section] = {}
    finished = Report("")
    for question in sorted(wanted, key=lambda question: question.id == "warnings"):
        try:
            body = question.make(runs)
        except InputError as error:
            body = paragraph(f"Not here: {error}")
        except Exception as error:  # a page with a gap that is named is worth more than none
            body = paragraph(f"This part could not be made: {type(error).__name__}: {error}")
            finished.failed.append(f"{question.title}: {type(error).__name__}: {error}")
        if body is not None:
            sections[question.id] = Section(question.id, question.title, body)
    title = "Report: " + ", ".join(Path(place).name or place for place in request.places[:3])
    in_order = [sections[question.id] for question in wanted if question.id in sections]
    finished.html = page(title, lead(runs), in_order)
    if len(finished.html.encode()) > LARGEST and "samples" in sections:
        short = Section("samples", "Sample completions", paragraph("Left out: the page would be too large."))
        finished.html = page(title, lead(runs), [short if one.id == "samples" else one for one in in_order])
    return finished


def write(path: Path, html: str) -> None:
    """The page, whole or as it was. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html)


def request_of(options: argparse.Namespace) -> tuple[Request, Path]:
    """(what the command line asks for, where the page goes). InputError for claims that are not there."""
    from analysis.cli import names
    from analysis.curves import check_window
    from analysis.report.page import Request
    from analysis.stats.claims import FILE as CLAIMS
    from analysis.stats.claims import read as read_claims

    check_window(options.window)
    first = Path(options.places[0]).expanduser()
    own = first / CLAIMS
    claims = options.claims or (own if own.is_file() else None)
    if claims is not None:
        read_claims(claims)  # a mistake in it ends the command before anything is read
    by = names(options.by)
    request = Request(tuple(map(str, options.places)), claims, None if by is None else tuple(by), options.window)
    return request, options.out or (first / FILE if first.is_dir() else Path(FILE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    from analysis.cli import exit_code, print_notes

    parser = ArgumentParser(prog="python -m analysis.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "places", nargs="+", metavar="FOLDER", help="runs, folders of runs, sweeps, or MLflow stores' uris"
    )
    parser.add_argument(
        "--claims", type=Path, help="claims and their statistics (default: the first FOLDER's claims.yaml)"
    )
    parser.add_argument("--by", help="axes with commas between; others are averaged over (default: all that differ)")
    parser.add_argument("--window", type=int, default=1, help="steps of the running mean, odd (default 1: none)")
    parser.add_argument("--out", type=Path, help=f"the page (default: {FILE} in the first FOLDER)")
    options = parser.parse_args(arguments)

    def work() -> None:
        from analysis.reader.runs import read

        request, path = request_of(options)
        runs = read(options.places)
        finished = report(runs, request)
        write(path, finished.html)
        print_notes(runs.notes)
        for failure in finished.failed:
            print(f"note: a part of the page could not be made: {failure}", file=sys.stderr)
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

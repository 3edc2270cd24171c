"""One page about any set of runs: what was varied, every figure, claims and verdicts, samples, costs, warnings.

python -m analysis.report FOLDER... [--claims FILE] [--by algo,template] [--window 11] [--out FILE]

Writes FOLDER/report.html: one file under 10 MB that works offline, without scripts and without requests. The same folder
gives the same page. Claims are those of FOLDER/claims.yaml, as analysis/stats/claims.py describes them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zero.errors import InputError

if TYPE_CHECKING:
    from analysis.reader.experiments import Experiment
    from analysis.reader.records import Runs
    from analysis.report.page import Part, Request
    from analysis.stats.verdicts import Verdict

FILE = "report.html"
LARGEST = 10_000_000  # bytes of a page


@dataclass(frozen=True)
class Section:
    """A part of the page. `make` gives HTML, or None where the runs hold nothing for it."""

    id: str
    title: str
    make: Callable[[Runs], str | None]


@dataclass
class Report:
    """A finished page; `failed`: sections that could not be made, and why, which stands on the page too."""

    html: str
    failed: list[str] = field(default_factory=list)


def sections(request: Request) -> list[Section]:
    """All sections, in the order of the page. A new question of analysis/ is one line here or in report_figures."""
    from analysis.reader.experiments import found
    from analysis.report import claims as report_claims
    from analysis.report import figures as report_figures
    from analysis.report import sections as report_parts
    from analysis.report.samples import samples

    if (every := found(request.places)) and request.claims is None:
        return of_experiments(request, every)
    return [
        Section("claims", "Claims", lambda runs: report_claims.claims(runs, request.claims)),
        Section("warnings", "Warnings", report_parts.warnings),
        Section("varied", "What was varied", report_parts.varied),
        *(Section(name, title, make) for name, title, make in report_figures.questions(request)),
        Section("results", "Results with intervals", lambda runs: report_figures.results(runs, request)),
        Section("samples", "Sample completions", samples),
        Section("costs", "Costs", report_parts.costs),
        Section("environment", "Environment", report_parts.environment),
    ]


def of_experiments(request: Request, every: Sequence[Experiment]) -> list[Section]:
    """The sections of a sweep of experiments, whose cells have little in common: each experiment by itself, with verdicts that
    account for the claims of all."""
    from analysis.experiments import verdicts
    from analysis.report import sections as report_parts
    from analysis.report.experiments import experiment, summary
    from analysis.report.samples import samples

    known: list[dict[str, list[Verdict]]] = []

    def of_page(runs: Runs, name: str) -> list[Verdict]:
        if not known:
            known.append(verdicts(runs, every))
        return known[0][name]

    return [
        Section("claims", "Claims and verdicts", lambda runs: summary(runs, request, every)),
        Section("warnings", "Warnings", report_parts.warnings),
        *(
            Section(f"experiment-{of.name}", of.title, partial(experiment, request=request, of=of, verdicts=of_page))
            for of in every
        ),
        Section("varied", "What was varied", report_parts.varied),
        Section("samples", "Sample completions", samples),
        Section("costs", "Costs", report_parts.costs),
        Section("environment", "Environment", report_parts.environment),
    ]


def report(runs: Runs, request: Request) -> Report:
    """The page. A section that fails says so on the page and costs nothing else; warnings are made last, for the others
    may find damaged files."""
    from analysis.report.page import Part, page, paragraph
    from analysis.report.sections import lead

    wanted = sections(request)
    made: dict[str, Part] = {}
    done = Report("")
    for section in sorted(wanted, key=lambda section: section.id == "warnings"):
        try:
            body = section.make(runs)
        except InputError as error:
            body = paragraph(f"Not here: {error}")
        except Exception as error:  # a page with a hole that is said is worth more than none
            body = paragraph(f"This part could not be made: {type(error).__name__}: {error}")
            done.failed.append(f"{section.title}: {type(error).__name__}: {error}")
        if body is not None:
            made[section.id] = Part(section.id, section.title, body)
    parts = [made[section.id] for section in wanted if section.id in made]
    title = ", ".join(Path(place).name or place for place in request.places[:3])
    done.html = page(f"Report: {title}", lead(runs), parts)
    if len(done.html.encode()) > LARGEST and "samples" in made:
        made["samples"] = Part("samples", "Sample completions", paragraph("Left out: the page would be too large."))
        parts = [made[part.id] for part in parts]
        done.html = page(f"Report: {title}", lead(runs), parts)
    return done


def write(path: Path, html: str) -> None:
    """The page, whole or as it was. OSError passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(html, encoding="utf-8", newline="\n")
    partial.replace(path)


def request_of(options: argparse.Namespace) -> tuple[Request, Path]:
    """(what is asked, where the page goes). InputError for claims that are not there."""
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
        read_claims(claims)  # a mistake in it is told at once
    by = names(options.by)
    request = Request(tuple(map(str, options.places)), claims, None if by is None else tuple(by), options.window)
    return request, options.out or (first / FILE if first.is_dir() else Path(FILE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    from analysis.cli import one_line, say_notes

    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=(__doc__ or "").split("\n")[0])
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
        made = report(runs, request)
        write(path, made.html)
        say_notes(runs.notes)
        for said in made.failed:
            print(f"note: a part of the page could not be made: {said}", file=sys.stderr)
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")

    return one_line(work)


if __name__ == "__main__":
    sys.exit(main())

"""The section of the report with the claims that were written down before the runs, and their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.report_page import listed, paragraph, text
from analysis.report_parts import when

if TYPE_CHECKING:
    from analysis.claims import Verdict
    from analysis.records import Runs


def claims(runs: Runs, file: Path | None) -> str | None:
    """Each claim with its statistic, what was measured, and the verdict."""
    from analysis.claims import judge, read

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
    return body + "".join(_claim(verdict) for verdict in verdicts) + paragraph(
        "Verdicts follow from the 95 % bootstrap intervals over seeds, claim by claim: of 20 claims about nothing one may be "
        "shown by chance. Intervals of fewer than 5 seeds are too narrow.", quiet=True,
    )  # fmt: skip


def _claim(verdict: Verdict) -> str:
    style = verdict.word.replace(" ", "-")
    said = f"measured: {verdict.measured}. {verdict.why[:1].upper()}{verdict.why[1:]}."
    return (
        f'<div class="claim"><p><span class="verdict {text(style)}">{text(verdict.word)}</span> '
        f"{text(verdict.claim.text)}</p>{paragraph('claimed: ' + str(verdict.claim))}{paragraph(said)}"
        f"{listed(list(dict.fromkeys(verdict.notes))[:20])}</div>\n"
    )


def _registered(runs: Runs, happened: str, written: float) -> str:
    """Whether it is older than the runs: the one trace that folders have of it."""
    clock = runs.steps["time/unix"].dropna().tolist() if "time/unix" in runs.metrics else []
    if not clock:
        return f"{happened} {when(written)}; when the runs began is not recorded."
    began = min(clock)
    order = "before" if written <= began else "AFTER"  # a copy of the folder may have made it so
    return f"{happened} {when(written)}, {order} the first step of these runs ({when(began)})."

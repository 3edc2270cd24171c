"""HTML of the report: escaping, tables, figures, the page. What models wrote is hostile text and never markup.

All HTML comes from the macros of page.html.j2, which escape whatever they are given unless it is HTML of theirs (`Markup`);
joining Markup and plain text escapes the text, too. The page's own policy forbids scripts and every request, so that even a
mistake here would run nothing.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from analysis.style import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_SVG = 1_500_000  # bytes; a heavier drawing becomes pixels, so that all of them stay far below 10 MB
ROWS = 200  # of a table
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# control characters, lone surrogates, and marks that turn the direction of the text around them
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?", re.ASCII)


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `places`: folders of runs, MLflow stores."""

    places: tuple[str, ...]
    claims: Path | None = None
    by: tuple[str, ...] | None = None
    window: int = 1
    experiment: str | None = None  # only the runs of this one


@dataclass(frozen=True)
class Section:
    """One section of the page, as HTML that is safe."""

    id: str
    title: str
    body: Markup


@cache
def _macros() -> Any:
    from jinja2 import Environment, FileSystemLoader

    def fit(value: Any) -> Any:
        return value if isinstance(value, Markup) else UNFIT.sub("\ufffd", "" if value is None else str(value))

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(autoescape=True, finalize=fit, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return environment.get_template("page.html.j2").module


def html(macro: str, *values: Any, **named: Any) -> Markup:
    """The HTML that a macro of page.html.j2 renders from the values."""
    markup: Markup = getattr(_macros(), macro)(*values, **named)
    return markup


def paragraph(value: Any, quiet: bool = False) -> Markup:
    """A paragraph of plain text; nothing for none."""
    return html("paragraph", value, quiet)


def heading(value: Any) -> Markup:
    """A heading below that of the section."""
    return html("heading", value)


def listed(items: Sequence[str]) -> Markup:
    """Items of plain text as a list; nothing for none."""
    return html("listed", items)


def table(rows: Sequence[Mapping[str, Any]], most: int = ROWS) -> Markup:
    """Rows as a table of plain text: a column for each key, numbers to the right. Beyond `most` rows it says how many more."""
    if not rows:
        return Markup()
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_value(row.get(head, "")) for head in heads] for row in rows[:most]]
    numeric = [all(not line[i] or NUMBER.fullmatch(line[i]) for line in cells) for i in range(len(heads))]
    more = paragraph(f"and {len(rows) - most} more rows", quiet=True) if len(rows) > most else Markup()
    return html("table", heads, cells, numeric) + more


def pairs(rows: Mapping[str, Any]) -> Markup:
    """Keys and values as a table without a head."""
    return html("pairs", [(key, _value(value)) for key, value in rows.items()]) if rows else Markup()


def folded(summary: str, body: Markup, open_: bool = False) -> Markup:
    """HTML behind a line that opens it."""
    return html("folded", summary, body, open_) if body else Markup()


def drawing(drawn: Figure, name: str) -> Markup:
    """A figure inline: vector, or pixels if the vectors would weigh too much. `name` is for those who cannot see it."""

    vector = svg(drawn)
    if len(vector.encode()) <= LARGEST_SVG:
        label = Markup('<svg role="img" aria-label="{}"').format(UNFIT.sub("\ufffd", name))
        return html("figure", Markup(vector.replace("<svg", label, 1)))
    out = io.BytesIO()
    drawn.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return html("figure", html("pixels", name, base64.b64encode(out.getvalue()).decode()))


def page(title: str, lead: Markup, sections: Sequence[Section]) -> str:
    """The whole document."""
    return str(html("page", title, POLICY, lead, sections)).lstrip()


def number(value: float) -> str:
    """Four digits, without the noise of an exponent where none is needed."""
    if value != value:
        return "no value"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)

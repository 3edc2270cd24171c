"""HTML of the report: escaping, tables, figures, the page. What models wrote is hostile text and never markup.

All text passes `text`; parts are made of nothing else. The page's own policy forbids scripts and every request, so that even
a mistake here would run nothing.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_SVG = 1_500_000  # bytes; a heavier drawing becomes pixels, so that all of them stay far below 10 MB
ROWS = 200  # of a table
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# control characters, lone surrogates, and marks that turn the direction of the text around them
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?", re.ASCII)

STYLE = """
:root { color-scheme: light; --line: #d6d9de; --soft: #f4f6f8; --ink: #1b1f24; --quiet: #59626d; --link: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.2rem 1rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem;
  padding-top: .6rem; border-top: 2px solid var(--ink); } h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
h4 { font-size: .95rem; margin: .9rem 0 .35rem; }
p { margin: .4rem 0 .8rem; max-width: 48rem; } .quiet { color: var(--quiet); } a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0 0; padding: 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; margin: .3rem 0 .6rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; max-width: 28rem; min-width: 3rem; }
th { font-weight: 600; border-bottom-color: var(--ink); vertical-align: bottom; }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
td:first-child { min-width: 8rem; } td.key { min-width: 0; white-space: nowrap; color: var(--quiet); }
figure { margin: .6rem 0 1rem; } figure svg, figure img { display: block; width: 100%; height: auto; max-width: 66rem; }
pre { white-space: pre-wrap; margin: 0; font: .82rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre.table { white-space: pre; overflow-wrap: normal; }
details { margin: .5rem 0; } summary { cursor: pointer; padding: .15rem 0; }
ul.said { padding-left: 1.2rem; } ul.said li { margin: .2rem 0; }
.verdict { display: inline-block; font-weight: 700; white-space: nowrap; border: 2px solid; border-radius: .3rem;
  padding: 0 .4rem; }
.shown { color: #00664b; } .not-shown { color: #a13d00; border-style: dashed; } .undecided { color: #4a525c; border-style: dotted; }
.claim { border-left: 4px solid var(--line); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; }
.filters { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: .6rem 0; }
details.question { border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .8rem; }
details.question > summary { font-weight: 600; } .marks { font-weight: 400; color: var(--quiet); white-space: nowrap; }
.grid { display: grid; gap: .6rem; grid-auto-flow: column; grid-auto-columns: minmax(17rem, 1fr); overflow-x: auto;
  padding-bottom: .4rem; }
.cell { border: 1px solid var(--line); border-top: 4px solid #a13d00; border-radius: .3rem; padding: .4rem .6rem;
  background: #fff; min-width: 0; } .cell.right { border-top-color: #00805e; }
.cell.none { border-top-color: var(--line); color: var(--quiet); background: var(--soft); }
.cell pre { margin-top: .3rem; max-height: 20rem; overflow-y: auto; } .cell .head { font-size: .82rem; }
.cell .head b { display: block; } mark { background: #ffe08a; font-weight: 700; text-decoration: underline; padding: 0 .1em; }
.gap { color: var(--quiet); font-style: italic; }
.question.more { display: none; }
body:has(#only-changing:checked) .question.changing, body:has(#only-reflecting:checked) .question.reflecting
  { display: block; }
body:has(#only-changing:checked) .question:not(.changing), body:has(#only-reflecting:checked) .question:not(.reflecting)
  { display: none !important; }
@media (max-width: 46rem) { body { font-size: 15px; padding: .8rem .8rem 3rem; } figure svg, figure img { width: 44rem; }
  .grid { grid-auto-columns: 84%; } }
@media print { body { max-width: none; font-size: 10pt; } nav, .filters { display: none; }
  figure, .claim, tr { break-inside: avoid; } .grid { grid-auto-flow: row; grid-template-columns: 1fr 1fr; }
  .cell pre { max-height: none; } .scroll, .grid { overflow: visible; } h2, h3 { break-after: avoid; }
  pre.table { font-size: 6.5pt; white-space: pre-wrap; overflow-wrap: anywhere; } table { font-size: 7pt; }
  th, td, th.n, td.n, td.key { white-space: normal; overflow-wrap: break-word; min-width: 0 !important; } }
"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `places`: folders of runs, MLflow stores."""

    places: tuple[str, ...]
    claims: Path | None = None
    by: tuple[str, ...] | None = None
    window: int = 1
    experiment: str | None = None  # only the runs of this one


@dataclass(frozen=True)
class Part:
    """One section of the page, as HTML that is safe."""

    id: str
    title: str
    body: str


def text(value: Any) -> str:
    """Any value as text of HTML, for content and for attributes in double quotes."""
    return html.escape(UNFIT.sub("\ufffd", str(value)))


def paragraph(value: Any, quiet: bool = False) -> str:
    """A paragraph of plain text; nothing for none."""
    kind = ' class="quiet"' if quiet else ""
    return f"<p{kind}>{text(value)}</p>\n" if value else ""


def listed(items: Sequence[str]) -> str:
    """Items of plain text as a list; nothing for none."""
    return f'<ul class="said">{"".join(f"<li>{text(item)}</li>" for item in items)}</ul>\n' if items else ""


def table(rows: Sequence[Mapping[str, Any]], most: int = ROWS) -> str:
    """Rows as a table of plain text: a column for each key, numbers to the right. Beyond `most` rows it says how many more."""
    if not rows:
        return ""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_value(row.get(head, "")) for head in heads] for row in rows[:most]]
    right = [all(not line[i] or NUMBER.fullmatch(line[i]) for line in cells) for i in range(len(heads))]
    kinds = [' class="n"' if number else "" for number in right]
    lines = ["<tr>" + "".join(f"<th{k}>{text(h)}</th>" for k, h in zip(kinds, heads, strict=True)) + "</tr>"]
    lines += [
        "<tr>" + "".join(f"<td{k}>{text(cell)}</td>" for k, cell in zip(kinds, line, strict=True)) + "</tr>"
        for line in cells
    ]
    more = paragraph(f"and {len(rows) - most} more rows", quiet=True) if len(rows) > most else ""
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>\n{more}'


def pairs(rows: Mapping[str, Any]) -> str:
    """Keys and values as a table without a head."""
    lines = "".join(f'<tr><td class="key">{text(k)}</td><td>{text(_value(v))}</td></tr>' for k, v in rows.items())
    return f'<div class="scroll" tabindex="0"><table>{lines}</table></div>\n' if rows else ""


def folded(summary: str, body: str, open_: bool = False) -> str:
    """HTML behind a line that opens it."""
    return f"<details{' open' if open_ else ''}><summary>{text(summary)}</summary>{body}</details>\n" if body else ""


def drawing(drawn: Figure, name: str) -> str:
    """A figure inline: vector, or pixels if the vectors would weigh too much. `name` is for those who cannot see it."""
    from analysis.style import svg

    vector = svg(drawn)
    label = f'role="img" aria-label="{text(name)}"'
    if len(vector.encode()) <= LARGEST_SVG:
        body = vector.replace("<svg", f"<svg {label}", 1)
    else:
        out = io.BytesIO()
        drawn.savefig(out, format="png", dpi=110, metadata={"Software": None})
        pixels = base64.b64encode(out.getvalue()).decode()
        body = f'<img alt="{text(name)}" src="data:image/png;base64,{pixels}">'
    return f'<figure><div class="scroll" tabindex="0">{body}</div></figure>\n'


def page(title: str, lead: str, parts: Sequence[Part]) -> str:
    """The whole document. `lead` and the bodies of the parts are HTML."""
    links = "".join(f'<li><a href="#{text(part.id)}">{text(part.title)}</a></li>' for part in parts)
    sections = "".join(
        f'<section id="{text(part.id)}"><h2>{text(part.title)}</h2>\n{part.body}</section>\n' for part in parts
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{text(title)}</h1>\n{lead}<nav><ul>{links}</ul></nav></header>\n<main>\n{sections}</main>\n"
        "</body></html>\n"
    )


def number(value: float) -> str:
    """Four digits, without the noise of an exponent where none is needed."""
    if value != value:
        return "no value"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)

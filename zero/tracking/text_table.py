"""Tables for a terminal and for files, where lines must not depend on how wide a screen is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a plain table: one column a key, numbers to the right."""
    if not rows:
        return "nothing to show"
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads, *([str(row.get(head, "")) for head in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    right = [all(_numeric(str(row.get(head, ""))) for row in rows) for head in heads]
    lines = [
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _numeric(text: str) -> bool:
    return not text or text.lstrip("-").replace(".", "", 1).replace("e-", "", 1).isdigit()

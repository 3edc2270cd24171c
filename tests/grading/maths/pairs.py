"""The pairs of pairs.txt by kind."""

from __future__ import annotations

from pathlib import Path

SIGNS = {" = = ": True, " # # ": False}


def pairs() -> list[tuple[str, str, str, bool]]:
    """(kind, one, other, whether they are the same answer) of every line."""
    rows, kind = [], ""
    for line in Path(__file__).with_name("pairs.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            kind = line[2:]
        for sign, equal in SIGNS.items():
            one, between, other = line.partition(sign)
            if between and not line.startswith("# Pairs"):
                rows.append((kind, one.strip(), other.strip(), equal))
    return rows

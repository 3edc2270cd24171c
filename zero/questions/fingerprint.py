"""python -m zero.questions.fingerprint NAME FILE [COLUMN]: put a benchmark's questions into fingerprints.txt.

Only hashes are written (zero.questions.splits). A section of that name is replaced, the others stay. FILE is whatever
`questions.path` takes; COLUMN holds the questions, `problem` by default. Run it for every benchmark after a change of
`normal_form`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from zero.errors import InputError
from zero.questions import splits
from zero.questions.sources import rows_of

HEAD = (
    "# Fingerprints of benchmark questions, 16 hex digits each; made by python -m zero.questions.fingerprint NAME FILE"
)
A_LINE = 7  # fingerprints


def file_fingerprints(path: str, column: str = "problem") -> frozenset[str]:
    """Fingerprints of the questions of a file. Raises InputError."""
    prints = set()
    for place, row in rows_of(path, None, None):
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                "COLUMN", column, f"{place} of {path} holds no text there; its columns are {', '.join(row)}"
            )
        prints.add(splits.fingerprint(text.strip()))
    return frozenset(prints)


def file_text(sections: Mapping[str, Iterable[str]]) -> str:
    """The text of the file: sections by name, fingerprints sorted, so that the same benchmarks give the same bytes."""
    lines = [HEAD]
    for name, prints in sorted(sections.items()):
        ordered = sorted(prints)
        lines.append(f"[{name}]")
        lines += ["".join(ordered[i : i + A_LINE]) for i in range(0, len(ordered), A_LINE)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str], out: Path = splits.SHIPPED) -> int:
    """Returns the exit code: 2 for bad input."""
    if len(arguments) not in (2, 3):
        print("usage: python -m zero.questions.fingerprint NAME FILE [COLUMN]", file=sys.stderr)
        return 2
    name, path, *column = arguments
    try:
        hashes = file_fingerprints(path, *column)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sections = splits.read_fingerprints(out) if out.is_file() else {}
    out.write_text(file_text({**sections, name: hashes}), "ascii")
    print(f"{name}: {len(hashes)} fingerprints in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

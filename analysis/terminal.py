"""What a terminal shows as a picture: the bytes that `script` recorded, as an SVG that needs no font and no network.

    script -q -c 'make demo' demo.raw
    python -m analysis.terminal demo.raw docs/demo.svg [--last 49] [--head '$ make demo']

It knows what our own output uses: colours, bold and dim, the cursor going up, lines erased.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path

from zero.errors import ArgumentParser

COLOURS = {31: "#c0392b", 32: "#1e7b45", 33: "#8a6d00", 34: "#2257a5", 35: "#8e44ad", 36: "#0b7285"}  # on white
INK, DIM, PAPER, FRAME = "#24292f", "#6e7781", "#ffffff", "#d0d7de"
WIDE, HIGH, MARGIN, SIZE = 7.8, 17.0, 14.0, 13  # of a character, of a line, around all, of the font: pixels
CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b.")


@dataclass(frozen=True)
class Style:
    """How a character looks."""

    colour: int = 0  # one of COLOURS; 0: ink
    bold: bool = False
    dim: bool = False


Cell = tuple[str, Style]


def screen(text: str) -> list[list[Cell]]:
    """The lines that stand on a terminal of any height after it was sent `text`."""
    lines: list[list[Cell]] = [[]]
    row = column = at = 0
    style = Style()
    while at < len(text):
        if code := CODE.match(text, at):
            at = code.end()
            count = int(code[1]) if code[1] and code[1].isdigit() else 1
            if code[2] == "m":
                style = styled(style, code[1] or "0")
            elif code[2] == "A":
                row = max(0, row - count)
            elif code[2] == "K":
                lines[row] = lines[row][:column] if code[1] in ("", "0") else []
            continue
        char, at = text[at], at + 1
        if char == "\n":
            row, column = row + 1, 0
            lines += [] if row < len(lines) else [[]]
        elif char == "\r":
            column = 0
        elif char.isprintable():
            line = lines[row]
            line += [(" ", Style())] * (column - len(line))
            line[column : column + 1] = [(char, style)]
            column += 1
    return lines


def styled(style: Style, codes: str) -> Style:
    """A style after the codes of one `ESC [ ... m`."""
    for code in map(int, codes.split(";")):
        if code == 0:
            style = Style()
        elif code in (1, 2, 22):
            style = replace(style, bold=code == 1, dim=code == 2)
        elif code in COLOURS or code == 39:
            style = replace(style, colour=code if code in COLOURS else 0)
    return style


def svg(lines: Sequence[Sequence[Cell]]) -> str:
    """The lines as a picture."""
    columns = max((len(line) for line in lines), default=0)
    width, height = 2 * MARGIN + WIDE * columns, 2 * MARGIN + HIGH * len(lines)
    plain = "\n".join("".join(char for char, _ in line).rstrip() for line in lines)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img">',
        f"<title>{escape(plain.splitlines()[0] if plain else '')}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="6" fill="{PAPER}" stroke="{FRAME}"/>',
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="{SIZE}" '
        'xml:space="preserve">',
    ]
    for number, line in enumerate(lines):
        out += _texts(line, MARGIN + HIGH * (number + 0.75))
    return "\n".join([*out, "</g>", "</svg>"]) + "\n"


def _texts(line: Sequence[Cell], y: float) -> Iterator[str]:
    """One element for each stretch of a line that looks alike, held to the grid whatever font there is."""
    column = 0
    for style, cells in groupby(line, key=lambda cell: cell[1]):
        text = "".join(char for char, _ in cells)
        for word in re.finditer(r"\S+(?: \S+)*", text):
            x, length = MARGIN + WIDE * (column + word.start()), WIDE * len(word[0])
            fill = COLOURS.get(style.colour, DIM if style.dim else INK)
            weight = ' font-weight="bold"' if style.bold else ""
            yield (
                f'<text x="{x:.1f}" y="{y:.1f}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs" '
                f'fill="{fill}"{weight}>{escape(word[0])}</text>'
            )
        column += len(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 if a file cannot be read or written."""
    parser = ArgumentParser("python -m analysis.terminal", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recorded", type=Path, help="what `script` wrote")
    parser.add_argument("picture", type=Path, help="the .svg to write")
    parser.add_argument("--last", type=int, help="only so many lines of the end")
    parser.add_argument("--head", help="a line to put before them")
    options = parser.parse_args(arguments)
    try:
        text = options.recorded.read_bytes().decode("utf-8", "replace")  # as it is: \r means something
        lines = screen(re.sub(r"^Script (started|done).*$", "", text, flags=re.MULTILINE))
        while lines and not "".join(char for char, _ in lines[-1]).strip():
            lines.pop()
        lines = lines[-options.last :] if options.last else lines
        head = [[(char, Style(bold=True)) for char in options.head], []] if options.head else []
        options.picture.write_text(svg([*head, *lines]), encoding="utf-8")
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

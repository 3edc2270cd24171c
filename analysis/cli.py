"""What every question of analysis/ gives back, and the command line that they share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zero.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.reader.records import Note, Runs

EXIT_FINE, EXIT_INPUT = 0, 2
SAID = 12  # notes that the terminal shows


@dataclass(frozen=True)
class Finding:
    """`table` is what stands behind the figure; `text` says for a terminal what both show, with n."""

    figure: Figure
    table: pd.DataFrame
    text: str


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all questions have."""
    made = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=(doc or "").split("\n")[0])
    made.add_argument(
        "places", nargs="+", metavar="FOLDER", help="runs, folders of runs, sweeps, or MLflow stores' uris"
    )
    made.add_argument("--experiment", metavar="NAME", help="only the cells of this experiment of a sweep")
    made.add_argument("--out", type=Path, help=f"folder for {name}.svg, .pdf and .csv (default: the first FOLDER)")
    return made


def names(text: str | None) -> list[str] | None:
    """A list as typed: names with commas between them."""
    return None if text is None else [name for name in (part.strip() for part in text.split(",")) if name]


def command(
    name: str, options: argparse.Namespace, metrics: Sequence[str] | None, ask: Callable[[Runs], Finding]
) -> int:
    """Read the runs, ask, write NAME.svg, NAME.pdf and NAME.csv, and print the answer. Returns the exit code: see
    `one_line`."""

    def work() -> None:
        from analysis import style as figures
        from analysis.reader.runs import read

        runs = read(options.places, metrics)
        if options.experiment:
            from analysis.reader.experiments import only

            runs = only(options.places, options.experiment, runs)
        answer = ask(runs)
        folder = where(options)
        files = figures.save(answer.figure, folder / name)
        write_table(answer.table, folder / f"{name}.csv")
        print(answer.text)
        say_notes(runs.notes)
        print(f"written: {', '.join(map(str, files))}, {folder / name}.csv")

    return one_line(work)


def one_line(work: Callable[[], None]) -> int:
    """The exit code of a command: 0, or 2 for bad input and for a file that cannot be written, each told in one line."""
    try:
        work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # | head
        return EXIT_FINE
    except OSError as error:
        print(f"error: --out: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_FINE


def where(options: argparse.Namespace) -> Path:
    """The folder for the answer's files, made if need be."""
    first = Path(options.places[0]).expanduser()
    folder: Path = options.out or (first if first.is_dir() else Path())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A csv, whole or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    table.to_csv(partial, index=False)
    partial.replace(path)


def say_notes(notes: Sequence[Note]) -> None:
    """What a reader must know, on stderr; the same remark about several runs is one line."""
    together: dict[str, list[str]] = {}
    for note in notes:
        together.setdefault(note.text, []).append(note.run)
    for text, of in list(together.items())[:SAID]:
        label = of[0] if len(of) == 1 else f"{len(of)} runs"
        print(f"note: {label}: {text}" if label else f"note: {text}", file=sys.stderr)
    if len(together) > SAID:
        print(f"note: and {len(together) - SAID} more", file=sys.stderr)

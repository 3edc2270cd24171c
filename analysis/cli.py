"""What every question of analysis/ gives back, and the command line that they share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import style
from zero.errors import ArgumentParser, Broken, InputError
from zero.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.reader.records import Note, Runs

EXIT_FINE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
NOTES_SHOWN = 12  # in the terminal; the report has all


@dataclass(frozen=True)
class Finding:
    """`table` is what stands behind the figure; `text` says for a terminal what both show, with n."""

    figure: Figure
    table: pd.DataFrame
    text: str


def common_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all questions have."""
    shared = ArgumentParser(prog=f"python -m analysis.{name}", description=(doc or "").split("\n")[0])
    shared.add_argument(
        "places", nargs="+", metavar="FOLDER", help="runs, folders of runs, sweeps, or MLflow stores' uris"
    )
    shared.add_argument("--experiment", metavar="NAME", help="only the cells of this experiment of a sweep")
    shared.add_argument("--out", type=Path, help=f"folder for {name}.svg, .pdf and .csv (default: the first FOLDER)")
    return shared


def names(text: str | None) -> list[str] | None:
    """A list as typed: names with commas between them."""
    return None if text is None else [name for name in map(str.strip, text.split(",")) if name]


def command(
    name: str, options: argparse.Namespace, metrics: Sequence[str] | None, ask: Callable[[Runs], Finding]
) -> int:
    """Read the runs, ask, write NAME.svg, NAME.pdf and NAME.csv, and print the finding. Returns the exit code: see
    `exit_code`."""

    def work() -> None:
        from analysis.reader.experiments import cells_of
        from analysis.reader.runs import read

        cells = cells_of(options.places, options.experiment) if options.experiment else None
        runs = read(options.places, metrics)
        if cells is not None:
            runs = runs.restricted_to(cells)
        finding = ask(runs)
        folder = output_folder(options)
        files = style.save(finding.figure, folder / name)
        write_table(finding.table, folder / f"{name}.csv")
        print(finding.text)
        print_notes(runs.notes)
        print(f"written: {', '.join(map(str, files))}, {folder / name}.csv")

    return exit_code(work)


def exit_code(work: Callable[[], None]) -> int:
    """The exit code of a command: 0; 2 for bad input and for a file that cannot be written; 1 for something else that failed;
    130 after Ctrl-C. Each error is one line."""
    try:
        work()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Broken as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # | head
        return EXIT_FINE
    except OSError as error:
        print(f"error: --out: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_FINE


def output_folder(options: argparse.Namespace) -> Path:
    """The folder for the finding's files, made if need be."""
    first = Path(options.places[0]).expanduser()
    folder: Path = options.out or (first if first.is_dir() else Path())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A csv, whole or as it was."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False)


def print_notes(notes: Sequence[Note]) -> None:
    """What a reader must know, on stderr; the same remark about several runs is one line."""
    together: dict[str, list[str]] = {}
    for note in notes:
        together.setdefault(note.text, []).append(note.run)
    for text, runs in list(together.items())[:NOTES_SHOWN]:
        label = runs[0] if len(runs) == 1 else f"{len(runs)} runs"
        print(f"note: {label}: {text}" if label else f"note: {text}", file=sys.stderr)
    if len(together) > NOTES_SHOWN:
        print(f"note: and {len(together) - NOTES_SHOWN} more", file=sys.stderr)

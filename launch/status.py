"""python -m launch.status [SWEEP [COMMAND] [PATTERN]]: the state of a sweep's cells, from any machine that sees its folder,
whoever submitted it. Without SWEEP: all sweeps in runs/sweeps.

  (none)           show the table; --follow: until all is done; --json: one object a line
  resume           submit missing, stopped and cancelled cells
  retry --failed   submit missing and failed cells
  stop             let running cells save at the end of their step, and stay stopped
  cancel           end running and pending cells; asks first (--yes: does not)
  logs             show what the last attempt of a cell printed, and its traceback
  collect          write one table of all results: collect.csv
  sync             bring the journals into MLflow (collect does so, too)
PATTERN: algo=grpo,seed=0|1 compares axes; grpo is a whole value or a whole word of a cell's name, *grpo* a part of it.
Without a pattern, all cells, but not those that the last submitted line does not ask for, unless they live (--all: these, too).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.places import backend_of
from launch.places.queue import (
    HALTED,
    MISSING,
    enqueue,
    halt_reason,
    poll,
    read_unsubmitted,
    startable,
    submission_lock,
)
from launch.places.slurm_nodes import bad_nodes
from launch.submit import os_error_line
from launch.sweep import files, states
from launch.sweep.files import Sweep
from launch.sweep.states import Status
from launch.sync import count_undelivered
from zero.errors import EXIT_INPUT, ArgumentParser, InputError, one_line_errors
from zero.files import read_json, replacing, write_atomically

TAIL = 60  # lines of a log


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 if a cell that was shown is failed or lost, 2 bad input."""
    options = parse(arguments)
    try:
        if options.sweep is None:
            return overview()
        folder = files.find_sweep(options.sweep)
        sweep = files.read_sweep(folder)
        names = states.select_cells(sweep, options.pattern)
        if not names:
            known = ", ".join(dict.fromkeys(a for cell in sweep.cells.values() for a in cell.axes))
            raise InputError("PATTERN", options.pattern, f"fits no cell; axes are {known}")
        return COMMANDS[options.command](folder, sweep, names, options)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {os_error_line(error)}", file=sys.stderr)
        return EXIT_INPUT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the command may be left out before a pattern."""
    text = __doc__ or ""
    parser = ArgumentParser(
        "python -m launch.status", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sweep", nargs="?", help="folder of the sweep, or its name in runs/sweeps, or the name's beginning or end")
    add("words", nargs="*", metavar="COMMAND PATTERN", help="see above; both may be left out")
    add("--follow", action="store_true", help="show the table until nothing runs or waits")
    add("--json", action="store_true", help="print one JSON object a cell, each in a line")
    add("--failed", action="store_true", help="with retry: the cells that failed")
    add("--all", action="store_true", help="with cells that the last submitted line does not ask for")
    add("--yes", action="store_true", help="with cancel: do not ask for confirmation")
    add("--lines", type=int, default=TAIL, help=f"with logs: how many (default: {TAIL})")
    add("--attempt", type=int, help="with logs: number of the attempt (default: the last)")
    add("--out", type=Path, help="with collect: the file to write (default: SWEEP/collect.csv)")
    options = parser.parse_intermixed_args(arguments)
    words = list(options.words)
    options.command = words.pop(0) if words and words[0] in COMMANDS else "show"
    if len(words) > 1:
        parser.error(f"unknown command {words[0]}; there are {', '.join(COMMANDS)}")
    options.pattern = words[0] if words else None
    return options


def overview() -> int:
    """All sweeps of runs/sweeps with the states of their cells, as far as these are known without the scheduler."""
    folders = files.known_sweeps()
    if not folders:
        remedy = "python -m launch.submit makes one, python -m launch.status FOLDER shows one elsewhere"
        print(f"no sweep in {files.HOME}; {remedy}")
    for folder in folders:
        try:
            sweep = files.read_sweep(folder)
        except InputError as error:
            print(f"{folder.name}: {error.remedy}")
            continue
        statuses = states.read_statuses(folder, sweep, None)
        wanted = [name for name, cell in sweep.cells.items() if cell.wanted]
        print(f"{folder.name}: {states.summarize(statuses, wanted)}")
    return 0


def current(folder: Path, sweep: Sweep) -> dict[str, Status]:
    """The present status of all cells."""
    return poll(folder, sweep, backend_of(sweep.settings))


def visible_cells(sweep: Sweep, statuses: Mapping[str, Status], names: Sequence[str], everything: bool) -> list[str]:
    """Those of the cells that the last submitted line asks for or that live; all of them with --all."""
    return [name for name in names if everything or sweep.cells[name].wanted or statuses[name].live]


def show(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The table."""
    from rich.console import Console

    from launch.sweep.table import follow, table, to_records

    backend = backend_of(sweep.settings)
    statuses = poll(folder, sweep, backend)
    matches, names = names, visible_cells(sweep, statuses, names, options.all)
    if options.follow:
        shown = Sweep(sweep.name, {name: sweep.cells[name] for name in names}, sweep.settings, sweep.code)
        last = follow(
            shown,
            lambda before: poll(folder, sweep, backend, before),
            backend.limits.poll_s,
            lambda statuses: states.all_done(shown, statuses),
        )
        statuses = dict(last)
    elif options.json:
        for record in to_records(sweep, statuses, names):
            print(json.dumps(record))
    else:
        console = Console(highlight=False)
        (console if console.is_terminal else Console(highlight=False, width=160)).print(table(sweep, statuses, names))
        for line in remarks(folder, statuses, len(matches) - len(names)):
            print(line)
    if not options.json and (lacking := count_undelivered(folder, sweep, statuses)):
        print(f"MLflow lacks {lacking} cells or their last steps: python -m launch.sync {folder.name}")
    return 1 if any(statuses[name].state in (states.FAILED, states.LOST) for name in names) else 0


def remarks(folder: Path, statuses: Mapping[str, Status], hidden: int) -> list[str]:
    """Lines below the table, about the sweep as a whole. `hidden`: cells that the table leaves out."""
    lines = []
    if any(status.line == states.SILENT for status in statuses.values()):
        lines.append("the scheduler does not answer: what it alone knows is as it was")
    if reason := halt_reason(folder):
        lines.append(f"halted: {reason}; python -m launch.status {folder.name} resume goes on")
    if waiting := len(read_unsubmitted(folder)):
        lines.append(f"{waiting} cells wait for room in the queue; cells that end submit them, resume does it now")
    for node, reason in bad_nodes(folder).items():
        lines.append(f"node {node} is left out: {reason} (to use it again: rm {folder}/slurm/excluded)")
    if hidden > 0:
        lines.append(f"{hidden} cells that the last line does not ask for are not shown (--all)")
    return lines


def resume(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Submit missing, stopped and cancelled cells."""
    return start(folder, sweep, names, (*MISSING, states.STOPPED, states.CANCELLED))


def retry(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Submit missing and failed cells. InputError without --failed."""
    if not options.failed:
        remedy = "say --failed: a cell that failed by itself will do so again unless something changed"
        raise InputError("COMMAND", "retry", remedy)
    return start(folder, sweep, names, (*MISSING, states.FAILED))


def start(folder: Path, sweep: Sweep, names: Sequence[str], startable_states: Sequence[str]) -> int:
    """Submit those of the cells that are in one of these states and have neither a process nor a job."""
    backend = backend_of(sweep.settings)
    with submission_lock(folder):
        backend.adopt(folder)
        statuses = current(folder, sweep)
        matches = set(names)
        missing = [name for name in states.missing_cells(sweep, statuses, startable_states) if name in matches]
        if missing := startable(sweep, statuses, missing):
            backend.check(folder, len(missing))
            (folder / HALTED).unlink(missing_ok=True)
        for name in missing:
            (folder / name / files.CANCELLED).unlink(missing_ok=True)
            files.clear_stop(folder / name)
        submitted = enqueue(folder, sweep, statuses, missing, backend)
    waiting = len(read_unsubmitted(folder))
    queue_note = f"; {waiting} wait for room in the queue" if waiting else ""
    print(f"submitted {len(submitted)} cells; {states.summarize(statuses)} before{queue_note}")
    return 0


def stop(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Write stop files: running cells save and end, pending ones end as soon as they start."""
    statuses = current(folder, sweep)
    live = [name for name in names if statuses[name].live]
    for name in live:
        files.ask_to_stop(folder / name, "asked by launch.status stop")
    print(f"asked {len(live)} cells to stop at the end of their step; resume takes them up again")
    return 0


def cancel(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """End cells that have neither finished nor failed; only resume starts them again."""
    statuses = current(folder, sweep)
    unfinished = [name for name in names if statuses[name].state not in (states.FINISHED, states.FAILED)]
    if unfinished and not options.yes and not confirmed(unfinished, statuses):
        return 0
    for name in unfinished:  # before its job is cancelled: its batch script must know not to requeue it
        (folder / name).mkdir(exist_ok=True)
        write_atomically(folder / name / files.CANCELLED, "by launch.status cancel\n")
    live = [name for name in unfinished if statuses[name].live]
    backend_of(sweep.settings).cancel(folder, live, [statuses[name].job for name in live if statuses[name].job])
    print(f"cancelled {len(unfinished)} cells, of which {len(live)} ran or waited in the queue")
    return 0


def confirmed(names: Sequence[str], statuses: Mapping[str, Status]) -> bool:
    """Whether the user wants these cells to end. InputError where nobody can be asked."""
    what = f"{len(names)} cells ({states.summarize(statuses, names)}): {', '.join(names[:5])}"
    what += f" and {len(names) - 5} more" if len(names) > 5 else ""
    if not sys.stdin.isatty():
        raise InputError("COMMAND", "cancel", f"would end {what}; say --yes")
    return input(f"cancel {what}? [y/N] ").strip().lower() in ("y", "yes")


def logs(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The end of one cell's log, and why it failed."""
    if len(names) > 1:
        statuses = current(folder, sweep)
        failed = [name for name in names if statuses[name].state in (states.FAILED, states.LOST)]
        example = f"{failed[0]} ({statuses[failed[0]].line})" if failed else names[0]
        remedy = f"{len(names)} cells fit; name one, such as {example}"
        raise InputError("PATTERN", options.pattern or "", remedy)
    cell_dir = folder / names[0]
    attempts = files.read_attempts(cell_dir)
    last = attempts[-1] if attempts else {}
    log = files.log_path(cell_dir, options.attempt or last.get("attempt", 0))
    task = (files.task_ids(files.read_jobs(folder)).get(names[0]) or [""])[-1]
    early = folder / "slurm" / f"{task}.out"  # what the batch script printed before it knew its cell
    # if the newest task has noted no attempt, that file says more
    candidates = [early, log] if task and task != last.get("job") else [log, early]
    for path in (*candidates, cell_dir / files.LOG / "slurm.out", cell_dir / files.LOG / "start.out"):
        if path.is_file() and path.stat().st_size:
            print(f"==> {path}")
            print("\n".join(path.read_text(errors="replace").splitlines()[-options.lines :]))
            break
    else:
        print(f"{names[0]} has printed nothing yet")
    error = read_json(cell_dir / files.ERROR)
    if error:
        print(f"==> {cell_dir / files.ERROR} (attempt {error.get('attempt')}, exit {error.get('exit')})")
        print(error.get("traceback") or error.get("line"))
    return 0


def collect(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Write one row a cell: axes, state, last training metrics, and every metric of its result."""
    from launch.sweep.table import to_records

    statuses = current(folder, sweep)
    names = visible_cells(sweep, statuses, names, options.all)
    rows = []
    for record in to_records(sweep, statuses, names):
        result = read_json(folder / record["cell"] / files.RESULT)
        evaluation: dict[str, Any] = {}
        for metrics in (result.get("evaluation") or {}).values():
            evaluation |= {key: value for key, value in metrics.items() if "/" in key}
        rows.append({key: value for key, value in record.items() if key not in ("line", "eta")} | evaluation)
    out = options.out or folder / "collect.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(out) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{out}: {len(rows)} cells, {len(columns)} columns; {states.summarize(statuses, names)}")
    return deliver_states(folder, sweep, statuses)


def deliver(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Bring the journals into MLflow."""
    return deliver_states(folder, sweep, current(folder, sweep))


def deliver_states(folder: Path, sweep: Sweep, statuses: Mapping[str, Status]) -> int:
    """Bring the journals into MLflow, and print how many."""
    from launch.sync import store, sync

    sent, failed = sync(folder, sweep, statuses)
    where = store(folder, sweep)
    print(f"MLflow: {sent} cells brought up to date in {where}" + (f", {len(failed)} failed" if failed else ""))
    for name, line in failed.items():
        print(f"  {name}: {line}", file=sys.stderr)
    return 1 if failed else 0


COMMANDS = {
    "show": show,
    "resume": resume,
    "retry": retry,
    "stop": stop,
    "cancel": cancel,
    "logs": logs,
    "collect": collect,
    "sync": deliver,
}


if __name__ == "__main__":
    sys.exit(main())

"""python -m launch.status [SWEEP [COMMAND] [PATTERN]]: what has become of a sweep's cells, from any machine that sees its
folder, whoever submitted it. Without a SWEEP: all sweeps in runs/sweeps.

  (none)           the table, which changes nothing; --follow: until all is done; --json: one object a line
  resume           submit what is missing, stopped or cancelled
  retry --failed   the same and what failed
  stop             let running cells save at the end of their step, and stay stopped
  cancel           end cells, running or pending; asks first (--yes: does not)
  logs             what the last attempt of a cell printed, and its traceback
  collect          one tidy table of all results: collect.csv
  sync             journals into MLflow (collect does it too)
PATTERN: algo=grpo,seed=0|1 compares axes; grpo is a whole value or a whole word of a cell's name, *grpo* a part of it.
Without one, all cells. Cells that the sweep's last line does not ask for are left out unless they live (--all: no cell is).
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

from launch.handover import HALTED, MISSING, alone, halted, hand_over, look, startable, unsubmitted
from launch.places.backends import Backend, backend_of
from launch.places.nodes import bad_nodes
from launch.submit import unwritten
from launch.sweep import files as records
from launch.sweep import states as state
from launch.sweep.files import Sweep
from launch.sweep.states import Status
from launch.sync import undelivered
from zero.errors import InputError

COMMANDS = ("show", "resume", "retry", "stop", "cancel", "logs", "collect", "sync")
TAIL = 60  # lines of a log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 if a cell that was shown is failed or lost, 2 bad input."""
    options = parse(arguments)
    try:
        if options.sweep is None:
            return overview()
        folder = records.find_sweep(options.sweep)
        sweep = records.read_sweep(folder)
        names = state.matching(sweep, options.pattern)
        if not names:
            known = ", ".join(dict.fromkeys(a for cell in sweep.cells.values() for a in cell.axes))
            raise InputError("PATTERN", options.pattern, f"fits no cell; axes are {known}")
        act = {"show": show, "resume": resume, "retry": retry, "stop": stop, "cancel": cancel, "logs": logs,
               "collect": collect, "sync": deliver}[options.command]  # fmt: skip
        return act(folder, sweep, names, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {unwritten(error)}", file=sys.stderr)
        return records.EXIT_INPUT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the command may be left out before a pattern."""
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        "python -m launch.status", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sweep", nargs="?", help="folder of the sweep, or (the beginning or end of) its name in runs/sweeps"
    )
    parser.add_argument("words", nargs="*", metavar="COMMAND PATTERN", help="see above; both may be left out")
    parser.add_argument("--follow", action="store_true", help="look again and again until nothing runs or waits")
    parser.add_argument("--json", action="store_true", help="one object a cell and line")
    parser.add_argument("--failed", action="store_true", help="with retry: cells that failed")
    parser.add_argument("--all", action="store_true", help="cells that the last line does not ask for, too")
    parser.add_argument("--yes", action="store_true", help="with cancel: do not ask")
    parser.add_argument("--lines", type=int, default=TAIL, help=f"of a log (default: {TAIL})")
    parser.add_argument("--attempt", type=int, help="whose log (default: the last)")
    parser.add_argument("--out", type=Path, help="file of collect (default: SWEEP/collect.csv)")
    options = parser.parse_intermixed_args(arguments)
    words = list(options.words)
    options.command = words.pop(0) if words and words[0] in COMMANDS else "show"
    if len(words) > 1:
        parser.error(f"unknown command {words[0]}; there are {', '.join(COMMANDS)}")
    options.pattern = words[0] if words else None
    return options


def overview() -> int:
    """All sweeps of runs/sweeps with the states of their cells, as far as the cells' own files tell."""
    folders = records.known_sweeps()
    if not folders:
        print(
            f"no sweep in {records.HOME}; python -m launch.submit makes one, python -m launch.status FOLDER shows one elsewhere"
        )
    for folder in folders:
        try:
            sweep = records.read_sweep(folder)
        except InputError as error:
            print(f"{folder.name}: {error.remedy}")
            continue
        of = state.states(folder, sweep, None)
        print(f"{folder.name}: {state.counted({name: of[name] for name, cell in sweep.cells.items() if cell.wanted})}")
    return 0


def now(folder: Path, sweep: Sweep) -> tuple[dict[str, Status], Backend]:
    """The state of all cells, and the place where they run."""
    backend = backend_of(sweep.settings)
    return look(folder, sweep, backend), backend


def shown_cells(sweep: Sweep, of: Mapping[str, Status], names: Sequence[str], everything: bool) -> list[str]:
    """Those of the cells that the last line asks for, that live, or that somebody asks for with --all."""
    return [n for n in names if everything or sweep.cells[n].wanted or of[n].live]


def show(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The table."""
    from rich.console import Console

    from launch.multirun import all_done
    from launch.sweep.table import follow, table, tidy

    of, backend = now(folder, sweep)
    asked, names = names, shown_cells(sweep, of, names, options.all)
    if options.follow:
        chosen = Sweep(sweep.name, {name: sweep.cells[name] for name in names}, sweep.settings, sweep.code)
        of = dict(follow(chosen, lambda of: look(folder, sweep, backend, of), backend.poll_s, all_done(chosen)))
    elif options.json:
        for record in tidy(sweep, of, names):
            print(json.dumps(record))
    else:
        console = Console(highlight=False)
        (console if console.is_terminal else Console(highlight=False, width=160)).print(table(sweep, of, names))
        for line in remarks(folder, of, len(asked) - len(names)):
            print(line)
    if not options.json and (lacking := undelivered(folder, sweep, of)):
        print(f"MLflow lacks {lacking} cells or their last steps: python -m launch.sync {folder.name}")
    return 1 if any(of[name].state in (state.FAILED, state.LOST) for name in names) else 0


def remarks(folder: Path, of: Mapping[str, Status], hidden: int) -> list[str]:
    """What the table cannot say."""
    made = []
    if any(status.line == state.SILENT for status in of.values()):
        made.append("the scheduler does not answer: what it alone knows is as it was")
    if why := halted(folder):
        made.append(f"halted: {why}; python -m launch.status {folder.name} resume goes on")
    if wait := len(unsubmitted(folder)):
        made.append(f"{wait} cells wait for room in the queue; cells that end hand them over, resume does it now")
    for node, why in bad_nodes(folder).items():
        made.append(f"node {node} is left out: {why} (to use it again: rm {folder}/slurm/excluded)")
    if hidden > 0:
        made.append(f"{hidden} cells that the last line does not ask for are not shown (--all)")
    return made


def resume(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Submit what is missing, what was stopped and what was cancelled."""
    return start(folder, sweep, names, (*MISSING, state.STOPPED, state.CANCELLED))


def retry(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The failed cells, too: --failed says that it is meant."""
    if not options.failed:
        raise InputError(
            "COMMAND", "retry", "say --failed: a cell that failed by itself will do so again unless something changed"
        )
    return start(folder, sweep, names, (*MISSING, state.FAILED))


def start(folder: Path, sweep: Sweep, names: Sequence[str], which: Sequence[str]) -> int:
    """Submit those of the cells that are in one of these states and have no process and no job."""
    backend = backend_of(sweep.settings)
    with alone(folder):
        backend.adopt(folder)
        of, _ = now(folder, sweep)
        chosen = set(names)
        due = startable(sweep, of, [name for name in state.missing(sweep, of, which) if name in chosen])
        if due:
            backend.check(folder, len(due))
        for name in due:
            (folder / name / records.CANCELLED).unlink(missing_ok=True)
            records.clear_stop(folder / name)
        if due:
            (folder / HALTED).unlink(missing_ok=True)
        taken = hand_over(folder, sweep, of, due, backend)
    wait = len(unsubmitted(folder))
    print(
        f"submitted {len(taken)} cells; {state.counted(of)} before"
        + (f"; {wait} wait for room in the queue" if wait else "")
    )
    return 0


def stop(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Stop files: running cells save and end, pending ones end as soon as they start."""
    of, _ = now(folder, sweep)
    due = [name for name in names if of[name].live]
    for name in due:
        records.ask_to_stop(folder / name, "asked by launch.status stop")
    print(f"asked {len(due)} cells to stop at the end of their step; resume takes them up again")
    return 0


def cancel(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """End cells that have not finished; their files say so, and nothing but resume starts them again."""
    of, backend = now(folder, sweep)
    due = [name for name in names if of[name].state not in (state.FINISHED, state.FAILED)]
    if due and not options.yes and not agreed(due, of):
        return 0
    for name in due:  # first: a cell that is asked to go must know that it is not to come back
        (folder / name).mkdir(exist_ok=True)
        records.write_whole(folder / name / records.CANCELLED, "by launch.status cancel\n")
    live = [name for name in due if of[name].live]
    backend.cancel(folder, live, [of[name].job for name in live if of[name].job])
    print(f"cancelled {len(due)} cells, of which {len(live)} ran or waited in the queue")
    return 0


def agreed(due: Sequence[str], of: Mapping[str, Status]) -> bool:
    """Whether the user wants these cells to end. InputError where nobody can be asked."""
    what = f"{len(due)} cells ({state.counted({name: of[name] for name in due})}): {', '.join(due[:5])}"
    what += f" and {len(due) - 5} more" if len(due) > 5 else ""
    if not sys.stdin.isatty():
        raise InputError("COMMAND", "cancel", f"would end {what}; say --yes")
    return input(f"cancel {what}? [y/N] ").strip().lower() in ("y", "yes")


def logs(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The end of one cell's log, and why it failed."""
    if len(names) > 1:
        of, _ = now(folder, sweep)
        ailing = [name for name in names if of[name].state in (state.FAILED, state.LOST)]
        shown = ailing or list(names)
        remedy = f"{len(names)} cells fit; name one, such as {shown[0]}" + (f" ({of[shown[0]].line})" if ailing else "")
        raise InputError("PATTERN", options.pattern or "", remedy)
    place = folder / names[0]
    attempts = records.read_attempts(place)
    number = options.attempt or (attempts[-1]["attempt"] if attempts else 0)
    path = records.log_path(place, number)
    task = (records.task_ids(records.read_jobs(folder)).get(names[0]) or [""])[-1]
    before = folder / "slurm" / f"{task}.out"  # of a cell that did not get as far as its own folder
    # an attempt that was never noted, or one that printed nothing: the batch script may know more
    newest = [before, path] if task and task != (attempts[-1] if attempts else {}).get("job") else [path, before]
    for candidate in (*newest, place / records.LOG / "slurm.out", place / records.LOG / "start.out"):
        if candidate.is_file() and candidate.stat().st_size:
            print(f"==> {candidate}")
            print("\n".join(candidate.read_text(errors="replace").splitlines()[-options.lines :]))
            break
    else:
        print(f"{names[0]} has printed nothing yet")
    error = records.read_json(place / records.ERROR)
    if error:
        print(f"==> {place / records.ERROR} (attempt {error.get('attempt')}, exit {error.get('exit')})")
        print(error.get("traceback") or error.get("line"))
    return 0


def collect(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """One row a cell: axes, state, last training numbers, and every number of its result."""
    from launch.sweep.table import tidy

    of, _ = now(folder, sweep)
    names = shown_cells(sweep, of, names, options.all)
    rows = []
    for record in tidy(sweep, of, names):
        result = records.read_json(folder / record["cell"] / records.RESULT)
        numbers: dict[str, Any] = {}
        for metrics in (result.get("evaluation") or {}).values():
            numbers |= {key: value for key, value in metrics.items() if "/" in key}
        rows.append({key: value for key, value in record.items() if key not in ("line", "eta")} | numbers)
    out = options.out or folder / "collect.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with out.with_name(out.name + ".partial").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    out.with_name(out.name + ".partial").replace(out)
    print(f"{out}: {len(rows)} cells, {len(columns)} columns; {state.counted({name: of[name] for name in names})}")
    return deliver_states(folder, sweep, of)


def deliver(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Journals into MLflow."""
    return deliver_states(folder, sweep, now(folder, sweep)[0])


def deliver_states(folder: Path, sweep: Sweep, of: Mapping[str, Status]) -> int:
    """What launch.sync does, in one line."""
    from launch.sync import store, sync

    sent, failed = sync(folder, sweep, of)
    where = store(folder, sweep)
    print(f"MLflow: {sent} cells brought up to date in {where}" + (f", {len(failed)} failed" if failed else ""))
    for name, line in failed.items():
        print(f"  {name}: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m launch.status SWEEP [COMMAND] [PATTERN]: what has become of a sweep's cells, from any machine that sees its
folder, whoever submitted it.

  (none)           the table; --follow: until all is done; --json: one object a line. The table brings journals into MLflow
                   meanwhile, in a process of its own (SWEEP/sync.log)
  resume           submit what is missing, stopped or cancelled
  retry --failed   the same and what failed
  stop             let running cells save at the end of their step, and stay stopped
  cancel           end cells, running or pending
  logs             what the last attempt of a cell printed, and its traceback
  collect          one tidy table of all results: collect.csv
  sync             journals into MLflow (collect does it too)
PATTERN: algo=grpo,seed=0|1 compares axes; a word is looked for in the cells' names. Without one, all cells.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import states as state
from launch import sweep as records
from launch.backends import Backend, backend_of
from launch.states import Status
from launch.sweep import Sweep
from zero.errors import InputError

COMMANDS = ("show", "resume", "retry", "stop", "cancel", "logs", "collect", "sync")
TAIL = 60  # lines of a log
ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 if a cell that was shown is failed or lost, 2 bad input."""
    options = parse(arguments)
    try:
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
        return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the command may be left out before a pattern."""
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        "python -m launch.status", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="folder of the sweep, or (the beginning or end of) its name in runs/sweeps")
    parser.add_argument("words", nargs="*", metavar="COMMAND PATTERN")
    parser.add_argument("--follow", action="store_true", help="look again and again until nothing runs or waits")
    parser.add_argument("--json", action="store_true", help="one object a cell and line")
    parser.add_argument("--failed", action="store_true", help="with retry: cells that failed")
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


def now(folder: Path, sweep: Sweep) -> tuple[dict[str, Status], Backend]:
    """The state of all cells, and the place where they run."""
    from launch.submit import look

    backend = backend_of(sweep.settings)
    return look(folder, sweep, backend), backend


def show(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The table."""
    from rich.console import Console

    from launch.multirun import at_rest
    from launch.submit import look
    from launch.table import follow, table, tidy

    of, backend = now(folder, sweep)
    names = [n for n in names if sweep.cells[n].wanted or of[n].attempts]
    if options.follow:
        chosen = Sweep(sweep.name, {name: sweep.cells[name] for name in names}, sweep.settings, sweep.code)
        of = dict(follow(chosen, lambda of: look(folder, sweep, backend, of), backend.poll_s, at_rest(chosen)))
    elif options.json:
        for record in tidy(sweep, of, names):
            print(json.dumps(record))
    else:
        console = Console(highlight=False)
        (console if console.is_terminal else Console(highlight=False, width=160)).print(table(sweep, of, names))
    if not options.json and any(status.step is not None for status in of.values()):
        deliver_beside(folder)
    return 1 if any(of[name].state in (state.FAILED, state.LOST) for name in names) else 0


def resume(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """Submit what is missing, what was stopped and what was cancelled."""
    return start(folder, sweep, names, (*missing_states(), state.STOPPED, state.CANCELLED))


def retry(folder: Path, sweep: Sweep, names: Sequence[str], options: argparse.Namespace) -> int:
    """The failed cells, too: --failed says that it is meant."""
    if not options.failed:
        raise InputError(
            "retry", "", "say --failed: a cell that failed by itself will do so again unless something changed"
        )
    return start(folder, sweep, names, (*missing_states(), state.FAILED))


def missing_states() -> tuple[str, ...]:
    """What the same line again would submit."""
    from launch.submit import MISSING

    return MISSING


def start(folder: Path, sweep: Sweep, names: Sequence[str], which: Sequence[str]) -> int:
    """Submit those of the cells that are in one of these states and have no process and no job."""
    from launch.submit import alone, hand_over, startable

    backend = backend_of(sweep.settings)
    backend.adopt(folder)
    with alone(folder):
        of, _ = now(folder, sweep)
        chosen = set(names)
        due = startable(sweep, of, [name for name in state.missing(sweep, of, which) if name in chosen])
        if due:
            backend.check(folder, len(due))
        for name in due:
            (folder / name / records.CANCELLED).unlink(missing_ok=True)
            records.clear_stop(folder / name)
        hand_over(folder, sweep, of, due, backend)
    print(f"submitted {len(due)} cells; {state.counted(of)} before")
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
    for name in due:  # first: a cell that is asked to go must know that it is not to come back
        (folder / name).mkdir(exist_ok=True)
        records.write_whole(folder / name / records.CANCELLED, "by launch.status cancel\n")
    live = [name for name in due if of[name].live]
    backend.cancel(folder, live, [of[name].job for name in live if of[name].job])
    print(f"cancelled {len(due)} cells, of which {len(live)} ran or waited in the queue")
    return 0


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
    for candidate in (path, place / records.LOG / "slurm.out", place / records.LOG / "start.out"):
        if candidate.exists() and candidate.stat().st_size:
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
    from launch.table import tidy

    of, _ = now(folder, sweep)
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


def deliver_beside(folder: Path) -> None:
    """Start launch.sync and do not wait for it: MLflow takes a second and more for a run. Two at once do no harm."""
    with (folder / "sync.log").open("wb") as out:
        subprocess.Popen(
            [sys.executable, "-m", "launch.sync", str(folder)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )  # fmt: skip


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

"""python -m zero.train -m ... hydra/launcher=slurm (or local): what Hydra's multirun becomes. Submit, follow, and return
non-zero if a cell did not finish.

Not a launcher plugin of Hydra: those must return each job's result and so cannot outlive their process, and Hydra takes
them from packages named hydra_plugins alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from launch import handover, submit
from launch.places import local
from launch.submit import Prepared
from launch.sweep import files as records
from launch.sweep import states as state
from launch.sweep import table
from launch.sweep.states import Status
from zero.errors import InputError

AGAIN = (state.PENDING, state.WAITING, state.PREEMPTED)  # what is submitted anew while someone watches
PAUSE = 60.0  # seconds between two such submissions
EXIT_INTERRUPTED = 130


def launch(*, root: str, overrides: Sequence[str]) -> int:
    """Run a multirun of python -m zero.ROOT to its end, where hydra/launcher=X says. Returns 0 if every cell finished, 1 if
    not, 2 for bad input, 75 or 130 if asked to stop."""
    from launch.sweep.cells import launcher_settings

    try:
        prepared = submit.prepare(root, overrides, launcher_settings(overrides, default="local"))
        submit.tell(prepared, everything=False)
        here = not prepared.backend.by_task
        prepared = submit.submit(prepared, start=not here)
        return run_here(prepared) if here else follow(prepared)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT


def run_here(prepared: Prepared) -> int:
    """The cells on this machine, in front: this process watches over them."""
    folder, sweep, backend = prepared.folder, prepared.sweep, prepared.backend
    with table.shown_as(sweep) as show, local.alone(folder):
        code = local.supervise(
            folder, prepared.missing, local.settings_of(sweep.settings), print_progress(prepared, show)
        )
    if code:
        print(
            f"stopped; the same line again goes on, python -m launch.status {folder.name} resume too", file=sys.stderr
        )
        return code
    of = table.follow(sweep, lambda of: handover.look(folder, sweep, backend, of), backend.poll_s, all_done(sweep))
    return ended(prepared, of)


def print_progress(prepared: Prepared, show: Callable[[Mapping[str, Status]], None]) -> Callable[[], None]:
    """Shows the states anew; called often, it looks seldom."""
    last, of = -prepared.backend.poll_s, dict[str, Status]()

    def look() -> None:
        nonlocal last, of
        if time.monotonic() - last >= prepared.backend.poll_s:
            show(of := handover.look(prepared.folder, prepared.sweep, prepared.backend, of))
            last = time.monotonic()

    return look


def follow(prepared: Prepared) -> int:
    """The cells of a cluster. What ended without a result and without a fault is submitted again meanwhile."""
    folder, sweep, backend = prepared.folder, prepared.sweep, prepared.backend
    last = time.monotonic()

    def look(before: Mapping[str, Status]) -> Mapping[str, Status]:
        nonlocal last
        of = handover.look(folder, sweep, backend, before)
        names = again(prepared, of)
        if names and time.monotonic() - last > PAUSE:
            last = time.monotonic()
            try:
                with handover.alone(folder):
                    backend.adopt(folder)
                    of = handover.look(folder, sweep, backend)  # another shell may have done it since
                    handover.hand_over(folder, sweep, of, again(prepared, of), backend)
                of = handover.look(folder, sweep, backend, of)
            except InputError as error:  # the controller is away; the next look tries again
                print(f"error: {error}", file=sys.stderr)
        return of

    def over(of: Mapping[str, Status]) -> bool:
        return all_done(sweep)(of) and not again(prepared, of)

    try:
        return ended(prepared, table.follow(sweep, look, backend.poll_s, over))
    except KeyboardInterrupt:
        print(f"\nthe cells go on; python -m launch.status {folder.name} follows them, ... cancel ends them")
        return EXIT_INTERRUPTED


def again(prepared: Prepared, of: Mapping[str, Status]) -> list[str]:
    """Cells to submit anew: pre-empted for good, or whose turn has come; none of a sweep that failed everywhere."""
    if handover.halted(prepared.folder):
        return []
    names = [n for n in state.missing(prepared.sweep, of, AGAIN) if of[n].attempts <= prepared.backend.requeues]
    return handover.startable(prepared.sweep, of, names)


def all_done(sweep: records.Sweep) -> Callable[[Mapping[str, Status]], bool]:
    """Whether no wanted cell lives."""
    return lambda of: not any(of[name].live for name, cell in sweep.cells.items() if cell.wanted)


def ended(prepared: Prepared, of: Mapping[str, Status]) -> int:
    """Deliver the journals, say what is not well, give the exit code."""
    from launch.sync import sync

    folder, sweep = prepared.folder, prepared.sweep
    _, failed = sync(folder, sweep, of)
    for name, line in list(failed.items())[:3]:
        print(f"mlflow: {name}: {line}; python -m launch.sync {folder.name} tries again", file=sys.stderr)
    bad = [name for name, cell in sweep.cells.items() if cell.wanted and of[name].state != state.FINISHED]
    for name in bad[:10]:
        print(f"{of[name].state}: {name}: {of[name].line or 'see launch.status logs'}", file=sys.stderr)
    if why := handover.halted(folder):
        print(f"halted: {why}; python -m launch.status {folder.name} resume goes on", file=sys.stderr)
    print(f"{state.counted(of)}; python -m launch.status {folder.name}")
    return 1 if bad else 0

"""python -m zero.train -m ... hydra/launcher=slurm (or local): submit the cells, follow them, return non-zero if one of them
did not finish.

This is no launcher plugin of Hydra's: those must return each job's result, so that cells could not outlive the process that
started them, and Hydra finds plugins in packages named hydra_plugins only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from launch import submit
from launch.places import local, queue
from launch.submit import Prepared
from launch.sweep import states, table
from launch.sweep.states import Status
from zero.errors import InputError, one_line_errors

RESUBMITTED = (states.PENDING, states.WAITING, states.PREEMPTED)  # states of cells that `follow` submits again
RESUBMIT_INTERVAL = 60.0  # seconds
EXIT_INTERRUPTED = 130


@one_line_errors
def launch(*, root: str, overrides: Sequence[str]) -> int:
    """Run a multirun of python -m zero.ROOT to its end, at the place that hydra/launcher=X names. Returns 0 if every cell
    finished, 1 if not, 2 for bad input, 75 or 130 if asked to stop."""
    from launch.sweep.compose import launcher_settings

    prepared = submit.prepare(root, overrides, launcher_settings(overrides, default="local"))
    submit.print_plan(prepared, everything=False)
    queued = prepared.backend.has_queue
    prepared = submit.submit(prepared, start=queued)
    return follow(prepared) if queued else run_here(prepared)


def run_here(prepared: Prepared) -> int:
    """Run the cells on this machine, as children of this process."""
    folder, sweep, backend = prepared.folder, prepared.sweep, prepared.backend
    settings = local.parse_settings(sweep.settings)
    with table.live_display(sweep) as show, local.supervisor_lock(folder):
        code = local.supervise(folder, prepared.missing, settings, print_progress(prepared, show))
    if code:
        line = f"stopped; the same line again goes on, python -m launch.status {folder.name} resume too"
        print(line, file=sys.stderr)
        return code

    def poll(before: Mapping[str, Status]) -> Mapping[str, Status]:
        return queue.poll(folder, sweep, backend, before)

    statuses = table.follow(sweep, poll, backend.limits.poll_s, lambda statuses: states.all_done(sweep, statuses))
    return report(prepared, statuses)


def print_progress(prepared: Prepared, show: Callable[[Mapping[str, Status]], None]) -> Callable[[], None]:
    """A function that shows the present states; called often, it polls every `poll_s` seconds."""
    interval = prepared.backend.limits.poll_s
    last, statuses = -interval, dict[str, Status]()

    def throttled() -> None:
        nonlocal last, statuses
        if time.monotonic() - last >= interval:
            show(statuses := queue.poll(prepared.folder, prepared.sweep, prepared.backend, statuses))
            last = time.monotonic()

    return throttled


def follow(prepared: Prepared) -> int:
    """Follow cells that are submitted. Those that end without a result and without a fault are submitted again."""
    folder, sweep, backend = prepared.folder, prepared.sweep, prepared.backend
    last = time.monotonic()

    def poll(before: Mapping[str, Status]) -> Mapping[str, Status]:
        nonlocal last
        statuses = queue.poll(folder, sweep, backend, before)
        names = to_resubmit(prepared, statuses)
        if names and time.monotonic() - last > RESUBMIT_INTERVAL:
            last = time.monotonic()
            try:
                with queue.submission_lock(folder):
                    backend.adopt(folder)
                    statuses = queue.poll(folder, sweep, backend)  # another shell may have done it since
                    queue.enqueue(folder, sweep, statuses, to_resubmit(prepared, statuses), backend)
                statuses = queue.poll(folder, sweep, backend, statuses)
            except InputError as error:  # the controller is away; the next poll tries again
                print(f"error: {error}", file=sys.stderr)
        return statuses

    def is_over(statuses: Mapping[str, Status]) -> bool:
        return states.all_done(sweep, statuses) and not to_resubmit(prepared, statuses)

    try:
        return report(prepared, table.follow(sweep, poll, backend.limits.poll_s, is_over))
    except KeyboardInterrupt:
        print(f"\nthe cells go on; python -m launch.status {folder.name} follows them, ... cancel ends them")
        return EXIT_INTERRUPTED


def to_resubmit(prepared: Prepared, statuses: Mapping[str, Status]) -> list[str]:
    """Cells to submit again: those that Slurm has pre-empted and not requeued, and those that can start by now. None of a
    sweep that was halted because it failed everywhere."""
    if queue.halt_reason(prepared.folder):
        return []
    candidates = states.missing_cells(prepared.sweep, statuses, RESUBMITTED)
    names = [name for name in candidates if statuses[name].attempts <= prepared.backend.limits.requeues]
    return queue.startable(prepared.sweep, statuses, names)


def report(prepared: Prepared, statuses: Mapping[str, Status]) -> int:
    """Deliver the journals to MLflow, print which cells did not finish, return the exit code."""
    from launch.sync import count_undelivered, sync

    folder, sweep = prepared.folder, prepared.sweep
    if behind := count_undelivered(folder, sweep, statuses):
        print(f"bringing the journals of {behind} cells into MLflow", flush=True)
    _, failed = sync(folder, sweep, statuses)
    for name, line in list(failed.items())[:3]:
        print(f"mlflow: {name}: {line}; python -m launch.sync {folder.name} tries again", file=sys.stderr)
    unfinished = [name for name, cell in sweep.cells.items() if cell.wanted and statuses[name].state != states.FINISHED]
    for name in unfinished[:10]:
        print(f"{statuses[name].state}: {name}: {statuses[name].line or 'see launch.status logs'}", file=sys.stderr)
    if reason := queue.halt_reason(folder):
        print(f"halted: {reason}; python -m launch.status {folder.name} resume goes on", file=sys.stderr)
    print(f"{states.summarize(statuses)}; python -m launch.status {folder.name}")
    return 1 if unfinished else 0

"""python -m launch.submit algo=grpo,drgrpo seed=0,1,2 launcher.partition=gpu: submit a sweep and return at once.

The line says what is wanted: the same line again submits only what is missing. Every cell is checked before anything is
written. `--dry-run` prints what would happen. Exit codes: 0 submitted, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.stats import claims
from launch.places import Backend, backend_of
from launch.places.queue import HALTED, MISSING, enqueue, poll, read_unsubmitted, startable, submission_lock
from launch.sweep import files, states
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status
from zero.config.limits import check_value
from zero.errors import EXIT_INPUT, ArgumentParser, InputError, one_line_errors
from zero.files import read_json
from zero.paths import ROOT
from zero.tracking import provenance

# states of cells that the same line does not submit again, and the command of launch.status that does
NEEDS_COMMAND = {states.FAILED: "retry --failed", states.CANCELLED: "resume", states.STOPPED: "resume"}
MAX_SHOWN = 20  # cells that a submission lists; a dry run lists all


@dataclass(frozen=True)
class Prepared:
    """A checked sweep of which nothing is written yet. `missing`: its cells to submit now, in order."""

    folder: Path
    sweep: Sweep
    statuses: Mapping[str, Status]
    missing: Sequence[str]
    backend: Backend
    notes: Sequence[str]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Submit, or print what would be submitted. Returns the exit code."""
    try:
        from launch.sweep.compose import launcher_settings
        from zero.config import search_path

        options = parse(search_path.take(sys.argv[1:] if arguments is None else arguments))
        overrides = [expand_shorthand(text) for text in options.overrides]
        settings = launcher_settings(overrides, default="slurm")
        flags = {key: getattr(options, key) for key in ("name", "folder", "evaluate")} | {
            "smoke": options.smoke or None
        }
        settings |= {key: value for key, value in flags.items() if value is not None}
        prepared = prepare(
            "train", overrides, settings, grid=options.grid, dry=options.dry_run, refreeze=options.refreeze
        )
        print_plan(prepared, everything=options.dry_run)
        if options.dry_run:
            print_lines(dry_run_lines(prepared))
            return 0
        submit(prepared, refreeze=options.refreeze)
        return 0
    except OSError as error:
        print(f"error: {os_error_line(error)}; nothing that was submitted before is lost", file=sys.stderr)
    return EXIT_INPUT


def os_error_line(error: OSError) -> str:
    """An error of the file system in one line, the cause first."""
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines. A reader that closes its end of the pipe (| head) ends the printing, not the submission."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dry_run_lines(prepared: Prepared) -> list[str]:
    """What a dry run prints in addition: the estimated cost on each card, and the batch files."""
    from launch.plan import cost_lines

    settings = prepared.sweep.settings
    gpus = int(settings.get("gpus_per_node") or 0) * int(settings.get("nodes") or 1)
    costs = cost_lines(prepared.sweep.cells.values(), gpus) if gpus else []
    scripts = prepared.backend.write_scripts(prepared.folder, prepared.sweep.name, prepared.missing)
    return [*costs, *(f"sbatch file: {path}" for path in scripts), "dry run: nothing was submitted"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser("python -m launch.submit", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("overrides", nargs="*", help="as for python -m zero.train -m; launcher.KEY=VALUE for the launcher's settings")
    add("--dry-run", action="store_true", help="print what would be submitted, write the sbatch files, submit nothing")
    add("--grid", metavar="FILE", help=".yaml file with a list of cells that is no product (launch/sweep/lines.py)")
    add("--evaluate", metavar="OVERRIDES", help="'step=all benchmarks=nano': evaluate each finished cell")
    add("--smoke", action="store_true", help="run two steps of the first cell before everything else")
    add("--name", help="name of the sweep (default: its swept axes and a hash of the line)")
    add("--folder", help="folder of the sweep (default: runs/sweeps/NAME)")
    add("--refreeze", action="store_true", help="run the present code, not the copy of the first submission")
    add("--config-dir", metavar="DIR", help="yaml files of your own: DIR/algo/mine.yaml is algo=mine")
    add("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)  # so that a line of zero.train works here, too
    return parser.parse_intermixed_args(arguments)


def expand_shorthand(text: str) -> str:
    """launcher=local and launcher.partition=gpu as Hydra wants them."""
    plain = text.lstrip("+")
    if plain.startswith("launcher="):
        return f"hydra/{plain}"
    return f"hydra.{plain}" if plain.startswith("launcher.") else text


def prepare(
    root: str,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    *,
    grid: str | None = None,
    dry: bool = False,
    refreeze: bool = False,
) -> Prepared:
    """Check everything that can be checked, and compare with the sweep's folder. Writes nothing, except that on Slurm it
    notes arrays whose submission was killed. `dry`: it is no error if this machine cannot ask the scheduler."""
    from launch.sweep.cells import plan, with_run_dir
    from launch.sweep.freeze import refuse_pathsep
    from zero.config.check import refuse_unwritable

    backend = backend_of(settings)
    evaluate = settings.get("evaluate")
    evaluate = shlex.split(evaluate) if isinstance(evaluate, str) else evaluate
    plan_ = plan(overrides, grid=grid, evaluate=evaluate, smoke=bool(settings.get("smoke")), root=root)
    name = str(settings.get("name") or plan_.name)
    if "/" in name or name.startswith("."):
        raise InputError("hydra.launcher.name", name, "must be one word; hydra.launcher.folder=FOLDER is where it lies")
    folder = Path(settings.get("folder") or files.HOME / name).expanduser().absolute()
    refuse_unwritable(folder, "hydra.launcher.folder")
    refuse_pathsep(folder)
    notes = list(plan_.notes)
    refuse_lost_rewards(plan_.cells.values(), settings, notes)
    first = next(cell for cell in plan_.cells.values() if cell.config)
    tracker, store = choose_tracker(first, notes)
    old = files.read_sweep(folder) if (folder / files.SWEEP).exists() else None
    id_ = old.id if old else uuid.uuid4().hex
    cells = {cell.name: with_run_dir(cell, folder, tracker, id_) for cell in plan_.cells.values()}
    registered = register_experiments(plan_.experiments, old, notes)
    if old:
        for stale in (cell for name, cell in old.cells.items() if name not in cells):
            cells[stale.name] = replace(stale, wanted=False)
        if backend.available or not dry:
            backend.adopt(folder)
        notes += code_change_note(folder, refreeze)
    sweep = Sweep(
        name=folder.name,
        cells=cells,
        settings={key: value for key, value in settings.items() if not key.startswith("_")} | {"store": store},
        code=old.code if old else {},
        overrides=tuple(overrides),
        id=id_,
        experiment=str((first.config or {}).get("tracker", {}).get("experiment") or "zero"),
        experiments=registered,
    )
    statuses = poll(folder, sweep, backend) if old else states.read_statuses(folder, sweep, {})
    missing = startable(sweep, statuses, states.missing_cells(sweep, statuses, MISSING))
    if backend.available or not dry:
        try:
            backend.check(folder, max(1, len(missing)))
        except InputError as error:
            # a dry run may do with a folder that nodes do not see, or a controller that does not answer
            if not dry or error.key not in ("sweep", "hydra/launcher"):
                raise
            notes.append(f"a submission would be refused: {error}")
    else:
        notes.append("no Slurm on this machine: not checked against a controller, nor what runs or waits there now")
    unwanted = [name for name, cell in cells.items() if not cell.wanted and statuses[name].live]
    if unwanted:
        notes.append(f"{len(unwanted)} cells run that this line does not ask for, such as {unwanted[0]}")
    return Prepared(folder, sweep, statuses, missing, backend, notes)


def register_experiments(
    experiments: Mapping[str, Mapping[str, Any]], old: Sweep | None, notes: list[str]
) -> dict[str, Mapping[str, Any]]:
    """The experiments of the sweep with the time at which each was registered. The claims registered first count: for claims
    that were edited since there is a note. InputError for claims that could not be judged when the runs are there."""
    registered: dict[str, Mapping[str, Any]] = dict(old.experiments) if old else {}
    for name, experiment in experiments.items():
        claims.parse(experiment["claims"], f"{name}.claims")
        before = registered.get(name)
        if before and json.loads(json.dumps(experiment["claims"])) != before["claims"]:
            since = format_time(before["registered"])
            notes.append(f"the claims of {name} were edited; those registered {since} count")
        first = {key: before[key] for key in ("claims", "registered")} if before else {"registered": time.time()}
        registered[name] = {**experiment, **first}
    return registered


def format_time(clock: float) -> str:
    """Unix time as 03 Nov 14:05."""
    return time.strftime("%d %b %H:%M", time.localtime(clock))


def refuse_lost_rewards(cells: Iterable[Cell], settings: Mapping[str, Any], notes: list[str]) -> None:
    """InputError for a reward whose functions cannot be imported; a note if cells have an environment of their own."""
    from zero.config.check import instantiate

    rewards: list[Any] = [None]
    for cell in cells:
        if (reward := (cell.config or {}).get("reward")) in rewards:
            continue
        rewards.append(reward)
        try:
            instantiate(reward, "reward")
        except InputError as error:
            if not settings.get("python") and not settings.get("setup"):
                raise
            notes.append(f"the cells' own environment must have what this one lacks: {error}")


def code_change_note(folder: Path, refreeze: bool) -> list[str]:
    """A note if the code was edited since it was frozen for this sweep."""
    frozen = read_json(folder / files.CODE / provenance.FROZEN)
    if not frozen or frozen.get("digest") == provenance.digest(ROOT):
        return []
    if refreeze:
        return ["the code has changed: cells that start from now on run the present one"]
    taken = format_time(float(frozen.get("time", 0)))
    return [f"the code has changed; this sweep runs its copy of {taken} (--refreeze takes the present one)"]


def choose_tracker(cell: Cell, notes: list[str]) -> tuple[str | None, str | None]:
    """(server that cells report to, store that launch.sync fills). Compute nodes never open a shared SQLite file: without a
    server that answers, a cell writes its journal only, and launch.sync brings that to MLflow."""
    settings = (cell.config or {}).get("tracker", {})
    uri = settings.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:  # it is written to sweep.json and to every cell
        check_value("MLFLOW_TRACKING_URI", uri)
    if settings.get("_target_") != files.MLFLOW or not uri:
        return None, uri
    if not str(uri).startswith(("http://", "https://")):
        return None, str(uri)
    try:
        with urllib.request.urlopen(f"{str(uri).rstrip('/')}/health", timeout=5):
            return str(uri), str(uri)
    except (OSError, ValueError) as error:
        notes.append(f"the tracker {uri} does not answer ({error}); cells keep journals, launch.sync brings them there")
        return None, str(uri)


def print_plan(prepared: Prepared, everything: bool) -> None:
    """Print how many cells there are, which, and what they will cost."""
    from launch.cost.estimate import estimate, estimate_lines

    wanted = [name for name, cell in prepared.sweep.cells.items() if cell.wanted]
    done = sum(prepared.statuses[name].state == states.FINISHED for name in wanted)
    counts = f"{len(wanted)} cells, {done} finished, {len(prepared.missing)} to start"
    lines = [f"sweep {prepared.folder.name}: {counts}", f"  folder: {prepared.folder}"]
    missing = set(prepared.missing)
    for name in wanted if everything else wanted[:MAX_SHOWN]:
        cell = prepared.sweep.cells[name]
        state = "to start" if name in missing else prepared.statuses[name].state
        lines.append(f"  {state:9} {cell.signature}  {name}" + (f"  (after {cell.after})" if cell.after else ""))
    if len(wanted) > MAX_SHOWN and not everything:
        lines.append(f"  ... and {len(wanted) - MAX_SHOWN} more (--dry-run names all)")
    for state, command in NEEDS_COMMAND.items():
        if count := sum(prepared.statuses[name].state == state for name in wanted):
            lines.append(f"  {count} {state} before: python -m launch.status {prepared.folder.name} {command}")
    lines += [f"  note: {note}" for note in prepared.notes]
    limits = prepared.backend.limits
    cost = estimate(prepared.folder, prepared.sweep, prepared.statuses, limits)
    print_lines([*lines, *(f"  {line}" for line in estimate_lines(cost, limits))])


def submit(prepared: Prepared, refreeze: bool = False, start: bool = True) -> Prepared:
    """Write the sweep's folder and, unless `start` is False, submit the missing cells, all under the sweep's lock. InputError
    if another process submits cells of it now."""
    from launch.sweep.freeze import freeze
    from zero.config.check import writable_folder

    folder = writable_folder(prepared.folder)
    with submission_lock(folder):
        prepared = current(prepared)
        live = [name for name, status in prepared.statuses.items() if status.live]
        if refreeze and live:
            raise InputError("--refreeze", live[0], "runs; wait for it or cancel it before the code changes under it")
        code = freeze(folder, replace=refreeze)
        for cell in prepared.sweep.cells.values():
            if cell.wanted:
                files.freeze_cell(folder, cell)
        files.write_sweep(folder, replace(prepared.sweep, code=code))
        if start:
            if prepared.missing:
                (folder / HALTED).unlink(missing_ok=True)
            names = enqueue(folder, prepared.sweep, prepared.statuses, prepared.missing, prepared.backend)
            print_lines(submission_lines(folder, len(names), prepared.backend))
    return prepared


def current(prepared: Prepared) -> Prepared:
    """The same with its states as they are now: another shell may have submitted cells since it was prepared."""
    if not (prepared.folder / files.SWEEP).exists():
        return prepared
    old = files.read_sweep(prepared.folder)
    prepared.backend.adopt(prepared.folder)
    cells = prepared.sweep.cells
    others = {name: replace(cell, wanted=False) for name, cell in old.cells.items() if name not in cells}
    sweep = replace(prepared.sweep, cells={**cells, **others}, id=old.id, code=old.code)
    statuses = poll(prepared.folder, sweep, prepared.backend)
    missing = startable(sweep, statuses, states.missing_cells(sweep, statuses, MISSING))
    return replace(prepared, sweep=sweep, statuses=statuses, missing=missing)


def submission_lines(folder: Path, count: int, backend: Backend) -> list[str]:
    """How many cells were submitted, and how many wait for room in the queue."""
    lines = [f"submitted {count} cells; python -m launch.status {folder.name} follows them"]
    if waiting := read_unsubmitted(folder):
        most = backend.limits.most_queued
        limit = f"launcher.most_queued={most}" if most else "Slurm's limit of submitted jobs"
        remedy = f"cells that end submit them, or python -m launch.status {folder.name} resume"
        lines.append(f"{len(waiting)} more wait for room in the queue ({limit}): {remedy}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

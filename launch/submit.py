"""python -m launch.submit algo=grpo,drgrpo seed=0,1,2 hydra.launcher.partition=gpu: submit a sweep and return at once.

The line is what is wanted, not an action: the same line again submits what is missing, and only that. Every cell is
checked before anything is written. `--dry-run` tells what would happen. Exit codes: 0 submitted, 2 bad input.
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

from launch.handover import HALTED, MISSING, alone, hand_over, look, startable, unsubmitted
from launch.places.backends import Backend, backend_of
from launch.sweep import files as records
from launch.sweep import states as state
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status
from zero.config.limits import check_value
from zero.errors import InputError

# what the same line leaves as it is, and the command of launch.status that takes it up
ENDED = {state.FAILED: "retry --failed", state.CANCELLED: "resume", state.STOPPED: "resume"}
CHANGED = "the code has changed"
REFROZEN = f"{CHANGED}: cells that start from now on run the present one"
SHOWN = 20  # cells named one by one before a submission; a dry run names all


@dataclass(frozen=True)
class Prepared:
    """A checked sweep of which nothing is written yet. `missing`: its cells to submit now, in order."""

    folder: Path
    sweep: Sweep
    states: Mapping[str, Status]
    missing: Sequence[str]
    backend: Backend
    notes: Sequence[str]
    tracker: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit or tell. Returns the exit code."""
    options = parse(arguments)
    try:
        from launch.sweep.cells import launcher_settings

        overrides = [shorthand(text) for text in options.overrides]
        settings = launcher_settings(overrides, default="slurm")
        given = {"name": options.name, "folder": options.folder, "smoke": options.smoke or None,
                 "evaluate": options.evaluate}  # fmt: skip
        settings |= {key: value for key, value in given.items() if value is not None}
        prepared = prepare("train", overrides, settings, grid=options.grid, dry=options.dry_run)
        if options.refreeze:
            notes = [REFROZEN if note.startswith(CHANGED) else note for note in prepared.notes]
            prepared = replace(prepared, notes=notes)
        tell(prepared, everything=options.dry_run)
        if options.dry_run:
            say(on_trial(prepared))
            return 0
        submit(prepared, refreeze=options.refreeze)
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {unwritten(error)}; nothing that was submitted before is lost", file=sys.stderr)
    return records.EXIT_INPUT


def unwritten(error: OSError) -> str:
    """A file system that does not do as it is told, in one line: the cause first."""
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)


def say(lines: Iterable[str]) -> None:
    """Print lines. A reader that has seen enough (| head) stops the words, not the submission."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_trial(prepared: Prepared) -> list[str]:
    """What a dry run adds: what it costs on paper, and the batch files."""
    from launch.plan import on_paper

    settings = prepared.sweep.settings
    gpus = int(settings.get("gpus_per_node") or 0) * int(settings.get("nodes") or 1)
    made = list(on_paper(prepared.sweep.cells.values(), gpus)) if gpus else []
    made += [
        f"sbatch file: {p}" for p in prepared.backend.files(prepared.folder, prepared.sweep.name, prepared.missing)
    ]
    return [*made, "dry run: nothing was submitted"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m launch.submit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "overrides", nargs="*", help="as for python -m zero.train -m; launcher.KEY=VALUE for its settings"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be submitted, write the sbatch files, stop"
    )
    parser.add_argument(
        "--grid", metavar="FILE", help="list of cells that is no product: a .yaml file (launch/sweep/lines.py)"
    )
    parser.add_argument(
        "--evaluate", metavar="OVERRIDES", help="'step=all benchmarks=nano': evaluate each finished cell"
    )
    parser.add_argument("--smoke", action="store_true", help="two steps of the first cell go before everything else")
    parser.add_argument("--name", help="of the sweep (default: its swept axes and a hash of the line)")
    parser.add_argument("--folder", help="of the sweep (default: runs/sweeps/NAME)")
    parser.add_argument(
        "--refreeze", action="store_true", help="run the present code, not the copy of the first submission"
    )
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)  # so that the same line works
    return parser.parse_intermixed_args(arguments)


def shorthand(text: str) -> str:
    """launcher=local and launcher.partition=gpu as Hydra wants them."""
    plain = text.lstrip("+")
    if plain.startswith("launcher="):
        return f"hydra/{plain}"
    return f"hydra.{plain}" if plain.startswith("launcher.") else text


def prepare(
    root: str, overrides: Sequence[str], settings: Mapping[str, Any], grid: str | None = None, dry: bool = False
) -> Prepared:
    """Check everything that can be checked, and compare with what is there. Writes nothing but, on Slurm, the note of
    arrays whose submission was killed. InputError in one line. `dry`: a machine that cannot ask the scheduler will do."""
    from launch.sweep.cells import placed, plan
    from launch.sweep.freeze import refuse_cut
    from zero.config.check import refuse_unwritable

    backend = backend_of(settings)
    evaluate = settings.get("evaluate")
    evaluate = shlex.split(evaluate) if isinstance(evaluate, str) else evaluate
    plan_ = plan(overrides, grid=grid, evaluate=evaluate, smoke=bool(settings.get("smoke")), root=root)
    name = str(settings.get("name") or plan_.name)
    if "/" in name or name.startswith("."):
        raise InputError("hydra.launcher.name", name, "must be one word; hydra.launcher.folder=FOLDER is where it lies")
    folder = Path(settings.get("folder") or records.HOME / name).expanduser().absolute()
    refuse_unwritable(folder, "hydra.launcher.folder")
    refuse_cut(folder)
    notes = list(plan_.notes)
    refuse_lost_rewards(plan_.cells.values(), settings, notes)
    first = next(cell for cell in plan_.cells.values() if cell.config)
    tracker, store = tracker_of(first, notes)
    old = records.read_sweep(folder) if (folder / records.SWEEP).exists() else None
    id_ = old.id if old else uuid.uuid4().hex
    cells = {cell.name: placed(cell, folder, tracker, id_) for cell in plan_.cells.values()}
    registered = register(plan_.experiments, old, notes)
    if old:
        for stale in (cell for name, cell in old.cells.items() if name not in cells):
            cells[stale.name] = replace(stale, wanted=False)
        if backend.here or not dry:
            backend.adopt(folder)
        notes += changed_code(folder)
    kept = {key: value for key, value in settings.items() if not key.startswith("_")}
    sweep = Sweep(
        name=folder.name,
        cells=cells,
        settings=kept | {"store": store},
        code=old.code if old else {},
        overrides=tuple(overrides),
        id=id_,
        experiment=str((first.config or {}).get("tracker", {}).get("experiment") or "zero"),
        experiments=registered,
    )
    of = look(folder, sweep, backend) if old else state.states(folder, sweep, {})
    missing = startable(sweep, of, state.missing(sweep, of, MISSING))
    if backend.here or not dry:
        try:
            backend.check(folder, max(1, len(missing)))
        except InputError as error:
            if not dry or error.key not in ("sweep", "hydra/launcher"):  # where it lies, a controller that is silent
                raise
            notes.append(f"a submission would be refused: {error}")
    else:
        notes.append("no Slurm on this machine: not checked against a controller, nor what runs or waits there now")
    unwanted = [name for name, cell in cells.items() if not cell.wanted and of[name].live]
    if unwanted:
        notes.append(f"{len(unwanted)} cells run that this line does not ask for, such as {unwanted[0]}")
    return Prepared(folder, sweep, of, missing, backend, notes, tracker)


def register(
    named: Mapping[str, Mapping[str, Any]], old: Sweep | None, notes: list[str]
) -> dict[str, Mapping[str, Any]]:
    """The experiments of the sweep with the time at which each was written down. What was claimed first counts: claims that
    were edited since are told of and not taken."""
    made: dict[str, Mapping[str, Any]] = dict(old.experiments) if old else {}
    for name, of in named.items():
        before = made.get(name)
        if before and json.loads(json.dumps(of["claims"])) != before["claims"]:
            notes.append(f"the claims of {name} were edited; those registered {when(before['registered'])} count")
        kept = {key: before[key] for key in ("claims", "registered")} if before else {"registered": time.time()}
        made[name] = {**of, **kept}
    return made


def when(clock: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(clock))


def refuse_lost_rewards(cells: Iterable[Cell], settings: Mapping[str, Any], notes: list[str]) -> None:
    """InputError for a reward whose functions cannot be had; a note if cells have an environment of their own."""
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


def changed_code(folder: Path) -> list[str]:
    """A note if the code was edited since it was frozen for this sweep."""
    from launch.sweep.freeze import RECORD, digest

    frozen = records.read_json(folder / records.CODE / RECORD)
    if not frozen or frozen.get("digest") == digest():
        return []
    taken = when(float(frozen.get("time", 0)))
    return [f"{CHANGED}; this sweep runs its copy of {taken} (--refreeze takes the present one)"]


def tracker_of(cell: Cell, notes: list[str]) -> tuple[str | None, str | None]:
    """(server that cells report to, store that launch.sync fills). Compute nodes never open an SQLite file that others
    share: without a server that answers, a cell keeps its journal, and launch.sync brings it to MLflow."""
    settings = (cell.config or {}).get("tracker", {})
    uri = settings.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:  # it will stand in sweep.json and in every cell
        check_value("MLFLOW_TRACKING_URI", uri)
    if "_target_" not in settings or not uri:
        return None, uri
    if not str(uri).startswith(("http://", "https://")):
        return None, str(uri)
    try:
        with urllib.request.urlopen(f"{str(uri).rstrip('/')}/health", timeout=5):
            return str(uri), str(uri)
    except (OSError, ValueError) as error:
        notes.append(f"the tracker {uri} does not answer ({error}); cells keep journals, launch.sync brings them there")
        return None, str(uri)


def tell(prepared: Prepared, everything: bool) -> None:
    """The plan, in lines: how many cells, which, what they cost."""
    from launch.cost.estimate import estimate, lines

    wanted = [name for name, cell in prepared.sweep.cells.items() if cell.wanted]
    done = sum(prepared.states[name].state == state.FINISHED for name in wanted)
    told = [f"sweep {prepared.folder.name}: {len(wanted)} cells, {done} finished, {len(prepared.missing)} to start",
            f"  folder: {prepared.folder}"]  # fmt: skip
    missing = set(prepared.missing)
    for name in wanted if everything else wanted[:SHOWN]:
        status = prepared.states[name]
        word = "to start" if name in missing else status.state
        after = prepared.sweep.cells[name].after
        told.append(
            f"  {word:9} {prepared.sweep.cells[name].signature}  {name}" + (f"  (after {after})" if after else "")
        )
    if len(wanted) > SHOWN and not everything:
        told.append(f"  ... and {len(wanted) - SHOWN} more (--dry-run names all)")
    for which, command in ENDED.items():
        if count := sum(prepared.states[name].state == which for name in wanted):
            told.append(f"  {count} {which} before: python -m launch.status {prepared.folder.name} {command}")
    told += [f"  note: {note}" for note in prepared.notes]
    cost = estimate(prepared.folder, prepared.sweep, prepared.states, prepared.backend)
    say([*told, *(f"  {line}" for line in lines(cost, prepared.backend))])


def submit(prepared: Prepared, refreeze: bool = False, start: bool = True) -> Prepared:
    """Write the sweep's folder and start what is missing; what was found to be so under the sweep's lock. `start` False: only
    write. InputError if another one does it now."""
    from launch.sweep.freeze import freeze
    from zero.config.check import writable_folder

    folder = writable_folder(prepared.folder)
    with alone(folder):
        prepared = again(prepared)
        live = [name for name, status in prepared.states.items() if status.live]
        if refreeze and live:
            raise InputError("--refreeze", live[0], "runs; wait for it or cancel it before the code changes under it")
        code = freeze(folder, replace=refreeze)
        for cell in prepared.sweep.cells.values():
            if cell.wanted:
                records.freeze_cell(folder, cell)
        records.write_sweep(folder, replace(prepared.sweep, code=code))
        if start:
            if prepared.missing:
                (folder / HALTED).unlink(missing_ok=True)
            taken = hand_over(folder, prepared.sweep, prepared.states, prepared.missing, prepared.backend)
            say(submitted(folder, len(taken), prepared.backend))
    return prepared


def again(prepared: Prepared) -> Prepared:
    """The same, as things are now: another shell may have submitted these cells, or others, since they were looked at."""
    if not (prepared.folder / records.SWEEP).exists():
        return prepared
    old = records.read_sweep(prepared.folder)
    prepared.backend.adopt(prepared.folder)
    ours = prepared.sweep.cells
    others = {name: replace(cell, wanted=False) for name, cell in old.cells.items() if name not in ours}
    sweep = replace(prepared.sweep, cells={**ours, **others}, id=old.id, code=old.code)
    of = look(prepared.folder, sweep, prepared.backend)
    return replace(prepared, sweep=sweep, states=of, missing=startable(sweep, of, state.missing(sweep, of, MISSING)))


def submitted(folder: Path, count: int, backend: Backend) -> list[str]:
    """What a submission says in the end."""
    lines = [f"submitted {count} cells; python -m launch.status {folder.name} follows them"]
    if wait := unsubmitted(folder):
        limit = (
            f"launcher.most_queued={backend.most_queued}" if backend.most_queued else "Slurm's limit of submitted jobs"
        )
        lines.append(
            f"{len(wait)} more wait for room in the queue ({limit}): cells that end hand them over, or"
            f" python -m launch.status {folder.name} resume"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())

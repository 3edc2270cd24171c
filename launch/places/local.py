"""python -m launch.places.local SWEEP NAMES: run cells of a sweep on this machine, some at a time, each in a process of its own.

`launch.submit ... hydra/launcher=local` starts it in the background; a multirun runs it in front. Cells outlive it if it
is killed; asked to stop (Ctrl-C, SIGTERM), it asks its cells to save first. The states are those of a sweep on Slurm.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from launch.places.backends import Backend
from launch.places.slurm_script import meant
from launch.sweep import files as records
from launch.sweep import lock, states
from launch.sweep.states import Task
from zero.errors import InputError

FOLDER = "local"  # of a sweep: names of the cells of each submission, and what its supervisor printed
LEAST: dict[str, Any] = {"at_once": 2, "devices": None, "requeues": 5, "python": None}  # settings and defaults
HERE = {
    "gpus": "devices",
    "gpu": "devices",
    "gpus_per_node": "devices",
    "cuda_visible_devices": "devices",
} | dict.fromkeys(
    "array_parallelism n_jobs jobs max_workers max_parallel max_jobs parallel concurrency".split(), "at_once"
)  # what other launchers call these settings
LOOK = 0.2  # seconds between two looks at the processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells; 0 once none is left, 75 if asked to stop before."""
    parser = argparse.ArgumentParser("python -m launch.places.local", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("names", type=Path, help="file with the names of cells, one a line")
    options = parser.parse_args(arguments)
    try:
        folder = options.sweep.absolute()
        settings = settings_of(records.read_sweep(folder).settings)
        with alone(folder):
            return supervise(folder, options.names.read_text().split("\n")[:-1], settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return records.EXIT_INPUT


def backend(given: Mapping[str, Any]) -> Backend:
    """This machine as a place to run. InputError for a setting that it does not have."""
    settings = settings_of(given)

    def submit(folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> Sequence[str]:
        home = folder / FOLDER
        home.mkdir(parents=True, exist_ok=True)
        names = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.names"
        records.write_whole(names, "".join(f"{cell}\n" for cell in cells))
        with names.with_suffix(".out").open("wb") as out:
            subprocess.Popen(
                [sys.executable, "-m", "launch.places.local", str(folder), str(names)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(folder), start_new_session=True,
            )  # fmt: skip
        return cells

    return Backend(
        check=lambda folder, count: None,
        adopt=lambda folder: None,
        submit=submit,
        files=lambda folder, name, cells: [],
        poll=no_scheduler,
        cancel=cancel,
        at_once=settings["at_once"],
        requeues=settings["requeues"],
    )


def no_scheduler(tasks: Iterable[str]) -> Mapping[str, Task] | None:
    """Nobody but the cells' own files."""
    return {}


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings of conf/hydra/launcher/local.yaml; the sweep's own are passed over."""
    from launch.places.backends import OURS

    for key, value in given.items():
        if key not in LEAST and key not in OURS:
            hint = meant(HERE.get(key, key), LEAST)
            raise InputError(f"hydra.launcher.{key}", value, f"no such setting{hint}; there are {', '.join(LEAST)}")
    found = LEAST | {key: value for key, value in given.items() if key in LEAST and value is not None}
    for key in ("at_once", "requeues"):
        if not isinstance(found[key], int) or isinstance(found[key], bool) or found[key] < (key == "at_once"):
            raise InputError(f"hydra.launcher.{key}", found[key], f"must be {int(key == 'at_once')} or more")
    if found["devices"] is not None and (not isinstance(found["devices"], list) or not found["devices"]):
        raise InputError("hydra.launcher.devices", found["devices"], "must be a list such as [0,1], or null")
    return found


def interpreter(settings: Mapping[str, Any]) -> str:
    """The Python that cells run in."""
    return str(settings.get("python") or sys.executable)


def environment(folder: Path, device: object = None) -> dict[str, str]:
    """Of a cell: the frozen code whatever lies in the current folder, one thread, its GPU."""
    path = [str(folder / records.CODE), os.environ.get("PYTHONPATH", ""), os.getcwd()]  # a user's own modules come last
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONSAFEPATH": "1"}
    if device is not None:
        ours["CUDA_VISIBLE_DEVICES"] = str(device)
    kept = {key: value for key, value in os.environ.items() if key != "ZERO_CELL_JOB"}
    return kept | ours | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other supervisor works on this sweep, and say so: `at_once` holds for all that were submitted."""

    def waits(owner: str) -> None:
        print(f"{owner} runs cells of this sweep here; its own come first, then these", file=sys.stderr, flush=True)

    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    with lock.lock(home / "lock", waits):
        yield


def supervise(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], told: Callable[[], None] = lambda: None
) -> int:
    """Run the cells, `at_once` at a time, each after the one it waits for. `told` is called between two looks.

    Returns 0 once none is left to run, whatever became of them, 75 if asked to stop before.
    """
    sweep = records.read_sweep(folder)
    waiting = [name for name in names if name in sweep.cells]
    running: dict[str, tuple[subprocess.Popen[bytes], object]] = {}
    restarts = dict.fromkeys(waiting, 0)
    devices = list(settings["devices"] or [])
    strays = outlived(folder, sweep)
    if strays:
        print(f"{len(strays)} cells of an earlier launcher run on; they count among launcher.at_once", flush=True)
    with asked() as signals:
        while waiting or running:
            for name in [name for name, (child, _) in running.items() if child.poll() is not None]:
                child, device = running.pop(name)
                if again(folder / name, child.returncode, signals) and restarts[name] < settings["requeues"]:
                    restarts[name] += 1
                    waiting.append(name)
            if signals:
                waiting = []
                end(running, signals)
                continue
            strays = {name: device for name, device in strays.items() if lives(folder, name)}
            for name in list(waiting):
                if len(running) + len(strays) >= settings["at_once"] and name not in strays:
                    break
                before = sweep.cells[name].after
                if before and not records.finished(folder / before):
                    if before not in waiting and before not in running and not lives(folder, before):
                        waiting.remove(name)  # what it waits for will not finish here: it stays `waiting`
                    continue
                waiting.remove(name)
                if lives(folder, name):
                    continue  # of an earlier supervisor that was killed
                used = [str(device) for _, device in running.values()] + list(strays.values())
                device = min(devices, key=lambda one: used.count(str(one))) if devices else None
                running[name] = start(folder, name, settings, device), device
            told()
            time.sleep(LOOK)
    return records.EXIT_PREEMPTED if signals else 0


def outlived(folder: Path, sweep: records.Sweep) -> dict[str, str]:
    """Cells of this sweep that run here and whose launcher was killed, with the GPUs that each was given ("" without)."""
    found: dict[str, str] = {}
    for name in sweep.cells:
        last = (records.read_attempts(folder / name) or [{}])[-1]
        if not last or "exit" in last or not lives(folder, name):
            continue
        try:
            variables = (
                Path(f"/proc/{int(last.get('pid') or 0)}/environ").read_bytes().decode(errors="replace").split("\0")
            )
        except OSError:
            variables = []
        prefix = "CUDA_VISIBLE_DEVICES="
        found[name] = next((text.removeprefix(prefix) for text in variables if text.startswith(prefix)), "")
    return found


def end(running: Mapping[str, tuple[subprocess.Popen[bytes], object]], signals: Sequence[int]) -> None:
    """Ask the cells to save and end; asked again, kill them. Says what is waited for."""
    first = len(signals) == 1
    if running and first:
        print(
            f"{len(running)} cells save at the end of their step and end; again: they are killed",
            file=sys.stderr,
            flush=True,
        )
    for child, _ in running.values():
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM if first else signal.SIGKILL)
    wait(running, signals)


def wait(running: Mapping[str, tuple[subprocess.Popen[bytes], object]], signals: Sequence[int]) -> None:
    """Until all have ended, or another signal says to wait no longer."""
    heard = len(signals)
    while len(signals) == heard and any(child.poll() is None for child, _ in running.values()):
        time.sleep(LOOK)


def again(place: Path, code: int, signals: Sequence[int]) -> bool:
    """Whether a cell that ended should start again: it saved because someone asked this process alone to go."""
    wished = (place / records.CANCELLED).exists() or records.asked_by_user(place)
    return code in (records.EXIT_PREEMPTED, -signal.SIGTERM) and not signals and not wished


def lives(folder: Path, name: str) -> bool:
    """Whether a process of this machine, or another one that shows signs of life, runs the cell now."""
    cell = records.Cell(name, "", (), {}, "")
    return states.of_cell(folder / name, cell, "", None, False, os.uname().nodename, time.time()).live


def start(folder: Path, name: str, settings: Mapping[str, Any], device: object) -> subprocess.Popen[bytes]:
    """One attempt of one cell, in a session of its own: Ctrl-C here reaches it as SIGTERM, through us."""
    records.log_path(folder / name, 0).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name / records.LOG / "start.out").open("ab") as out:  # until its own log is open
        return subprocess.Popen(
            [interpreter(settings), "-m", "launch.sweep.attempt", str(folder), name],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(folder, device), start_new_session=True,
        )  # fmt: skip


@contextmanager
def asked() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come; the former handlers are restored."""
    heard: list[int] = []

    def note(number: int, frame: object) -> None:
        heard.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def cancel(folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
    """SIGTERM to the newest attempt of each cell, if it runs here. The files that say so are the caller's."""
    for name in cells:
        last = (records.read_attempts(folder / name) or [{}])[-1]
        here = last.get("host") == os.uname().nodename and "exit" not in last
        if here and states.is_process(int(last["pid"]), folder / name):
            with suppress(ProcessLookupError):
                os.kill(int(last["pid"]), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

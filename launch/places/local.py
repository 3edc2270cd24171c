"""python -m launch.places.local SWEEP NAMES: run cells of a sweep on this machine, some at a time, each in a process of its own.

`launch.submit ... hydra/launcher=local` starts it in the background; a multirun runs it in front. Cells outlive it if it
is killed; asked to stop (Ctrl-C, SIGTERM), it asks its cells to save first. The states are those of a sweep on Slurm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from launch.places import SWEEP_KEYS, Limits
from launch.places.slurm_script import suggestion
from launch.sweep import files, states
from launch.sweep.states import Task
from zero.errors import EXIT_PREEMPTED, ArgumentParser, InputError, one_line_errors
from zero.files import write_atomically
from zero.lock import lock

FOLDER = "local"  # of a sweep: names of the cells of each submission, and what its supervisor printed
DEFAULTS: dict[str, Any] = {"at_once": 2, "devices": None, "requeues": 5, "python": None}
Running = dict[str, tuple[subprocess.Popen[bytes], object]]  # by cell: its process, and the GPU that it was given
POLL = 0.2  # seconds between two looks at the processes


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells; 0 once none is left, 75 if asked to stop before."""
    parser = ArgumentParser("python -m launch.places.local", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("names", type=Path, help="file with the names of cells, one a line")
    options = parser.parse_args(arguments)
    folder = options.sweep.absolute()
    settings = parse_settings(files.read_sweep(folder).settings)
    with supervisor_lock(folder):
        return supervise(folder, options.names.read_text().split("\n")[:-1], settings)


@dataclass(frozen=True)
class Local:
    """This machine as a launch.places.Backend. It has no scheduler: the cells' own files say what has become of them."""

    settings: Mapping[str, Any]
    available: bool = True
    has_queue: bool = False
    server: ClassVar[str | None] = None

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Local:
        """InputError for a setting that this launcher does not have."""
        return cls(parse_settings(settings))

    @property
    def limits(self) -> Limits:
        return Limits(at_once=self.settings["at_once"], requeues=self.settings["requeues"])

    def check(self, folder: Path, count: int) -> None:
        """Any number of cells can run here, one after another."""

    def adopt(self, folder: Path) -> None:
        """There are no tasks."""

    def submit(self, folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> Sequence[str]:
        """Start a process in the background that runs the cells (`main`)."""
        home = folder / FOLDER
        home.mkdir(parents=True, exist_ok=True)
        names = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.names"
        write_atomically(names, "".join(f"{cell}\n" for cell in cells))
        with names.with_suffix(".out").open("wb") as out:
            start([sys.executable, "-m", "launch.places.local", str(folder), str(names)], out, environment(folder))
        return cells

    def write_scripts(self, folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        return []

    def poll(self, tasks: Iterable[str]) -> Mapping[str, Task] | None:
        return {}

    def cancel(self, folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None:
        """SIGTERM to the newest attempt of each cell, if it runs here."""
        for name in cells:
            last = (files.read_attempts(folder / name) or [{}])[-1]
            here = last.get("host") == os.uname().nodename and "exit" not in last
            if here and states.is_attempt_process(int(last["pid"]), folder / name):
                with suppress(ProcessLookupError):
                    os.kill(int(last["pid"]), signal.SIGTERM)


def start(command: Sequence[str], output: BinaryIO, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own: Ctrl-C here does not reach it."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
    )


def parse_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings of conf/hydra/launcher/local.yaml; those of the sweep are ignored."""
    for key, value in settings.items():
        if key not in DEFAULTS and key not in SWEEP_KEYS:
            hint = suggestion(key, DEFAULTS)
            raise InputError(f"hydra.launcher.{key}", value, f"no such setting{hint}; there are {', '.join(DEFAULTS)}")
    checked = DEFAULTS | {key: value for key, value in settings.items() if key in DEFAULTS and value is not None}
    for key, minimum in (("at_once", 1), ("requeues", 0)):
        value = checked[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise InputError(f"hydra.launcher.{key}", value, f"must be {minimum} or more")
    devices = checked["devices"]
    if devices is not None and (not isinstance(devices, list) or not devices):
        raise InputError("hydra.launcher.devices", devices, "must be a list such as [0,1], or null")
    return checked


def environment(folder: Path, device: object = None) -> dict[str, str]:
    """The variables of a cell: the frozen code whatever lies in the current folder, one thread, its GPU."""
    path = [str(folder / files.CODE), os.environ.get("PYTHONPATH", ""), os.getcwd()]  # a user's own modules come last
    own = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONSAFEPATH": "1"}
    if device is not None:
        own["CUDA_VISIBLE_DEVICES"] = str(device)
    inherited = {key: value for key, value in os.environ.items() if key != "ZERO_CELL_JOB"}
    return inherited | own | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@contextmanager
def supervisor_lock(folder: Path) -> Iterator[None]:
    """Only one supervisor of a sweep at a time, so that `at_once` holds for all that were submitted; waits, and says so."""

    def on_wait(owner: str) -> None:
        print(f"{owner} runs cells of this sweep here; its own come first, then these", file=sys.stderr, flush=True)

    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    with lock(home / "lock", on_wait):
        yield


def supervise(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], on_poll: Callable[[], None] = lambda: None
) -> int:
    """Run the cells, `at_once` at a time, each after the one it waits for. `on_poll` is called between two looks.

    Returns 0 once none is left to run, whatever became of them, 75 if asked to stop before.
    """
    sweep = files.read_sweep(folder)
    waiting = [name for name in names if name in sweep.cells]
    running: Running = {}
    restarts = dict.fromkeys(waiting, 0)
    devices = list(settings["devices"] or [])
    strays = surviving_cells(folder, sweep)
    if strays:
        print(f"{len(strays)} cells of an earlier launcher run on; they count among launcher.at_once", flush=True)
    with stop_signals() as signals:
        while waiting or running:
            for name in [name for name, (child, _) in running.items() if child.poll() is not None]:
                child, device = running.pop(name)
                if should_restart(folder / name, child.returncode, signals) and restarts[name] < settings["requeues"]:
                    restarts[name] += 1
                    waiting.append(name)
            if signals:
                waiting = []
                stop_all(running, signals)
                continue
            strays = {name: device for name, device in strays.items() if is_alive(folder, name)}
            for name in list(waiting):
                if len(running) + len(strays) >= settings["at_once"] and name not in strays:
                    break
                before = sweep.cells[name].after
                if before and not files.finished(folder / before):
                    if before not in waiting and before not in running and not is_alive(folder, before):
                        waiting.remove(name)  # what it waits for will not finish here: it stays `waiting`
                    continue
                waiting.remove(name)
                if is_alive(folder, name):
                    continue  # of an earlier supervisor that was killed
                used = [str(device) for _, device in running.values()] + list(strays.values())
                device = min(devices, key=lambda device: used.count(str(device))) if devices else None
                running[name] = start_cell(folder, name, settings, device), device
            on_poll()
            time.sleep(POLL)
    return EXIT_PREEMPTED if signals else 0


def surviving_cells(folder: Path, sweep: files.Sweep) -> dict[str, str]:
    """Cells of this sweep that run here and whose launcher was killed, with the GPUs that each was given ("" without)."""
    survivors: dict[str, str] = {}
    for name in sweep.cells:
        last = (files.read_attempts(folder / name) or [{}])[-1]
        if not last or "exit" in last or not is_alive(folder, name):
            continue
        try:
            content = Path(f"/proc/{int(last.get('pid') or 0)}/environ").read_bytes()
            variables = content.decode(errors="replace").split("\0")
        except OSError:
            variables = []
        prefix = "CUDA_VISIBLE_DEVICES="
        survivors[name] = next((text.removeprefix(prefix) for text in variables if text.startswith(prefix)), "")
    return survivors


def stop_all(running: Running, signals: Sequence[int]) -> None:
    """Ask the cells to save and end; asked again, kill them. Says what is waited for."""
    first = len(signals) == 1
    if running and first:
        line = f"{len(running)} cells save at the end of their step and end; again: they are killed"
        print(line, file=sys.stderr, flush=True)
    for child, _ in running.values():
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM if first else signal.SIGKILL)
    wait_for_end(running, signals)


def wait_for_end(running: Running, signals: Sequence[int]) -> None:
    """Until all have ended, or another signal says to wait no longer."""
    received = len(signals)
    while len(signals) == received and any(child.poll() is None for child, _ in running.values()):
        time.sleep(POLL)


def should_restart(cell_dir: Path, code: int, signals: Sequence[int]) -> bool:
    """Whether a cell that ended should start again: it saved because someone asked this process alone to go."""
    by_user = (cell_dir / files.CANCELLED).exists() or files.stopped_by_user(cell_dir)
    return code in (EXIT_PREEMPTED, -signal.SIGTERM) and not signals and not by_user


def is_alive(folder: Path, name: str) -> bool:
    """Whether a process of this machine, or another one that shows signs of life, runs the cell now."""
    cell = files.Cell(name, "", (), {}, "")
    return states.read_status(folder / name, cell, "", None, False, os.uname().nodename, time.time()).live


def start_cell(folder: Path, name: str, settings: Mapping[str, Any], device: object) -> subprocess.Popen[bytes]:
    """One attempt of one cell. It is told of Ctrl-C by SIGTERM from this process (`stop_all`)."""
    files.log_path(folder / name, 0).parent.mkdir(parents=True, exist_ok=True)
    python = str(settings.get("python") or sys.executable)
    with (folder / name / files.LOG / "start.out").open("ab") as out:  # until its own log is open
        return start([python, "-m", "launch.sweep.attempt", str(folder), name], out, environment(folder, device))


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come; the former handlers are restored."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

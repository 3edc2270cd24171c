"""python -m launch.sweep.attempt SWEEP CELL: one attempt of one cell, on a node of a cluster or on this machine.

Several ranks (srun) run the same line; the first one writes. Exit codes: 0 finished, 1 failed (traceback in the cell's
log and error.json), 2 bad input, 75 pre-empted and saved, or not to be run, 76 another copy owns the cell.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from launch.sweep import files as sweep
from launch.sweep import states
from launch.sweep.rank import Place, free_port, newer
from zero.errors import InputError, Preempted
from zero.signals import LeaseLost

CAP = "ZERO_CELL_REQUEUES"  # restarts after which a cell is given up
LOOK = 5.0  # seconds between two looks at the lease: gentle with a shared file system
MEET = 300.0  # seconds for the first rank to take the lease
VISIBLE = 60.0  # for files of other nodes to be seen here
SETTLE = 3.0  # for a write of the copy before, if nobody saw it end
NOT_RUN = (0, 2, 75, 76)  # exit codes of a cell that was not to be run
MEMORY = re.compile("memory|oom", re.IGNORECASE)
SAID = (0, 1, 2, 75)  # exit codes of attempts that ended as they wished
QUICK = 60.0  # seconds: an attempt that died sooner gained nothing
PAUSE, LONGEST = 15.0, 300.0  # seconds to wait after two such, twice as long each time, and the most
SINGLE = "run the same command again"  # what the errors of a run on its own advise
TRAINING = "train"  # the root whose loop asks for stop file and lease at the ends of its steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one attempt; the exit code."""
    parser = argparse.ArgumentParser("python -m launch.sweep.attempt", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("cell", help="name of the cell")
    parser.add_argument("--ended", type=int, metavar="CODE", help="note that this attempt's processes died of CODE")
    options = parser.parse_args(arguments)
    place = Place.here(os.environ)
    try:
        cell = sweep.read_cell(options.sweep.absolute(), options.cell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return sweep.EXIT_INPUT
    folder = options.sweep.absolute() / options.cell
    if options.ended is not None:
        note_death(folder, place, options.ended)
        return 0
    return attempt(folder, cell, place)


def attempt(folder: Path, cell: sweep.Cell, place: Place) -> int:
    """Own the cell, run it, say how it ended."""
    reason, code = not_to_run(folder, cell, place)
    if reason:
        print(f"{cell.name}: {reason}", flush=True)
        return code
    lease = begin(folder, place) if place.first else joined(folder, place)
    if lease is None:
        return sweep.EXIT_GAVE_WAY
    number = int(lease["attempt"])
    log = sweep.log_path(folder, number)
    print(f"{cell.name}: attempt {number}, rank {place.rank} of {place.size}; output in {log}", flush=True)
    redirect(log)
    os.environ.update(place.variables(int(lease["port"]), os.environ))
    os.environ["ZERO_STOP_FILE"] = str(folder / sweep.STOP)
    os.environ["ZERO_LEASE"] = f"{folder / sweep.LEASE}:{place.token}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
    watch(folder, place, number, cell.root)
    code, line, trace = sweep.EXIT_FAILED, "", ""
    try:
        too_often(place)
        pause(folder, number)
        code = run(folder, cell)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        line = last_line(log) if code else ""
    except InputError as error:
        code, line = sweep.EXIT_INPUT, f"error: {error}"
    except Preempted as error:
        code, line = sweep.EXIT_PREEMPTED, str(error)
    except BaseException as error:
        code = sweep.EXIT_GAVE_WAY if isinstance(error, LeaseLost) else sweep.EXIT_FAILED
        line, trace = one_line(error), traceback.format_exc()
    ended(folder, place, number, code, line, trace)
    if place.job:  # all is saved: taking torch down takes seconds of a grace time, and may itself fail
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def not_to_run(folder: Path, cell: sweep.Cell, place: Place) -> tuple[str, int]:
    """Why this attempt must not start, and its exit code; "" if it may. Every rank finds the same."""
    if sweep.finished(folder):
        return "finished before", sweep.EXIT_FINISHED
    if cell.after and not comes(folder.parent / cell.after, place):
        return f"waits for {cell.after}, which has not finished", sweep.EXIT_INPUT
    if (folder / sweep.CANCELLED).exists():
        return "was cancelled; python -m launch.status SWEEP resume takes it up again", sweep.EXIT_PREEMPTED
    if sweep.asked_by_user(folder):
        return "was asked to stop; python -m launch.status SWEEP resume takes it up again", sweep.EXIT_PREEMPTED
    holder = sweep.read_json(folder / sweep.LEASE)
    if newer(str(holder.get("token", "")), place.token) or alive_here(folder, holder, place):
        return f"belongs to a newer copy ({holder['token']} on {holder.get('host')})", sweep.EXIT_GAVE_WAY
    return "", 0


def comes(before: Path, place: Place) -> bool:
    """Whether a cell has finished. Slurm says that its job has, or this one would not run: where a shared file system shows
    files of other nodes late, its result may take a while to be seen here."""
    until = time.monotonic() + (VISIBLE if place.job else 0.0)
    while (
        not (over := sweep.finished(before)) and last_attempt(before).get("exit", 0) == 0 and time.monotonic() < until
    ):
        time.sleep(1.0)
        with suppress(OSError):
            os.listdir(before)  # makes a client ask its server anew
    return over


def last_attempt(folder: Path) -> dict[str, Any]:
    """The newest attempt of a cell; {} before the first."""
    return (sweep.read_attempts(folder) or [{}])[-1]


def alive_here(folder: Path, holder: dict[str, Any], place: Place) -> bool:
    """Without Slurm: whether the copy that owns the cell still runs on this machine (its process holds ZERO_LEASE)."""
    token, pid = str(holder.get("token", "")), holder.get("pid")
    if place.job or token == place.token or token != f"{os.uname().nodename}.{pid}":
        return False
    return states.is_process(int(pid or 0), folder)


def begin(folder: Path, place: Place) -> dict[str, Any]:
    """The first rank: take the lease, note the attempt, forget what the last one left. Returns the lease."""
    before = sweep.read_attempts(folder)
    number = sweep.begin_attempt(folder, place.job, place.restart)
    lease = {
        "token": place.token, "attempt": number, "job": place.job, "restart": place.restart,
        "host": os.uname().nodename, "pid": os.getpid(), "time": time.time(),
        "port": free_port(place.job, place.restart) if place.size > 1 else 0,
    }  # fmt: skip
    sweep.clear_error(folder)
    if not sweep.asked_by_user(folder) and place.token not in sweep.stop_text(folder):
        sweep.clear_stop(folder)  # for an attempt before this one
    sweep.write_json(folder / sweep.LEASE, lease)
    if before and "exit" not in before[-1]:
        time.sleep(SETTLE)
    return lease


def joined(folder: Path, place: Place) -> dict[str, Any] | None:
    """The other ranks: the lease, once the first rank has it; None if it never comes or another copy has it."""
    until = time.monotonic() + MEET
    while time.monotonic() < until:
        lease = sweep.read_json(folder / sweep.LEASE)
        token = str(lease.get("token", ""))
        if token == place.token:
            return lease
        if newer(token, place.token):
            return None
        time.sleep(0.1)
    return None


def redirect(log: Path) -> None:
    """All that this process and its children print goes to the attempt's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def watch(folder: Path, place: Place, number: int, root: str) -> None:
    """Leave at once when another copy has the lease: a step may take minutes, and two copies must not write.

    An evaluation has no steps whose ends ask for the stop file; it keeps every answer, so it may leave at any moment.
    """

    def look() -> None:
        while True:
            time.sleep(LOOK)
            if not sweep.holds_lease(folder, place.token):
                print("another copy has taken this cell over; giving way", file=sys.stderr, flush=True)
                leave(sweep.EXIT_GAVE_WAY)
            if root != TRAINING and (folder / sweep.STOP).exists():
                leave(sweep.EXIT_PREEMPTED)

    def leave(code: int) -> None:
        with suppress(OSError):
            if place.first:
                sweep.end_attempt(folder, number, code)
        os._exit(code)  # no handlers, no buffers: from here on nothing of this copy may reach the folder

    threading.Thread(target=look, name="lease", daemon=True).start()


def too_often(place: Place) -> None:
    """InputError for a cell that was restarted more often than the sweep allows: something kills whatever runs it."""
    cap = int(os.environ.get(CAP) or 0)
    if cap and place.restart > cap:
        remedy = f"restarted {place.restart} times; see the logs, then python -m launch.status SWEEP retry --failed"
        raise InputError("launcher.requeues", cap, remedy)


def pause(folder: Path, number: int) -> None:
    """Wait if the attempts before ended quickly one after another; longer each time. Preempted if asked to stop."""
    until = time.monotonic() + delay(sweep.read_attempts(folder), number)
    while time.monotonic() < until:
        if (folder / sweep.STOP).exists():
            raise Preempted("asked to stop before the first step")
        time.sleep(0.5)


def delay(attempts: Sequence[dict[str, Any]], number: int) -> float:
    """Seconds to wait before attempt `number`: 0 unless the two before it died soon; one that saved has gained something."""
    quick = 0
    for one, following in zip(reversed(attempts[:-1]), reversed(attempts[1:]), strict=True):
        end = one.get("ended") or following["time"]
        if one["attempt"] < number and (end - one["time"] > QUICK or one.get("exit") in SAID):
            break
        quick += 1
    return min(PAUSE * 2 ** (quick - 2), LONGEST) if quick >= 2 else 0.0


def run(folder: Path, cell: sweep.Cell) -> int:
    """What the cell is: training from its frozen config, or another entry point from its command line. The exit code."""
    if cell.root == TRAINING:
        from zero.train import run as train

        train({**(cell.config or {}), "run_dir": str(folder)}, cell.choices, cell.name)
        return sweep.EXIT_FINISHED
    from zero.config.overrides import quoted

    sys.argv = [cell.root, *(o for o in cell.overrides if not o.startswith("run_dir=")), quoted(f"run_dir={folder}")]
    import_module(f"zero.{cell.root}").main()
    return sweep.EXIT_FINISHED


def last_line(log: Path) -> str:
    """The last line that was printed: why an entry point left by itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:500]


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback."""
    return " ".join(traceback.format_exception_only(error)[-1].split())[:500]


def ended(folder: Path, place: Place, number: int, code: int, line: str, trace: str) -> None:
    """Print how it ended; keep it too, unless the disk is full, or another rank failed first and so said why."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left is to write two lines
    line = line.replace(SINGLE, "python -m launch.status SWEEP retry --failed")
    if trace or code == sweep.EXIT_PREEMPTED or line.startswith("error: "):
        print(trace or line, file=sys.stderr, flush=True)
    try:
        known = sweep.read_json(folder / sweep.ERROR).get("attempt") == number
        if code in (sweep.EXIT_FAILED, sweep.EXIT_INPUT) and not known:
            sweep.write_error(folder, number, code, line, trace)
        if place.first:
            if not sweep.asked_by_user(folder):
                sweep.clear_stop(folder)  # it was for this attempt
            sweep.end_attempt(folder, number, code)
    except OSError as error:
        print(f"{folder}: {error}", file=sys.stderr, flush=True)


def note_death(folder: Path, place: Place, code: int) -> None:
    """From the batch script, after processes that could not speak any more: killed, out of memory, a broken node, or a step
    that Slurm did not start."""
    lease = sweep.read_json(folder / sweep.LEASE)
    if lease.get("token") == place.token:
        number = int(lease.get("attempt", 0))
        if any(one["attempt"] == number and "exit" in one for one in sweep.read_attempts(folder)):
            return
    elif newer(str(lease.get("token", "")), place.token) or code in NOT_RUN:
        return
    else:
        number = sweep.begin_attempt(folder, place.job, place.restart)
    if code == 128 + signal.SIGTERM:  # asked to end before it could listen: nothing failed
        sweep.end_attempt(folder, number, code)
        return
    name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else ""
    line = f"killed by {name}" if name else f"exit {code}"
    words = slurms_words(folder)
    if MEMORY.search(words):
        line += ", out of memory: raise launcher.mem_gb"
    elif code == 128 + signal.SIGKILL:
        line += ", out of memory (raise launcher.mem_gb) or the node's end"
    line += f"; Slurm: {words}" if words else ""
    sweep.write_error(folder, number, code, line, "")
    sweep.end_attempt(folder, number, code)


def slurms_words(folder: Path) -> str:
    """The last complaint of Slurm's own programs in what the batch script printed, a memory limit's before others; ""."""
    try:
        text = (folder / sweep.LOG / "slurm.out").read_bytes()[-8000:].decode(errors="replace")
    except OSError:
        return ""
    own = text.rpartition(": starts\n")[2]  # since this attempt began
    found = re.findall(r"^(?:slurm\w*|srun)[^:]*: error: (.*)$", own, re.MULTILINE)
    return ([line for line in found if MEMORY.search(line)] or found or [""])[-1].strip()[:200]


if __name__ == "__main__":
    sys.exit(main())

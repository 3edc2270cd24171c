"""python -m launch.sweep.attempt SWEEP CELL: one attempt of one cell, on a node of a cluster or on this machine.

With several ranks (srun) each runs this command, and the first writes. Exit codes: 0 finished, 1 failed (traceback in the
cell's log and error.json), 2 bad input, 75 pre-empted and saved, or not to be run, 76 another copy owns the cell.
"""

from __future__ import annotations

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

from launch.sweep import files, states
from launch.sweep.process import Process, free_port, is_newer
from zero.errors import (
    EXIT_FAILED,
    EXIT_INPUT,
    EXIT_LEASE_LOST,
    EXIT_PREEMPTED,
    ArgumentParser,
    InputError,
    Preempted,
    one_line_errors,
)
from zero.files import read_json, write_json
from zero.signals import LeaseLost

REQUEUES_VARIABLE = "ZERO_CELL_REQUEUES"  # restarts after which a cell is given up
LEASE_POLL = 5.0  # seconds between two reads of the lease: a shared file system is slow
LEASE_TIMEOUT = 300.0  # seconds for the first rank to take the lease
FILE_DELAY = 60.0  # seconds until files of other nodes are visible here
WRITE_DELAY = 3.0  # seconds for a last write of the previous copy, if it has not noted its end
CLEAN_EXITS = (0, 1, 2, 75)  # of attempts that were not killed
NOT_RUN_EXITS = (0, 2, 75, 76)  # of cells that were not to be run (`reason_not_to_run`)
MEMORY = re.compile("memory|oom", re.IGNORECASE)
QUICK = 60.0  # seconds: an attempt that died sooner gained nothing
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 300.0  # seconds to wait after two such, twice as long each time, and at most
RERUN_ADVICE = "run the same command again"  # in errors of a run; replaced by what to do with a cell
TRAINING = "train"  # the root whose loop reads stop file and lease at the end of each step


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one attempt; the exit code."""
    parser = ArgumentParser("python -m launch.sweep.attempt", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("cell", help="name of the cell")
    parser.add_argument("--ended", type=int, metavar="CODE", help="note that this attempt's processes died of CODE")
    options = parser.parse_args(arguments)
    process = Process.from_environment(os.environ)
    cell = files.read_cell(options.sweep.absolute(), options.cell)
    cell_dir = options.sweep.absolute() / options.cell
    if options.ended is not None:
        record_death(cell_dir, process, options.ended)
        return 0
    return attempt(cell_dir, cell, process)


def attempt(cell_dir: Path, cell: files.Cell, process: Process) -> int:
    """Take the cell's lease, run it, note how it ended. The exit code."""
    reason, code = reason_not_to_run(cell_dir, cell, process)
    if reason:
        print(f"{cell.name}: {reason}", flush=True)
        return code
    lease = take_lease(cell_dir, process) if process.is_main else wait_for_lease(cell_dir, process)
    if lease is None:
        return EXIT_LEASE_LOST
    number = int(lease["attempt"])
    log = files.log_path(cell_dir, number)
    print(f"{cell.name}: attempt {number}, rank {process.rank} of {process.world_size}; output in {log}", flush=True)
    redirect(log)
    os.environ.update(process.torch_variables(int(lease["port"]), os.environ))
    os.environ["ZERO_STOP_FILE"] = str(cell_dir / files.STOP)
    os.environ["ZERO_LEASE"] = f"{cell_dir / files.LEASE}:{process.token}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
    watch_lease(cell_dir, process, number, cell.root)
    code, line, trace = EXIT_FAILED, "", ""
    try:
        refuse_endless_restarts(process)
        back_off(cell_dir, number)
        code = run(cell_dir, cell)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        line = last_line(log) if code else ""
    except InputError as error:
        code, line = EXIT_INPUT, f"error: {error}"
    except Preempted as error:
        code, line = EXIT_PREEMPTED, str(error)
    except BaseException as error:
        code = EXIT_LEASE_LOST if isinstance(error, LeaseLost) else EXIT_FAILED
        line, trace = one_line(error), traceback.format_exc()
    record_end(cell_dir, process, number, code, line, trace)
    if process.job:  # all is saved: a normal exit with torch takes seconds of the grace time, and may fail
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def reason_not_to_run(cell_dir: Path, cell: files.Cell, process: Process) -> tuple[str, int]:
    """Why this attempt must not start, and its exit code; "" if it may. The same for every rank."""
    if files.finished(cell_dir):
        return "finished before", files.EXIT_FINISHED
    if cell.after and not dependency_finished(cell_dir.parent / cell.after, process):
        return f"waits for {cell.after}, which has not finished", EXIT_INPUT
    if (cell_dir / files.CANCELLED).exists():
        return "was cancelled; python -m launch.status SWEEP resume takes it up again", EXIT_PREEMPTED
    if files.stopped_by_user(cell_dir):
        return "was asked to stop; python -m launch.status SWEEP resume takes it up again", EXIT_PREEMPTED
    holder = read_json(cell_dir / files.LEASE)
    if is_newer(str(holder.get("token", "")), process.token) or owner_runs_here(cell_dir, holder, process):
        return f"belongs to a newer copy ({holder['token']} on {holder.get('host')})", EXIT_LEASE_LOST
    return "", 0


def dependency_finished(cell_dir: Path, process: Process) -> bool:
    """Whether the cell that this one waits for has finished. On Slurm its job has, or this one would not run; but a shared file
    system may show its result late, so that it is waited for."""
    deadline = time.monotonic() + (FILE_DELAY if process.job else 0.0)
    while not files.finished(cell_dir):
        last = (files.read_attempts(cell_dir) or [{}])[-1]
        if last.get("exit", 0) != 0 or time.monotonic() >= deadline:
            return False
        time.sleep(1.0)
        with suppress(OSError):
            os.listdir(cell_dir)  # makes a client of the file system ask its server again
    return True


def owner_runs_here(cell_dir: Path, holder: dict[str, Any], process: Process) -> bool:
    """Without Slurm: whether the copy that holds the lease still runs on this machine."""
    token, pid = str(holder.get("token", "")), holder.get("pid")
    if process.job or token == process.token or token != f"{os.uname().nodename}.{pid}":
        return False
    return states.is_attempt_process(int(pid or 0), cell_dir)


def take_lease(cell_dir: Path, process: Process) -> dict[str, Any]:
    """The first rank: take the lease, note the attempt, clear what the last one left. Returns the lease."""
    before = files.read_attempts(cell_dir)
    number = files.begin_attempt(cell_dir, process.job, process.restart)
    lease = {
        "token": process.token,
        "attempt": number,
        "job": process.job,
        "restart": process.restart,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "time": time.time(),
        "port": free_port(process.job, process.restart) if process.world_size > 1 else 0,
    }
    (cell_dir / files.ERROR).unlink(missing_ok=True)
    if not files.stopped_by_user(cell_dir) and process.token not in files.stop_reason(cell_dir):
        files.clear_stop(cell_dir)  # it was for an earlier attempt
    write_json(cell_dir / files.LEASE, lease)
    if before and "exit" not in before[-1]:
        time.sleep(WRITE_DELAY)
    return lease


def wait_for_lease(cell_dir: Path, process: Process) -> dict[str, Any] | None:
    """The other ranks: the lease, once the first rank has taken it; None after LEASE_TIMEOUT, or if a newer copy has it."""
    deadline = time.monotonic() + LEASE_TIMEOUT
    while time.monotonic() < deadline:
        lease = read_json(cell_dir / files.LEASE)
        token = str(lease.get("token", ""))
        if token == process.token:
            return lease
        if is_newer(token, process.token):
            return None
        time.sleep(0.1)
    return None


def redirect(log: Path) -> None:
    """Send all that this process and its children print to the attempt's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def watch_lease(cell_dir: Path, process: Process, number: int, root: str) -> None:
    """Exit at once, from a thread, when another copy has taken the lease: a step may take minutes, and two copies must not
    write. An evaluation also exits for a stop file: it has no steps, and it has kept every answer."""

    def poll() -> None:
        while True:
            time.sleep(LEASE_POLL)
            if not files.holds_lease(cell_dir, process.token):
                print("another copy has taken this cell over; giving way", file=sys.stderr, flush=True)
                leave(EXIT_LEASE_LOST)
            if root != TRAINING and (cell_dir / files.STOP).exists():
                leave(EXIT_PREEMPTED)

    def leave(code: int) -> None:
        with suppress(OSError):
            if process.is_main:
                files.end_attempt(cell_dir, number, code)
        os._exit(code)  # without handlers and buffers: nothing more of this copy may reach the folder

    threading.Thread(target=poll, name="lease", daemon=True).start()


def refuse_endless_restarts(process: Process) -> None:
    """InputError for a cell that was restarted more often than the sweep allows: something keeps killing it."""
    most = int(os.environ.get(REQUEUES_VARIABLE) or 0)
    if most and process.restart > most:
        remedy = f"restarted {process.restart} times; see the logs, then python -m launch.status SWEEP retry --failed"
        raise InputError("launcher.requeues", most, remedy)


def back_off(cell_dir: Path, number: int) -> None:
    """Wait if the last attempts died quickly, longer each time. Preempted if asked to stop meanwhile."""
    deadline = time.monotonic() + backoff_seconds(files.read_attempts(cell_dir), number)
    while time.monotonic() < deadline:
        if (cell_dir / files.STOP).exists():
            raise Preempted("asked to stop before the first step")
        time.sleep(0.5)


def backoff_seconds(attempts: Sequence[dict[str, Any]], number: int) -> float:
    """Seconds to wait before attempt `number`: 0 unless at least two attempts before it were killed within QUICK seconds."""
    quick = 0
    for attempt, following in zip(reversed(attempts[:-1]), reversed(attempts[1:]), strict=True):
        seconds = (attempt.get("ended") or following["time"]) - attempt["time"]
        if attempt["attempt"] < number and (seconds > QUICK or attempt.get("exit") in CLEAN_EXITS):
            break
        quick += 1
    return min(FIRST_PAUSE * 2 ** (quick - 2), LONGEST_PAUSE) if quick >= 2 else 0.0


def run(cell_dir: Path, cell: files.Cell) -> int:
    """Train from the cell's frozen config, or call another entry point with its overrides. The exit code."""
    if cell.root == TRAINING:
        from zero.train import run as train

        train({**(cell.config or {}), "run_dir": str(cell_dir)}, cell.choices, cell.name)
        return files.EXIT_FINISHED
    from zero.config.overrides import quoted

    sys.argv = [cell.root, *(o for o in cell.overrides if not o.startswith("run_dir=")), quoted(f"run_dir={cell_dir}")]
    import_module(f"zero.{cell.root}").main()
    return files.EXIT_FINISHED


def last_line(log: Path) -> str:
    """The last line that was printed: why an entry point called sys.exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:500]


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback."""
    return " ".join(traceback.format_exception_only(error)[-1].split())[:500]


def record_end(cell_dir: Path, process: Process, number: int, code: int, line: str, trace: str) -> None:
    """Print how the attempt ended, and note it in the cell's files, if the disk is not full. Of several ranks that failed the
    first one says why."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only two lines are left to write
    line = line.replace(RERUN_ADVICE, "python -m launch.status SWEEP retry --failed")
    if trace or code == EXIT_PREEMPTED or line.startswith("error: "):
        print(trace or line, file=sys.stderr, flush=True)
    try:
        known = read_json(cell_dir / files.ERROR).get("attempt") == number
        if code in (EXIT_FAILED, EXIT_INPUT) and not known:
            files.write_error(cell_dir, number, code, line, trace)
        if process.is_main:
            if not files.stopped_by_user(cell_dir):
                files.clear_stop(cell_dir)  # it was for this attempt
            files.end_attempt(cell_dir, number, code)
    except OSError as error:
        print(f"{cell_dir}: {error}", file=sys.stderr, flush=True)


def record_death(cell_dir: Path, process: Process, code: int) -> None:
    """Note, for the batch script, the end of processes that could not do so themselves: killed, out of memory, on a broken
    node, or of a step that Slurm did not start."""
    lease = read_json(cell_dir / files.LEASE)
    if lease.get("token") == process.token:
        number = int(lease.get("attempt", 0))
        if any(a["attempt"] == number and "exit" in a for a in files.read_attempts(cell_dir)):
            return
    elif is_newer(str(lease.get("token", "")), process.token) or code in NOT_RUN_EXITS:
        return
    else:
        number = files.begin_attempt(cell_dir, process.job, process.restart)
    if code == 128 + signal.SIGTERM:  # asked to end before it could handle the signal: nothing failed
        files.end_attempt(cell_dir, number, code)
        return
    name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else ""
    line = f"killed by {name}" if name else f"exit {code}"
    message = slurm_error(cell_dir)
    if MEMORY.search(message):
        line += ", out of memory: raise launcher.mem_gb"
    elif code == 128 + signal.SIGKILL:
        line += ", out of memory (raise launcher.mem_gb) or the node's end"
    line += f"; Slurm: {message}" if message else ""
    files.write_error(cell_dir, number, code, line, "")
    files.end_attempt(cell_dir, number, code)


def slurm_error(cell_dir: Path) -> str:
    """The last error of Slurm's programs in the batch script's output, preferably one about memory; "" without one."""
    try:
        text = (cell_dir / files.LOG / "slurm.out").read_bytes()[-8000:].decode(errors="replace")
    except OSError:
        return ""
    output = text.rpartition(": starts\n")[2]  # of this attempt
    errors = re.findall(r"^(?:slurm\w*|srun)[^:]*: error: (.*)$", output, re.MULTILINE)
    return ([line for line in errors if MEMORY.search(line)] or errors or [""])[-1].strip()[:200]


if __name__ == "__main__":
    sys.exit(main())

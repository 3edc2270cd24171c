"""python -m zero.grading.worker FD MODULE...: a process that imports once, and then forks workers on request.

A forked worker costs milliseconds instead of the second that sympy takes to import, so that one can be lost with every
hostile answer. Each serves one socket: a pickled (path, answer, question, limit_s) in, "outcome|score|error" as one line out. The
kernel enforces its limits: a CPU timer whose signal kills, a ceiling of memory, and no writes to disk.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import resource
import signal
import socket
import sys
from importlib import import_module
from typing import Any, BinaryIO

from zero.records import Outcome

MEMORY = 2 << 30  # bytes of address space of one worker
STACK = 3000  # Python frames: a deeper formula is refused, long before the C stack ends


def main() -> None:
    """Import, then fork a worker for each socket that arrives, until the other side is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGHUP):  # the trainer handles Ctrl-C and a closing terminal
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    logging.disable(logging.CRITICAL)  # libraries log every formula that they cannot read
    for module in sys.argv[2:]:
        imported = import_module(module)
        getattr(imported, "warm_up", int)()  # fills caches once instead of in every worker
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            try:
                serve(socket.socket(fileno=descriptors[0]).makefile("rwb"))
            finally:
                os._exit(0)
        os.close(descriptors[0])


def serve(stream: Any) -> None:
    """Answer requests until the stream ends."""
    sys.setrecursionlimit(STACK)
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    reply(stream, str(os.getpid()))
    while True:
        try:
            path, answer, question, limit_s = pickle.load(stream)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # CPU seconds: a busy machine changes no verdict
        outcome, score, error = judge(path, answer, question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(stream, f"{outcome}|{score!r}|{error}")


def judge(path: str, answer: str, question: Any) -> tuple[Outcome, float, str]:
    """The outcome of one check, its score in [0, 1], and the error of a failure. A checker that returns a float has scored the
    answer, which is right from 1 on; of any other value the truth counts."""
    try:
        module, _, function = path.rpartition(".")
        verdict = getattr(import_module(module), function)(answer, question)
        score = min(1.0, max(0.0, float(verdict))) if isinstance(verdict, float) else float(bool(verdict))
        return (Outcome.CORRECT if score >= 1 else Outcome.WRONG), score, ""
    except ValueError:
        return Outcome.UNPARSED, 0.0, ""
    except (MemoryError, RecursionError, TimeoutError):
        return Outcome.TIMEOUT, 0.0, ""
    except Exception as error:
        return Outcome.FAILED, 0.0, f"{type(error).__name__}: {error}"


def reply(stream: BinaryIO, text: str) -> None:
    """Send `text` as one line."""
    stream.write(" ".join(text.split()).encode("ascii", "backslashreplace")[:2000] + b"\n")
    stream.flush()


if __name__ == "__main__":
    main()

"""What a worker process for checks does (zero/worker_process.py): requests in, verdicts out.

A pickled (path, answer, question, limit_s) in, "outcome|score|error" as one line out. The kernel enforces the limits: a CPU
timer whose signal kills, a ceiling of memory, and no writes to disk.
"""

from __future__ import annotations

import pickle
import resource
import signal
import sys
from importlib import import_module
from typing import Any

from zero.records import Outcome
from zero.worker_process import send_line

MEMORY = 2 << 30  # bytes of address space of one worker
LINE = 2000  # characters of a verdict
STACK = 3000  # Python frames: a deeper formula is refused, long before the C stack ends


def serve(stream: Any) -> None:
    """Answer requests until the stream ends."""
    sys.setrecursionlimit(STACK)
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    while True:
        try:
            path, answer, question, limit_s = pickle.load(stream)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # CPU seconds: a busy machine changes no verdict
        outcome, score, error = judge(path, answer, question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send_line(stream, " ".join(f"{outcome}|{score!r}|{error}".split())[:LINE])


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

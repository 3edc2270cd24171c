"""Checks under hard limits of time and memory, in worker processes that are killed and replaced.

A checker that may take long on a hostile answer (anything with algebra) is named by its dotted path in `BoundedChecker` and
never imported here. The kernel enforces limits of CPU seconds and memory (zero/grading/worker.py); wall time is only
a backstop. A worker that dies, for any reason, makes its answer a timeout and is replaced in milliseconds.
"""

from __future__ import annotations

import pickle
import selectors
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from zero.errors import InputError
from zero.questions import Checker
from zero.records import Outcome, Question
from zero.worker_process import WarmProcess, Worker

Pair = tuple[str, Question]


class Checked(NamedTuple):
    """The result of one check in a worker."""

    outcome: Outcome
    score: float = 0.0  # in [0, 1]; 1 if it is right


RIGHT = Checked(Outcome.CORRECT, 1.0)


MOST_WORKERS = 512
BACKSTOP_S = 30.0  # wall seconds beyond five times the limit, after which even a sleeping worker is killed


def check_many(check: Checker, pairs: Sequence[Pair]) -> list[Outcome]:
    """The outcome of each (answer, question), in order, whether or not the checker has workers of its own."""
    many = getattr(check, "many", None)
    return many(pairs) if many else [_in_process(check, *pair) for pair in pairs]


def _in_process(check: Checker, answer: str, question: Question) -> Outcome:
    try:
        return Outcome.CORRECT if check(answer, question) else Outcome.WRONG
    except ValueError:
        return Outcome.UNPARSED
    except (MemoryError, RecursionError, TimeoutError):
        return Outcome.TIMEOUT
    except Exception as error:  # one hostile answer must not end a run of days
        _warn(f"{type(error).__name__}: {error}", getattr(check, "__name__", "checker"))
        return Outcome.FAILED


def _warn(error: str, checker: str) -> None:
    warnings.warn(f"{checker} raised {error}; such answers count as failed", RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class BoundedChecker:
    """A checker run in worker processes. `path` is the dotted path of an ordinary checker.

    quick     a checker for this process that may also return None: undecided, ask the workers
    limit_s   CPU seconds for one answer
    workers   number of processes, started when the first answer needs one, and shared by all checkers
    preload   modules that are imported once, before the workers are forked
    """

    path: str
    quick: Callable[[str, Question], bool | None] | None = None
    limit_s: float = 1.0
    workers: int = 2
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        module = self.path.rpartition(".")[0]
        try:
            exists = bool(module) and find_spec(module) is not None
        except ImportError:
            exists = False
        if not exists:
            raise InputError("check.path", self.path, "no such module; give the dotted path of an importable function")
        if not self.limit_s > 0:
            raise InputError("check.limit_s", self.limit_s, "must be above 0")
        if not 1 <= self.workers <= MOST_WORKERS:
            raise InputError(
                "check.workers", self.workers, f"must lie between 1 and {MOST_WORKERS}; one for each core is enough"
            )

    def __call__(self, answer: str, question: Question) -> bool:
        """Check one answer. Raises TimeoutError and ValueError as a checker in this process would."""
        outcome = self.many([(answer, question)])[0]
        if outcome is Outcome.UNPARSED:
            raise ValueError("cannot be read")
        if outcome is Outcome.TIMEOUT:
            raise TimeoutError(f"took over {self.limit_s} s or too much memory")
        return outcome is Outcome.CORRECT

    def many(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of each pair. Equal answers to a question are checked once."""
        return [checked.outcome for checked in self.scored(pairs)]

    def scored(self, pairs: Sequence[Pair]) -> list[Checked]:
        """As `many`, with the scores of a checker that gives some."""
        keys = [(answer, question.id, question.answer) for answer, question in pairs]
        known: dict[object, Checked | None] = {}
        for key, (answer, question) in zip(keys, pairs, strict=True):
            if key not in known:
                verdict = self.quick(answer, question) if self.quick else None
                known[key] = None if verdict is None else RIGHT if verdict else Checked(Outcome.WRONG)
        undecided = {key: pair for key, pair in zip(keys, pairs, strict=True) if known[key] is None}
        if undecided:
            modules = (self.path.rpartition(".")[0], *self.preload)
            pool = worker_pool(modules, self.workers)
            known |= dict(zip(undecided, pool.check(self.path, list(undecided.values()), self.limit_s), strict=True))
        return [checked for key in keys if (checked := known[key]) is not None]


@lru_cache(maxsize=8)
def worker_pool(modules: tuple[str, ...], size: int) -> WorkerPool:
    return WorkerPool(modules, size)


class WorkerPool:
    """Up to `size` workers (zero/grading/worker.py), and the process that forks them."""

    def __init__(self, modules: Sequence[str], size: int) -> None:
        self._parent = WarmProcess("zero.grading.worker.serve", modules)
        self._size = size
        self._idle: list[Worker] = []

    def check(self, path: str, pairs: Sequence[Pair], limit_s: float) -> list[Checked]:
        """Results in the order of the pairs."""
        results = [Checked(Outcome.TIMEOUT)] * len(pairs)
        waiting = deque(enumerate(pairs))
        with selectors.DefaultSelector() as selector:
            busy: dict[int, Worker] = {}
            while waiting or busy:
                while waiting and len(busy) < self._size:
                    task, (answer, question) = waiting.popleft()
                    worker = self._idle_worker()
                    request = pickle.dumps((path, answer, question, limit_s))
                    worker.send(task, request, 5 * limit_s + BACKSTOP_S)
                    busy[worker.socket.fileno()] = worker
                    selector.register(worker.socket, selectors.EVENT_READ)
                soonest = min(worker.deadline for worker in busy.values())
                ready = {key.fd for key, _ in selector.select(max(0.0, soonest - time.monotonic()))}
                for fd in [fd for fd, w in busy.items() if fd in ready or w.deadline <= time.monotonic()]:
                    worker = busy.pop(fd)
                    selector.unregister(worker.socket)
                    results[worker.task] = self._finish(worker, fd in ready, path)
        return results

    def _idle_worker(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                return worker
            worker.end()
        try:
            return self._parent.fork()
        except (OSError, EOFError) as error:
            raise RuntimeError(f"no worker for grading could start ({error}); its own error stands above") from error

    def _finish(self, worker: Worker, ready: bool, path: str) -> Checked:
        """The result of a worker's task; the worker becomes idle, or is ended if it did not reply."""
        try:
            outcome, score, error = worker.receive().split("|", 2) if ready else ("", "", "")
        except (OSError, EOFError, ValueError):
            outcome = score = error = ""
        if not outcome:
            worker.end()
            return Checked(Outcome.TIMEOUT)
        self._idle.append(worker)
        if error:
            _warn(error, path)
        return Checked(Outcome(outcome), float(score))

"""Environments in worker processes that are killed and replaced: whatever one does, its own episode alone suffers.

A worker holds many live environments and takes one turn at a time. If it dies, whose turn it was may not be who is to blame:
another one may have eaten the memory, or left a thread behind that burns the CPU. So the turn is repeated in a worker of
its own, and counts against its episode only if that dies too. The others are told their texts again in another worker.
"""

from __future__ import annotations

import pickle
import selectors
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from zero.environments import NotAStep, Reply, Status
from zero.environments.host import Answer, answer_from, most_bytes, one_line
from zero.environments.live import Job, LiveEpisodes, Seat
from zero.environments.spec import EnvironmentSpec
from zero.errors import Broken
from zero.worker_process import WarmProcess, Worker

ATTEMPTS = 3  # at a turn whose worker ends and nobody knows how, as when all of them are killed from outside
NOBODY_KNOWS = "its process was killed, each time that it was tried, with the one that had made it"


@dataclass(eq=False)
class RemoteHost:
    """A worker, the numbers of its live environments, and the jobs that wait for them."""

    worker: Worker
    numbers: set[int] = field(default_factory=set)
    waiting: deque[tuple[Job, int]] = field(default_factory=deque)
    dropped: list[int] = field(default_factory=list)
    current: int = -1  # the environment whose turn it is


class IsolatedPool:
    """Up to `workers` worker processes, and the process that forks them. They start with the first transcript."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self._warm: WarmProcess | None = None
        self._hosts: list[RemoteHost] = []
        self._live = LiveEpisodes()
        # Of the call that runs
        self._new: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._busy: dict[int, RemoteHost] = {}
        self._replies: dict[str, Reply] = {}

    def close(self) -> None:
        """End every process."""
        for host in list(self._hosts):
            self._end(host)
        if self._warm:
            self._warm.close()
            self._warm = None

    def run(self, jobs: Sequence[Job]) -> dict[str, Reply]:
        """The reply to each job, by the key after its last text."""
        self._replies = {}
        for job in jobs:
            seat = self._live.take(job.before)
            if seat:
                seat.home.waiting.append((job, seat.number))
            else:
                self._new.append(job)
        with selectors.DefaultSelector() as selector:
            try:
                while self._assign(selector):
                    self._wait(selector)
            finally:  # after an interrupt: what is under way belongs to no later call
                for host in [host for host in self._hosts if host.current >= 0 or host.waiting]:
                    self._end(host)
                for jobs_left in (self._new, self._alone, self._busy):
                    jobs_left.clear()
        for seat in self._live.trim(len(jobs)):
            self._drop(seat.home, seat.number)
        return self._replies

    def _assign(self, selector: selectors.BaseSelector) -> bool:
        """Give work to as many workers as may work. Whether any does."""
        while len(self._busy) < self._spec.workers:
            idle = [host for host in self._hosts if host.current < 0]
            if self._alone:
                job, host, live = self._alone.popleft(), self._start(), False
                number = self._live.new_number()
            elif ready := [host for host in idle if host.waiting]:
                host, live = ready[0], True
                job, number = host.waiting.popleft()
            elif self._new:
                job, live = self._new.popleft(), False
                host = self._start() if len(self._hosts) < self._spec.workers else min(idle, key=_load)
                number = self._live.new_number()
            else:
                break
            self._send(selector, host, job, number, live)
        return bool(self._busy)

    def _send(self, selector: selectors.BaseSelector, host: RemoteHost, job: Job, number: int, live: bool) -> None:
        task = job.task(number, live, host.dropped)
        turns = len(task.texts) + (not live)
        try:
            host.worker.send(job, pickle.dumps(task), turns * self._spec.wall_s)
        except OSError:  # killed while it was idle
            self._end(host)
            self._again(job)
            return
        host.dropped = []
        host.numbers.add(number)
        host.current = number
        self._busy[host.worker.socket.fileno()] = host
        selector.register(host.worker.socket, selectors.EVENT_READ)

    def _wait(self, selector: selectors.BaseSelector) -> None:
        """Until a worker has an answer, has died, or is late."""
        soonest = min(host.worker.deadline for host in self._busy.values())
        ready = {key.fd for key, _ in selector.select(max(0.0, soonest - time.monotonic()))}
        for fd in [fd for fd, h in self._busy.items() if fd in ready or h.worker.deadline <= time.monotonic()]:
            host = self._busy.pop(fd)
            selector.unregister(host.worker.socket)
            self._finish(host, fd in ready)

    def _finish(self, host: RemoteHost, ready: bool) -> None:
        """The answer to a job, or what becomes of a job whose worker has none."""
        job, number = host.worker.task, host.current
        host.current = -1
        answer, error, most = None, "", most_bytes(self._spec.limits)
        try:
            answer = answer_from(host.worker.receive(most)) if ready else None
        except (OSError, EOFError):
            pass
        except (ValueError, NotAStep) as problem:
            error = one_line(f"its process sent what is no answer: {problem}")
        if answer is not None and answer.reply.status is not Status.OUT_OF_MEMORY:
            self._record(host, job, number, answer)
            return
        company = len(host.numbers) > 1
        code = self._end(host)
        if company and not job.alone:
            job.alone = True
            self._alone.append(job)
        elif answer is not None:
            self._replies[job.after] = answer.reply
        elif error:
            self._replies[job.after] = Reply(None, Status.LIED, error)
        elif code is None and ready:
            self._again(job)
        else:
            self._replies[job.after] = self._death(code if ready else None)

    def _record(self, host: RemoteHost, job: Job, number: int, answer: Answer) -> None:
        self._replies[job.after], stays = self._live.record(job, answer, Seat(number, host))
        if job.alone:  # one worker more than there may be; the next turn is a replay elsewhere
            self._end(host)
        elif not stays:
            self._drop(host, number)

    def _again(self, job: Job) -> None:
        """Play it in another worker, unless that has been tried often enough."""
        job.attempts += 1
        if job.attempts < ATTEMPTS:
            (self._alone if job.alone else self._new).append(job)
        else:
            self._replies[job.after] = Reply(None, Status.FAILED, NOBODY_KNOWS)

    def _death(self, code: int | None) -> Reply:
        """The reply for a worker that ended with this exit code; None: it was late."""
        if code is None:
            turns = f"{self._spec.wall_s:g} s of wall time for a turn (environment.wall_s)"
            return Reply(None, Status.TIMED_OUT, f"took over {turns}")
        if code == -signal.SIGPROF:
            return Reply(None, Status.TIMED_OUT, f"took over {self._spec.cpu_s:g} CPU seconds for a turn")
        if code == -signal.SIGKILL:
            return Reply(None, Status.OUT_OF_MEMORY, "its process was killed, as the kernel does for memory")
        if code < 0:
            return Reply(None, Status.FAILED, f"its process died of signal {-code} ({signal.strsignal(-code)})")
        return Reply(None, Status.FAILED, f"its process ended by itself, with exit code {code}")

    def _start(self) -> RemoteHost:
        """A new worker. Broken if there can be none."""
        for _ in range(2):
            try:
                self._warm = self._warm or WarmProcess("zero.environments.host.serve", self._spec.modules)
                host = RemoteHost(self._warm.fork())
                host.worker.send(None, pickle.dumps(self._spec.limits), self._spec.wall_s)
            except (OSError, EOFError, ValueError) as error:  # it was killed: another one
                if self._warm:
                    self._warm.close()
                self._warm, problem = None, error
                continue
            self._hosts.append(host)
            return host
        raise Broken(
            f"no worker for {self._spec.path} could start ({problem}); its own error stands above"
        ) from problem

    def _drop(self, host: RemoteHost, number: int) -> None:
        host.numbers.discard(number)
        host.dropped.append(number)

    def _end(self, host: RemoteHost) -> int | None:
        """Kill a worker. Those that wait for its environments get new ones. How it ended, if it was not this."""
        self._hosts.remove(host)
        self._live.leave(host)
        self._new.extend(job for job, _ in host.waiting)
        host.waiting.clear()
        return host.worker.end()


def _load(host: RemoteHost) -> int:
    """How many live environments it holds."""
    return len(host.numbers)

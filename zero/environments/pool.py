"""What environments reply to the texts of many episodes at once: `play`, a function of transcripts and nothing else.

A transcript names an environment, a row, a seed and every text so far; the reply is to the last text. Behind that, live
environments are kept, so that a turn costs one step. One that is lost, since its process died or it had to make room, is
made anew and told all its texts; it must return the same again, and one that does not has lied. Our own environments live in
this process, foreign ones in workers (zero/environments/isolated.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from zero.environments import Reply
from zero.environments.host import Host, generators_put_back
from zero.environments.isolated import IsolatedPool
from zero.environments.live import Job, LiveEpisodes, Seat, Transcript, job_from
from zero.environments.spec import EnvironmentSpec


class Pool(Protocol):
    """Plays transcripts of one environment."""

    def run(self, jobs: Sequence[Job]) -> dict[str, Reply]:
        """The reply to each job, by the key after its last text."""
        ...

    def close(self) -> None:
        """Let all environments go."""
        ...


class LocalPool:
    """Environments of this process, which are trusted to end their turns; not to be right."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec, self._host = spec, Host(spec.limits)
        self._live = LiveEpisodes()
        self._dropped: list[int] = []

    def run(self, jobs: Sequence[Job]) -> dict[str, Reply]:
        """The reply to each job, by the key after its last text."""
        with generators_put_back():
            return self._run(jobs)

    def _run(self, jobs: Sequence[Job]) -> dict[str, Reply]:
        replies = {}
        for job in jobs:
            seat = self._live.take(job.before)
            number = seat.number if seat else self._live.new_number()
            answer = self._host.play(job.task(number, live=seat is not None, dropped=self._dropped))
            replies[job.after], stays = self._live.record(job, answer, Seat(number, self._host))
            self._dropped = [] if stays else [number]
        self._dropped += [seat.number for seat in self._live.trim(len(jobs))]
        return replies

    def close(self) -> None:
        """Let all environments go."""
        self._host, self._live, self._dropped = Host(self._spec.limits), LiveEpisodes(), []


_LOCK = threading.Lock()  # the next step may be sampled ahead while an evaluation runs


def play(transcripts: Sequence[Transcript]) -> list[Reply]:
    """The reply to each transcript, in order: the step to its last text, or of reset if it has none. Equal ones are played once.

    Nothing that an environment does raises. Raises Broken if no worker process can be started.
    """
    jobs = [job_from(transcript) for transcript in transcripts]
    by_spec: dict[EnvironmentSpec, dict[str, Job]] = {}
    for job in jobs:
        by_spec.setdefault(job.transcript.spec, {})[job.after] = job
    replies: dict[str, Reply] = {}
    with _LOCK:
        for spec, unique in by_spec.items():
            replies |= pool_of(spec).run(list(unique.values()))
    return [replies[job.after] for job in jobs]


@cache
def pool_of(spec: EnvironmentSpec) -> Pool:
    """The pool of an environment, which every call shares."""
    return IsolatedPool(spec) if spec.isolated else LocalPool(spec)

"""Episodes that go on: which live environment has been told what, and what it had returned to the same texts before."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zero.environments import Reply, Status
from zero.environments.host import Answer, Beginning, Task
from zero.environments.spec import EnvironmentSpec
from zero.records import Question

LEAST_LIVE = 256  # live environments that a pool keeps at least; it has room for two for each transcript of a call
MOST_HASHES = 1 << 16  # states of episodes of which a pool remembers what the environment had returned
CHANGED = "did not return the same to the same texts; it must depend on the row, the seed and the texts alone"


@dataclass(frozen=True, slots=True)
class Transcript:
    """An episode so far: in which environment, from which row and seed, and what the policy has said."""

    spec: EnvironmentSpec
    row: Question
    seed: int
    texts: tuple[str, ...] = ()


@dataclass(eq=False)
class Job:
    """A transcript to be played. The keys stand for the episode before its last text, and with it."""

    transcript: Transcript
    before: str
    after: str
    alone: bool = False  # in a worker of its own, so that nobody else can be to blame
    attempts: int = 0

    def task(self, number: int, live: bool, dropped: Sequence[int] = ()) -> Task:
        """For the live environment of that number, or for a new one that gets the number."""
        episode = self.transcript
        if live:
            return Task(number, None, episode.texts[-1:], tuple(dropped))
        beginning = Beginning(episode.spec.path, episode.spec.settings, episode.row, episode.seed)
        return Task(number, beginning, episode.texts, tuple(dropped))


class Seat(NamedTuple):
    """Where a live environment is: its number, and the host that holds it."""

    number: int
    home: Any


class LiveEpisodes:
    """Live environments by what was said to them, and hashes of what they returned."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}  # the oldest first
        self._hashes: dict[str, str] = {}
        self._numbers = itertools.count()

    def new_number(self) -> int:
        return next(self._numbers)

    def take(self, key: str) -> Seat | None:
        """The environment to which just this was said; whoever takes it gives it its next text."""
        return self._seats.pop(key, None)

    def record(self, job: Job, answer: Answer, seat: Seat) -> tuple[Reply, bool]:
        """The reply to a job, and whether the environment stays. It is LIED if anything that the environment has returned to
        these texts was different before."""
        step = answer.reply.step
        agrees = self._agrees(job.before, answer.before) and self._agrees(job.after, answer.after)
        if not agrees:
            return Reply(None, Status.LIED, CHANGED), False
        if step is None or step.done or job.after in self._seats:
            return answer.reply, False
        self._seats[job.after] = seat
        return answer.reply, True

    def leave(self, home: Any) -> None:
        """Forget the environments of a host that is gone."""
        self._seats = {key: seat for key, seat in self._seats.items() if seat.home is not home}

    def trim(self, calls: int) -> list[Seat]:
        """Take those away that have waited longest, beyond what calls of this size need."""
        surplus = len(self._seats) - max(LEAST_LIVE, 2 * calls)
        return [self._seats.pop(key) for key in list(self._seats)[: max(0, surplus)]]

    def _agrees(self, key: str, hashed: str) -> bool:
        if not hashed:
            return True
        if len(self._hashes) >= MOST_HASHES:
            del self._hashes[next(iter(self._hashes))]
        return self._hashes.setdefault(key, hashed) == hashed


def job_from(transcript: Transcript) -> Job:
    """The job of playing a transcript. Its keys are hashes of all that it consists of."""
    spec = transcript.spec
    hashed = hashlib.sha256(pickle.dumps((spec, transcript.row, transcript.seed)))
    before = ""
    for text in transcript.texts:
        before = hashed.hexdigest()
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % len(data) + data)
    return Job(transcript, before, hashed.hexdigest())

"""Live environments, and how one is spoken to: in this process, or in a worker that a hostile one may take with it.

What an environment does wrong becomes a Reply, whatever it is. Python's and NumPy's global generators, from which many
foreign ones draw, are each episode's own: seeded before it begins, and restored before each turn, so that neither episodes
side by side nor a replay in another process changes a draw.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import pkgutil
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from zero.config.functions import line_of
from zero.environments import NotAStep, Observation, Reply, Status, Step, as_step, start
from zero.environments.spec import EXTRAS, Limits, wants_extras
from zero.errors import InputError
from zero.records import Question
from zero.worker_process import send_line

ERROR_CHARS = 300  # of the line that says what went wrong
FILE = 1 << 30  # bytes of the largest file that a worker may write


class Beginning(NamedTuple):
    """What a new episode is made from: its factory's dotted path and settings as JSON, the row and the seed."""

    path: str
    settings: str
    row: Question
    seed: int


class Task(NamedTuple):
    """One turn of the live environment `number`, or of a new one, to which all texts are told. The reply is to the last."""

    number: int
    beginning: Beginning | None
    texts: tuple[str, ...]
    dropped: tuple[int, ...] = ()  # live environments that nobody needs any more


class Answer(NamedTuple):
    """The reply to a task, with hashes of all that the environment has returned before its last step, and with that."""

    reply: Reply
    before: str = ""
    after: str = ""


@dataclass
class Episode:
    """A live environment, its generators, and hashes of all that it has returned: before its last step, and with that."""

    numpy_bits: np.random.MT19937  # of NumPy's generator
    python_state: Any = None  # of Python's
    environment: Any = None
    before: str = ""
    hashed: str = ""
    turns: int = 0
    done: bool = False


class Host:
    """Holds live environments by number.

    timer  is given the CPU seconds of a turn before it, and 0 after it; it may end the process
    """

    def __init__(self, limits: Limits, timer: Callable[[float], Any] = lambda seconds: None) -> None:
        self._limits, self._timer = limits, timer
        self._episodes: dict[int, Episode] = {}
        self._spare_bits: list[np.random.MT19937] = []  # of episodes that are over: to make one takes as long as a turn

    def play(self, task: Task) -> Answer:
        """The answer to a task. An environment that is done, or has failed, is let go."""
        for number in task.dropped:
            self._let_go(self._episodes.pop(number, None))
        episode = self._episodes.pop(task.number, None)
        episode = episode or Episode(self._spare_bits.pop() if self._spare_bits else np.random.MT19937(0))
        try:
            step = self._play(episode, task)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of any kind: the next episode must not suffer from it
            self._let_go(episode)
            with self._turn():  # its message may take for ever to make
                return Answer(_failure(error, self._limits))
        if episode.done:
            self._let_go(episode)
        else:
            self._episodes[task.number] = episode
        return Answer(Reply(step), episode.before, episode.hashed)

    def _let_go(self, episode: Episode | None) -> None:
        if episode is not None:
            self._spare_bits.append(episode.numpy_bits)

    def _play(self, episode: Episode, task: Task) -> Step:
        step = None
        if task.beginning is None:
            random.setstate(episode.python_state)
        else:
            with self._turn():
                step = self._begin(episode, task.beginning)
        for text in task.texts:
            with self._turn():
                step = self._step(episode, text)
        assert step is not None, "a task without a beginning has a text"
        if not episode.done:
            episode.python_state = random.getstate()
        return step

    def _begin(self, episode: Episode, beginning: Beginning) -> Step:
        set_bit_generator(episode.numpy_bits)
        random.seed(f"environment/{beginning.row.id}/{beginning.seed}")
        np.random.seed(random.getrandbits(32))
        episode.environment = make(beginning)
        observation = start(episode.environment, beginning.row, beginning.seed)
        return self._record(episode, Step(observation, 0.0, done=False))

    def _step(self, episode: Episode, text: str) -> Step:
        if episode.done:
            raise NotAStep(f"the episode ended after {episode.turns} turns, and now goes on")
        set_bit_generator(episode.numpy_bits)  # at each turn: it forgets half a pair of normal numbers
        step = as_step(episode.environment.step(text))
        episode.turns += 1
        return self._record(episode, step)

    def _record(self, episode: Episode, step: Step) -> Step:
        """The step, within the limits; the episode's hash covers it from now on."""
        step = _bounded(step, self._limits.observation_chars)
        hashed = hashlib.sha256((episode.hashed + json.dumps(packed(step))).encode()).hexdigest()[:16]
        episode.before, episode.hashed, episode.done = episode.hashed, hashed, step.done
        return step

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._timer(self._limits.cpu_s)
        try:
            yield
        finally:
            self._timer(0)


def make(beginning: Beginning) -> Any:
    """A new environment. One that wants SkyRL-Gym's `extras`, and is given none, has the row's columns in them."""
    (factory, extras), settings = _factory(beginning.path), json.loads(beginning.settings)
    if extras and EXTRAS not in settings:
        row = beginning.row
        settings[EXTRAS] = {"extra_info": dict(row.meta), "reward_spec": {"ground_truth": row.answer[0]}, **row.meta}
    return factory(**settings)


@lru_cache(maxsize=64)
def _factory(path: str) -> tuple[Callable[..., Any], bool]:
    """The factory of that path, and whether it wants SkyRL-Gym's `extras`."""
    factory = pkgutil.resolve_name(path)
    return factory, wants_extras(factory)


def serve(stream: Any) -> None:
    """Answer tasks until the stream ends: a worker of zero/worker_process.py. The first message is the limits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # environments print
    limits: Limits = pickle.load(stream)
    memory = _address_space() + (limits.memory_mb << 20)
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, FILE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    # CPU seconds, which the kernel counts: no turn is lost because the machine is busy
    host = Host(limits, lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds))
    while True:
        try:
            task = pickle.load(stream)
        except EOFError:
            return
        send_line(stream, line_from(host.play(task)))


def most_bytes(limits: Limits) -> int:
    """The longest line that an answer may be: a character takes up to twelve bytes in JSON."""
    return 12 * limits.observation_chars + 16_000


def line_from(answer: Answer) -> str:
    """An answer as JSON."""
    outcome = answer.reply
    step = packed(outcome.step) if outcome.step else None
    return json.dumps([step, outcome.status, outcome.error, answer.before, answer.after])


def answer_from(line: str) -> Answer:
    """The answer of a worker's line, believed as little as the environment itself: NotAStep if it is none."""
    try:
        values, status, error, before, after = json.loads(line)
        if not (isinstance(error, str) and isinstance(before, str) and isinstance(after, str)):
            raise TypeError("no texts")
        if Status(status) is not Status.OK:
            return Answer(Reply(None, Status(status), one_line(error)), before, after)
        text, fresh, images, reward, done, success, kind = values
        step = as_step(Step(Observation(text, fresh, tuple(images)), reward, done, success, kind))
        return Answer(Reply(step), before, after)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotAStep(one_line(str(error))) from error


def packed(step: Step) -> list[Any]:
    """A step that `as_step` has read, in plain data."""
    seen = step.observation
    assert isinstance(seen, Observation)
    return [seen.text, seen.fresh, list(seen.images), step.reward, step.done, step.success, step.kind]


def one_line(text: str) -> str:
    """At most ERROR_CHARS characters of a hostile text, all of which a terminal can show."""
    words = " ".join(text[: 4 * ERROR_CHARS].split())[:ERROR_CHARS]
    return "".join(character if character.isprintable() else "?" for character in words)


def _bounded(step: Step, most: int) -> Step:
    seen = step.observation
    assert isinstance(seen, Observation)
    size = len(seen.text) + sum(map(len, seen.images))
    if size <= most:
        return step
    if step.done:  # nobody reads it on
        return replace(step, observation=Observation(seen.text[:most]))
    raise NotAStep(f"an observation of {size} characters; at most {most} may be (environment.observation_chars)")


def _failure(error: BaseException, limits: Limits) -> Reply:
    if isinstance(error, MemoryError):
        return Reply(None, Status.OUT_OF_MEMORY, f"needs over {limits.memory_mb} MB")
    try:
        text = one_line(str(error))
        place = line_of(error) if isinstance(error, Exception) else ""
    except BaseException:  # an exception may be as hostile as its environment
        text = place = ""
    if isinstance(error, NotAStep):
        return Reply(None, Status.LIED, text)
    if isinstance(error, InputError):  # names its setting and the remedy itself
        return Reply(None, Status.FAILED, text)
    return Reply(None, Status.FAILED, one_line(f"{type(error).__name__}{place}: {text}"))


@contextmanager
def generators_put_back() -> Iterator[None]:
    """The generators of this process are after it what they were before, whatever episodes have drawn."""
    python, numbers, bits = random.getstate(), np.random.get_state(), get_bit_generator()
    try:
        yield
    finally:
        random.setstate(python)
        set_bit_generator(bits)
        np.random.set_state(numbers)


def _address_space() -> int:
    """Bytes that this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

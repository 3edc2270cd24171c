"""Many episodes in environments that misbehave: each reply is a function of its transcript, whatever the others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zero.environments import Observation, Reply, Status, Step
from zero.environments.isolated import IsolatedPool
from zero.environments.pool import Transcript, play, pool_of
from zero.environments.spec import EnvironmentSpec, environment_spec
from zero.errors import Broken
from zero.records import Question

WORLDS = "tests.environments.worlds"


def spec(name: str, isolated: bool = True, **limits: Any) -> EnvironmentSpec:
    settings = {"cpu_s": 0.2, "wall_s": 20.0, "memory_mb": 400, **limits}
    return environment_spec({"_target_": f"{WORLDS}.{name}"}, isolated, **settings)


def row(name: str, text: str = "Begin.") -> Question:
    return Question(text, ("3",), name, meta={"max_turns": 2})


def episode(environment: EnvironmentSpec, name: str, *texts: str, seed: int = 0) -> Transcript:
    return Transcript(environment, row(name), seed, texts)


def pool(environment: EnvironmentSpec) -> IsolatedPool:
    shared = pool_of(environment)
    assert isinstance(shared, IsolatedPool)
    return shared


def pids(environment: EnvironmentSpec) -> list[int]:
    return [host.worker.pid for host in pool(environment)._hosts]


HOSTILE = spec("Hostile")


@pytest.fixture(autouse=True, scope="module")
def ends() -> Iterator[None]:
    """Every process ends with the tests of this file."""
    yield
    for environment in (HOSTILE,):
        pool_of(environment).close()


@pytest.mark.parametrize("isolated", [True, False])
def test_an_episode_here_and_in_a_worker(isolated: bool) -> None:
    environment = spec("Count", isolated, workers=1)
    first = play([episode(environment, "a")])
    assert first == [Reply(Step(Observation("Begin."), 0.0, False))]
    assert play([episode(environment, "a", "one")]) == [Reply(Step(Observation("1: one"), 3.0, False))]
    ended = play([episode(environment, "a", "one", "end")])
    assert ended == [Reply(Step(Observation("2: end"), 3.0, True))]
    assert play([episode(environment, "a", "one", "end")]) == ended  # from its texts alone
    late = play([episode(environment, "a", "one", "end", "more")])[0]
    assert (late.status, late.error) == (Status.LIED, "the episode ended after 2 turns, and now goes on")
    pool_of(environment).close()


def test_all_of_an_observation_and_of_a_step_arrives() -> None:
    replies = {
        isolated: play([episode(spec("Pages", isolated), "a", *texts, seed=3) for texts in ((), ("on",), ("end",))])
        for isolated in (True, False)
    }
    pool_of(spec("Pages")).close()
    assert replies[True] == replies[False]
    assert replies[True] == [
        Reply(Step(Observation("page 3", True, (32 * "ab",)), 0.0, False)),
        Reply(Step(Observation("after on", True), 0.5, False, True, "wrong_action")),
        Reply(Step(Observation("after end", True), 0.5, True, True, "wrong_action")),
    ]


LIES = {
    "nan": "the reward is nan",
    "infinite": "the reward is -inf",
    "absurd": "the reward is 1e+300",
    "huge": "the reward is inf",
    "word": "the reward is no number but of type str",
    "none": "the observation is no text but of type NoneType",
    "bytes": "the observation is no text but of type bytes",
    "half": "the observation holds half a surrogate pair",
    "undecided": "`done` is neither true nor false but of type str",
    "curve": "the kind of a step is no word",
    "four": "step returned a tuple of 4",
    "long": "an observation of 10000000 characters; at most 20000 may be (environment.observation_chars)",
}


@pytest.mark.parametrize("isolated", [True, False])
def test_what_no_step_may_be_is_a_lie(isolated: bool) -> None:
    environment = HOSTILE if isolated else spec("Hostile", isolated=False)
    replies = play([episode(environment, "lies", lie) for lie in LIES])
    for reply, problem in zip(replies, LIES.values(), strict=True):
        assert reply.step is None
        assert reply.status is Status.LIED
        assert reply.error.startswith(problem)
    fine = play([episode(environment, "lies", text) for text in ("control", "negative", "final", "print")])
    steps = [reply.step for reply in fine if reply.step]
    assert [step.reward for step in steps] == [0.0, -1.5, 1.0, 0.0]
    assert steps[0].observation == Observation("\x00\x1b[2J\r\n\t\u202e  two  spaces")
    assert steps[2].observation == Observation("x" * 20_000)


def test_every_way_to_fail_is_a_counted_reply_and_the_others_go_on() -> None:
    ways = {
        "hang": (Status.TIMED_OUT, "took over 0.2 CPU seconds for a turn"),
        "power": (Status.TIMED_OUT, "took over 0.2 CPU seconds for a turn"),
        "unprintable": (Status.TIMED_OUT, "took over 0.2 CPU seconds for a turn"),
        "raise": (Status.FAILED, "KeyError at FILE: 'a \\n bug\\x1b[31m'"),
        "exit": (Status.FAILED, "SystemExit: 3"),
        "die": (Status.FAILED, "its process ended by itself, with exit code 3"),
        "crash": (Status.FAILED, f"its process died of signal 11 ({signal.strsignal(11)})"),
        "kill": (Status.OUT_OF_MEMORY, "its process was killed, as the kernel does for memory"),
        "memory": (Status.OUT_OF_MEMORY, "needs over 400 MB"),
    }
    honest = [f"honest/{i}" for i in range(8)]
    play([episode(HOSTILE, name) for name in honest])
    for turn in (1, 2, 3):
        texts = ("fine", "well", "good")[:turn]
        guilty = [episode(HOSTILE, "guilty", *texts[:-1], way) for way in ways] if turn == 3 else []
        replies = play([*(episode(HOSTILE, name, *texts) for name in honest), *guilty])
        assert replies[:8] == [Reply(Step(Observation(f"{turn}: {texts[-1]}"), 0.0, False))] * 8
    for way, reply in zip(ways, replies[8:], strict=True):
        status, error = ways[way]
        before, _, after = error.partition("FILE")
        assert (way, reply.step, reply.status) == (way, None, status)
        assert reply.error.startswith(before) and reply.error.endswith(after)


def test_an_environment_that_misbehaves_before_any_text() -> None:
    replies = play([episode(HOSTILE, name) for name in ("hang", "die", "raise", "none", "long", "honest")])
    statuses = [Status.TIMED_OUT, Status.FAILED, Status.FAILED, Status.LIED, Status.LIED, Status.OK]
    assert [reply.status for reply in replies] == statuses
    # and when it is told its texts after that, as a run would that goes on from a checkpoint
    assert play([episode(HOSTILE, "raise", "text")])[0].status is Status.FAILED


def test_one_that_sleeps_ends_by_the_wall_clock_and_those_behind_it_go_on() -> None:
    environment = spec("Hostile", wall_s=0.5, workers=1)
    play([episode(environment, name) for name in ("a", "other")])
    replies = play([episode(environment, "a", "sleep"), episode(environment, "other", "on")])
    assert replies[0].error == "took over 0.5 s of wall time for a turn (environment.wall_s)"
    assert [reply.status for reply in replies] == [Status.TIMED_OUT, Status.OK]
    pool_of(environment).close()


def test_nobody_is_blamed_for_what_another_one_did() -> None:
    environment = spec("Hostile", workers=1)
    names = ("a", "b", "c")
    play([episode(environment, name) for name in names])
    # 250 MB each: together too much for a worker, one by one not
    held = play([episode(environment, name, "hold 250") for name in names])
    assert [reply.status for reply in held] == [Status.OK] * 3
    # one leaves a thread behind that ends the process in the middle of another one's turn
    play([episode(environment, name) for name in ("doom", "slow")])
    replies = play([episode(environment, "doom", "doom"), episode(environment, "slow", "slow")])
    assert [reply.status for reply in replies] == [Status.OK, Status.OK]
    pool_of(environment).close()


def test_a_replay_equals_the_episode_that_was_lost() -> None:
    environment = spec("Dice", workers=2)
    texts = ("one", "two", "three")
    names = [f"dice/{i}" for i in range(6)]
    straight = [play([episode(environment, name, *texts[:n], seed=5) for name in names]) for n in range(4)]
    assert len({reply.step.observation for reply in straight[0] if reply.step}) == 6
    pool_of(environment).close()
    # side by side in another order, one at a time, with workers killed between turns: the same numbers
    for name in reversed(names):
        for n in range(4):
            replies = play([episode(environment, name, *texts[:n], seed=5)])
            assert replies[0] == straight[n][names.index(name)]
        os.kill(pids(environment)[0], signal.SIGKILL)
    pool_of(environment).close()
    here = spec("Dice", isolated=False)
    assert [play([episode(here, name, *texts, seed=5)])[0] for name in names] == straight[3]


def test_draws_here_leave_the_generators_of_this_process_alone() -> None:
    import random

    import numpy as np

    np.random.normal()  # one of a pair: the other one is kept for the next call
    states = random.getstate(), str(np.random.get_state(legacy=False))
    play([episode(spec("Dice", isolated=False), "a", "one")])
    assert (random.getstate(), str(np.random.get_state(legacy=False))) == states and "'has_gauss': 1" in states[1]


@pytest.mark.parametrize("isolated", [True, False])
def test_an_environment_that_is_not_deterministic_has_lied(isolated: bool) -> None:
    environment = spec("Clock", isolated, workers=1)
    play([episode(environment, "a"), episode(environment, "a", "one")])
    replies = play([episode(environment, "a", "one", "two"), episode(environment, "a", "one", "three")])
    # the first goes on from the live one; the second is a replay, and sees another time
    assert [reply.status for reply in replies] == [Status.OK, Status.LIED]
    assert replies[1].error.startswith("did not return the same to the same texts")
    pool_of(environment).close()


def test_siblings_share_what_they_have_said_and_part() -> None:
    environment = spec("Count", workers=2)
    first = play([episode(environment, "a", "same") for _ in range(4)])
    assert first == [Reply(Step(Observation("1: same"), 4.0, False))] * 4
    second = play([episode(environment, "a", "same", text) for text in ("x", "y", "x", "z")])
    assert [reply.step.observation.text for reply in second if reply.step] == ["2: x", "2: y", "2: x", "2: z"]  # type: ignore[union-attr]
    pool_of(environment).close()


def test_several_workers_are_busy_at_once() -> None:
    environment = spec("Hostile", workers=2)
    play([episode(environment, name) for name in ("a", "b")])
    replies = play([episode(environment, name, "interval") for name in ("a", "b")])
    begins, ends = zip(
        *(map(float, reply.step.observation.text.split()) for reply in replies if reply.step), strict=True
    )  # type: ignore[union-attr]
    assert max(begins) < min(ends)
    pool_of(environment).close()


def test_hundreds_of_episodes_side_by_side_and_more_than_there_is_room_for() -> None:
    environment = spec("Count", workers=2)
    names = [f"many/{i}" for i in range(300)]
    for turn in range(3):
        texts = ("x" * i for i in range(300))
        replies = play(
            [episode(environment, name, *["on"] * turn, text) for name, text in zip(names, texts, strict=True)]
        )
        assert [reply.step.reward for reply in replies if reply.step] == [float(i) for i in range(300)]
    small = [play([episode(environment, name, "alone")])[0].status for name in names]
    assert set(small) == {Status.OK}
    live = pool(environment)._live._seats
    assert len(live) <= 256
    assert sum(len(host.numbers) for host in pool(environment)._hosts) == len(live)
    pool_of(environment).close()


def test_other_projects_environments_run_unwrapped() -> None:
    gem = environment_spec({"_target_": f"{WORLDS}.GemGuess", "most": 4})
    assert gem.isolated
    guesses = [play([episode(gem, "a", str(guess), seed=1)])[0].step for guess in (0, 1, 2, 3, 4)]
    assert [step.done for step in guesses if step].count(True) == 2  # the right one, and 0, which gives up
    assert [step.success for step in guesses if step].count(True) == 1
    sky = environment_spec({"_target_": f"{WORLDS}.SkyRLSum"})
    replies = play([episode(sky, "a", *texts) for texts in ((), ("4",), ("4", "3"), ("4", "5"))])
    assert [(reply.step.observation, reply.step.reward, reply.step.done) for reply in replies if reply.step] == [
        (Observation("Begin."), 0.0, False),
        (Observation("Try\nagain."), 0.0, False),
        (Observation(""), 1.0, True),
        (Observation(""), 0.0, True),
    ]
    pool_of(gem).close()
    pool_of(sky).close()


def test_an_answer_that_no_host_gave_is_believed_as_little() -> None:
    replies = play([episode(HOSTILE, "forger", "forge"), episode(HOSTILE, "honest", "on")])
    assert [reply.status for reply in replies] == [Status.LIED, Status.OK]
    assert "no answer" in replies[0].error


def test_the_process_that_forks_may_die_too() -> None:
    environment = spec("Count", workers=1)
    play([episode(environment, "a", "one")])
    warm = pool(environment)._warm
    assert warm is not None
    os.kill(warm.pid, signal.SIGKILL)
    while alive(pids(environment)[0]):
        time.sleep(0.01)
    assert play([episode(environment, "a", "one", "two")]) == [Reply(Step(Observation("2: two"), 3.0, False))]
    pool_of(environment).close()


def test_a_module_that_cannot_be_imported_over_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from tests.environments.worlds import Count\n"
    (tmp_path / "here_alone.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = environment_spec({"_target_": "here_alone.Count"})
    (tmp_path / "here_alone.py").write_text("raise RuntimeError('not here')\n" + source)
    with pytest.raises(Broken, match=r"no worker for here_alone\.Count could start"):
        play([episode(environment, "a")])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def test_no_process_is_left_after_close() -> None:
    environment = spec("Hostile", workers=2)
    child = play([episode(environment, "a", "children"), episode(environment, "b")])[0].step
    assert child is not None
    warm = pool(environment)._warm
    assert warm is not None
    processes = [warm.pid, *pids(environment), int(child.observation.text)]  # type: ignore[union-attr]
    assert all(map(alive, processes))
    pool_of(environment).close()
    assert gone(processes)


def test_no_process_is_left_after_the_trainer_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, threading, time
from tests.environments.test_pool import *
environment = spec("Hostile", workers=2, wall_s=100.0)
child = play([episode(environment, "a", "children"), episode(environment, "b")])[0].step.observation.text
print(pool(environment)._warm.pid, *pids(environment), child, flush=True)
threading.Thread(target=play, args=([episode(environment, "b", "sleep")],), daemon=True).start()
time.sleep(0.2)
os.kill(os.getpid(), {signal.SIGKILL})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    processes = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(processes) == 4
    assert gone(processes)

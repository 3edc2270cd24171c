"""Environments that are honest, foreign or misbehave on request; some are imported by worker processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

import numpy as np

from zero.environments import Observation, Step
from zero.records import Question


class Count:
    """Counts what was said; earns its length; "end" ends it."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def reset(self, row: Question, seed: int) -> str:
        return row.text

    def step(self, text: str) -> tuple[str, float, bool]:
        self.count += 1
        return f"{self.count}: {text}", float(len(text)), text == "end"


class Hostile(Count):
    """Misbehaves in the way that a text names, or its row before there is any text."""

    held: ClassVar[list[Any]] = []

    def reset(self, row: Question, seed: int) -> Any:
        return misbehave(row.id.partition("/")[0], row.text)

    def step(self, text: str) -> Any:
        self.count += 1
        observation = misbehave(text, f"{self.count}: {text}")
        return observation if isinstance(observation, tuple | Step) else (observation, 0.0, False)


def misbehave(way: str, observation: str) -> Any:
    """What the environment returns in its place, if anything."""
    match way.split():
        case ["hang"]:
            while True:
                pass
        case ["power"]:
            return 9**9**9  # one call into C: no handler of Python's would ever run
        case ["sleep"]:
            time.sleep(1000)
        case ["raise"]:
            raise KeyError("a \n bug\x1b[31m")
        case ["exit"]:
            sys.exit(3)
        case ["die"]:
            os._exit(3)
        case ["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["memory"]:
            return "x" * (1 << 33)
        case ["hold", megabytes]:
            Hostile.held.append(bytearray(int(megabytes) << 20))
        case ["doom"]:
            threading.Timer(0.2, os._exit, (5,)).start()
        case ["interval"]:
            begin = time.monotonic()
            time.sleep(0.5)
            return f"{begin} {time.monotonic()}"
        case ["slow"]:
            time.sleep(0.6)
        case ["children"]:
            return str(subprocess.Popen(["sleep", "1000"]).pid)
        case ["print"]:
            print("a line of the environment")
        case ["forge"]:
            for descriptor in range(3, 30):
                try:
                    os.write(descriptor, b'["not", "an", "answer"]\n')
                except OSError:
                    continue
        case ["unprintable"]:
            raise type("Worse", (Exception,), {"__str__": lambda self: misbehave("hang", "")})
        case ["nan"]:
            return "x", float("nan"), False
        case ["infinite"]:
            return "x", -float("inf"), False
        case ["absurd"]:
            return "x", 1e300, False
        case ["huge"]:
            return "x", 10**400, False
        case ["word"]:
            return "x", "1.0", False
        case ["none"]:
            return None
        case ["bytes"]:
            return b"bytes", 0.0, False
        case ["half"]:
            return "\ud800", 0.0, False
        case ["undecided"]:
            return "x", 0.0, "no"
        case ["curve"]:
            return Step("x", 0.0, False, kind="../../etc/passwd\n")
        case ["four"]:
            return "x", 0.0, False, {}
        case ["long"]:
            return "x" * 10_000_000
        case ["control"]:
            return "\x00\x1b[2J\r\n\t\u202e  two  spaces"
        case ["negative"]:
            return "x", -1.5, False
        case ["final"]:
            return "x" * 10_000_000, 1.0, True
    return observation


class Dice:
    """Draws from the generators that all of Python and NumPy share."""

    def reset(self, row: Question, seed: int) -> str:
        return f"{random.randrange(10**9)} {np.random.randint(10**9)}"

    def step(self, text: str) -> tuple[str, float, bool]:
        return f"{text}: {random.random()} {np.random.rand()} {np.random.normal()}", random.random(), False


class Clock(Dice):
    """Depends on the time."""

    def step(self, text: str) -> tuple[str, float, bool]:
        return f"{time.time_ns()}", 0.0, False


class Pages:
    """Every turn is a whole new prompt, with an image."""

    def reset(self, row: Question, seed: int) -> Observation:
        return Observation(f"page {seed}", fresh=True, images=(32 * "ab",))

    def step(self, text: str) -> Step:
        return Step(
            Observation(f"after {text}", fresh=True), 0.5, done=text == "end", success=True, kind="wrong_action"
        )


class GemGuess:
    """The shape of GEM's environments: gem.core.Env, with info, and five values of a step."""

    def __init__(self, most: int = 20, **_: Any) -> None:
        self.most = most
        self.reset()

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.secret = random.Random(seed).randint(1, self.most)
        return f"Guess a number from 1 to {self.most}.", {"seed": seed}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        guess = int(action)
        solved = guess == self.secret
        info = {"success": solved} if solved or guess == 0 else {}
        return ("higher" if guess < self.secret else "lower"), np.float32(solved), np.bool_(solved), guess == 0, info


class SkyRLSum:
    """The shape of SkyRL-Gym's environments: its constructor has the row's columns, messages go in and out."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        self.truth, self.turns = (extras or {})["reward_spec"]["ground_truth"], 0
        self.most = (extras or {})["max_turns"]

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        self.turns += 1
        done = action == self.truth or self.turns == self.most
        observations = [] if done else [{"role": "user", "content": "Try"}, {"role": "user", "content": "again."}]
        return {"observations": observations, "reward": int(action == self.truth), "done": done, "metadata": {}}


def no_step(size: int) -> object:
    """A factory of what is no environment."""
    return size


class Picky(Count):
    """Refuses a setting's value."""

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError("must be above 0")

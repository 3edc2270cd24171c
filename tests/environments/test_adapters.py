"""Environments of other packages, with the real package where it is there: make check-environments."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from zero.environments import Observation, Status, Step
from zero.environments.pool import Transcript, play, pool_of
from zero.environments.spec import EnvironmentSpec, environment_spec
from zero.errors import InputError
from zero.records import Question

MAKES: dict[str, dict[str, Any]] = {
    "textarena": {"_target_": "zero.environments.textarena.TextArena", "game": "GuessTheNumber-v0"},
    "verifiers": {"_target_": "zero.environments.verifiers.Verifiers", "env": {"taskset": {"id": "guessing_games"}}},
}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: make check-environments")


@pytest.fixture
def specs() -> Iterator[list[EnvironmentSpec]]:
    """Every process of the environments that a test puts into the list ends with it."""
    used: list[EnvironmentSpec] = []
    yield used
    for spec in used:
        pool_of(spec).close()


@pytest.mark.parametrize("package", MAKES)
def test_a_package_that_is_missing_is_one_line_with_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zero.environments.spec.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"environment.make=.*: {package} is not installed: pip install .*{package}"):
        environment_spec(MAKES[package])


@needs("textarena")
def test_a_game_of_textarena(specs: list[EnvironmentSpec]) -> None:
    spec = environment_spec({**MAKES["textarena"], "max_number": 4}, memory_mb=4096)
    specs.append(spec)
    assert spec.isolated
    row = Question("", ("",), "guess", meta={"seed": 3})

    def replies(*texts: str) -> list[Step]:
        return [r.step for n in range(len(texts) + 1) if (r := play([Transcript(spec, row, 0, texts[:n])])[0]).step]

    first, invalid, *_ = replies("no number", "[1]")
    assert isinstance(first.observation, Observation)
    assert "between 1 and 4" in first.observation.text
    assert invalid.kind == "invalid_action"
    solved = [steps[-1] for guess in "1234" if (steps := replies(f"[{guess}]"))[-1].done]
    assert [(step.reward, step.success) for step in solved] == [(1.0, True)]
    higher = replies("[1]")[-1]
    assert higher.done or higher.observation == Observation("The target number is higher.")
    lost = replies("no number", "no number")[-1]
    assert (lost.done, lost.success, lost.kind) == (True, False, "invalid_action")


GAMES = """
import verifiers.v1 as vf

__all__ = ["GuessEnv", "GuessTaskset"]


class GuessData(vf.TaskData):
    secret: int


class GuessTask(vf.Task[GuessData]):
    @vf.reward(weight=0.5)
    async def brief(self, trace) -> float:
        return float(trace.num_turns <= 2)


class GuessTaskset(vf.Taskset[GuessTask, vf.TasksetConfig]):
    def load(self):
        for secret in range(1, 5):
            yield GuessTask(GuessData(prompt="Guess!", system_prompt="A game.", secret=secret), self.config.task)


class GuessEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class GuessEnv(vf.Env[GuessEnvConfig]):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while (guess := int(segment.last_reply)) != task.data.secret:
                segment = await interaction.turn("higher" if guess < task.data.secret else "lower")
        interaction.trace.record_reward("solved", 1.0)
"""


@needs("verifiers")
def test_an_environment_of_verifiers(
    specs: list[EnvironmentSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guessing_games.py").write_text(GAMES)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = environment_spec(MAKES["verifiers"], memory_mb=4096, workers=1)
    specs.append(spec)
    rows = [Question("", ("",), f"guess/{i}", meta={"index": i}) for i in (2, 0, 7)]
    begun = play([Transcript(spec, row, 0) for row in rows])
    assert [reply.status for reply in begun] == [Status.OK, Status.OK, Status.FAILED]
    assert begun[0].step == Step(Observation("A game.\n\nGuess!"), 0.0, False)
    assert begun[2].error.endswith("the taskset has no task 7")
    second = play([Transcript(spec, row, 0, ("1",)) for row in rows[:2]])
    assert [reply.step for reply in second] == [
        Step(Observation("higher"), 0.0, False),
        Step(Observation(""), 1.5, True),
    ]
    third = play([Transcript(spec, rows[0], 0, ("1", "4")), Transcript(spec, rows[0], 0, ("1", "word"))])
    assert third[0].step == Step(Observation("lower"), 0.0, False)
    assert (third[1].status, "invalid literal" in third[1].error) == (Status.FAILED, True)
    fourth = play([Transcript(spec, rows[0], 0, ("1", "4", "3"))])
    assert fourth[0].step == Step(Observation(""), 1.0, True)

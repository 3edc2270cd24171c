"""Training in environments: credit for turns, resume in the middle of an episode, environments that misbehave."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.integration.runs import journal, reproducible, start, texts, train_here, weights
from tests.integration.test_evaluate import evaluate_here
from zero.environments import Observation, Step
from zero.environments.navigation import Navigation
from zero.errors import InputError
from zero.records import Question

MARK = "KILL_ONCE"  # a file: the environment that meets it removes it and ends the process
TINY = [
    "steps=3",
    "evaluation.every=3",
    "benchmarks.limit=4",
    "checkpoint.every=1",
    "samples.every=1",
    "optimizer.warmup=1",
]
OWN = ["environment=own", "environment.turn_tokens=12"]
NAVIGATION = ["environment=navigation", "sampling.max_tokens=40", "environment.turn_tokens=10", "environment.turns=4"]


class Fatal(Navigation):
    """The same world; the process dies in the second turn of an episode, if it is to."""

    def step(self, text: str) -> Step:
        mark = Path(os.environ[MARK])
        if mark.exists() and not mark.read_text():
            mark.write_text("one turn is over")
        elif mark.exists():
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(text)


class Thirds:
    """A turn earns 1 if its length is a multiple of three; after an odd number of turns the next one has a new prompt."""

    def reset(self, row: Question, seed: int) -> str:
        self.turns = 0
        return row.text

    def step(self, text: str) -> Step:
        self.turns += 1
        observation = Observation(f"What is {self.turns} + {len(text)}?", fresh=self.turns % 2 == 1)
        return Step(observation, float(len(text) % 3 == 0), "5" in text and self.turns > 1, success="7" in text)


class Hostile:
    """Raises, lies or goes on for ever, by the length of what was said first."""

    def reset(self, row: Question, seed: int) -> str:
        self.first = True
        return row.text

    def step(self, text: str) -> tuple[Observation | str, float, bool]:
        first, self.first = self.first, False
        if first and len(text) % 4 == 0:
            raise OSError("gone")
        return ("more", float("nan") if first and len(text) % 4 == 1 else 0.5, False)


@pytest.mark.parametrize(
    "credit",
    [
        ["algo=drgrpo"],
        ["algo=rloo", "algo.turn_advantage={_target_: zero.objective.turn_leave_one_out, _partial_: true, gamma: 0.9}"],
        ["algo=ppo", "algo.critic.steps=turn", "algo.estimator.lam=0.9"],
    ],
    ids=["episode", "turns", "critic"],
)
def test_an_algorithm_learns_in_an_environment_and_resumes_to_the_bit(credit: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    line = [*OWN, f"environment.make._target_={__name__}.Thirds", "environment.turns=4", *credit, *TINY]
    train_here(run_dir, *line)
    lines, trained, completions = reproducible(run_dir), weights(run_dir), texts(run_dir)
    assert any(each["loss/grad_norm"] > 0 for each in lines[1:])
    for each in lines[1:]:
        assert each["mismatch/logprob_gap_max"] < 1e-3, "engine and learner see the same contexts"
        assert each["turn/1/alive"] == 1.0 and each["episode/turns"] > 1
        endings = ("done", "out_of_turns", "out_of_tokens", "out_of_context", "failed")
        assert sum(each[f"episode/{ending}"] for ending in endings) == pytest.approx(1)
        rows = [json.loads(row) for row in completions[f"step_{each['step']:06d}.jsonl"].splitlines()]
        assert all(row["reward"] == pytest.approx(sum(turn["reward"] for turn in row["turns"])) for row in rows)
        assert all(sum(turn["tokens"] for turn in row["turns"]) == row["tokens"] for row in rows)
    (run_dir / "result.json").unlink()
    for later in (2, 3):
        for file in (run_dir / "checkpoints" / f"step_{later:06d}").iterdir():
            file.unlink()
        (run_dir / "checkpoints" / f"step_{later:06d}").rmdir()
    train_here(run_dir, *line)
    assert (reproducible(run_dir), weights(run_dir), texts(run_dir)) == (lines, trained, completions)


def test_a_run_that_dies_inside_an_episode_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv(MARK, str(mark))
    line = [*NAVIGATION, *TINY, f"environment.make._target_={__name__}.Fatal", "environment.isolated=false"]
    train_here(tmp_path / "whole", *line)
    mark.touch()
    child = start(tmp_path / "cut", *line)
    assert child.wait(120) == -signal.SIGKILL and not mark.exists()
    train_here(tmp_path / "cut", *line)
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") and texts(tmp_path / "cut") == texts(
        tmp_path / "whole"
    )


def test_what_an_environment_does_wrong_is_a_curve_and_the_run_goes_on(tmp_path: Path) -> None:
    world = [*OWN, f"environment.make._target_={__name__}.Hostile", "environment.turns=3"]
    with pytest.warns(RuntimeWarning, match=r"environment\.make: (failed|lied): "):
        train_here(tmp_path / "run", *world, *TINY, "steps=1", "evaluation.every=1")
    last = journal(tmp_path / "run")[-1]
    assert last["episode/failed"] > 0 and last["turns/failed"] > 0 and last["turns/lied"] > 0
    assert last["episode/out_of_turns"] + last["episode/out_of_tokens"] > 0


def test_a_run_is_measured_in_its_environment(tmp_path: Path) -> None:
    """Its own last evaluation again, and another environment typed."""
    train_here(tmp_path / "run", *NAVIGATION, *TINY, "steps=1", "evaluation.every=1")
    trained = journal(tmp_path / "run")[-1]
    again = evaluate_here(tmp_path / "again", f"run={tmp_path / 'run'}")["evaluation"]["nano_navigation"]
    shared = {name: value for name, value in again.items() if name in trained}
    assert shared == {name: trained[name] for name in shared} and "eval/nano_navigation/turns" in shared
    few = ["environment=navigation", "environment.turns=2", "benchmarks.limit=4", "sampling.max_tokens=24"]
    other = evaluate_here(tmp_path / "base", *few)["evaluation"]["nano_navigation"]
    assert 1 <= other["eval/nano_navigation/turns"] <= 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["environment=navigation", "environment.make.tires=2"], r"environment\.make.*tires"),
        (["algo.turn_advantage=zero.objective.turn_group_mean"], r"algo\.turn_advantage=.*must be null or a function"),
        (["algo.turn_advantage={_target_: zero.objective.turn_return}"], "choose one of environment="),
        (["environment=navigation", "environment.turn_tokens=1.5"], r"environment\.turn_tokens=1\.5"),
        (["environment=navigation", "environment.isolated=maybe"], r"environment\.isolated=maybe"),
        (
            ["environment=maze", "environment.make.turns=2"],
            r"Maze: cannot begin with question maze-\w+ \(environment\.make\.turns=2: question .* takes \d steps; raise it",
        ),
        (["questions=nano_math", "reward=environment"], r"reward\.terms\.environment=.* choose one of environment="),
        (
            ["environment=navigation", "questions=nano_math"],
            r"environment\.make=.*Navigation: cannot begin with question \S+ \(environment=navigation: .*; choose questions=",
        ),
        (["environment=navigation", "environment.make.triez=2"], r"did you mean environment\.make\.tries\?"),
        (["algo.critic.steps=turn"], r"no such setting of this option; algo=ppo and"),
        (["environment=calculator"], r"sampling\.max_tokens=.*; lower it to \d+ or choose a model with more"),
        (["environment=navigation", "environment.make.tries=0"], r"environment\.make\.tries=0"),
        (["environment=navigation", "environment.cpu_s=0"], r"environment\.cpu_s=0"),
        (["environment=nowhere"], "environment=nowhere: no such option"),
        ([*NAVIGATION, "algo=ppo", "algo.critic.steps=word"], r"algo\.critic\.steps=word: must be token or turn"),
    ],
)
def test_impossible_settings_are_one_line(options: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        train_here(tmp_path / "run", *options, *TINY, "steps=1")

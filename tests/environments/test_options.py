"""The shipped question sets fit their environments: every row of a set is solved in one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.conftest import BASE
from tests.environments.episodes import play
from zero.config.check import check, instantiate
from zero.config.functions import function_at
from zero.environments.guess_number import GuessNumber
from zero.environments.maze import Maze
from zero.environments.navigation import Navigation
from zero.questions import QuestionSet

SETS: dict[type[Any], tuple[str, ...]] = {
    Navigation: (
        *("navigation", "navigation_ood", "nano_navigation", "nano_navigation_ood"),
        *("nano_navigation_vl", "nano_navigation_vl_ood", "nano_navigation_vl_city"),
    ),
    GuessNumber: ("guess_number", "nano_guess_number"),
    Maze: ("maze", "nano_maze"),
}
NAMES = [(environment, questions) for environment, sets in SETS.items() for questions in sets]


def questions_of(name: str, *changes: str) -> QuestionSet:
    config = check("train", [f"questions={name}", *changes])["questions"]
    loaded: QuestionSet = instantiate(config, "questions")
    return loaded


@pytest.mark.parametrize(("environment", "questions"), NAMES)
def test_every_row_is_solved_in_its_environment(environment: type[Any], questions: str) -> None:
    loaded = questions_of(questions)
    assert loaded.name == questions
    assert bool(loaded.rows.train) != questions.endswith(("_ood", "_city"))
    for row in (*loaded.rows.train[:100], *loaded.rows.heldout[:50]):
        steps = play(environment(), row, row.meta["solution_turns"])
        assert steps[-1].success and row.level == str(row.meta["level"])
        assert loaded.check(row.answer[0], row)


@pytest.mark.parametrize("name", ["navigation", "tries", "guess_number", "maze"])
def test_the_shipped_environments_are_their_classes_defaults(name: str) -> None:
    """So that what the other tests play is what a run plays; only what an answer is depends on the run."""
    make = dict(check("train", [f"environment={name}"])["environment"]["make"])
    factory = function_at(make.pop("_target_"), "environment.make._target_")
    defaults = {key: p.default for key, p in inspect.signature(factory).parameters.items() if p.default is not p.empty}
    assert {key: value for key, value in make.items() if key in defaults} == defaults
    assert make.keys() - defaults.keys() <= {"explain", "extract"}
    factory(**make)


def test_an_episode_of_the_shipped_navigation_has_enough_turns() -> None:
    """Two tries at every point of the longest route."""
    longest = max(len(row.meta["rail"]) for row in questions_of("navigation").rows.train)
    assert check("train", ["environment=navigation"])["environment"]["turns"] > 2 * longest == 2 * 16


def test_the_embedded_sets_are_few_tokens() -> None:
    """A whole episode of solutions fits far into the context of 512."""
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))

    def length(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    for environment, name in ((GuessNumber, "nano_guess_number"), (Maze, "nano_maze")):
        for row in questions_of(name).rows.heldout[:40]:
            turns = row.meta["solution_turns"]
            seen = [row.text, *(step.observation.text for step in play(environment(), row, turns))]
            assert max(map(length, seen)) <= 24 and sum(map(length, [*seen, *turns])) <= 120

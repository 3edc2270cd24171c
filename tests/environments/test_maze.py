"""Maze: an episode written out, shortest ways by an independent search, and the chance of a random walk by drawing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.environments.episodes import play
from tests.grading.hostile import TEXTS
from zero.environments import as_step
from zero.environments.maze import Maze
from zero.errors import InputError
from zero.questions.maze import DIRECTIONS, HELDOUT_DIGIT, TEXT, VIEW, check_direction, render, rows
from zero.records import Question

# a b    a is open to the east, b to the west and the south, d to the north and the west, c to the east
# c d    from a to c the way is east, south, west
META = {
    "level": 3,
    "size": 2,
    "ways": [[1], [2, 3], [1], [0, 3]],
    "start": (0, 0),
    "exit": (0, 1),
    "text": TEXT,
    "view": VIEW,
    "directions": DIRECTIONS,
}
ROW = Question(render(META, (0, 0), TEXT), ("east",), "q", meta=META)
STEPS = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}


def test_an_episode() -> None:
    assert "You are at column 1, row 1. The exit is at column 1, row 2. You can go east." in ROW.text
    texts = ["south", "up", "I go\neast.", "\\boxed{south} it is", "north, no: west", "west"]
    steps = play(Maze(cost=0.1), ROW, texts)
    assert [step.kind for step in steps] == ["blocked", "invalid_action", "step", "step", "invalid_action", "exit"]
    assert [step.reward for step in steps] == [-0.1] * 5 + [1.0]
    assert [step.observation.text for step in steps[:4]] == [
        "You are at column 1, row 1. You can go east.",
        "You are at column 1, row 1. You can go east.",
        "You are at column 2, row 1. You can go south, west.",
        "You are at column 2, row 2. You can go north, west.",
    ]
    assert [(step.done, step.success) for step in steps] == [(False, None)] * 5 + [(True, True)]


def test_every_turn_may_be_a_new_prompt() -> None:
    steps = play(Maze(fresh=True), ROW, ["east", "south"])
    assert all(step.observation.fresh for step in steps)
    assert steps[0].observation.text == ROW.text.replace("column 1, row 1", "column 2, row 1").replace(
        "go east", "go south, west"
    )
    assert not any(step.observation.fresh for step in play(Maze(), ROW, ["east", "south"]))


def test_the_steps_run_out() -> None:
    environment = Maze(turns=3)
    steps = play(environment, ROW, ["north", "east", "south"])
    assert (steps[-1].reward, steps[-1].done, steps[-1].success) == (0.0, True, False)
    assert as_step(environment.step("west")).kind == "ended"


def shortest(row: Question) -> tuple[int, set[str]]:
    """The length of the shortest way, and its first steps, by growing the set of cells that n steps reach."""
    size, meta = row.meta["size"], row.meta

    def reached(starts: set[tuple[int, int]]) -> int:
        cells, steps = set(starts), 0
        while meta["exit"] not in cells:
            cells |= {
                (x + STEPS[DIRECTIONS[d]][0], y + STEPS[DIRECTIONS[d]][1])
                for x, y in cells
                for d in meta["ways"][y * size + x]
            }
            steps += 1
        return steps

    x, y = meta["start"]
    best = reached({(x, y)})
    after = {d: (x + STEPS[DIRECTIONS[d]][0], y + STEPS[DIRECTIONS[d]][1]) for d in meta["ways"][y * size + x]}
    return best, {DIRECTIONS[d] for d, cell in after.items() if reached({cell}) == best - 1}


@pytest.mark.parametrize("loops", [0.0, 0.3, 1.0])
def test_a_solution_is_shortest_and_earns_everything(loops: float) -> None:
    drawn = rows(size=4, levels=[1, 3, 6], loops=loops, train=40, heldout=4)
    for row in (*drawn.train, *drawn.heldout):
        length, first = shortest(row)
        assert length == row.meta["level"] == len(row.meta["solution_turns"])
        assert set(row.answer) == first and row.solution in first
        assert {d for d in DIRECTIONS if check_direction(d, row)} == first
        steps = play(Maze(turns=length), row, row.meta["solution_turns"])
        assert (sum(step.reward for step in steps), steps[-1].success) == (1.0, True)


def test_mazes_have_walls_and_no_way_out_of_the_square() -> None:
    drawn = rows(size=4, levels=[2], loops=0.0, train=30, heldout=2)
    for row in drawn.train:
        ways = row.meta["ways"]
        assert sum(map(len, ways)) == 2 * (16 - 1)  # a tree
        for cell, directions in enumerate(ways):
            for direction in directions:
                x, y = cell % 4 + (0, 1, 0, -1)[direction], cell // 4 + (-1, 0, 1, 0)[direction]
                assert 0 <= x < 4 and 0 <= y < 4 and (direction + 2) % 4 in ways[y * 4 + x]
    assert all(sum(map(len, row.meta["ways"])) == 48 for row in rows(size=4, loops=1.0, train=9, heldout=1).train)


def test_hostile_answers_move_nobody() -> None:
    for text in (*TEXTS, "\n" * 100_000, "east " * 50_000):
        environment = Maze()
        environment.reset(ROW, 0)
        assert as_step(environment.step(text)).kind == "invalid_action"


def test_the_chance_of_a_random_walk() -> None:
    """Against walks that are drawn, and by hand where only one way of n steps wins."""
    assert Maze(turns=3).chance(ROW) == pytest.approx(0.25**3)
    row = rows(size=3, levels=[2], train=1, heldout=1).train[0]
    rng, wins = random.Random(0), 0
    for _ in range(3000):
        environment = Maze(turns=6)
        environment.reset(row, 0)
        step = as_step(environment.step(rng.choice(DIRECTIONS)))
        while not step.done:
            step = as_step(environment.step(rng.choice(DIRECTIONS)))
        wins += bool(step.success)
    assert wins / 3000 == pytest.approx(Maze(turns=6).chance(row), abs=0.04)  # four standard errors


def test_no_seed_or_size_moves_a_maze_to_the_other_split() -> None:
    some = [rows(train=n, heldout=4, seed=seed) for seed in (0, 1) for n in (20, 60)]
    heldout = {row.id for drawn in some for row in drawn.heldout}
    assert heldout.isdisjoint(row.id for drawn in some for row in drawn.train)
    assert all(int(identity.rpartition("-")[2][0], 16) < HELDOUT_DIGIT for identity in heldout)
    assert rows(train=9, heldout=2) == rows(train=9, heldout=2) != rows(train=9, heldout=2, seed=1)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": 1}, "size"),
        ({"size": 21}, "size"),
        ({"levels": []}, "levels"),
        ({"levels": [16]}, "levels"),
        ({"loops": -0.1}, "loops"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
        ({"text": "{x}"}, "text"),
        ({"view": "{x} {y}"}, "view"),
        ({"directions": ["N", "E", "S", "S"]}, "directions"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(InputError, match=r"^environment\.make\.turns=0"):
        Maze(turns=0)
    with pytest.raises(InputError, match=r"^environment\.make\.turns=2: question q takes 3 steps"):
        Maze(turns=2).reset(ROW, 0)
    with pytest.raises(InputError, match="question q has no maze"):
        Maze().reset(Question("2+2", ("4",), "q"), 0)

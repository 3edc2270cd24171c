"""A maze of cells in a square: where one is, where the exit is, and which ways are open; zero.environments.maze plays it."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from zero.errors import InputError
from zero.questions import Rows
from zero.questions.countdown import fill
from zero.questions.slots import fill_slots, missing_slots
from zero.records import Question
from zero.template import last_boxed

TEXT = (
    "You are in a maze of {size} by {size} cells. Columns count from west to east, rows from north to south. You are at column "
    "{x}, row {y}. The exit is at column {exit_x}, row {exit_y}. You can go {open}. Answer with one direction."
)
VIEW = "You are at column {x}, row {y}. You can go {open}."
DIRECTIONS = ("north", "east", "south", "west")
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # of a cell (x, y), in the order of the directions
HELDOUT_DIGIT = 1  # a maze with its two cells is held out if the first hex digit of its digest is below this: 1/16

Cell = tuple[int, int]  # column and row, from 0
Ways = dict[Cell, list[int]]  # the directions in which a cell is open, in ascending order


def rows(
    size: int = 4,
    levels: Sequence[int] = (2, 3, 4, 5, 6),
    loops: float = 0.1,
    train: int = 2048,
    heldout: int = 128,
    seed: int = 0,
    text: str = TEXT,
    view: str = VIEW,
    directions: Sequence[str] = DIRECTIONS,
) -> Rows:
    """Distinct mazes, each with a start and an exit.

    size            cells of a side
    levels          steps of the shortest way, drawn equally often
    loops           the chance that a wall between two cells is left out: 0 is a tree, with one way between two cells
    train, heldout  rows of each split; membership depends on walls, start and exit alone, so no seed or size mixes them
    text            the question, with {x}, {y}, {exit_x}, {exit_y} and {open}; columns and rows count from 1
    view            what is seen after a step, with {x}, {y} and {open}
    directions      words for north, east, south and west

    The same arguments give the same rows on every machine. Every first step of a shortest way is in answer; solution_turns
    in meta are one shortest way, and the solution is its first step. Raises InputError.
    """
    _check(size, levels, loops, train, heldout, text, view, directions)
    rng = random.Random(f"zero.questions.maze/{seed}")
    words = {"text": text, "view": view, "directions": tuple(directions)}

    def draw() -> Question | None:
        level, ways = rng.choice(levels), _ways(rng, size, loops)
        start = (rng.randrange(size), rng.randrange(size))
        goals = sorted(cell for cell, steps in distances(ways, start).items() if steps == level)
        return _question(size, ways, start, rng.choice(goals), words) if goals else None

    return fill(draw, train, heldout, HELDOUT_DIGIT, "raise questions.rows.size")


def _ways(rng: random.Random, size: int, loops: float) -> Ways:
    """A random maze in which every cell is reached: a depth-first walk, then walls left out by chance."""
    start = (rng.randrange(size), rng.randrange(size))
    ways: Ways = {(x, y): [] for x in range(size) for y in range(size)}
    seen, walk = {start}, [start]
    while walk:
        steps = [(d, neighbor(walk[-1], d)) for d in range(4)]
        fresh = [(d, cell) for d, cell in steps if cell in ways and cell not in seen]
        if not fresh:
            walk.pop()
            continue
        direction, cell = rng.choice(fresh)
        _open(ways, walk[-1], direction)
        seen.add(cell)
        walk.append(cell)
    for cell in ways:
        for direction in (1, 2):
            if neighbor(cell, direction) in ways and direction not in ways[cell] and rng.random() < loops:
                _open(ways, cell, direction)
    return {cell: sorted(directions) for cell, directions in ways.items()}


def _open(ways: Ways, cell: Cell, direction: int) -> None:
    ways[cell].append(direction)
    ways[neighbor(cell, direction)].append((direction + 2) % 4)


def neighbor(cell: Cell, direction: int) -> Cell:
    """The next cell in a direction, whether or not there is one."""
    return cell[0] + MOVES[direction][0], cell[1] + MOVES[direction][1]


def distances(ways: Mapping[Cell, Sequence[int]], start: Cell) -> dict[Cell, int]:
    """Steps from the start to every cell."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        for direction in ways[cell]:
            if neighbor(cell, direction) not in steps:
                steps[neighbor(cell, direction)] = steps[cell] + 1
                queue.append(neighbor(cell, direction))
    return steps


def _question(size: int, ways: Ways, start: Cell, goal: Cell, words: Mapping[str, Any]) -> Question:
    identity = f"{size} {[ways[cell] for cell in sorted(ways)]} {start} {goal}"
    digest = hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()[:16]
    steps = distances(ways, goal)
    cell, turns = start, []
    while cell != goal:
        direction = next(d for d in ways[cell] if steps[neighbor(cell, d)] < steps[cell])
        turns.append(words["directions"][direction])
        cell = neighbor(cell, direction)
    answers = [words["directions"][d] for d in ways[start] if steps[neighbor(start, d)] < steps[start]]
    meta = {
        **words,
        "level": len(turns),
        "size": size,
        "ways": [ways[x, y] for y in range(size) for x in range(size)],
        "start": start,
        "exit": goal,
        "solution_turns": turns,
    }
    return Question(render(meta, start, words["text"]), tuple(answers), f"maze-{digest}", turns[0], meta)


def render(meta: Mapping[str, Any], cell: Cell, text: str) -> str:
    """The text for a cell of the maze of a question's meta."""
    ways = meta["ways"][cell[1] * meta["size"] + cell[0]]
    return fill_slots(
        text,
        size=meta["size"],
        x=cell[0] + 1,
        y=cell[1] + 1,
        exit_x=meta["exit"][0] + 1,
        exit_y=meta["exit"][1] + 1,
        open=", ".join(meta["directions"][direction] for direction in ways),
    )


def read_direction(text: str, directions: Sequence[str]) -> int | None:
    """The direction that an answer gives: its last box, else its last line, without a final full stop; None if it is none."""
    lines = text.strip().splitlines()
    stated = last_boxed(text) or (lines[-1] if lines else "")
    word = stated.strip().removesuffix(".").strip()
    return directions.index(word) if word in directions else None


def check_direction(answer: str, question: Question) -> bool:
    """Whether an answer is the first step of a shortest way."""
    direction = read_direction(answer, question.meta["directions"])
    return direction is not None and question.meta["directions"][direction] in question.answer


def _check(
    size: int,
    levels: Sequence[int],
    loops: float,
    train: int,
    heldout: int,
    text: str,
    view: str,
    directions: Sequence[str],
) -> None:
    in_text, in_view = missing_slots(text, "x", "y", "exit_x", "exit_y", "open"), missing_slots(view, "x", "y", "open")
    most = size * size - 1
    for key, right, value, remedy in (
        ("size", 2 <= size <= 20, size, "must be from 2 to 20"),
        ("levels", bool(levels) and all(1 <= n <= most for n in levels), levels, f"give numbers from 1 to {most}"),
        ("loops", 0 <= loops <= 1, loops, "must be from 0 to 1"),
        ("train", train >= 1, train, "ask for at least 1 row"),
        ("heldout", heldout >= 1, heldout, "ask for at least 1 row"),
        ("text", not in_text, text, f"must hold {', '.join(in_text)}"),
        ("view", not in_view, view, f"must hold {', '.join(in_view)}"),
        ("directions", len(set(directions)) == 4, directions, "give four words: for north, east, south and west"),
    ):
        if not right:
            raise InputError(f"questions.rows.{key}", value, remedy)

"""Find the way out of a maze, one step a turn; a cell shows its walls only to who stands in it."""

from __future__ import annotations

from zero.environments import Observation, Step
from zero.errors import InputError
from zero.questions.maze import Cell, neighbor, read_direction, render
from zero.records import Question


class Maze:
    """An environment for rows of zero.questions.maze. It ends at the exit, or after `turns` answers. A step against a wall, and an
    answer that is no direction, leave the policy where it is.

    turns  answers of an episode at most
    right  reward of the step to the exit
    cost   taken from the reward of every other answer
    fresh  True: every turn is a whole new prompt, the question at the new place; False: the policy remembers its way
    """

    def __init__(self, turns: int = 16, right: float = 1.0, cost: float = 0.0, fresh: bool = False) -> None:
        if turns < 1:
            raise InputError("environment.make.turns", turns, "must be above 0")
        self.turns, self.right, self.cost, self.fresh = turns, right, cost, fresh
        self.row: Question | None = None
        self.cell: Cell = (0, 0)
        self.left = 0

    def reset(self, row: Question, seed: int) -> Observation:
        """The question. The seed changes nothing. InputError for a row without a maze, or one whose way is longer."""
        if "ways" not in row.meta:
            remedy = f"question {row.id} has no maze; choose questions=maze or nano_maze"
            raise InputError("environment", "maze", remedy)
        if row.meta["level"] > self.turns:
            remedy = f"question {row.id} takes {row.meta['level']} steps; raise it, or lower questions.rows.levels"
            raise InputError("environment.make.turns", self.turns, remedy)
        self.row, self.cell, self.left = row, tuple(row.meta["start"]), self.turns
        return Observation(row.text, self.fresh)

    def step(self, text: str) -> Step:
        """What is seen after a step. Bounded work whatever the answer; after the end nothing changes any more."""
        if self.row is None or self.left == 0:
            return Step("", 0.0, done=True, success=False, kind="ended")
        self.left -= 1
        meta = self.row.meta
        direction = read_direction(text, meta["directions"])
        kind = "invalid_action" if direction is None else "blocked"
        if direction is not None and direction in meta["ways"][self.cell[1] * meta["size"] + self.cell[0]]:
            kind, self.cell = "step", neighbor(self.cell, direction)
            if self.cell == tuple(meta["exit"]):
                self.left = 0
                return Step("", self.right, done=True, success=True, kind="exit")
        done = self.left == 0
        seen = render(meta, self.cell, meta["text"] if self.fresh else meta["view"])
        return Step(Observation(seen, self.fresh), -self.cost, done, False if done else None, kind)

    def chance(self, row: Question) -> float:
        """The chance that random directions lead to the exit in time."""
        size, ways, goal = row.meta["size"], row.meta["ways"], tuple(row.meta["exit"])
        shares: dict[Cell, float] = {tuple(row.meta["start"]): 1.0}  # where the walk is, while it is not at the exit
        for _ in range(self.turns):
            after: dict[Cell, float] = {}
            for cell, share in shares.items():
                for direction in range(4):
                    to = neighbor(cell, direction) if direction in ways[cell[1] * size + cell[0]] else cell
                    after[to] = after.get(to, 0.0) + share / 4
            after.pop(goal, None)
            shares = after
        return 1 - sum(shares.values())

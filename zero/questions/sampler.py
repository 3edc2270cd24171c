"""The questions of a run, round by round, and the state that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zero.questions.curriculum import Curriculum, DrawnFrom, Moment, draw, pool_metrics
from zero.questions.history import History
from zero.records import Group, Metrics, Question
from zero.rounds import Rounds


@dataclass
class QuestionSampler:
    """Draws n questions a round from a set by a curriculum. What it draws next depends on what it was told of the rounds before;
    drawing itself changes nothing."""

    questions: DrawnFrom
    curriculum: Curriculum
    n: int
    seed: int
    rounds: Rounds = field(default_factory=Rounds)
    history: History = field(init=False)
    pools: list[str] = field(default_factory=list)  # of the questions of the step that is under way

    def __post_init__(self) -> None:
        memory = self.curriculum.memory
        self.history = History(1.0 if memory is None else memory)

    @property
    def keeps_history(self) -> bool:
        """Whether a draw depends on more than its round."""
        return self.curriculum.memory is not None or self.questions.needs_history

    def draw(self, step: int, r: int) -> list[Question]:
        """The questions of the step's round r."""
        moment = Moment(step, self.rounds.number(step, r), self.seed)
        return draw(self.questions, self.curriculum, self.history, moment, self.n)

    def record(self, groups: Sequence[Group], step: int, r: int) -> None:
        """What became of the questions of the step's round r. Every rank records all groups of the round."""
        if self.keeps_history:
            self.pools += [self.curriculum.pool(group.prompt.question, self.history) for group in groups]
            self.history.record(groups, self.rounds.number(step, r))

    def end(self, step: int, rounds: int) -> None:
        """The step has used this many rounds."""
        self.rounds.end(step, rounds)

    def metrics(self) -> Metrics:
        """Of the step that has ended: the shares of the curriculum's pools."""
        metrics = pool_metrics(self.questions, self.curriculum, self.history, self.pools)
        self.pools.clear()
        return metrics

    def save(self, path: Path) -> None:
        """Write the state into the folder of a checkpoint."""
        if self.rounds.used != self.rounds.steps:
            self.rounds.save(path)
        if self.keeps_history:
            self.history.save(path)

    def load(self, path: Path, step: int) -> None:
        """Restore what `save` wrote after `step` steps."""
        self.rounds.load(path, step)
        if self.keeps_history:
            self.history.load(path)

"""What a run has asked so far, and with what success: for each row, and for each source of a mixture.

It is part of a checkpoint, so that a resumed run asks what an uninterrupted one would have asked. All ranks hold the same:
they record whole steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zero.records import Group

FILE = "history.json"


@dataclass
class RowRecord:
    """How often a row was drawn, in which round last, and its answers: all of them, and those that were right. With a
    `memory` below 1 older answers count less."""

    draws: int = 0
    last: int = -1
    answers: float = 0.0
    right: float = 0.0


@dataclass
class SourceRecord:
    """Questions asked of a source, and the tokens of their answers."""

    questions: int = 0
    tokens: int = 0


@dataclass
class History:
    """The rows by id and the sources by name. `memory`: what older answers to a row count whenever it is asked again: 1 as
    much as the new ones, 0 nothing."""

    memory: float = 1.0
    rows: dict[str, RowRecord] = field(default_factory=dict)
    sources: dict[str, SourceRecord] = field(default_factory=dict)

    def record(self, groups: Sequence[Group], number: int) -> None:
        """Add the graded groups of round `number` of the run."""
        for group in groups:
            question = group.prompt.question
            row = self.rows.setdefault(question.id, RowRecord())
            row.draws, row.last = row.draws + 1, number
            row.answers = self.memory * row.answers + len(group.verdicts)
            row.right = self.memory * row.right + sum(verdict.correct for verdict in group.verdicts)
            source = self.sources.setdefault(question.kind, SourceRecord())
            source.questions += 1
            source.tokens += sum(completion.length for completion in group.completions)

    def pass_rate(self, row: str) -> float | None:
        """The share of right answers to a row; None if it was never asked."""
        record = self.rows.get(row)
        return record.right / record.answers if record else None

    def last(self, row: str) -> int:
        """The round in which a row was asked last; -1: never."""
        record = self.rows.get(row)
        return record.last if record else -1

    def save(self, path: Path) -> None:
        """Write the records into the folder of a checkpoint."""
        (path / FILE).write_text(json.dumps(asdict(self)))

    def load(self, path: Path) -> None:
        """Restore what `save` wrote; JSON keeps every bit of a float."""
        if (path / FILE).exists():
            saved = json.loads((path / FILE).read_text())
            self.rows = {name: RowRecord(**values) for name, values in saved["rows"].items()}
            self.sources = {name: SourceRecord(**values) for name, values in saved["sources"].items()}

"""Which questions a step asks: those that follow the ones asked before, so that every row is asked once before any is asked
again, however many rounds of questions a step takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = "rounds.json"


@dataclass
class Rounds:
    """Rounds of questions taken by the first `steps` steps. One a step, unless the algorithm resample_rounds."""

    steps: int = 0
    used: int = 0

    def number(self, step: int, r: int) -> int:
        """The place of round r of a step in the order of all rounds; of a later step if each before it takes one."""
        return self.used + step - self.steps + r

    def end(self, step: int, rounds: int) -> None:
        """The step has taken so many."""
        self.steps, self.used = step + 1, self.used + rounds

    def save(self, path: Path) -> None:
        """Into the folder of a checkpoint."""
        (path / FILE).write_text(json.dumps({"steps": self.steps, "taken": self.used}))

    def load(self, path: Path, step: int) -> None:
        """As it was when `save` was called after so many steps."""
        saved = json.loads((path / FILE).read_text()) if (path / FILE).exists() else {"steps": step, "taken": step}
        self.steps, self.used = saved["steps"], saved["taken"]

"""Which questions a step uses: the next ones in order, so that every row is used once before any is used again, however
many rounds of questions a step takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = "rounds.json"


@dataclass
class Rounds:
    """Rounds of questions `used` by the first `steps` steps: one a step, unless the algorithm has resample_rounds."""

    steps: int = 0
    used: int = 0

    def number(self, step: int, r: int) -> int:
        """The index of the step's round r among all rounds; steps that are not recorded yet count as one round each."""
        return self.used + step - self.steps + r

    def end(self, step: int, rounds: int) -> None:
        """Record that `step` has used this many rounds."""
        self.steps, self.used = step + 1, self.used + rounds

    def save(self, path: Path) -> None:
        """Write the counts into the folder of a checkpoint."""
        (path / FILE).write_text(json.dumps({"steps": self.steps, "taken": self.used}))

    def load(self, path: Path, step: int) -> None:
        """Restore what `save` wrote after `step` steps."""
        saved = json.loads((path / FILE).read_text()) if (path / FILE).exists() else {"steps": step, "taken": step}
        self.steps, self.used = saved["steps"], saved["taken"]

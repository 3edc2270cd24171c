"""Completions drawn one step ahead: those of step t + 1 with the weights that step t has still to update.

An engine on devices of its own draws them while the learner updates, so that a step takes the longer of the two and not
their sum; any other draws them just before, which costs the same and gives the same numbers. They belong to a checkpoint:
the weights that drew them are gone when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zero.distributed import World
from zero.records import Completion

Drawn = list[list[Completion]]  # of each of this rank's prompts
FILE = "prefetch.json"


@dataclass
class Prefetch:
    """At most one step's completions that wait to be taken."""

    world: World
    step: int = -1
    drawn: Future[Drawn] | None = None
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ahead"))

    def request(self, step: int, draw: Callable[[], Drawn], beside: bool) -> None:
        """Have `draw` called for `step`: in a thread beside what follows, or at once, in this one (its device, its modes)."""
        self.step = step
        self.drawn = self.thread.submit(draw) if beside else done(draw())

    def wait(self) -> None:
        """Until nothing is being drawn any more: the engine may take new weights. An error in `draw` is raised here."""
        if self.drawn:
            self.drawn.result()

    def pop(self, step: int) -> Drawn | None:
        """What was drawn for `step`, once."""
        if self.drawn is None or self.step != step:
            return None
        drawn, self.drawn = self.drawn.result(), None
        return drawn

    def save(self, path: Path) -> None:
        """What waits, of all ranks, into the folder of a checkpoint. Called by every rank."""
        if self.drawn is None:
            return
        drawn_PG = self.world.all_gather(self.drawn.result())
        if self.world.is_main:
            table = {"step": self.step, "drawn": [[asdict(c) for c in c_G] for c_G in drawn_PG]}
            (path / FILE).write_text(json.dumps(table))

    def load(self, path: Path) -> None:
        """As it was when `save` was called, under any number of ranks."""
        if not (path / FILE).exists():
            return
        table = json.loads((path / FILE).read_text())
        drawn_PG = [[load_completion(c) for c in c_G] for c_G in table["drawn"]]
        self.step, self.drawn = table["step"], done(list(self.world.shard(drawn_PG)))


def done(drawn: Drawn) -> Future[Drawn]:
    """What needs no waiting for."""
    future: Future[Drawn] = Future()
    future.set_result(drawn)
    return future


def load_completion(saved: dict[str, Any]) -> Completion:
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()
    }  # JSON knows no tuples
    return Completion(**fields)

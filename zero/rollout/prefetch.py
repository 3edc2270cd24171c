"""Sampling one step ahead: the completions of step t + 1, with the weights before step t's update.

An engine on devices of its own samples them while the learner updates, so that a step takes the longer of the two and not
their sum; any other engine samples them just before, which saves no time and gives the same numbers. They are part of a
checkpoint: when it is loaded, the weights that sampled them are gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zero.distributed import World
from zero.records import Completion, Ending, Turn

Completions = list[list[Completion]]  # [P][G], of this rank's prompts
FILE = "prefetch.json"


@dataclass
class Prefetch:
    """Holds at most one step's completions, sampled or being sampled."""

    world: World
    step: int = -1
    pending: Future[Completions] | None = None
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ahead"))

    def request(self, step: int, generate: Callable[[], Completions], in_thread: bool) -> None:
        """Call `generate` for `step`: in a thread of its own, or now in this one (with its device and modes)."""
        self.step = step
        self.pending = self.thread.submit(generate) if in_thread else completed(generate())

    def wait(self) -> None:
        """Wait until nothing is being sampled, so that the engine may take new weights. Raises an error of `generate`."""
        if self.pending:
            self.pending.result()

    def pop(self, step: int) -> Completions | None:
        """The completions of `step`, which are then forgotten; None if they were not requested."""
        if self.pending is None or self.step != step:
            return None
        completions_PG, self.pending = self.pending.result(), None
        return completions_PG

    def save(self, path: Path) -> None:
        """Write the completions of all ranks into the folder of a checkpoint. Called by every rank."""
        if self.pending is None:
            return
        completions_PG = self.world.all_gather(self.pending.result())
        if self.world.is_main:
            table = {"step": self.step, "drawn": [[asdict(c) for c in c_G] for c_G in completions_PG]}
            (path / FILE).write_text(json.dumps(table))

    def load(self, path: Path) -> None:
        """Restore what `save` wrote, under any number of ranks."""
        if not (path / FILE).exists():
            return
        table = json.loads((path / FILE).read_text())
        completions_PG = [[load_completion(c) for c in c_G] for c_G in table["drawn"]]
        self.step, self.pending = table["step"], completed(list(self.world.shard(completions_PG)))


def completed(completions_PG: Completions) -> Future[Completions]:
    """A future that has its result."""
    future: Future[Completions] = Future()
    future.set_result(completions_PG)
    return future


def load_completion(saved: dict[str, Any]) -> Completion:
    # JSON has lists for tuples
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    fields["turns"] = tuple(Turn(**turn | {"images": tuple(turn["images"])}) for turn in fields["turns"])
    fields["ending"] = fields["ending"] and Ending(fields["ending"])
    return Completion(**fields)

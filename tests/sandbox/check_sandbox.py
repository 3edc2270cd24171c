"""make check-sandbox: every attempt and every cheat in every sandbox that this machine has, as a table."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.sandbox.cheats import TESTS, cheats
from tests.sandbox.ways import WAYS, contained
from zero.errors import InputError
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Level, Limits, Task
from zero.sandbox.server import start


def main() -> int:
    """The number of attempts that were not contained."""
    start(Level.FULL).close()
    escaped = 0
    for way in WAYS:
        started = time.monotonic()
        rows = contained(way)
        if rows is None:
            print(f"{way}: not on this machine")
            continue
        problems = [row for row in rows if row["problem"]]
        escaped += len(problems)
        took = time.monotonic() - started
        print(f"{way}: {len(rows) - 1} attempts, {len(rows) - len(problems) - 1} contained, {took:.0f} s")
        print(
            "    " + ", ".join(f"{n} {name}" for name, n in Counter(row["result"] for row in rows[:-1]).most_common())
        )
        for row in problems:
            print(f"    NOT CONTAINED: {row['name']}: {row['problem']} ({row['result']} {row['detail']})")
    for level in Level:
        sandbox = Sandbox(level)
        tasks = [Task("solution", source, names=("f",), tests=TESTS) for _, _, source in cheats()]
        executions = sandbox.run(tasks, Limits(cpu_s=1, wall_s=6.0))
        sandbox.close()
        passed = [name for (name, _, _), execution in zip(cheats(), executions, strict=True) if any(execution.passed)]
        escaped += len(passed)
        print(f"level={level}: {len(tasks)} cheating solutions, {len(tasks) - len(passed)} caught {passed or ''}")
    return escaped


if __name__ == "__main__":
    try:
        sys.exit(main() != 0)
    except InputError as error:
        sys.exit(f"error: {error}")

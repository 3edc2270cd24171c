"""python -m tests.sandbox.contain LEVEL [bubblewrap] [without=WALL]: every attempt in one sandbox, as whoever runs this.

Prints a JSON list with one row an attempt: name, expected, ending, what went wrong or "". Standard library alone: it also
runs as a user who can read no more than this checkout and an interpreter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.sandbox.attempts import Attempt, attempts
from tests.sandbox.outside import SECRET, Outside, survivors
from zero.sandbox import server
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Execution, Level, Limits, Task

LIMITS = Limits(cpu_s=1, wall_s=6.0)
LIMITED = {str(ending) for ending in (Ending.TIMED_OUT, Ending.OUT_OF_MEMORY)}
# Where programs have no namespaces, these differ: they may be told that something exists, and have no /tmp
AT_LANDLOCK = {
    "ask whether a secret exists": "sees that files exist",
    "ask for the users' file": "sees that files exist",
    "installed packages": "sees the interpreter's folder as it is",
    "kill its parent": "has a parent",
}


def contain(level: Level, bubblewrap: bool = False, without: str = "") -> list[dict[str, Any]]:
    """Every attempt, and what became of it."""
    with Outside() as outside:
        sandbox = Sandbox(level, workers=4, bubblewrap=bubblewrap)
        if without:
            server.fork_server.__file__ = str(Path(__file__).with_name("one_wall_less.py"))
            sandbox._server = server.Server({"level": str(level), "without": without})
            assert "ready" in sandbox._server.receive()
            sandbox._server.control.settimeout(None)
        programs = attempts(outside.places)
        if without:  # what only burns time or memory meets its limits whether the wall stands or not
            programs = [attempt for attempt in programs if attempt.expected not in LIMITED]
        executions = sandbox.run([Task("script", attempt.source) for attempt in programs], LIMITS)
        rows = []
        for attempt, execution in zip(programs, executions, strict=True):
            problem = _problem(attempt, execution, level, bool(without))
            result = execution.attempt or str(execution.ending)
            detail = execution.call or execution.detail[-200:]
            rows.append(
                dict(name=attempt.name, expected=attempt.expected, result=result, detail=detail, problem=problem)
            )
        sandbox.close()
        harm = outside.harm() + [f"outlived: {pid}" for pid in survivors()]
    return [*rows, dict(name="the machine outside", expected="any", result="", detail="", problem="; ".join(harm))]


def _problem(attempt: Attempt, execution: Execution, level: Level, weakened: bool) -> str:
    output = execution.output.decode(errors="replace")
    if SECRET in output or SECRET in execution.detail:
        return "it told the secret"
    if (
        weakened
    ):  # a call that succeeds where nothing is to be had is no escape: the machine outside says whether one was
        return ""
    if "ESCAPED" in output and not (level is Level.LANDLOCK and attempt.name in AT_LANDLOCK):
        return "it escaped: " + output[:200]
    if level is Level.LANDLOCK or attempt.expected == "any":
        return ""
    if attempt.expected in {str(ending) for ending in Ending}:
        return "" if execution.ending == attempt.expected else "not as expected"
    return "" if execution.ending is Ending.FORBIDDEN and execution.attempt == attempt.expected else "not as expected"


if __name__ == "__main__":
    words = sys.argv[2:]
    print(json.dumps(contain(Level(sys.argv[1]), "bubblewrap" in words, "".join(w[8:] for w in words if "=" in w))))

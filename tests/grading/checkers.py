"""Checkers that misbehave on request; imported by worker processes."""

from __future__ import annotations

import os
import signal
import time

from zero.records import Question


def check(answer: str, question: Question) -> bool:
    """Misbehaves in the way that the answer names."""
    match answer.partition(" ")[0]:
        case "hang":
            while True:
                pass
        case "power":
            return 9**9**9 == 1  # one call into C: no Python handler of a signal would ever run
        case "memory":
            return bool([0] * (1 << 30))
        case "recursion":
            return check("recursion", question) or True
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(0)
        case "bug":
            raise KeyError("a \n bug")
        case "words":
            raise ValueError("no number")
        case "pid":
            return str(os.getpid()) == question.answer[0]
        case "write":
            with open(question.answer[0], "w") as file:
                file.write("x" * 100_000)
        case "sleep":
            time.sleep(0.3)
    return answer == question.answer[0]

"""make check-cases CASES=FOLDER: the grader as it runs in training on the pairs of FOLDER/grader.jsonl.

A line is {"answer": text, "reference": text, "equal": whether they are the same answer}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from zero.grading import check_maths
from zero.records import Outcome, Question


def main(arguments: Sequence[str]) -> int:
    """Print every pair with a wrong verdict; 1 if there is one."""
    path = Path(arguments[0]) / "grader.jsonl"
    if not path.is_file():
        print(f"error: CASES={arguments[0]}: holds no grader.jsonl; give the folder of the cases")
        return 2
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    outcomes = check_maths.many([(case["answer"], Question("", (case["reference"],), "")) for case in cases])
    wrong = 0
    for case, outcome in zip(cases, outcomes, strict=True):
        if (outcome is Outcome.CORRECT) is not case["equal"]:
            wrong += 1
            sign = "=" if case["equal"] else "is not"
            print(f"{outcome!s:9} but {case['answer']!r} {sign} {case['reference']!r}")
    print(f"{len(cases)} pairs, {wrong} wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""python -m tests.grading.check_gym: every set of reasoning-gym, drawn, and scored on its own answers and on hostile ones.

Writes the numbers of docs/gym.md to docs/gym.json, and exits with 1 if a scorer did not hold: if it executed an answer, or called
one right that is none. Half an hour; `--sets` writes the numbers of some, `--answers` tries fewer answers and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.grading import gym_hostile
from zero.grading.gym import GymChecker
from zero.questions.gym import VERSION, question_of
from zero.records import Outcome, Question

ROWS = 24  # of a set, whose lengths are averaged; the hostile answers go to the first three in turn
HOSTILE_ROWS = 3
NUMBERS = ROOT / "docs" / "gym.json"


def drawn(name: str, count: int) -> tuple[list[Question], float]:
    """The first rows of a set, and seconds for each."""
    from zero.questions.gym_generator import rows

    each = {"name": name, "config": {}, "level": None}
    began, questions = time.process_time(), list[Question]()
    for row in rows({"sets": [each], "several": False, "train": count, "heldout": 1, "seed": 0}):
        if "question" in row:
            questions.append(question_of(row, each))
        if len(questions) == count:
            break
    return questions, (time.process_time() - began) / max(1, len(questions))


def names() -> list[str]:
    from zero.questions.gym_generator import COMPOSITE, DATASETS

    return sorted(DATASETS.keys() - {COMPOSITE})


def category(name: str) -> str:
    from zero.questions.gym_generator import DATASETS

    return str(DATASETS[name][0].__module__.split(".")[1])


def examine(name: str, checker: GymChecker, hostile: Sequence[str]) -> dict[str, Any]:
    """What docs/gym.md says of a set."""
    questions, seconds = drawn(name, ROWS)
    honest = checker.many([(q.answer[0], q) for q in questions if q.answer[0]])
    pairs = [(answer, questions[i % HOSTILE_ROWS]) for i, answer in enumerate(hostile)]
    pairs = [(answer, question) for answer, question in pairs if not same(answer, question.answer[0])]
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        outcomes = checker.many(pairs)
    accepted = [answer[:60] for (answer, _), outcome in zip(pairs, outcomes, strict=True) if outcome is Outcome.CORRECT]
    return {
        "set": name,
        "category": category(name),
        "question": round(sum(len(q.text) for q in questions) / len(questions)),
        "answer": round(sum(len(q.answer[0]) for q in questions) / len(questions)),
        "row_ms": round(1000 * seconds, 1),
        "honest": sum(outcome is Outcome.CORRECT for outcome in honest),
        "answered": len(honest),
        "hostile": dict(sorted(Counter(map(str, outcomes)).items())),
        "executed": Path(gym_hostile.SENTINEL).exists(),
        "accepted": accepted,
        "raised": sorted({str(warning.message)[:100] for warning in raised})[:3],
        "seconds": round(time.perf_counter() - began, 1),
    }


def same(answer: str, reference: str) -> bool:
    """Whether a hostile answer happens to be the right one, such as 1 in digits of full width."""
    one, other = ("".join(unicodedata.normalize("NFKC", text).lower().split()) for text in (answer, reference))
    return one == other


def store(result: dict[str, Any]) -> None:
    """Among the numbers of the other sets."""
    stored = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"sets": {}}
    sets = dict(sorted((stored["sets"] | {result["set"]: result}).items()))
    NUMBERS.write_text(json.dumps({"version": VERSION, "answers": gym_hostile.COUNT, "sets": sets}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.grading.check_gym")
    parser.add_argument("--sets", default="", help="some of them, separated by commas")
    parser.add_argument("--answers", type=int, default=gym_hostile.COUNT)
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # rows as the question set has them
        os.execve(sys.executable, [sys.executable, "-m", "tests.grading.check_gym", *sys.argv[1:]],
                  os.environ | {"PYTHONHASHSEED": "0"})  # fmt: skip
    Path(gym_hostile.SENTINEL).unlink(missing_ok=True)
    checker, results = GymChecker(limit_s=2.0), []
    for name in options.sets.split(",") if options.sets else names():
        results.append(examine(name, checker, gym_hostile.answers()[: options.answers]))
        print(json.dumps(results[-1]), flush=True)
        if options.answers == gym_hostile.COUNT:
            store(results[-1])
    failed = [result["set"] for result in results if result["executed"] or result["accepted"]]
    print(f"{len(results)} sets, not held: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

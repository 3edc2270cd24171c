"""make check-data DATA=FOLDER: every published set, template and grader on the real files.

Loads each file with its option (tests/data/sets.py holds what must come out), renders every template on real rows, and
puts every reference answer through the graders as they run in training: in a box it must be accepted, and with one letter
or digit replaced by the next it must not. Of sets of programs, those that are there: reference solutions must pass their tests.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import BASE, ROOT
from tests.data import sets
from tests.data.grading import _balanced, swaps
from zero.config.check import check, instantiate
from zero.grading import BoundedChecker, check_maths, check_paper_fast, check_paper_slow
from zero.questions import QuestionSet
from zero.records import Outcome, Question
from zero.template import last_boxed

BENCHMARKS = ("aime24_30", "amc_83", "amc23_40_qwen", "math500", "minerva_272", "olympiad_bench_675", "gsm8k_test_1319")
PROGRAMS = {"humaneval": 1000, "mbpp": 1000, "apps": 100, "taco": 100, "verifiable_coding": 100, "livecodebench": 0}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(arguments: Sequence[str]) -> int:
    """Run all checks; 1 if one fails."""
    folder = Path(arguments[0])
    if not (folder / "eval").is_dir():
        print(f"error: DATA={folder}: holds no eval/*.jsonl and train/*.jsonl; give the folder of the question files")
        return 2
    failed = sets.main([str(folder)])
    failed += render(folder)
    golds = {name: references(folder / "eval" / f"{name}.jsonl") for name in BENCHMARKS}
    golds = {name: answers for name, answers in golds.items() if answers}
    for mode, checker in (("strict", check_maths), ("paper_fast", check_paper_fast), ("paper_slow", check_paper_slow)):
        failed += accepted(mode, checker, golds)
    failed += swapped(golds)
    failed += solved(folder)
    print("check-data: " + (f"{failed} failed" if failed else "all is well"))
    return min(failed, 1)


def references(path: Path) -> list[str]:
    """Every accepted answer of a benchmark file, as the loader gives it."""
    if not path.is_file():
        return []
    config = check("train", ["questions=file", f"questions.path={path.resolve()}", "questions.heldout=1.0"])[
        "questions"
    ]
    questions: QuestionSet = instantiate(config)
    return [answer for question in questions.rows.heldout for answer in question.answer]


def render(folder: Path) -> int:
    """Every template on the first rows of every file: the question stands in the prompt, the ids are those of the text."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = CHATML
    names = sorted(path.stem for path in (ROOT / "conf" / "template").glob("*.yaml"))
    prompts = failed = 0
    for name in names:
        template = instantiate(check("train", [f"template={name}"])["template"])
        for path in sorted(folder.glob("*/*.jsonl")):
            with path.open() as lines:
                texts = [json.loads(line)["problem"].strip() for line, _ in zip(lines, range(20), strict=False)]
            for text in texts:
                prompt = template.prompt(Question(text, ("0",), "q"), tokenizer, (0,))
                prompts += 1
                failed += text not in prompt.text or tokenizer.decode(prompt.ids) != prompt.text
    print(f"templates: {len(names)} rendered on {prompts} real rows, {failed} wrong")
    return failed


def accepted(mode: str, checker: BoundedChecker, golds: dict[str, list[str]]) -> int:
    """Every reference must be accepted out of a box."""
    failed = 0
    for name, answers in golds.items():
        boxed = [(last_boxed(f"So it is \\boxed{{{a}}}.") or "" if _balanced(a) else a, a) for a in answers]
        outcomes = checker.many([(answered, Question("", (a,), a)) for answered, a in boxed])
        refused = [(a, str(o)) for a, o in zip(answers, outcomes, strict=True) if o is not Outcome.CORRECT]
        print(f"{mode:10} {name:20} {len(answers)} references in a box, {len(refused)} refused {refused[:5] or ''}")
        failed += len(refused)
    return failed


def swapped(golds: dict[str, list[str]]) -> int:
    """No reference with one letter or digit replaced may be accepted in strict mode."""
    failed = 0
    for name, answers in golds.items():
        pairs = [(answered, Question("", (a,), a)) for a in dict.fromkeys(answers) for answered in swaps(a)]
        began = time.perf_counter()
        outcomes = check_maths.many(pairs)
        seconds = time.perf_counter() - began
        wrong = [(answered, q.id) for (answered, q), o in zip(pairs, outcomes, strict=True) if o is Outcome.CORRECT]
        late = sum(o is Outcome.TIMEOUT for o in outcomes)
        print(
            f"swaps      {name:20} {len(pairs)} in {seconds:.1f} s, {late} timed out, {len(wrong)} accepted {wrong[:5] or ''}"
        )
        failed += len(wrong)
    return failed


def solved(folder: Path) -> int:
    """Every reference solution of HumanEval and MBPP, and some of the larger sets, must pass its own tests in the sandbox."""
    failed = 0
    for name, most in PROGRAMS.items():
        for path in sorted(folder.glob(f"*/{name}*.json*")):
            overrides = [f"questions={name}", f"questions.path={path.resolve()}", f"questions.verify={most}"]
            began = time.perf_counter()
            questions: QuestionSet = instantiate(check("train", overrides)["questions"], "questions")
            lost = [note for note in questions.rows.notes if "own solution fails" in note]
            rows = len(questions.rows.train) + len(questions.rows.heldout)
            seconds = time.perf_counter() - began
            print(
                f"programs   {path.name:20} {rows} rows, solutions of at most {most} run in {seconds:.1f} s {lost or ''}"
            )
            failed += len(lost)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

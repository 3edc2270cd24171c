"""Programming questions: rows of the published sets, in their own forms, to tests that run; bad rows to one line."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.questions import code, code_rows
from zero.sandbox.code_tests import PASSED, CodeTests, runner

MBPP = {
    "task_id": 11, "text": "Write a python function to double a number.",
    "code": "def twice(n):\r\n  return helper(n) * 2\r\ndef helper(n): return n",
    "test_list": ["assert twice(2) == 4", "assert twice(-1) == -2", "assert isclose(twice(.1), .2)"],
    "test_setup_code": "from math import isclose", "challenge_test_list": [],
}  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/0", "entry_point": "add",
    "prompt": 'from typing import List\n\ndef add(numbers: List[int]) -> int:\n    """Add."""\n',
    "canonical_solution": "    return sum(numbers)\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}  # fmt: skip
APPS = {
    "question": "Add two numbers.", "difficulty": "interview", "starter_code": "",
    "solutions": json.dumps(["print(sum(map(int, input().split())))", "a, b = map(int, input().split())\nprint(a + b)"]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["3 4"]], "outputs": ["3\n", ["7"]]}),
}  # fmt: skip
TACO = {
    "question": "Reverse a list.", "starter_code": "class Solution:\n    def turn(self, a):\n        ", "difficulty": "EASY",
    "solutions": json.dumps(["class Solution:\n    def turn(self, a): return tuple(a[::-1])"]),
    "input_output": json.dumps({"fn_name": "turn", "inputs": [[[1, 2]], [[]]], "outputs": [[[2, 1]], [[]]]}),
}  # fmt: skip
CASES = [
    {"input": "[1, 2]\n3", "output": "6", "testtype": "functional"},
    {"input": "[]\n1", "output": "1", "testtype": "functional"},
]
LIVECODEBENCH = {
    "question_content": "Add all.", "starter_code": "class Solution:\n    def total(self, a, b):\n        ", "difficulty": "easy",
    "public_test_cases": json.dumps(CASES[:1]), "metadata": json.dumps({"func_name": "total"}), "contest_date": "2025-01-01",
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(CASES[1:])))).decode(),
}  # fmt: skip
OPEN_R1 = {
    "problem": "Print the square root.", "gold_standard_solution": "print(float(input()) ** .5)",
    "verification_info": {"language": "python", "test_cases": [
        {"type": "stdin_stdout", "input": "4\n", "output": "2.0\n", "fn_name": None},
        {"type": "stdin_stdout", "input": "2", "output": "1.4142136", "fn_name": None}]},
}  # fmt: skip
CODEFORCES = {
    "description": "Print any even number above n.", "input_format": "n", "output_format": "a number", "note": None, "rating": 800,
    "examples": [{"input": "3", "output": "4"}], "official_tests": [{"input": "3", "output": "4"}, {"input": "10", "output": "12"}],
    "generated_checker": "import sys\nn, _, got = [open(name).read().split()[0] for name in sys.argv[1:]]\n"
                         "print(int(int(got) > int(n) and int(got) % 2 == 0))",
}  # fmt: skip
SETS = [
    (code_rows.mbpp, MBPP, MBPP["code"]),
    (code_rows.humaneval, HUMANEVAL, HUMANEVAL["canonical_solution"]),
    (code_rows.apps, APPS, json.loads(APPS["solutions"])[1]),
    (code_rows.apps, TACO, json.loads(TACO["solutions"])[0]),
    (code_rows.livecodebench, LIVECODEBENCH, "class Solution:\n    def total(self, a, b): return sum(a) + b"),
    (code_rows.verifiable_coding, OPEN_R1, OPEN_R1["gold_standard_solution"]),
    (code_rows.codeforces, CODEFORCES, "n = int(input())\nprint(n + 100 + n % 2)"),
]


@pytest.mark.parametrize(
    ("read", "raw", "solution"), SETS, ids=[f"{read.__name__}{i}" for i, (read, _, _) in enumerate(SETS)]
)
def test_published_rows_run(read: code.Reader, raw: dict[str, Any], solution: str) -> None:
    row = read(raw)
    assert row is not None and row["problem"].strip()
    tests = row["tests"]
    assert CodeTests.from_text(tests.to_text()) == tests
    wrong = "def add(n): return 1\ndef twice(n): return 1\nclass Solution:\n    turn = total = lambda *a: None\nprint('1 1')"
    right, other, broken = runner().run([(solution, tests), (wrong, tests), ("def f(:", tests)])
    assert right.outcome == PASSED and right.share == 1, right
    assert other.share == 0 and other.outcome == "failed"
    assert broken.share == 0 and broken.outcome == "crashed" and "SyntaxError" in broken.detail
    assert len(right.passed) == len(tests.tests) or len(tests.cases)
    assert tests.shown == (read is code_rows.livecodebench)  # which tells its public tests from the others


def test_a_helper_of_the_prompt_is_there_for_the_tests() -> None:
    helper = "def twice(n):\n    return 2 * n\n\n\n"
    test = "def check(candidate):\n    assert candidate([1, 2]) == twice(3) // 2\n"
    row = code_rows.humaneval(HUMANEVAL | {"prompt": helper + HUMANEVAL["prompt"], "test": test})
    tests = row["tests"]
    assert tests.names == ("add", "twice")
    body = HUMANEVAL["canonical_solution"]
    whole = "def add(numbers): return sum(numbers)"
    results = runner().run(
        [(row["solution"], tests), (body, tests), (whole, tests), ("def add(numbers): return 0", tests)]
    )
    assert [result.outcome for result in results] == [PASSED, PASSED, PASSED, "failed"]


def _file(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _set(name: str, path: str, *words: str) -> Any:
    overrides = [f"questions={name}", f"questions.path={path}", *words]
    return instantiate(check("train", overrides)["questions"], "questions")


def test_a_set_from_a_file(tmp_path: Path) -> None:
    other = MBPP | {"text": "Another.", "code": "def twice(n): return 3 * n"}
    rows = [MBPP | {"text": f"Double it, way {i}."} for i in range(30)]
    questions = _set("mbpp", _file(tmp_path, *rows, other, rows[0]), "questions.verify=1000", "questions.heldout=4")
    assert len(questions.rows.train) == 26 and len(questions.rows.heldout) == 4
    assert [note.partition(":")[0] for note in questions.rows.notes] == [
        "left out 1 repeated",
        "left out 1 whose own solution fails",
    ]
    assert "line 31 (failed)" in questions.rows.notes[1]
    changed = _set(
        "mbpp", _file(tmp_path, *[row | {"test_list": MBPP["test_list"][:2]} for row in rows]), "questions.heldout=4"
    )
    assert changed.rows.digest != questions.rows.digest  # the tests are part of what a run is


def test_own_form_and_cpp(tmp_path: Path) -> None:
    tests = CodeTests(language="cpp", cases=(("1 2", "3"), ("2 2", "4"))).to_text()
    solution = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
    questions = _set(
        "code", _file(tmp_path, {"problem": "Add.", "tests": tests, "solution": solution}), "questions.heldout=1.0"
    )
    [question] = questions.rows.heldout
    assert questions.check(solution, question)
    assert not questions.check("int main() {}", question)
    assert not questions.check("int main( {}", question)
    plain = {"tests": ["assert one() == 1", "assert two() == 2"]}  # an object, and without the names of what it calls
    solution = "def one(): return 1\ndef two(): return 2 * one()\ndef three(): return 3"
    questions = _set(
        "code", _file(tmp_path, {"problem": "One, two.", "tests": plain, "solution": solution}), "questions.heldout=1.0"
    )
    assert CodeTests.from_text(questions.rows.heldout[0].answer[0]).names == ("one", "two")


BAD = [
    ("mbpp", [MBPP | {"test_list": []}], "questions.row=mbpp: cannot read line 1 (ValueError: the tests call nothing"),
    ("apps", [APPS | {"input_output": ""}], "questions.path=.*: no row has tests (1 rows without)"),
    ("mbpp", [{"question": "?"}], "questions.row=mbpp: cannot read line 1 (KeyError: 'test_list')"),
    ("mbpp", [MBPP | {"code": "def twice(n): return n"}],
     "questions.verify=16: of 1 rows 1 fail their own tests, the first is line 1 (failed)"),
    ("mbpp", [MBPP | {"code": "def twice(n):\n    while True: pass"}], "line 1 (timed out)"),
    ("mbpp", [MBPP | {"test_list": ["assert twice(1) == 2", "while twice(1): pass"]}], "line 1 (timed out)"),
    ("mbpp", [MBPP | {"test_list": ["assert twice(1) = 2"]}], "questions.row=mbpp: cannot read line 1 (SyntaxError"),
    ("livecodebench", [LIVECODEBENCH | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(print))).decode()}],
     "the private tests hold more than text: builtins.print"),
    ("code", [{"problem": "?", "tests": json.dumps({"cases": [["", ""]], "language": "cobol"})}],
     "language cobol is none of python, cpp"),
    ("code", [{"problem": "?", "tests": "[]"}], "cannot read line 1 (ValueError: no tests: they are an object"),
    ("code", [{"problem": "?", "tests": {"assertions": []}}], "(ValueError: no tests: assertions is none of language, tests"),
    ("code", [{"problem": "?", "tests": {"tests": "assert f(1)"}}], "(ValueError: `tests` must be a list of texts)"),
    ("code", [{"problem": "?", "tests": {"tests": ["assert f(1)"]}}],
     "(ValueError: the tests call nothing that the code defines); a row is"),
    ("code", [{"problem": "?", "tests": {"cases": [["", ""]], "checker": 5}}], "`checker` must be a text"),
    ("code", [{"problem": "?", "tests": {"cases": [["", ""]], "shown": "1"}}], "`shown` must be a whole number"),
    ("code", [{"problem": "?", "tests": {"cases": ["12"]}}], "`cases` must be a list of pairs"),
    ("code", [{"problem": "?", "tests": {"cases": [["\ud800", ""]]}}], "UnicodeEncodeError"),
    ("code", [{"problem": None, "tests": {"cases": [["", ""]]}}], "the problem is no text"),
    ("code", [{"problem": "?", "tests": {"cases": [["", ""]]}, "solution": 5}], "TypeError"),
    ("code", [{"problem": "?", "tests": None}], "no row has tests (1 rows without)"),
    ("livecodebench", [LIVECODEBENCH | {"private_test_cases": base64.b64encode(zlib.compress(b"x")).decode()}],
     "the private tests cannot be read"),
    ("code", [{"problem": "\ud800", "tests": json.dumps({"cases": [["", ""]]})}], "cannot read line 1 (UnicodeEncodeError"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "words"), BAD)
def test_a_bad_row_is_one_line(tmp_path: Path, name: str, rows: list[dict[str, Any]], words: str) -> None:
    before, _, after = words.partition(".*")
    with pytest.raises(InputError) as error:
        _set(name, _file(tmp_path, *rows), "questions.sandbox.cpu_s=1", "questions.sandbox.wall_s=5")
    assert before in str(error.value) and after in str(error.value)
    assert "\n" not in str(error.value)


def test_a_few_rows_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    rows = [APPS | {"question": f"Add, way {i}."} for i in range(30)]
    huge = '{"fn_name": "f", "inputs": [[1%s]], "outputs": [1]}' % ("0" * 5000)  # more digits than Python reads
    bad = APPS | {"question": "?", "input_output": huge}
    questions = _set("apps", _file(tmp_path, *rows, bad), "questions.verify=0")
    assert "left out 1 that cannot be read: line 31 (cannot read line 31 (ValueError" in questions.rows.notes[0]
    with pytest.raises(InputError, match="cannot read line 31"):
        _set("apps", _file(tmp_path, *rows, bad, bad | {"question": "??"}), "questions.verify=0")


@pytest.mark.parametrize(
    "words",
    [
        "limit=0",
        "verify=-1",
        "most_tests=0",
        "+sandbox.tmp_mb=0.5",
        "+sandbox.open_files=3",
        "sandbox.memory_mb=9000000000000",
    ],
)
def test_a_setting_that_cannot_work_is_one_line(tmp_path: Path, words: str) -> None:
    plus, word = "+" * words.startswith("+"), words.lstrip("+")
    row = {"problem": "?", "tests": {"cases": [["", ""]]}, "solution": "pass"}
    with pytest.raises(InputError, match=f"questions.{word.partition('=')[0]}=.*must be"):
        _set("code", _file(tmp_path, row), f"{plus}questions.{word}")


def test_no_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    row = {"problem": "?", "tests": json.dumps({"cases": [["", ""]], "language": "cpp"})}  # no solution to verify
    with pytest.raises(InputError, match="language=cpp: no compiler"):
        _set("code", _file(tmp_path, row), "questions.sandbox.cpu_s=3")

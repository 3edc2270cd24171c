"""Programs as answers: outcomes, shares of tests as rewards, curves of what became of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero.benchmark import summarize
from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.grading import Grader
from zero.grading.code import CodeChecker, code_format, result_of
from zero.records import Completion, Outcome, Prompt, Question, Response
from zero.sandbox.code_tests import OUTCOMES, CodeTests, same_output
from zero.template import code_in_any_form, last_code_block
from zero.tracking.glossary import describe

TESTS = CodeTests(tests=("assert f(2) == 4", "assert f(3) == 9"), names=("f",))
QUESTION = Question("Square it.", (TESTS.to_text(),), "square")
PROGRAMS = {
    "def f(x): return x * x": ("passed", 1.0, Outcome.CORRECT),
    "def f(x): return 4": ("failed", 0.5, Outcome.WRONG),
    "def f(x): return": ("failed", 0.0, Outcome.WRONG),
    "import socket\ndef f(x): socket.socket(); return x * x": ("forbidden network", 0.0, Outcome.WRONG),
    "def f(x): return x * x\nopen('/etc/passwd')": ("forbidden files", 0.0, Outcome.WRONG),
    "import os\ndef f(x): os._exit(0)": ("exited early", 0.0, Outcome.WRONG),
    "def f(x):\n    if x == 3: 1 / 0\n    return 4": ("failed", 0.5, Outcome.WRONG),
    "def f(x):\n    while x == 3: pass\n    return 4": ("timed out", 0.5, Outcome.TIMEOUT),
    "x = 1 +": ("crashed", 0.0, Outcome.WRONG),
    "\ud800": ("crashed", 0.0, Outcome.WRONG),
    "#" * (1 << 20): ("too long", 0.0, Outcome.WRONG),
}
CHECK = CodeChecker(cpu_s=1, wall_s=8.0)


def _grade(reward: str, texts: list[str]) -> Any:
    grader = Grader(
        last_code_block, CHECK, code_in_any_form, instantiate(check("train", [f"reward={reward}"])["reward"])
    )
    completions = [Completion((1, 2), (0.0, 0.0), text, True) for text in texts]
    return grader.grade([Prompt(QUESTION, "?", (1,), (0,))], [completions], 100)


def test_programs_become_outcomes_rewards_and_curves() -> None:
    groups = _grade("code", [f"Here it is.\n```python\n{program}\n```" for program in PROGRAMS] + ["no idea"])
    verdicts = groups[0].verdicts
    for verdict, (program, (outcome, share, strict)) in zip(verdicts, PROGRAMS.items(), strict=False):
        assert (verdict.program, verdict.reward, verdict.strict) == (outcome, share, strict), program[:50]
    assert (verdicts[-1].program, verdicts[-1].reward, verdicts[-1].strict) == ("", 0.0, Outcome.NO_ANSWER)
    metrics = summarize(groups)
    n = len(PROGRAMS) + 1
    assert metrics["program/failed"] == pytest.approx(3 / n)
    assert (
        metrics["program/forbidden_network"]
        == metrics["program/passed"]
        == metrics["train/accuracy"]
        == pytest.approx(1 / n)
    )
    assert metrics["program/forbidden"] == pytest.approx(2 / n)
    assert metrics["program/broken_test"] == metrics["program/hardcoded"] == 0  # a zero is a fact, too
    assert metrics["reward/tests"] == pytest.approx(sum(share for _, share, _ in PROGRAMS.values()) / n)
    assert all(describe(name) for name in metrics)


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("f = {1: 1, 2: 4}.__getitem__", "hardcoded"),
        ("def f(x): return 2 * x - 1 if x < 2 else 4", "hardcoded"),
        ("f = {1: 1, 2: 4, 3: 9}.__getitem__", "failed"),
        ("def f(x): return x", "failed"),
        ("def f(x): return x * x", "passed"),
        ("def f(x):\n    while x > 2: pass\n    return x * x", "timed out"),
    ],
)
def test_hardcoded_is_what_passes_the_shown_tests_alone(program: str, outcome: str) -> None:
    tests = CodeTests(tests=tuple(f"assert f({x}) == {x * x}" for x in range(1, 5)), names=("f",), shown=2)
    [result] = CHECK.results([(program, Question("?", (tests.to_text(),), "squares"))])
    assert result.outcome == outcome


def test_every_outcome_has_a_curve() -> None:
    for outcome in (*OUTCOMES, "forbidden"):
        assert describe(f"program/{outcome.replace(' ', '_')}") == describe("program/OUTCOME")
        assert describe(f"eval/mbpp/program/{outcome.replace(' ', '_')}")


def test_binary_reward_and_form() -> None:
    right, half = "```python\ndef f(x): return x * x\n```", "```python\ndef f(x): return 4\n```"
    verdicts = _grade(
        "code_binary", [right, half, right + "\n" + right, right.replace("python", ""), "def f(x): return x * x"]
    )[0].verdicts
    assert [verdict.reward for verdict in verdicts] == pytest.approx([1.1, 0.1, 1.0, 1.0, 0.0])
    assert verdicts[-1].lenient is Outcome.CORRECT and verdicts[-1].strict is Outcome.NO_ANSWER


def test_reward_and_checker_ask_for_programming_questions() -> None:
    sums = Question("1 + 1", ("2",), "sum")
    with pytest.raises(InputError, match="question sum has no tests"):
        CHECK.many([("print(2)", sums)])
    with pytest.raises(ValueError, match="programming questions"):
        result_of("print(2)", sums)


def test_one_program_as_a_plain_checker_says_it() -> None:
    assert CHECK("def f(x): return x * x", QUESTION)
    assert not CHECK("def f(x): return 4", QUESTION)
    with pytest.raises(TimeoutError):
        CHECK("def f(x):\n    while x: pass", QUESTION)


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True), ("3 \n\n", "3\n", True), (" 3", "3", True), ("1\n2", "1\n2\n", True), ("1 2", "1\n2", False),
        ("", "3", False), ("0.3333333", "0.33333334", True), ("0.3334", "0.33333334", False), ("1", "1.0", True),
        ("1.0", "1", False), ("nan", "nan", True), ("yes", "YES", False), ("1e400", "1.0", False),
        ("9" * 1000, "1.5", False), ("3\n4", "3", False), ("", "", True),
    ],
)  # fmt: skip
def test_same_output(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same


def test_last_code_block() -> None:
    assert last_code_block("a\n```python\nx = 1\n```\nb\n```\ny = 2\n  z\n```\n") == "y = 2\n  z"
    assert last_code_block("```python\nx = 1") is None
    assert last_code_block("x = 1") is None
    assert code_in_any_form("x = 1") == "x = 1"
    assert code_in_any_form("<answer>x</answer>") == "x"
    assert code_in_any_form(" \n") is None


@given(st.text(alphabet="`python\n x", max_size=200))
def test_extractors_are_total(text: str) -> None:
    for extract in (last_code_block, code_in_any_form):
        assert extract(text) is None or isinstance(extract(text), str)
    response = Response(QUESTION, "", text, 1, 9, True, Outcome.WRONG, Outcome.WRONG, None)
    assert code_format(response) in (0.0, 1.0)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda i: st.lists(i) | st.dictionaries(st.text(max_size=8), i),
        max_leaves=6,
    )
)
def test_no_text_is_taken_for_tests(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        CodeTests.from_text(json.dumps(data))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"level": "ful"}, "questions.sandbox.level=ful: must be full or landlock"),
        ({"workers": 0}, "questions.sandbox.workers=0: must be above 0"),
        ({"cpu_s": 0}, "questions.sandbox.cpu_s=0: must be above 0"),
        ({"wall_s": -1.0}, "questions.sandbox.wall_s=-1.0: must be above 0"),
        ({"memory_mb": "much"}, "questions.sandbox.memory_mb=much: must be a whole number"),
        ({"cpu": 1}, "questions.sandbox.cpu=1: no such setting; there are level, workers, cpu_s, "),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_program(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        CodeChecker(**settings)
    assert str(error.value).startswith(line)

"""The calculator is exact, and bounded for every text."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from tests.grading.hostile import TEXTS
from zero.environments.calculator import calculate
from zero.environments.tools import ToolEnvironment
from zero.records import Question


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * 21", "42"),
        ("8/(3-8/3)", "24"),
        ("1/3 + 0.5", "5/6"),
        ("0.1 + 0.2", "3/10"),
        ("(1.25 - 2) * 4", "-3"),
        ("-2 - 3", "-5"),
        ("-2 * 3 + 10", "4"),
        ("10 - -2.5", "25/2"),
        ("6 / -4", "-3/2"),
        ("(-3) * (-0.5)", "3/2"),
        ("-(2 + 3) * 4", "-20"),
        ("3 \\times 4 = 12", "12"),
        ("7", "7"),
        ("--3", "3"),
    ],
)
def test_values_are_exact(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "2 +",
        "2 ** 3",
        "7 // 2",
        "2 3",
        "(2",
        "1.2.3",
        "1e9",
        "x",
        "2 - - - 3",
        "__import__('os')",
        "9**9**9",
        "1" * 501,
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        calculate(expression)


def test_division_by_zero() -> None:
    with pytest.raises(ZeroDivisionError):
        calculate("1 / (2 - 2)")


def test_hostile_expressions_have_a_value_or_an_error() -> None:
    for text in TEXTS:
        try:
            Fraction(calculate(text))
        except (ValueError, ZeroDivisionError):
            continue


def test_an_episode_with_the_calculator() -> None:
    environment = ToolEnvironment(["zero.environments.calculator.calculate"])
    [shown] = environment.schemas
    assert shown["function"]["parameters"]["required"] == ["expression"]
    row = Question("What is 1234 times 5678?", ("7006652",), "q")
    assert environment.reset(row, 0) == row.text
    call = {"name": "calculate", "arguments": {"expression": "1234 * 5678"}}
    step = environment.step(f"<tool_call>{json.dumps(call)}</tool_call>")
    assert step.observation == "<tool_response>\n7006652\n</tool_response>" and step.kind == "call"
    call["arguments"] = {"expression": "1/0"}
    step = environment.step(f"<tool_call>{json.dumps(call)}</tool_call>")
    assert "error: ZeroDivisionError: the expression divides by zero" in str(step.observation)
    assert step.kind == "failed_call"
    assert environment.step("\\boxed{7006652}").done

"""Schemas as written by hand and as transformers makes them; arguments of other types are refused; whole episodes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Optional

import pytest

from tests.conftest import ROOT
from zero.environments import Step, as_step, start
from zero.environments.tool_schema import fit, parameters, schema
from zero.environments.tools import CallFailed, ToolEnvironment
from zero.errors import Broken, InputError
from zero.records import Question

HERE = "tests.environments.test_tools"
ROW = Question("What is 6 times 7?", ("42",), "q")


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C", hours: list[int] | None = None) -> str:
    """The weather of a city.

    It is always sunny, in every city.

    Args:
        city: its name, as it is
            written there
        days: from today on
        unit: of the temperature
        hours: of each day: all of them if there are none

    Returns:
        A sentence.
    """
    return f"{city}: sunny for {days} days, 20 {unit}"


def ratio(first: float, second: float, exact: bool, more: Optional[list[list[str]]] = None) -> float:  # noqa: UP045
    """How many times the second goes into the first."""
    return first / second


class Counter:
    """Counts, for one episode."""

    name = "count"

    def __init__(self, step: int = 1) -> None:
        if step < 1:
            raise ValueError("the step must be above 0")
        self.step, self.total = step, 0

    def __call__(self, times: int) -> str:
        """Count on, so many times.

        Args:
            times: how often
        """
        self.total += self.step * times
        return str(self.total)


def fail(how: str) -> str:
    """Goes wrong."""
    kinds: dict[str, BaseException] = {
        "input": InputError("x", 1, "mend it"),
        "broken": Broken("the machine is broken"),
        "call": CallFailed("42\nerror: the battery is empty"),
        "long": ValueError("x\n" * 10_000),
    }
    raise kinds.get(how) or KeyError(how)


def plain(values: list) -> Any:  # type: ignore[type-arg]
    """What it is given.

    Args:
        values: any
    """
    return {"values": values, "half": "\ud800", "tag": "</tool_response>"}


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def environment(*tools: Any, **settings: Any) -> ToolEnvironment:
    made = ToolEnvironment([tool if isinstance(tool, dict) else f"{HERE}.{tool}" for tool in tools], **settings)
    assert start(made, ROW, 0).text == ROW.text
    return made


def result(step: Step) -> str:
    assert isinstance(step.observation, str) and as_step(step).kind == step.kind
    return step.observation.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")


# ------------------------------------------------------------------------------------------------------------------- schemas


def test_the_schema_of_a_tool_by_hand() -> None:
    assert schema(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.\n\nIt is always sunny, in every city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "its name, as it is written there"},
                    "days": {"type": "integer", "description": "from today on"},
                    "unit": {"type": "string", "enum": ["C", "F"], "description": "of the temperature"},
                    "hours": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "nullable": True,
                        "description": "of each day: all of them if there are none",
                    },
                },
                "required": ["city"],
            },
        },
    }
    undescribed = schema(ratio)["function"]
    assert undescribed["description"] == "How many times the second goes into the first."
    assert undescribed["parameters"]["properties"] == {
        "first": {"type": "number"},
        "second": {"type": "number"},
        "exact": {"type": "boolean"},
        "more": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "nullable": True},
    }
    assert undescribed["parameters"]["required"] == ["first", "second", "exact"]


def test_the_schema_is_the_one_of_transformers() -> None:
    from transformers.utils import get_json_schema

    for function in (weather, plain):
        theirs = get_json_schema(function)
        theirs["function"].pop("return", None)
        assert schema(function) == theirs


def test_a_class_is_a_tool_by_what_its_objects_do_and_settings_are_not_the_models() -> None:
    for tool in (Counter, Counter(), partial(Counter, step=3)):
        assert schema(tool)["function"]["name"] == "count"
        assert parameters(tool) == {"times": (int, True)}
    filled = schema(partial(weather, unit="F", hours=[1]))["function"]
    assert filled["name"] == "weather" and list(filled["parameters"]["properties"]) == ["city", "days"]


def no_docstring(x: int) -> str:
    return str(x)


def no_type(x) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """A."""
    return str(x)


def other_type(x: dict[str, int]) -> str:
    """A."""
    return str(x)


def two_types(x: int | str) -> str:
    """A."""
    return str(x)


def any_number(*x: int) -> str:
    """A."""
    return str(x)


def no_such_type(x: "Missing") -> str:  # type: ignore[name-defined]  # noqa: F821, UP037
    """A."""
    return str(x)


def misspelt(x: int) -> str:
    """A.

    Args:
        y: which is no parameter
    """
    return str(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_docstring, "needs a docstring"),
        (no_type, "parameter x needs a type"),
        (other_type, r"cannot give a value of type dict\[str, int\]"),
        (two_types, "cannot give a value of type int | str"),
        (any_number, "cannot be given by name"),
        (no_such_type, "types cannot be read"),
        (misspelt, "describes y, which is no parameter"),
        (lambda x: x, "must be one word"),
        (5, "is a function, or a class"),
    ],
)
def test_what_has_no_schema_is_one_line(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schema(function)


@pytest.mark.parametrize(
    ("value", "hint", "fitted"),
    [
        (2, int, 2),
        (2, float, 2.0),
        (True, bool, True),
        ("2", str, "2"),
        ([1, 2], list[float], [1.0, 2.0]),
        ([1, "a", None], list, [1, "a", None]),
        (None, int | None, None),
        (2, Optional[int], 2),  # noqa: UP045
        ("C", Literal["C", 1], "C"),
        (1, Literal["C", 1], 1),
    ],
)
def test_arguments_of_the_right_type_fit(value: Any, hint: Any, fitted: Any) -> None:
    assert fit(value, hint) == fitted and type(fit(value, hint)) is type(fitted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (2.0, int),
        ("2", int),
        (True, float),
        (10**400, float),
        (1, bool),
        (None, int),
        ("ab", list[str]),
        ([1, True], list[int]),
        (True, Literal[1]),
        ("c", Literal["C"]),
        ([], Literal["C"]),
    ],
)
def test_arguments_of_another_type_do_not(value: Any, hint: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|is too large"):
        fit(value, hint)


# ------------------------------------------------------------------------------------------------------------------ episodes


def test_an_episode_of_calls_and_an_answer() -> None:
    tools = environment("weather", "ratio", cost=0.25)
    assert [one["function"]["name"] for one in tools.schemas] == ["weather", "ratio"]
    first = tools.step("Let me look. " + call("weather", city="Berlin", days=2))
    sunny = "<tool_response>\nBerlin: sunny for 2 days, 20 C\n</tool_response>"
    assert first == Step(sunny, -0.25, done=False, success=None, kind="call")
    second = tools.step(call("ratio", first=1, second=2, exact=True))
    assert (result(second), second.kind) == ("0.5", "call")
    assert tools.step("It is 42.") == Step("", 0.0, True, None, "answer")


def test_bad_and_failed_calls_are_answered_in_one_line_and_counted() -> None:
    tools = environment("weather", "fail", "ratio", max_calls=20)
    for text, kind, words in (
        (call("wether", city="B"), "bad_call", "no tool 'wether'; there are weather, fail, ratio"),
        (call("weather"), "bad_call", "weather needs the argument 'city'"),
        (call("weather", city="B", town="B"), "bad_call", "no argument 'town'; it takes city, days, unit, hours"),
        (call("weather", city=5), "bad_call", "the argument 'city' of weather must be of type string"),
        (call("weather", city="B", unit="K"), "bad_call", "must be one of 'C', 'F'"),
        ("<tool_call>{}</tool_call>", "bad_call", 'must be {"name": ..., "arguments": {...}}'),
        (call("x\n" * 1000), "bad_call", "no tool"),
        (call("fail", how="key"), "failed_call", "error: KeyError: 'key'"),
        (call("fail", how="long"), "failed_call", "error: ValueError: x x"),
        (call("ratio", first=1, second=0, exact=False), "failed_call", "ZeroDivisionError"),
    ):
        step = tools.step(text)
        line = result(step)
        assert step.kind == kind and not step.done and step.reward == 0, text
        assert words in line and line.startswith("error: ") and "\n" not in line and len(line) < 400, line
    battery = tools.step(call("fail", how="call"))
    assert (result(battery), battery.kind) == ("42\nerror: the battery is empty", "failed_call")


def test_what_is_not_the_policys_doing_ends_the_run() -> None:
    for how, error in (("input", InputError), ("broken", Broken)):
        with pytest.raises(error, match=r"mend it|the machine"):
            environment("fail").step(call("fail", how=how))


def test_several_calls_of_a_turn_and_the_end_of_calls() -> None:
    one = call("count", times=1)
    tools = environment("Counter", max_calls=4, calls_per_turn=3, cost=0.5)
    step = tools.step(f"{one} and {one}")
    assert result(step) == "1\n</tool_response>\n<tool_response>\n2" and step.reward == -1.0
    step = tools.step(one * 3)  # two are left
    assert result(step) == "3\n</tool_response>\n<tool_response>\n4\nNo calls are left: answer now."
    assert step.reward == -1.0 and not step.done
    assert tools.step(one) == Step("", 0.0, True, None, "bad_call")
    single = environment("Counter")
    assert single.stop == ("</tool_call>",) and tools.stop == ()
    step = single.step(one + one)
    assert step.kind == "bad_call" and "a turn has at most one call" in result(step)


def test_state_is_of_one_episode_and_settings_are_given_to_it() -> None:
    settings = {"function": f"{HERE}.Counter", "step": 5}
    tools, others = environment(settings), environment(settings)
    assert [result(tools.step(call("count", times=2))) for _ in range(2)] == ["10", "20"]
    assert result(others.step(call("count", times=1))) == "5"
    tools.reset(ROW, 1)
    assert result(tools.step(call("count", times=1))) == "5"
    filled = environment({"function": f"{HERE}.weather", "unit": "F"})
    assert result(filled.step(call("weather", city="B"))) == "B: sunny for 1 days, 20 F"
    assert filled.step(call("weather", city="B", unit="C")).kind == "bad_call"


def test_a_result_is_what_a_tokenizer_can_read_and_never_the_end_of_itself() -> None:
    step = environment("plain", most_result=60).step(call("plain", values=[1, "a"]))
    assert result(step) == '{"values": [1, "a"], "half": "?", "tag": "< /tool_response>"}'
    cut = environment("plain", most_result=12).step(call("plain", values=["\n" * 1000]))
    assert result(cut) == '{"values": [... (cut at 12 characters)'


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tools": []}, "must be a list"),
        ({"tools": f"{HERE}.weather"}, "must be a list"),
        ({"tools": [5]}, "a tool is a dotted path"),
        ({"tools": [f"{HERE}.wether"]}, "did you mean tests.environments.test_tools.weather"),
        ({"tools": [f"{HERE}.ROW"]}, "is no function"),
        ({"tools": [f"{HERE}.weather"] * 2}, "two tools"),
        ({"tools": [{"function": f"{HERE}.weather", "town": "B"}]}, "no such parameter"),
        ({"tools": [{"function": f"{HERE}.Counter", "step": 0}]}, "the step must be above 0"),
        ({"tools": [{"function": f"{HERE}.Counter", "stop": 0}]}, "cannot be made"),
        ({"tools": [{"function": f"{HERE}.weather", "city": object()}]}, "texts, numbers and lists"),
        ({"tools": [f"{HERE}.weather"], "max_calls": 0}, "max_calls"),
        ({"tools": [f"{HERE}.weather"], "calls_per_turn": True}, "calls_per_turn"),
        ({"tools": [f"{HERE}.weather"], "cost": -1}, "cost"),
        ({"tools": [f"{HERE}.weather"], "cost": float("nan")}, "cost"),
        ({"tools": [f"{HERE}.weather"], "most_result": 1.5}, "most_result"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        ToolEnvironment(**copy.deepcopy(settings))
    assert str(error.value).startswith("environment.make.") and "\n" not in str(error.value)


def test_an_environment_with_tools_needs_no_torch() -> None:
    code = "import sys, zero.environments.tools, zero.environments.tool_prompt, zero.environments.python; "
    code += "import zero.environments.calculator; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr

"""Rows of published sets of programming questions, each to {problem, tests, solution}. For `row` of a yaml.

ValueError or LookupError: the row is of another shape. None: left out, for want of tests. The tests are a
zero.sandbox.code_tests.CodeTests. Nothing of a row is executed here, and nothing of it unpickled but plain text.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import pickle
import zlib
from dataclasses import replace
from typing import Any

from zero.questions.sources import Row
from zero.sandbox.code_tests import CodeTests


def mbpp(row: Row) -> Row:
    """google-research-datasets/mbpp, both configs: {text or prompt, code, test_list, test_setup_code or test_imports}."""
    tests = tuple(row["test_list"])
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    text = row.get("prompt") or row["text"]
    shown = "\n".join(tests)
    problem = f"{text}\n\nYour code should pass these tests:\n\n{shown}"  # the set's own words
    return {
        "problem": problem,
        "tests": CodeTests(tests=tests, names=names_called(tests, row["code"]), setup=setup),
        "solution": row["code"],
    }


def humaneval(row: Row) -> Row:
    """openai/openai_humaneval: {prompt, canonical_solution, test: a function check(candidate), entry_point}. One test, as
    the published numbers count; a response may be the rest of the prompt's function or a program of its own."""
    name = row["entry_point"]
    # a few tests also call a helper that the prompt defines
    names = dict.fromkeys((name, *names_called((row["test"], f"{name}()"), row["prompt"])))
    tests = CodeTests(tests=(f"check({name})",), names=tuple(names), setup=row["test"], before=row["prompt"])
    return {"problem": row["prompt"], "tests": tests, "solution": row["prompt"] + row["canonical_solution"]}


def apps(row: Row) -> Row | None:
    """codeparrot/apps and BAAI/TACO: {question, solutions, input_output: JSON of inputs, outputs and perhaps fn_name}."""
    given = row["input_output"]
    spec = json.loads(given) if isinstance(given, str) and given else given
    if not spec or not spec.get("inputs"):
        return None
    solutions = row.get("solutions") or []
    solutions = json.loads(solutions) if isinstance(solutions, str) else list(solutions)
    inputs, outputs, starter = spec["inputs"], spec["outputs"], str(row.get("starter_code") or "")
    if spec.get("fn_name"):
        tests = _function_tests(spec["fn_name"], inputs, outputs, starter)
    else:
        tests = CodeTests(cases=_cases(inputs, outputs))
    problem = row["question"] + (f"\n\n{starter}" if starter else "")
    return {"problem": problem, "tests": tests, "solution": solutions, "level": row.get("difficulty")}


def livecodebench(row: Row) -> Row | None:
    """livecodebench/code_generation_lite: {question_content, starter_code, public_test_cases, private_test_cases, metadata}."""
    public = _json(row["public_test_cases"])
    cases = [*public, *_private(row.get("private_test_cases") or "[]")]
    if not cases:
        return None
    starter = str(row.get("starter_code") or "")
    problem = row["question_content"] + (f"\n\n{starter}" if starter else "")
    if cases[0]["testtype"] == "stdin":
        tests = CodeTests(cases=_cases([c["input"] for c in cases], [c["output"] for c in cases]))
    else:
        name = _json(row["metadata"])["func_name"]
        inputs = [[json.loads(line) for line in case["input"].splitlines() if line.strip()] for case in cases]
        tests = _function_tests(name, inputs, [json.loads(case["output"]) for case in cases], starter)
    tests = replace(tests, shown=len(public))
    return {
        "problem": problem,
        "tests": tests,
        "solution": [],
        "level": row.get("difficulty"),
        "date": str(row.get("contest_date") or ""),
    }


def verifiable_coding(row: Row) -> Row | None:
    """open-r1/verifiable-coding-problems-python: {problem or prompt, verification_info: {language, test_cases}, and
    gold_standard_solution}."""
    info = _json(row["verification_info"])
    cases = _json(info.get("test_cases") or [])
    if not cases:
        return None
    language = {"python": "python", "python3": "python", "cpp": "cpp", "c++": "cpp"}[
        str(info.get("language", "python")).lower()
    ]
    if cases[0].get("fn_name"):
        tests = _function_tests(cases[0]["fn_name"], [c["input"] for c in cases], [c["output"] for c in cases], "")
    else:
        tests = CodeTests(language=language, cases=_cases([c["input"] for c in cases], [c["output"] for c in cases]))
    return {
        "problem": row.get("problem") or row["prompt"],
        "tests": tests,
        "solution": row.get("gold_standard_solution") or [],
    }


def codeforces(row: Row) -> Row | None:
    """open-r1/codeforces: {description, input_format, output_format, note, examples, official_tests, generated_checker}."""
    cases = row.get("official_tests") or row.get("examples") or []
    if not cases:
        return None
    shown = "\n\n".join(f"Input:\n{c['input']}\nOutput:\n{c['output']}" for c in row.get("examples") or [])
    titles = {"description": "", "input_format": "Input: ", "output_format": "Output: ", "note": "Note: "}
    sections = [f"{title}{row[key]}" for key, title in titles.items() if row.get(key)]
    tests = CodeTests(
        language="cpp" if str(row.get("language", "python")).lower() in ("cpp", "c++") else "python",
        cases=_cases([c["input"] for c in cases], [c["output"] for c in cases]),
        checker=row.get("generated_checker") or "",
    )
    return {
        "problem": "\n\n".join([*sections, shown]).strip(),
        "tests": tests,
        "solution": [],
        "level": row.get("rating"),
    }


def names_called(tests: tuple[str, ...], code: str) -> tuple[str, ...]:
    """The names that the reference solution defines and the tests use."""
    nodes = ast.parse(code).body
    defined = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    used = {node.id for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    names = tuple(name for name in dict.fromkeys(defined) if name in used)
    if not names:
        raise ValueError("the tests call nothing that the code defines")
    return names


def _function_tests(name: str, inputs: list[Any], outputs: list[Any], starter: str) -> CodeTests:
    """Calls with literal arguments. Many of these sets wrap an output in a list of one: either form is accepted."""
    method = "class Solution" in starter
    call = f"Solution().{name}" if method else name
    tests = []
    for given, expected in zip(inputs, outputs, strict=True):
        arguments = ", ".join(repr(argument) for argument in given)
        forms = [expected, expected[0]] if isinstance(expected, list) and len(expected) == 1 else [expected]
        tests.append(f"value = {call}({arguments})\nassert any(same(value, form) for form in {forms!r})")
    return CodeTests(tests=tuple(tests), names=("Solution",) if method else (name,))


def _cases(inputs: list[Any], outputs: list[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((_lines(given), _lines(expected)) for given, expected in zip(inputs, outputs, strict=True))


def _lines(value: Any) -> str:
    """Some rows hold a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class _TextOnly(pickle.Unpickler):
    """A pickle may run anything; one of a text names nothing."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the private tests hold more than text: {module}.{name}")


def _private(value: str) -> Any:
    """JSON, or JSON in a pickle in zlib in base64, which is how the hub's rows keep it."""
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return json.loads(_TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load())
    except Exception as error:  # broken pickles raise what they like
        raise ValueError(f"the private tests cannot be read ({error})") from error

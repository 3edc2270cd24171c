"""Programs and the tests of their questions: from a source text to which tests it passes, and what became of it otherwise."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

from zero.errors import InputError
from zero.sandbox.compiler import Compiler
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Execution, Level, Limits, Task

# What an outcome is beside the endings of zero.sandbox.records. Hardcoded: it passes every test that its question shows and
# none of the others, as a table of the examples does
PASSED, FAILED, HARDCODED = "passed", "failed", "hardcoded"
ATTEMPTS = ("network", "files", "processes", "privileges")
_ENDINGS = [str(ending) for ending in Ending if ending not in (Ending.FINISHED, Ending.FORBIDDEN)]
OUTCOMES = (PASSED, FAILED, HARDCODED, *_ENDINGS, *(f"{Ending.FORBIDDEN} {kind}" for kind in ATTEMPTS))
SETTINGS = "questions.sandbox"  # of the config
LANGUAGES = ("python", "cpp")
MOST = 10**9  # of any limit: above it the kernel's own numbers overflow
LEAST_FILES = 16  # that a process opens before its program does
REMEMBERED = 1 << 16  # results kept, so that siblings that write the same program run it once


@dataclass(frozen=True)
class CodeTests:
    """What a program has to do. Either `tests`, or `cases` of standard input and output, perhaps with a `checker`.

    tests    statements that call `names` of the program; `setup` runs before them, apart from the program
    before   a text that precedes a program which does not define every name itself: HumanEval's prompt
    cases    (standard input, expected output)
    checker  a Python program called with the paths of input, expected output and output; it prints a score up to 1 or 100
    shown    so many of them, the first ones, stand in the question; 0: none, or nobody knows
    """

    language: str = "python"
    tests: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    setup: str = ""
    before: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    checker: str = ""
    shown: int = 0

    def to_text(self) -> str:
        """As the reference answer of a question: the same text for the same tests."""
        defaults = CodeTests()
        filled = {key: value for key, value in asdict(self).items() if value != getattr(defaults, key)}
        return json.dumps(filled, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> CodeTests:
        """ValueError if the text is none of to_text."""
        content = json.loads(text)
        defaults = {f.name: f.default for f in fields(cls)}
        if not isinstance(content, dict):
            raise ValueError("no tests: they are an object with `tests` or `cases`")
        if unknown := [key for key in content if key not in defaults]:
            raise ValueError(f"no tests: {unknown[0]} is none of {', '.join(defaults)}")
        if not (content.get("tests") or content.get("cases")):
            raise ValueError("no tests: neither `tests` nor `cases`")
        for key, value in content.items():
            _check_type(key, value, defaults[key])
        if content.get("tests") and content.get("cases"):
            raise ValueError("either `tests` or `cases`, not both")
        if content.get("tests") and content.get("language", "python") != "python":
            raise ValueError("`tests` call functions of Python; other languages have `cases`")
        lists = {key: tuple(content[key]) for key in ("tests", "names") if key in content}
        cases = tuple((str(given), str(expected)) for given, expected in content.get("cases", ()))
        return cls(**content | lists | {"cases": cases})


def _check_type(key: str, value: Any, default: Any) -> None:
    """ValueError if an entry of tests is not of its type."""
    if key == "cases":
        pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        if not (pairs and all(isinstance(text, str | int | float) for pair in value for text in pair)):
            raise ValueError("`cases` must be a list of pairs of texts")
    elif isinstance(default, tuple):
        if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            raise ValueError(f"`{key}` must be a list of texts")
    elif type(value) is not type(default):
        raise ValueError(f"`{key}` must be a {'text' if isinstance(default, str) else 'whole number'}")


@dataclass(frozen=True)
class CodeResult:
    """Which tests a program passed, and what became of it: `passed` if all, else why not."""

    outcome: str  # one of OUTCOMES
    passed: tuple[bool, ...]
    detail: str = ""
    cpu_s: float = field(default=0.0, compare=False)

    @property
    def share(self) -> float:
        """Of the tests, in [0, 1]."""
        return sum(self.passed) / len(self.passed) if self.passed else 0.0


class CodeRunner:
    """Runs programs against tests, and remembers what it found."""

    def __init__(self, level: Level = Level.FULL, workers: int = 2, limits: Limits | None = None) -> None:
        self._level, self._workers, self._limits = level, workers, limits or Limits()
        self._sandbox = Sandbox(level, workers)
        self._compiler: Compiler | None = None
        self._known: OrderedDict[tuple[str, CodeTests], CodeResult] = OrderedDict()

    def probe(self) -> None:
        """InputError where this machine cannot run them: when a set is loaded, not when the first answer is graded."""
        self._sandbox.run([Task("script", "")], self._limits)

    def run(self, programs: Sequence[tuple[str, CodeTests]]) -> list[CodeResult]:
        """The result of each, in order. InputError where this machine cannot run them."""
        fresh = [pair for pair in dict.fromkeys(programs) if pair not in self._known]
        for pair, result in zip(fresh, self._run(fresh), strict=True):
            self._known[pair] = result
        results = [self._known[pair] for pair in programs]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return results

    def _run(self, programs: Sequence[tuple[str, CodeTests]]) -> list[CodeResult]:
        binaries = self._compiled([source for source, tests in programs if tests.language == "cpp"])
        tasks: list[Task] = []
        places: list[range] = []  # of each program's tasks
        for source, tests in programs:
            start = len(tasks)
            compiled = binaries.get(source) if tests.language == "cpp" else None
            if compiled is None or compiled.ending is Ending.FINISHED:
                tasks += _tasks(source, tests, compiled.output if compiled else b"")
            places.append(range(start, len(tasks)))
        executions = self._sandbox.run(tasks, self._limits)
        verdicts = self._verdicts([tests for _, tests in programs], places, executions)
        results = []
        for (source, tests), place in zip(programs, places, strict=True):
            if place:
                results.append(_result(tests, [executions[i] for i in place], [verdicts[i] for i in place]))
            else:
                results.append(_not_compiled(tests, binaries[source]))
        return results

    def require_compiler(self) -> Compiler:
        """What compiles C++. InputError where there is none."""
        self._compiler = self._compiler or Compiler(self._level, self._workers, self._limits.source_kb)
        return self._compiler

    def _compiled(self, sources: Sequence[str]) -> dict[str, Execution]:
        if not sources:
            return {}
        distinct = list(dict.fromkeys(sources))
        return dict(zip(distinct, self.require_compiler().compile(distinct), strict=True))

    def _verdicts(
        self, wanted: Sequence[CodeTests], places: Sequence[range], executions: Sequence[Execution]
    ) -> dict[int, tuple[bool, ...]]:
        """By the number of its task, which tests each execution passed; checkers run together."""
        verdicts: dict[int, tuple[bool, ...]] = {}
        checks: dict[int, Task] = {}
        for tests, place in zip(wanted, places, strict=True):
            for i, number in enumerate(place):
                execution = executions[number]
                if tests.tests:
                    verdicts[number] = execution.passed or (False,) * len(tests.tests)
                elif execution.ending is not Ending.FINISHED:
                    verdicts[number] = (False,)
                elif tests.checker:
                    checks[number] = _check(tests, tests.cases[i], execution.output)
                else:
                    verdicts[number] = (same_output(execution.output.decode(errors="replace"), tests.cases[i][1]),)
        for number, execution in zip(checks, self._sandbox.run(list(checks.values()), self._limits), strict=True):
            verdicts[number] = (_score(execution) >= 1,)
        return verdicts


def _tasks(source: str, tests: CodeTests, binary: bytes) -> list[Task]:
    """One process for all tests of functions, one for each case of input and output."""
    if tests.tests:
        whole = source if _defines_all(source, tests.names) else f"{tests.before}{source}"
        return [Task("solution", whole, names=tests.names, setup=tests.setup, tests=tests.tests)]
    kind = "binary" if binary else "script"
    text = "" if binary else source
    return [Task(kind, text, stdin=given.encode(errors="replace"), binary=binary) for given, _ in tests.cases]


def _defines_all(source: str, names: Sequence[str]) -> bool:
    return all(f"def {name}" in source or f"class {name}" in source for name in names)


def _check(tests: CodeTests, case: tuple[str, str], output: bytes) -> Task:
    given, expected = (text.encode(errors="replace") for text in case)
    texts = {"input.txt": given, "expected.txt": expected, "output.txt": output}
    return Task("script", tests.checker, arguments=tuple(texts), files=texts)


def _score(execution: Execution) -> float:
    """A checker's last word; 0 if it has none."""
    words = execution.output.decode(errors="replace").split()
    try:
        score = float(words[-1])
    except (IndexError, ValueError):
        return 0.0
    return score / 100 if score > 1 else score


def _result(tests: CodeTests, executions: Sequence[Execution], verdicts: Sequence[tuple[bool, ...]]) -> CodeResult:
    """Of one program: passed if every test is; else what first went wrong."""
    passed = tuple(one for verdict in verdicts for one in verdict)
    cpu_s = sum(execution.cpu_s for execution in executions)
    # an attempt counts even in a program that passes: nobody needs it
    for execution in executions:
        if execution.ending is Ending.FORBIDDEN:
            none = (False,) * len(passed)
            return CodeResult(f"{Ending.FORBIDDEN} {execution.attempt}", none, execution.call, cpu_s)
    if all(passed):
        return CodeResult(PASSED, passed, "", cpu_s)
    # one that is too slow for the hidden tests is no table of the shown ones
    quick = all(execution.ending in (Ending.FINISHED, Ending.CRASHED) for execution in executions)
    if 0 < tests.shown < len(passed) and all(passed[: tests.shown]) and not any(passed[tests.shown :]) and quick:
        return CodeResult(HARDCODED, passed, "", cpu_s)
    for execution in executions:
        if execution.ending is not Ending.FINISHED:
            return CodeResult(str(execution.ending), passed, execution.detail, cpu_s)
    return CodeResult(FAILED, passed, "", cpu_s)


def _not_compiled(tests: CodeTests, compiled: Execution) -> CodeResult:
    none = (False,) * (len(tests.tests) or len(tests.cases))
    if compiled.ending is Ending.TOO_LONG:
        return CodeResult(str(Ending.TOO_LONG), none, compiled.detail)
    return CodeResult(str(Ending.CRASHED), none, f"does not compile: {compiled.detail[-300:]}")


def same_output(output: str, expected: str, tolerance: float = 1e-6) -> bool:
    """The same words, line by line: space at the ends of lines and empty lines at the end are free, and a number with a
    point may differ by the tolerance."""
    lines, wanted = _lines(output), _lines(expected)
    return len(lines) == len(wanted) and all(_same_line(a, b, tolerance) for a, b in zip(lines, wanted, strict=True))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().splitlines()]


def _same_line(line: str, expected: str, tolerance: float) -> bool:
    if line == expected:
        return True
    words, wanted = line.split(), expected.split()
    return len(words) == len(wanted) and all(_same_word(a, b, tolerance) for a, b in zip(words, wanted, strict=True))


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected:
        return True
    if "." not in expected or len(word) > 100:
        return False
    try:
        return math.isclose(float(word), float(expected), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


@cache
def runner(level: str = "full", workers: int = 2, **limits: Any) -> CodeRunner:
    """The runner of these settings: one for question sets, checkers and rewards of a run, with one memory. Raises InputError."""
    if level not in list(Level):
        raise InputError(f"{SETTINGS}.level", level, f"must be {' or '.join(Level)}")
    names = [limit.name for limit in fields(Limits)]
    for key, value in {"workers": workers, **limits}.items():
        if key not in ("workers", *names):
            raise InputError(
                f"{SETTINGS}.{key}", value, f"no such setting; there are level, workers, {', '.join(names)}"
            )
        kind = {"fork": bool, "wall_s": float}.get(key, int)
        if type(value) is not kind and not (kind is float and type(value) is int):
            words = {bool: "true or false", float: "a number", int: "a whole number"}[kind]
            raise InputError(f"{SETTINGS}.{key}", value, f"must be {words}")
        if kind is not bool and not 0 < value <= MOST:
            raise InputError(f"{SETTINGS}.{key}", value, f"must be above 0 and at most {MOST}")
        if key == "open_files" and value < LEAST_FILES:
            raise InputError(f"{SETTINGS}.{key}", value, f"must be {LEAST_FILES} or more")
    return CodeRunner(Level(level), workers, Limits(**limits))

"""Is a program right, and what is it worth: by its tests, run in the sandbox."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from zero.errors import InputError
from zero.records import Outcome, Question, Response
from zero.sandbox.code_tests import PASSED, REMEMBERED, CodeResult, CodeTests, runner
from zero.sandbox.records import Ending

_CHECKED = {PASSED: Outcome.CORRECT, str(Ending.TIMED_OUT): Outcome.TIMEOUT, str(Ending.OUT_OF_MEMORY): Outcome.TIMEOUT}


class CodeChecker:
    """A checker for questions whose references are tests (zero.questions.code). `settings` are those of the sandbox: level,
    workers, and limits as in zero.sandbox.records.Limits."""

    def __init__(self, **settings: Any) -> None:
        self._runner = runner(**settings)

    def __call__(self, answer: str, question: Question) -> bool:
        """One program. TimeoutError as a plain checker would raise it."""
        outcome = self.many([(answer, question)])[0]
        if outcome is Outcome.TIMEOUT:
            raise TimeoutError("it hit its limit of time or memory")
        return outcome is Outcome.CORRECT

    def many(self, pairs: Sequence[tuple[str, Question]]) -> list[Outcome]:
        """The outcome of each: correct if every test passed. A broken test is the checker's failure, not the program's."""
        results = self.results(pairs)
        broken = str(Ending.BROKEN_TEST)
        return [_CHECKED.get(r.outcome, Outcome.FAILED if r.outcome == broken else Outcome.WRONG) for r in results]

    def results(self, pairs: Sequence[tuple[str, Question]]) -> list[CodeResult]:
        """Which tests each passed, and what became of it."""
        results = self._runner.run([(answer, tests_of(question)) for answer, question in pairs])
        for (answer, question), result in zip(pairs, results, strict=True):
            _remember(answer, question, result)
        return results

    def program_outcome(self, answer: str, question: Question) -> str:
        """What became of a program that has been checked."""
        return result_of(answer, question).outcome


# What the checker found, for the rewards of the same step, by program and tests
_RESULTS: OrderedDict[tuple[str, str], CodeResult] = OrderedDict()


def _remember(answer: str, question: Question, result: CodeResult) -> None:
    _RESULTS[answer, question.answer[0]] = result
    while len(_RESULTS) > REMEMBERED:
        _RESULTS.popitem(last=False)


def result_of(answer: str, question: Question) -> CodeResult:
    """Which tests a program passed. ValueError if no code checker has looked at it."""
    try:
        return _RESULTS[answer, question.answer[0]]
    except KeyError:
        raise ValueError("no program that a code checker has run; questions must be programming questions") from None


def tests_of(question: Question) -> CodeTests:
    """InputError if the question has none."""
    try:
        return _tests(question.answer[0])
    except (ValueError, TypeError) as error:
        remedy = f"question {question.id} has no tests as its answer ({error}); use a set of programming questions"
        raise InputError("questions.check", "zero.grading.code.CodeChecker", remedy) from error


_tests = lru_cache(maxsize=4096)(CodeTests.from_text)


# Reward terms: conf/reward/code.yaml, code_binary.yaml


def code(response: Response) -> float:
    """The share of tests that the program passes, in [0, 1]; 0 without a program, for one that tried the forbidden, and for
    one that does not compile."""
    return 0.0 if response.answer is None else result_of(response.answer, response.question).share


def code_format(response: Response, language: str = "python") -> float:
    """1 if the response has exactly one fenced block, and it says that it is of the language, else 0. open-r1."""
    fences = [line.strip() for line in response.text.split("\n") if line.lstrip().startswith("```")]
    return float(len(fences) == 2 and fences[0] == f"```{language}" and fences[1] == "```")

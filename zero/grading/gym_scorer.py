"""The scorers of reasoning-gym, for worker processes (zero/grading/worker_pool.py): nothing of an answer is executed.

Nine of the package's scorers would: four call `eval` on an answer, five hand it to `sympy.parse_expr`, which does. Here the first
have `ast.literal_eval` in its place, the others zero/grading/gym_expression.py, and a hook of the interpreter raises if text
is executed all the same. So an answer can neither do harm nor write its own score, and honest answers are scored as ever.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from types import CodeType
from typing import Any

import sympy
from reasoning_gym.factory import DATASETS

from zero.grading import gym_expression
from zero.questions.gym_generator import make
from zero.records import Question
from zero.sandbox import values

Entry = dict[str, Any]
# Sets whose scorers execute an answer as it comes, by what they would do it with
EVALUATING = (
    "binary_matrix",
    "n_queens",
    "spiral_matrix",
    "string_insertion",
    "number_sorting",
)  # the last its reference
PARSING = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
TRUSTING = ("bitwise_arithmetic",)  # its scorer evaluates its own question
LONGEST_LITERAL = 20_000  # characters
NEAR = Fraction(1, 10_000)  # the package's tolerance of a probability


def _no_nan(answer: str, entry: Entry) -> bool:
    return "nan" not in answer.lower()


def _same_word(answer: str, entry: Entry) -> bool:
    return answer.strip().lower() == str(entry["answer"]).lower()


def _near(answer: str, entry: Entry) -> bool:
    return abs(Fraction(answer.replace(",", "")) - Fraction(entry["answer"])) <= NEAR


def _its_numbers(answer: str, entry: Entry) -> bool:
    return sorted(map(int, re.findall(r"[0-9]+", answer))) == sorted(entry["metadata"]["numbers"])


def _its_variables(answer: str, entry: Entry) -> bool:
    names = set(re.findall(r"[^\s()\u2227\u2228\u00ac\u2192\u2194]+", answer))
    return bool(names) and names <= set(entry["metadata"]["variables"])


# What an answer that the package calls right must fulfil besides, where it calls right what is an answer to no question: every
# text (halting), every beginning of the right number (coin_flip), NaN, 24 from other numbers, a formula of other variables
CONDITIONS: dict[str, Callable[[str, Entry], bool]] = {
    "coin_flip": _near,
    "complex_arithmetic": _no_nan,
    "game_of_life_halting": _same_word,
    "number_sorting": _no_nan,
    "propositional_logic": _its_variables,
    "puzzle24": _its_numbers,
}
_active = [""]  # the set whose scorer is at work


def score(answer: str, question: Question) -> float:
    """The package's score of an answer, in [0, 1]."""
    name, meta = question.meta["gym"], question.meta
    dataset = _dataset(name, json.dumps(meta["config"]), meta["level"])
    entry = entry_of(question)
    _active[0] = name
    try:
        number = float(dataset.score_answer(answer, entry))
    finally:
        _active[0] = ""
    holds = CONDITIONS.get(name)
    return number if number < 1 or holds is None or holds(answer, entry_of(question)) else 0.0


def entry_of(question: Question) -> dict[str, Any]:
    """The row as the package drew it; a new one each time, for some scorers write into it."""
    reference, metadata = values.decode(json.loads(question.meta["entry"]), _no_object)
    return {"question": question.text, "answer": reference, "metadata": metadata}


def warm_up() -> None:
    """Once, before the workers are forked: readers that execute nothing, and the hook."""
    for name in EVALUATING:
        _module(name).eval = literal
    sympy.parse_expr = gym_expression.parse
    for name in PARSING:
        if hasattr(_module(name), "parse_expr"):
            _module(name).parse_expr = gym_expression.parse
    import_module("sympy.physics.units")  # simplify wants it, and it executes text of its own while it is imported
    x = sympy.Symbol("x")
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - sympy.exp(sympy.log(x)) / sympy.sqrt(x))
    sys.addaudithook(_guard)


def literal(text: str) -> Any:
    """In place of `eval`: lists, texts and numbers. ValueError for anything else."""
    if len(text) > LONGEST_LITERAL:
        raise ValueError(f"longer than {LONGEST_LITERAL} characters")
    return ast.literal_eval(text)


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise if a scorer executes a text."""
    if event == "exec" and _active[0] and _active[0] not in TRUSTING:
        code = arguments[0]
        module = isinstance(code, CodeType) and code.co_filename.startswith(("/", "<frozen "))  # imported only now
        if not module:
            raise PermissionError(f"the scorer of {_active[0]} executes text")


def _module(name: str) -> Any:
    return import_module(DATASETS[name][0].__module__)


@lru_cache(maxsize=64)
def _dataset(name: str, config: str, level: int | None) -> Any:
    """The smallest data set with these settings: its scorer may read them."""
    return make({"name": name, "config": json.loads(config), "level": level}, seed=0)


def _no_object(number: int) -> Any:
    raise ValueError(f"object {number} in a row")

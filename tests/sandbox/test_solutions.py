"""Solutions and their tests: what is right passes, what cheats does not, and what travels between them is text."""

from __future__ import annotations

import collections
import decimal
import fractions
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.cheats import TESTS, cheats
from zero.sandbox import values
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Limits, Task

CHEATING = Limits(cpu_s=1, wall_s=4.0)


@pytest.mark.parametrize("level", ["sandbox", pytest.param("landlocked", marks=pytest.mark.slow)])
def test_no_cheat_passes_a_test(level: str, request: pytest.FixtureRequest) -> None:
    tasks = [Task("solution", source, names=("f",), tests=TESTS) for _, _, source in cheats()]
    executions = request.getfixturevalue(level).run(tasks, CHEATING)
    for (name, expected, _), execution in zip(cheats(), executions, strict=True):
        assert not any(execution.passed), name
        assert len(execution.passed) == len(TESTS), name
        assert expected in ("any", execution.ending), f"{name}: {execution}"


def _solve(sandbox: Sandbox, source: str, *tests: str, names: tuple[str, ...] = ("f",), setup: str = "") -> Any:
    return sandbox.run([Task("solution", source, names=names, tests=tests, setup=setup)], CHEATING)[0]


def test_the_right_solution_passes_all(sandbox: Sandbox) -> None:
    execution = _solve(sandbox, "def f(x):\n    print('on the way', x)\n    return x * x", *TESTS)
    assert execution.passed == (True,) * len(TESTS)
    assert execution.ending is Ending.FINISHED


def test_each_test_stands_alone(sandbox: Sandbox) -> None:
    source = "def f(x):\n    if x == 2: raise ValueError('two')\n    return x"
    execution = _solve(sandbox, source, "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3")
    assert execution.passed == (True, False, True)
    assert execution.ending is Ending.FINISHED


def test_errors_arrive_by_name(sandbox: Sandbox) -> None:
    test = "try:\n    f(1)\n    assert False\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)"
    assert _solve(sandbox, "def f(x): return x // 0", test).passed == (True,)


def test_what_is_changed_in_place_arrives(sandbox: Sandbox) -> None:
    source = "def f(a, d, s):\n    a.sort(); d['x'] = 1; s.add(3)"
    test = "a, d, s = [3, 1], {}, {1}\nf(a, d, s=s)\nassert a == [1, 3] and d == {'x': 1} and s == {1, 3}"
    assert _solve(sandbox, source, test).passed == (True,)


def test_objects_stay_where_they_are(sandbox: Sandbox) -> None:
    source = "class P:\n    def __init__(self, x): self.x = x\n    def twice(self): return P(2 * self.x)\ndef f(p): return p.x"
    tests = ("assert f(P(4)) == 4", "assert P(3).twice().twice().x == 12", "assert P(1) != P(1)")
    assert _solve(sandbox, source, *tests, names=("f", "P")).passed == (True, True, True)


def test_setup_belongs_to_the_tests(sandbox: Sandbox) -> None:
    setup = "import math\ndef near(a, b): return math.isclose(a, b)"
    assert _solve(sandbox, "def f(x): return x ** .5", "assert near(f(2), math.sqrt(2))", setup=setup).passed == (True,)


@pytest.mark.parametrize("test", ["assert f(1) = 1", "assert g(1) == 1"])
def test_a_broken_test_is_not_the_programs_fault(sandbox: Sandbox, test: str) -> None:
    assert _solve(sandbox, "def f(x): return 1", test).ending is Ending.BROKEN_TEST


def test_a_test_that_hangs_ends(sandbox: Sandbox) -> None:
    execution = _solve(sandbox, "def f(x): return 1", "assert f(1)", "while f(1): pass")
    assert execution.ending is Ending.TIMED_OUT
    assert execution.passed == (True, False)


def test_a_missing_function_fails_every_test(sandbox: Sandbox) -> None:
    execution = _solve(sandbox, "def g(x): return 1", "assert f(1) == 1", "assert f(2) == 1")
    assert execution.passed == (False, False)
    assert execution.ending is Ending.FINISHED


SIMPLE = [
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.fractions()),
    *(st.complex_numbers(allow_nan=False), st.decimals(allow_nan=False), st.integers(-9, 9).map(lambda n: 7**5000 * n)),
]


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    keys = st.text() | st.integers() | st.tuples(st.integers())
    lists = st.lists(inner)
    sets = st.frozensets(st.integers()) | st.sets(st.text())
    return lists | lists.map(tuple) | lists.map(collections.deque) | st.dictionaries(keys, inner) | sets


plain = st.recursive(st.one_of(SIMPLE), _containers, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_plain_data_travels_unchanged(value: Any) -> None:
    text = json.dumps(values.encode(value, lambda _: pytest.fail("not plain")))
    back = values.decode(json.loads(text), lambda _: pytest.fail("not plain"))
    assert back == value
    assert type(back) is type(value)


def test_what_was_made_from_plain_data_travels_as_such() -> None:
    class Text(str):
        pass

    pair = collections.namedtuple("pair", "a b")
    for value, plain_value in [
        (collections.Counter("aab"), {"a": 2, "b": 1}), (pair(1, 2), (1, 2)), (Text("x"), "x"), (range(3), range(3)),
        (fractions.Fraction(1, 3), fractions.Fraction(1, 3)), (decimal.Decimal("0.10"), decimal.Decimal("0.10")), ({}.keys(), []),
    ]:  # fmt: skip
        back = values.decode(json.loads(json.dumps(values.encode(value, id))), lambda _: None)
        assert back == plain_value and type(back) is type(plain_value)
    assert list(values.decode(values.encode(iter([1, 2]), id), lambda _: None)) == [1, 2]


WORDS = "set dict int bytes complex range fraction decimal object iterator tuple other".split()
forged = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=9,
)


@settings(max_examples=100, deadline=None)
@given(forged)
def test_no_text_does_more_than_raise(data: Any) -> None:
    with suppress(ValueError, TypeError, AttributeError, ArithmeticError):
        values.decode(data, lambda number: number)

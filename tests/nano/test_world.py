"""The four question sets: right answers by independent arithmetic, disjoint splits, the same rows everywhere."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zero.errors import InputError
from zero.nano.world import DRAWS, formulas, is_heldout, rows
from zero.records import Question

CONF = Path(__file__).parents[2] / "conf"
ADD, SUBTRACT, MULTIPLY = r"buys (\d+)|gives (?:him|her) (\d+)|finds (\d+)", r"loses (\d+)|sells (\d+)", r"(\d+) times"
GIVES_AWAY = r"(?:He|She) gives [A-Z]\w+ (\d+)"


@pytest.fixture(scope="module", params=sorted(DRAWS))
def questions(request: pytest.FixtureRequest) -> tuple[str, list[Question], list[Question]]:
    sample = rows(request.param, train=2000, heldout=200)
    return request.param, list(sample.train), list(sample.heldout)


def number(pattern: str, text: str) -> int | None:
    matched = re.search(pattern, text)
    return int(next(g for g in matched.groups() if g)) if matched else None


def solve_chain(text: str) -> int:
    """The answer to a spelled-out chain or a word problem, read from its text alone."""
    sentences = re.split(r"[.,] ", text)
    value = int(re.findall(r"\d+", sentences[0])[0])
    for sentence in sentences[1:-1]:
        if (n := number(rf"subtract (\d+)|{SUBTRACT}|{GIVES_AWAY}", sentence)) is not None:
            value -= n
        elif (n := number(rf"multiply by (\d+)|{MULTIPLY}", sentence)) is not None:
            value *= n
        elif (n := number(rf"add (\d+)|{ADD}", sentence)) is not None:
            value += n
        else:
            raise AssertionError(f"unread sentence: {sentence!r}")
    return value


def reachable(numbers: list[int]) -> set[int]:
    """Every value of + - * over all the numbers, by trying all orders, operators and both bracketings."""
    values = set()
    for order in itertools.permutations(numbers):
        for signs in itertools.product("+-*", repeat=len(order) - 1):
            flat = str(order[0]) + "".join(f"{s}{n}" for s, n in zip(signs, order[1:], strict=True))
            values.add(eval(flat))
            if len(order) == 3:
                a, b, c = order
                values |= {eval(f"({a}{signs[0]}{b}){signs[1]}{c}"), eval(f"{a}{signs[0]}({b}{signs[1]}{c})")}
    return values


def test_answers_are_right(questions: tuple[str, list[Question], list[Question]]) -> None:
    kind, train, heldout = questions
    for question in train[:500] + heldout:
        if kind == "countdown":
            numbers = [int(n) for n in re.findall(r"\d+", question.text)]
            assert [*question.meta["numbers"], question.meta["target"]] == numbers
            assert question.answer == (str(numbers[-1]),)
            assert numbers[-1] in reachable(numbers[:-1])
        else:
            assert question.answer == (str(solve_chain(question.text)),), question.text


def test_formulas_are_all_there_and_true() -> None:
    for numbers in [(2, 3), (1, 1, 1), (2, 3, 5), (4, 4, 9), (7, 8, 9)]:
        ways = formulas(numbers)
        assert len({way.expression for way in ways}) == len(ways)
        for way in ways:
            assert eval(way.expression) == way.value >= 0
            assert sorted(map(int, re.findall(r"\d", way.expression))) == sorted(numbers)
            for line in way.steps.split(", "):
                left, right = line.split("=")
                assert eval(left) == int(right) >= 0
        positive = {v for v in reachable(list(numbers)) if v > 0}
        assert positive - {way.value for way in ways} <= {v for v in positive if v not in _without_negatives(numbers)}


def _without_negatives(numbers: tuple[int, ...]) -> set[int]:
    """Values reached by combining two numbers at a time with |difference|, sum and product."""
    if len(numbers) == 1:
        return set(numbers)
    values = set()
    for i, j in itertools.combinations(range(len(numbers)), 2):
        others = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        for combined in (a + b, abs(a - b), a * b):
            values |= _without_negatives((*others, combined))
    return values


def test_splits_are_disjoint_distinct_and_hashed(questions: tuple[str, list[Question], list[Question]]) -> None:
    kind, train, heldout = questions
    ids = [q.id for q in train + heldout]
    assert len(set(ids)) == len(ids)
    assert not any(map(is_heldout, train))
    assert all(map(is_heldout, heldout))
    for question in train + heldout:
        text = question.text
        if kind == "countdown":
            text = f"countdown {sorted(question.meta['numbers'])} {question.meta['target']}"
        assert question.id.endswith(hashlib.md5(text.encode()).hexdigest()[:16])
    assert len({q.text for q in train + heldout}) == len(ids)


def test_levels_are_the_number_of_steps(questions: tuple[str, list[Question], list[Question]]) -> None:
    kind, train, _ = questions
    levels = {"math": {1, 2, 3, 4, 5}, "gsm": {2, 3, 4}, "asdiv": {1}, "countdown": {1, 2, 3}}[kind]
    assert {q.meta["level"] for q in train} == levels
    for question in train:
        if kind == "countdown":
            assert len(question.meta["numbers"]) == (2 if question.meta["level"] == 1 else 3)
        else:
            assert question.meta["level"] == len(question.meta["steps"])


def test_hard_levels_end_in_large_products() -> None:
    ends = {
        level: [int(q.answer[0]) > 99 for q in rows("math", 3000, 1).train if q.meta["level"] == level]
        for level in (3, 4, 5)
    }
    assert not any(ends[3])
    assert min(sum(ends[level]) / len(ends[level]) for level in (4, 5)) > 0.3


def test_same_seed_same_rows_and_split_survives_another_seed() -> None:
    assert rows("math", 300, 30) == rows("math", 300, 30)
    other = rows("math", 300, 30, seed=1)
    assert other != rows("math", 300, 30)
    assert not {q.id for q in other.train} & {q.id for q in rows("math", 300, 256).heldout}


def test_rows_are_the_published_ones() -> None:
    """A change here changes the meaning of every earlier run on the nano sets."""
    digest = hashlib.md5()
    for kind in sorted(DRAWS):
        sample = rows(kind, 500, 50)
        digest.update("\n".join(f"{q.id} {q.text} {q.answer}" for q in [*sample.train, *sample.heldout]).encode())
    assert digest.hexdigest() == "faab1f756cfc11ab7d5541aa91f2b19c"


def test_a_small_set_gives_what_it_has() -> None:
    sample = rows("countdown", 8192, 256)
    assert 1500 < len(sample.train) < 8192
    assert 80 < len(sample.heldout) < 256
    assert sample.train == rows("countdown", 20000, 256).train


def test_full_size_is_quick() -> None:
    began = time.process_time()
    sample = rows("math", 8192, 256)
    assert (len(sample.train), len(sample.heldout)) == (8192, 256)
    assert time.process_time() - began < 2  # 0.25 s as measured; loose, since the machine may be busy


@pytest.mark.parametrize("arguments", [("maths", 10, 10), ("math", 0, 10), ("math", 10, -1)])
def test_bad_arguments_are_named(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(InputError, match=r"questions\.rows\."):
        rows(*arguments)


def test_torch_is_not_imported() -> None:
    code = "import sys, zero.nano.world, zero.nano.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONF.parent).returncode == 0


@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_yaml_builds_the_set(kind: str) -> None:
    sample = instantiate(OmegaConf.load(CONF / f"questions/nano_{kind}.yaml"), _convert_="all")
    question = sample.rows.heldout[0]
    ways = formulas(tuple(sorted(question.meta.get("numbers", (1, 1)))))
    solutions = [way.expression for way in ways if way.value == question.meta.get("target")]
    assert all(sample.check(right, question) for right in solutions or question.answer)
    assert not sample.check("7777", question)

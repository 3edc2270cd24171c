"""Countdown problems: solvable, distinct, split for good, the same everywhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.questions import QuestionSet
from zero.questions.countdown import TEXT, rows


@pytest.fixture(scope="module")
def shipped() -> QuestionSet:
    made: QuestionSet = instantiate(OmegaConf.load(ROOT / "conf" / "questions" / "countdown.yaml"), _convert_="all")
    return made


def identity(question: Any) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(question.meta["numbers"])), question.meta["target"]


def test_the_shipped_set(shipped: QuestionSet) -> None:
    train, heldout = shipped.rows.train, shipped.rows.heldout
    assert (len(train), len(heldout)) == (8192, 256)
    assert len({identity(q) for q in (*train, *heldout)}) == 8192 + 256  # permuted numbers would be the same problem
    assert len({q.id for q in (*train, *heldout)}) == 8192 + 256
    for question in (*train, *heldout):
        assert shipped.check(question.solution, question)
        assert shipped.check(f"{question.solution} = {question.meta['target']}", question)
        assert len(question.meta["numbers"]) in (3, 4)
        assert all(1 <= number <= 99 for number in question.meta["numbers"])
        assert 10 <= question.meta["target"] <= 99
        assert question.answer == (str(question.meta["target"]),)
    levels = Counter(q.meta["level"] for q in train)
    assert min(levels[3], levels[4]) > 2000
    for operator in "+-*/":
        assert sum(operator in q.solution for q in train) > 500


def test_the_shipped_words_are_the_default_and_golden(shipped: QuestionSet) -> None:
    config = OmegaConf.load(ROOT / "conf" / "questions" / "countdown.yaml")
    assert config.rows.text == TEXT
    question = shipped.rows.train[0]
    numbers, target = question.meta["numbers"], question.meta["target"]
    assert question.text == (
        f"Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
        "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the "
        "final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )


def test_no_seed_or_size_moves_a_problem_to_the_other_split() -> None:
    small = {"counts": [2, 3], "high": 12}
    heldout = {identity(q) for seed in range(4) for q in rows(**small, train=200, heldout=100, seed=seed).heldout}
    train = {identity(q) for seed in range(4) for q in rows(**small, train=400, heldout=5, seed=seed).train}
    assert heldout.isdisjoint(train)


def test_the_same_arguments_give_the_same_rows() -> None:
    one, same, other = (rows(train=50, heldout=5, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_own_words() -> None:
    text = "Make {target} from {numbers}; {braces} stay."
    question = rows(train=1, heldout=1, text=text).train[0]
    assert question.text == f"Make {question.meta['target']} from {question.meta['numbers']}; {{braces}} stay."


def test_asking_for_more_problems_than_there_are() -> None:
    with pytest.raises(InputError, match=r"questions\.rows\.train=5000: there are only about \d+ problems to train on"):
        rows(counts=[2], low=1, high=5, smallest=1, largest=10, train=5000, heldout=1)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"counts": []}, "counts"),
        ({"counts": [1]}, "counts"),
        ({"counts": [9]}, "counts"),
        ({"low": 0}, "low"),
        ({"low": 5, "high": 4}, "low"),
        ({"smallest": 0}, "smallest"),
        ({"smallest": 5, "largest": 4}, "smallest"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
        ({"text": "no slots"}, "text"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"

"""Countdown problems: solvable, distinct, in fixed splits, the same everywhere; and the published ones without duplicates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.questions import QuestionSet
from zero.questions.countdown import TEXT, rows, tinyzero_rows


@pytest.fixture(scope="module")
def shipped() -> QuestionSet:
    loaded: QuestionSet = instantiate(OmegaConf.load(ROOT / "conf" / "questions" / "countdown.yaml"), _convert_="all")
    return loaded


def identity(question: Any) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(question.meta["numbers"])), question.meta["target"]


@pytest.mark.slow
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
        assert shipped.extract_any(f"So it is {question.solution} = {question.meta['target']}.") is not None
    levels = Counter(q.meta["level"] for q in train)
    assert min(levels[3], levels[4]) > 2000
    for operator in "+-*/":
        assert sum(operator in q.solution for q in train) > 500


def test_the_shipped_text_is_the_default_and_golden(shipped: QuestionSet) -> None:
    config = OmegaConf.load(ROOT / "conf" / "questions" / "countdown.yaml")
    assert config.rows.text == TEXT
    question = shipped.rows.train[0]
    numbers, target = question.meta["numbers"], question.meta["target"]
    assert question.text == (
        f"Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
        "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the "
        "final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_any_count_of_numbers_can_be_solved(count: int, shipped: QuestionSet) -> None:
    for question in rows(counts=[count], train=50, heldout=5).train:
        assert question.meta["level"] == len(question.meta["numbers"]) == count
        assert shipped.check(question.solution, question)


def test_no_seed_or_size_moves_a_problem_to_the_other_split() -> None:
    small = {"counts": [2, 3], "high": 12}
    heldout = {identity(q) for seed in range(4) for q in rows(**small, train=200, heldout=100, seed=seed).heldout}
    train = {identity(q) for seed in range(4) for q in rows(**small, train=400, heldout=5, seed=seed).train}
    assert heldout.isdisjoint(train)


def test_the_same_arguments_give_the_same_rows() -> None:
    one, same, other = (rows(train=50, heldout=5, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_a_text_of_ones_own() -> None:
    text = "Make {target} from {numbers}; {braces} stay."
    question = rows(train=1, heldout=1, text=text).train[0]
    assert question.text == f"Make {question.meta['target']} from {question.meta['numbers']}; {{braces}} stay."


def test_more_problems_than_exist_are_refused() -> None:
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


# TinyZero's split, on a file of nine rows: six to train on, one between, two held out
PUBLISHED = [
    ([1, 2, 3], 6), ([4, 5, 6], 15), ([3, 2, 1], 6), ([1, 2, 3], 7), ([7, 8, 9], 24), ([6, 5, 4], 15),
    ([3, 1, 2], 6), ([9, 7, 8], 24), ([5, 5, 5], 15),
]  # fmt: skip


def published(problems: list[tuple[list[int], int]] = PUBLISHED) -> list[tuple[str, dict[str, Any]]]:
    return [(f"row {i}", {"nums": numbers, "target": target}) for i, (numbers, target) in enumerate(problems, 1)]


def test_twins_are_dropped_and_counted() -> None:
    loaded = tinyzero_rows(published(), train=6, heldout=2, heldout_from=7)
    assert [q.meta["numbers"] for q in loaded.train] == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    assert [q.meta["target"] for q in loaded.train] == [6, 15, 7]
    assert [q.meta["numbers"] for q in loaded.heldout] == [[9, 7, 8], [5, 5, 5]]
    assert list(loaded.notes) == [
        "left out 2 of the first 6 rows: the same numbers and target came before",
        "left out 1 of the training rows: the same numbers and target are held out",
    ]
    assert "the numbers [9, 7, 8], create an equation that equals 24." in loaded.heldout[0].text


def test_a_smaller_training_set_has_the_same_test() -> None:
    loaded = tinyzero_rows(published(), train=2, heldout=2, heldout_from=7)
    assert (len(loaded.train), loaded.notes) == (2, [])
    assert loaded.heldout == tinyzero_rows(published(), train=6, heldout=2, heldout_from=7).heldout


def test_twins_within_the_test_are_one_question_and_later_rows_are_not_read() -> None:
    def endless() -> Any:
        yield from published([([1, 2], 3), ([4, 5], 9), ([5, 4], 9)])
        raise AssertionError("read on")

    loaded = tinyzero_rows(endless(), train=1, heldout=2, heldout_from=1)
    assert [q.meta["numbers"] for q in loaded.heldout] == [[4, 5]]
    assert list(loaded.notes) == ["left out 1 of the 2 held-out rows: the same numbers and target came before"]


def test_a_local_file_through_the_yaml(tmp_path: Path) -> None:
    file = tmp_path / "countdown.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for _, row in published()))
    config = OmegaConf.load(ROOT / "conf" / "questions" / "countdown_tinyzero.yaml")
    assert (config.train, config.heldout_from, config.heldout, config.text) == (327_680, 327_680, 1024, TEXT)
    loaded = instantiate(config, path=str(file), train=6, heldout_from=7, heldout=2, _convert_="all")
    assert (len(loaded.rows.train), len(loaded.rows.heldout)) == (3, 2)
    assert loaded.check("5 + 5 + 5 = 15", loaded.rows.heldout[1])
    assert loaded.extract_any("I try 5 * 5 + 5.\nThen 5 + 5 + 5") == "5 + 5 + 5"


@pytest.mark.parametrize(
    ("placed", "changes", "message"),
    [
        (published(), {"heldout": 3}, r"questions\.path=FILE: holds 9 rows, the split needs 10"),
        ([], {}, r"questions\.path=FILE: holds 0 rows"),
        ([("line 1", {"numbers": [1, 2], "target": 3})], {}, r"line 1 must have .* nums .*columns are numbers, target"),
        ([("line 1", {"nums": "1 2", "target": 3})], {}, r"line 1 must have"),
        ([("line 1", {"nums": [1, "2"], "target": 3})], {}, r"line 1 must have"),
        ([("line 1", {"nums": [1, 2], "target": True})], {}, r"line 1 must have"),
        ([("line 1", {"nums": [], "target": 3})], {}, r"line 1 must have"),
        (published(), {"train": 8}, r"questions\.train=8: must be from 1 to questions\.heldout_from=7"),
        (published(), {"train": 0}, r"questions\.train=0: must be from 1"),
        (published(), {"heldout": 0}, r"questions\.heldout=0: ask for at least 1"),
        (published(), {"text": "none"}, r"questions\.text=none: must hold"),
    ],
)
def test_impossible_files_and_splits_are_refused(placed: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tinyzero_rows(placed, path="FILE", **{"train": 6, "heldout": 2, "heldout_from": 7, **changes})

"""What guessing scores: counted against every expression written out, drawn within its error, and none where it is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import pytest

from zero.grading import chance
from zero.grading.chance import chances, exact, expressions, sampled
from zero.grading.countdown import countdown_correct
from zero.records import Question


def written_out(numbers: Sequence[int]) -> list[str]:
    """Every expression of the numbers, in parentheses: each order, each place to cut it in two, each operator."""

    def joined(order: tuple[int, ...]) -> Iterator[str]:
        if len(order) == 1:
            yield str(order[0])
        for cut in range(1, len(order)):
            for left, operator, right in product(joined(order[:cut]), "+-*/", list(joined(order[cut:]))):
                yield f"({left}{operator}{right})"

    return [text for order in permutations(numbers) for text in joined(order)]


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        ((2, 3), 6),
        ((2, 2), 4),
        ((0, 5), 0),
        ((3, 8, 8), 3),
        ((1, 2, 3), 7),
        ((2, 2, 4), 1),
        ((0, 0, 7), 0),
        ((3, 4, 5), 99),
    ],
)
def test_counting_agrees_with_every_expression_written_out(numbers: tuple[int, ...], target: int) -> None:
    texts = written_out(numbers)
    assert len(texts) == expressions(len(numbers)) == {2: 8, 3: 192}[len(numbers)]
    right = sum(countdown_correct(text, numbers, target) for text in texts)
    assert exact(numbers, target) == right / len(texts)
    assert (right == 0) == ((numbers, target) == ((3, 4, 5), 99))


def test_small_cases_by_hand() -> None:
    assert exact((2, 3), 6) == 2 / 8  # 2*3 and 3*2
    assert exact((2, 2), 4) == 4 / 8  # 2+2 and 2*2, in two orders each
    assert exact((2, 2), 1) == 2 / 8
    assert exact((7,), 7) == 1.0
    assert exact((3, 3, 8, 8), 24) == 4 / 7680  # 8/(3-8/3), where the eights and the threes may change places


@pytest.mark.parametrize(("numbers", "target"), [((1, 2, 3), 6), ((2, 5, 7), 14), ((1, 2, 3, 4), 24), ((0, 4, 4), 0)])
def test_drawing_agrees_with_counting_within_its_error(numbers: tuple[int, ...], target: int) -> None:
    share = exact(numbers, target)
    (drawn,) = sampled([(numbers, target)])
    assert abs(drawn - share) <= 4 * (share * (1 - share) / chance.DRAWS) ** 0.5 < 0.032
    assert sampled([((9, 9, 9), 2), (numbers, target)])[1] == drawn, "a question's chance depends on nothing else"


def test_each_expression_is_drawn_equally_often() -> None:
    rng = chance.random.Random("test")
    drawn = [chance._draw(rng, 3) for _ in range(4 * 192)]
    assert len(set(drawn)) > 180, "of 192 some 189 are expected"
    assert {sum(isinstance(token, int) for token in postfix) for postfix in drawn} == {3}
    right = sum(all(isinstance(token, int) for token in chance._draw(rng, 4)[:4]) for _ in range(2000))
    assert abs(right / 2000 - 0.2) < 0.04, "a nesting to the right is one of five"


def question(**meta: object) -> Question:
    return Question("?", ("1",), "q", meta=meta)


def test_chances_of_a_set_are_known_of_all_or_none() -> None:
    game, choice = question(numbers=[3, 2], target=6), question(choices=["a", "b", "c", "d"])
    assert chances([game, choice, question(choices=5)]) == [0.25, 0.25, 0.2]
    many = question(numbers=[1, 2, 3, 4, 5, 6], target=20)
    (drawn,) = chances([many]) or [0.0]
    assert 0.0 < drawn < 0.05
    for other in ({}, {"choices": 0}, {"choices": "abcd"}, {"choices": True}, {"numbers": [], "target": 1}, {"numbers": [1]},
                  {"numbers": [1.5, 2], "target": 3}, {"numbers": "12", "target": 3}):  # fmt: skip
        assert chances([game, question(**other)]) is None, other
    assert chances([]) is None

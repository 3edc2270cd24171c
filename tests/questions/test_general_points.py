"""GeneralPoints: exactly the solvable hands, fixed held-out multisets, and the rule shift."""

from __future__ import annotations

import time
from itertools import combinations_with_replacement
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zero.errors import InputError
from zero.grading.countdown import countdown_correct
from zero.questions import QuestionSet
from zero.questions.general_points import SFTVSRL_TEXT, TEXT, rows, rule_shift_rows, solve
from zero.records import Question

PLAIN = "{faces} Use {hand} to make {target}."
COUNTS = {"A": 1, **{str(n): n for n in range(2, 11)}, "J": 10, "Q": 10, "K": 10}


def load(name: str, **changes: Any) -> QuestionSet:
    config = OmegaConf.load(ROOT / "conf" / "questions" / f"{name}.yaml")
    assert config.rows.text == TEXT
    config.rows.update(changes)
    loaded: QuestionSet = instantiate(config, _convert_="all")
    return loaded


def values(question: Question) -> tuple[int, ...]:
    return tuple(sorted(question.meta["numbers"]))


def test_which_hands_of_four_can_be_solved() -> None:
    """The published counts; every formula is right."""
    began = time.process_time()
    formulas = {hand: solve(hand, 24) for hand in combinations_with_replacement(range(1, 14), 4)}
    assert time.process_time() - began < 20
    solved = {hand for hand, formula in formulas.items() if formula is not None}
    assert (len(formulas), len(solved)) == (1820, 1362)
    assert (sum(h[-1] <= 10 for h in formulas), sum(h[-1] <= 10 for h in solved)) == (715, 566)
    assert (sum(h[-1] > 10 for h in formulas), sum(h[-1] > 10 for h in solved)) == (1105, 796)
    assert all(countdown_correct(str(formulas[hand]), hand, 24) for hand in solved)


@pytest.mark.parametrize(
    ("hand", "target", "solvable"),
    [
        ((3, 3, 8, 8), 24, True),  # solvable with fractions only
        ((1, 1, 1, 1), 24, False),
        ((1, 2), 3, True),
        ((7,), 7, True),
        ((7,), 8, False),
        ((5, 5, 9, 13), 0, True),  # (5 - 5) times the rest
        ((1, 1, 1, 1, 1), 24, False),
        ((1, 1, 1, 1, 12), 24, True),
        ((1, 1, 1, 1, 1, 8), 24, True),
        ((1, 1, 1, 1, 1, 1), 24, False),
        ((1, 1, 5, 5, 5, 5), 24, True),
    ],
)
def test_hands_of_any_size(hand: tuple[int, ...], target: int, solvable: bool) -> None:
    formula = solve(hand, target)
    assert (formula is not None) == solvable
    assert formula is None or countdown_correct(formula, hand, target)
    assert solve(hand[::-1], target) == formula


def test_the_shipped_set() -> None:
    loaded = load("general_points")
    train, heldout = loaded.rows.train, loaded.rows.heldout
    assert (len(train), len(heldout)) == (1023, 213)
    assert len({q.id for q in (*train, *heldout)}) == 1023 + 213 == len({q.text for q in (*train, *heldout)})
    seen, unseen = {values(q) for q in train}, {values(q) for q in heldout}
    assert (len(seen), len(unseen), seen & unseen) == (458, 108, set())
    for question in (*train, *heldout):
        meta = question.meta
        assert loaded.check(question.solution, question)
        assert [COUNTS[card] for card in meta["cards"]] == meta["numbers"]
        assert (meta["target"], meta["level"], question.answer) == (24, 4, ("24",))
        assert str(meta["cards"]) in question.text and "count as '10'." in question.text
    assert {"J", "Q", "K", "10"} <= {card for q in train if 10 in values(q) for card in q.meta["cards"]}


def test_the_rule_shift_is_every_hand_with_a_face_card() -> None:
    loaded = load("general_points_ood")
    heldout = loaded.rows.heldout
    assert (len(loaded.rows.train), len(heldout), len({values(q) for q in heldout})) == (0, 796, 796)
    for question in heldout:
        assert max(values(question)) > 10
        assert {"J", "Q", "K"} & set(question.meta["cards"])
        assert loaded.check(question.solution, question)
        assert "count as '11', '12', and '13' respectively." in question.text


def test_no_seed_rule_or_size_moves_a_multiset_to_the_other_split() -> None:
    some = [rows(faces=f, seed=s, train=n, heldout=20) for f in ("ten", "rank") for s in (0, 1) for n in (100, None)]
    train = {values(q) for loaded in some for q in loaded.train}
    assert train.isdisjoint(values(q) for loaded in some for q in loaded.heldout)
    assert {len(loaded.train) for loaded in some[::2]} == {100}
    assert (len(some[0].heldout), len(some[5].train)) == (20, 1115)


def test_the_same_arguments_give_the_same_rows() -> None:
    one, same, other = (rows(train=50, heldout=5, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert rule_shift_rows(seed=0) == rule_shift_rows(seed=0) != rule_shift_rows(seed=1)


@pytest.mark.parametrize(("cards", "target"), [(3, 24), (5, 24), (6, 24), (4, 1), (4, 97)])
def test_other_hands_and_targets(cards: int, target: int) -> None:
    loaded = load("general_points", cards=cards, target=target, train=30, heldout=5)
    for question in loaded.rows.train:
        assert (len(question.meta["cards"]), question.meta["target"]) == (cards, target)
        assert loaded.check(f"{question.solution} = {target}", question)


def test_several_targets_are_the_rows_of_each() -> None:
    both, ten, twelve = (rows(cards=3, target=target, text=PLAIN) for target in ([10, 12, 10], 10, 12))
    assert {q.id for q in both.train} == {q.id for q in (*ten.train, *twelve.train)}
    assert {q.id for q in both.heldout} == {q.id for q in (*ten.heldout, *twelve.heldout)}
    assert len({q.id for q in both.train}) == len(both.train)
    for question in both.heldout:
        assert question.text.endswith(f"Use {', '.join(question.meta['cards'])} to make {question.answer[0]}.")
        assert countdown_correct(str(question.solution), question.meta["numbers"], question.meta["target"])


def test_the_embedded_cards_ask_in_words_that_the_search_base_knows() -> None:
    config = OmegaConf.load(ROOT / "conf" / "questions" / "nano_cards.yaml")
    loaded = rows(cards=config.rows.cards, target=list(config.rows.target), text=config.rows.text)
    other = rule_shift_rows(cards=config.rows.cards, target=list(config.rows.target), text=config.rows.text)
    assert (len(loaded.train), len(loaded.heldout), len(other.heldout)) == (2524, 500, 1379)


def test_the_prompt_of_sftvsrl() -> None:
    question = rows(train=1, heldout=1, text=SFTVSRL_TEXT, faces="rank", target=36).train[0]
    sentence = "'J', 'Q', and 'K' count as '11', '12', and '13' respectively."
    assert question.text == (
        "[Task Description]\nYou are an expert 36 points card game player. You will receive a set of 4 cards.\n"
        f"Note that {sentence}, and each card must be used once.\nYour goal is to output a formula that evaluates to 36 using "
        "numbers from the cards and operators such as '+', '-', '*', '/', '(', ')', and '='.\n\n[Input]\n"
        f'Cards: {question.meta["cards"]}\n\n[Output]\n{{\n  "cards": [x, y, z, w], where {sentence},\n  "number": [a, b, '
        "c, d], where a, b, c, and d are the numbers on the cards,\n  \"formula\": 'an equation that equals 36',\n}"
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"faces": "eleven"}, "faces"),
        ({"cards": 2}, "cards"),
        ({"cards": 7}, "cards"),
        ({"target": 0}, "target"),
        ({"target": []}, "target"),
        ({"target": [24, 0]}, "target"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
        ({"train": 1024}, "train"),
        ({"heldout": 214}, "heldout"),
        ({"target": 10**9}, "train"),
        ({"text": "{cards} {target}"}, "text"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"

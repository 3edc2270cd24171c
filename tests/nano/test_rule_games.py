"""The corpus of model=nano_rules: rules are read and never the tested ones; no held-out hand and no held-out route."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zero.environments.navigation import Navigation
from zero.errors import InputError
from zero.grading.countdown import countdown_correct
from zero.nano import rule_games
from zero.paths import CONF
from zero.questions import general_points, navigation
from zero.questions.wordings import EMBEDDED
from zero.template import last_boxed

STAGES = OmegaConf.load(CONF / "corpus/nano_rules.yaml").stages
HAND = re.compile(r"'J', 'Q', and 'K' count as ([^.]*)\. Use ([^.]*?)(?: to make (\d+))?\. Use ([^.]*)\.")
SAY = re.compile(r"Say ([^.]*)\.")
RELATIVE = ", ".join(EMBEDDED.relative)


def texts(stage: str, count: int) -> list[str]:
    source: Callable[..., Any] = instantiate(STAGES[stage].documents, _convert_="all")
    return [text for text, _ in islice(source(seed=0), count)]


@pytest.mark.parametrize("stage", list(STAGES))
def test_hands_are_read_by_the_rule_of_their_prompt_and_none_is_held_out(stage: str) -> None:
    hands = [match.groups() for text in texts(stage, 6000) for match in HAND.finditer(text)]
    assert len(hands) > 2000
    for rule, cards, target, stated in hands:
        values = [int(value) for value in re.findall(r"\d+", rule)]
        assert values != list(rule_games.TESTED)
        values = values * (1 if len(values) == 3 else 3)
        assert len(values) == 3
        counts = {"A": 1, **{str(n): n for n in range(2, 11)}, **dict(zip("JQK", values, strict=True))}
        numbers = [counts[card] for card in cards.split(", ")]
        assert stated == ", ".join(map(str, numbers))
        assert target is None or not general_points.is_heldout(numbers, int(target))


def test_routes_never_turn_by_the_tested_words_and_none_is_held_out() -> None:
    listed = [match[1] for text in texts("skills", 6000) for match in SAY.finditer(text)]
    assert len(listed) > 1500
    assert RELATIVE not in listed
    assert sum(words == ", ".join(EMBEDDED.absolute) for words in listed) > 100
    assert sum(words.count(", ") == 3 for words in listed) > 300  # sides by other words
    rng = random.Random(0)
    draws = [rule_games.SETS[name](rng) for name in ("route_absolute", "route_coded") for _ in range(300)]
    assert not any(int(question.id.removeprefix("navigation-")[0], 16) < navigation.HELDOUT_DIGIT for question in draws)
    assert {question.meta["rule"] for question in draws} == {"absolute", "relative"}
    assert not any(set(question.meta["actions"]) == {"go", "stop", *EMBEDDED.relative} for question in draws)


def test_a_route_is_a_document_of_right_turns_in_the_words_of_the_environment() -> None:
    rng = random.Random(0)
    whole = 0
    for _ in range(50):
        question = rule_games.draw_coded(rng)
        text = rule_games.route_text(rng, question)
        if text.count(" here ") > 2:
            whole += 1
            actions = re.findall(r" here [^,?]*[,?] ([^.]*)(?:\.|$)", text)
            environment = Navigation()
            environment.reset(question, 0)
            assert [environment.step(action).kind for action in actions] == ["right_action"] * len(actions)
            assert len(actions) == len(question.meta["rail"])
    assert whole > 20


def test_answers_on_hands() -> None:
    rng = random.Random(0)
    searched = [
        (q, rule_games.cards_answer(rng, q, guess=0.0)) for q in (rule_games.draw_each(rng) for _ in range(300))
    ]
    for question, answer in searched:
        right = countdown_correct(str(last_boxed(answer)), question.meta["hand"], question.meta["target"])
        assert right == ("Yes." in answer)
        assert answer.count("\n") <= rule_games.LONGEST_SEARCH + 1
    assert 30 < sum("Yes." in answer for _, answer in searched) < 270
    guess = partial(rule_games.cards_answer, rng, guess=1.0)
    assert all(guess(rule_games.draw_same(rng)).count("\n") == 1 for _ in range(50))
    assert guess(rule_games.draw_reading(rng)).startswith("Use ")


def test_the_same_seed_gives_the_same_documents() -> None:
    assert texts("habits", 200) == texts("habits", 200)


def test_worked_rows_are_training_hands_with_searches_that_hit() -> None:
    config = OmegaConf.load(CONF / "questions/nano_cards_worked.yaml").rows
    cards = OmegaConf.load(CONF / "questions/nano_cards.yaml").rows
    targets = [7, 24]
    loaded = rule_games.worked_rows(config.cards, targets, config.text)
    trained = {q.id: q for q in general_points.rows(cards=cards.cards, target=targets, text=cards.text).train}
    assert (config.cards, config.target, config.text) == (cards.cards, cards.target, cards.text)
    assert loaded.heldout == []
    assert 100 < len(loaded.train) < len(trained)
    for question in loaded.train:
        assert (question.text, question.meta) == (trained[question.id].text, trained[question.id].meta)
        for solution in (question.solution, *question.more):
            first, *tries, last = solution.splitlines()
            assert first == f"Use {', '.join(map(str, question.meta['numbers']))}."
            assert [line.endswith("Yes.") for line in tries] == [False] * (len(tries) - 1) + [True]
            assert countdown_correct(str(last_boxed(last)), question.meta["numbers"], question.meta["target"])
    assert max(question.solution.count("No.") for question in loaded.train) == rule_games.LONGEST_SEARCH - 1
    [first] = rule_games.worked_rows(3, [24], config.text, shown=1, tries=0).train[:1]
    assert re.fullmatch(r"Use \d+, \d+, \d+\.\nThe answer is \\boxed\{[^{}]+\}\.", first.solution)
    assert first.more == ()
    assert loaded == rule_games.worked_rows(config.cards, targets, config.text)


@pytest.mark.parametrize(("key", "value"), [("shown", 0), ("tries", -1)])
def test_impossible_settings_are_refused(key: str, value: int) -> None:
    with pytest.raises(InputError, match=f"questions.rows.{key}={value}"):
        rule_games.worked_rows(3, [24], rule_games.TEXT, **{key: value})

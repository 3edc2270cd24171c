"""reasoning-gym's scorers: honest answers as ever, hostile ones without harm, and no text executed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.grading import gym_hostile
from zero.errors import InputError
from zero.grading import Grader, make_reward
from zero.grading.gym import GymChecker, score
from zero.questions.gym import collected, request_for
from zero.questions.mixture import MARK
from zero.records import Completion, Outcome, Prompt, Question
from zero.template import last_answer_tag

pytest.importorskip("reasoning_gym")
CHECK = GymChecker(limit_s=2.0)
EXECUTING = """binary_matrix n_queens spiral_matrix string_insertion countdown intermediate_integration
    polynomial_multiplication puzzle24 simple_integration""".split()
MENDED = "coin_flip complex_arithmetic game_of_life_halting number_sorting".split()


def questions_of(name: str, count: int = 3) -> list[Question]:
    from zero.questions.gym_generator import rows

    request = request_for(name, {}, None, count, 0, 0)
    return list(collected(request, rows(request))[name].train)


@pytest.fixture(scope="module")
def questions() -> dict[str, list[Question]]:
    questions = {name: questions_of(name) for name in (*EXECUTING, *MENDED, "propositional_logic", "boxnet", "jugs")}
    # some references are integrals that sympy left as they are: the generator's sin and cos are unknown functions
    clean = [q for q in questions_of("intermediate_integration", 5) if "Integral" not in q.answer[0]]
    return questions | {"intermediate_integration": clean}


def as_list(answer: str) -> str:
    """A board or a sequence as Python writes it."""
    rows = [line.split() for line in answer.splitlines()]
    return repr(rows if len(rows) > 1 else rows[0] if len(rows[0]) > 1 else list(answer))


# An honest answer in other words, by the set
REWORDED: dict[str, list[Any]] = {
    **{name: [as_list] for name in EXECUTING[:4]},
    "countdown": [lambda a: f"({a})", lambda a: f"{a} + 0", lambda a: f"{a} + 1"],
    "puzzle24": [lambda a: f"({a})", lambda a: f"{a} + 1", lambda a: "6*4*1*1"],
    "polynomial_multiplication": [lambda a: f"1*({a})", lambda a: f"{a} + 0*x", lambda a: f"{a} - 1"],
    "simple_integration": [lambda a: a.replace("+ C", "- C + 7"), lambda a: f"({a})*1.0", lambda a: f"2*({a})"],
    "intermediate_integration": [lambda a: a.replace("+ C", ""), lambda a: f"sin(1)**2 + {a}", lambda a: f"2*({a})"],
}


@pytest.mark.parametrize("name", EXECUTING)
def test_what_reads_answers_without_executing_them_agrees_with_the_package(
    name: str, questions: dict[str, list[Question]]
) -> None:
    """The package's own scorer in this process, ours in a worker."""
    from zero.grading.gym_scorer import entry_of
    from zero.questions.gym_generator import make

    package = make({"name": name, "config": {}, "level": None}, 0)
    pairs = [(change(q.answer[0]), q) for q in questions[name] for change in (str, *REWORDED[name])]
    expected = [float(package.score_answer(answer, entry_of(q))) for answer, q in pairs]
    if name == "puzzle24":  # the package takes any four numbers
        expected = [0.0 if answer == "6*4*1*1" else value for value, (answer, _) in zip(expected, pairs, strict=True)]
    assert [checked.score for checked in CHECK.scored(pairs)] == pytest.approx(expected)
    assert {1.0} < {round(value, 3) for value in expected}


@pytest.mark.parametrize("name", MENDED)
def test_the_right_answer_is_right_in_a_set_whose_scorer_was_mended(
    name: str, questions: dict[str, list[Question]]
) -> None:
    assert set(CHECK.many([(q.answer[0], q) for q in questions[name]])) == {Outcome.CORRECT}


HOLES = [
    ("simple_integration", "Integral({integrand}, {variable})"),  # the question itself
    ("coin_flip", "0"),  # a prefix of nearly every probability
    ("complex_arithmetic", "nan"),  # min(1, nan) is 1
    ("game_of_life_halting", "perhaps"),  # bool("False") is true
    ("number_sorting", "[NaN, ...]"),  # no NaN is further than 1 from anything
    ("propositional_logic", "x \u2227 y"),  # follows where nothing can be true
    ("puzzle24", "6*4*1*1"),  # numbers that the question does not have
]


@pytest.mark.parametrize(("name", "answer"), HOLES)
def test_what_the_package_would_call_right_for_any_question_is_not(
    name: str, answer: str, questions: dict[str, list[Question]]
) -> None:
    from zero.grading.gym_scorer import entry_of
    from zero.questions.gym_generator import make

    rows = [q for q in questions[name] if q.answer[0] not in (answer, "1")]
    pairs = [(answer.format(**entry_of(q)["metadata"]), q) for q in rows]
    if name == "number_sorting":
        pairs = [(f"[{', '.join(['NaN'] * (q.answer[0].count(',') + 1))}]", q) for q in rows]
    package = make({"name": name, "config": {}, "level": None}, 0)
    assert any(package.score_answer(answer, entry_of(question)) >= 1 for answer, question in pairs)
    assert Outcome.CORRECT not in CHECK.many(pairs)


def test_hostile_answers_get_an_outcome_and_do_no_harm(questions: dict[str, list[Question]]) -> None:
    """A few of each family; make check-gym gives all thousand to every set."""
    sentinel = Path(gym_hostile.SENTINEL)
    sentinel.unlink(missing_ok=True)
    texts = [*gym_hostile.answers()[:30], *gym_hostile.answers()[30:1000:41]]
    pairs = [(text, questions[name][0]) for name in (*EXECUTING, *MENDED, "boxnet") for text in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # boxnet's scorer raises
        outcomes = CHECK.many(pairs)
    assert len(outcomes) == len(pairs) and not sentinel.exists()
    right = [
        (text[:40], q.id) for (text, q), outcome in zip(pairs, outcomes, strict=True) if outcome is Outcome.CORRECT
    ]
    assert [(text, identity) for text, identity in right if text not in ("1", "True", "False")] == []
    honest = questions["jugs"][0]
    assert CHECK(honest.answer[0], honest)  # and the workers still work


def test_a_scorer_that_raises_is_an_outcome_with_a_warning(questions: dict[str, list[Question]]) -> None:
    with pytest.warns(RuntimeWarning, match=r"gym_scorer\.score raised"):
        assert CHECK.many([("null", questions["boxnet"][0])]) == [Outcome.FAILED]


GUARD = """
import json, sys
from zero.grading import gym_scorer
from zero.questions.gym import question_of
from zero.questions.gym_generator import rows
each = {"name": "dice", "config": {}, "level": None}
row = next(r for r in rows({"sets": [each], "several": False, "train": 1, "heldout": 0, "seed": 0}) if "question" in r)
question = question_of(row, each)
gym_scorer.warm_up()
print(gym_scorer.score(row["answer"], question))
from reasoning_gym.arithmetic.dice import DiceDataset
for execute in (eval, exec, lambda text: eval(compile(text, "<string>", "eval")), lambda text: exec(compile(text, "x", "exec"))):
    DiceDataset.score_answer = lambda self, answer, entry: execute(answer) or 1.0
    try:
        print(gym_scorer.score("open(%r, 'w')" % sys.argv[1], question))
    except PermissionError as error:
        print(error)
"""


def test_a_scorer_that_would_execute_an_answer_is_stopped(tmp_path: Path) -> None:
    """As one of a later version of the package might."""
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == ["1.0", *["the scorer of dice executes text"] * 4], done.stderr
    assert not (tmp_path / "x").exists()


def test_partial_credit_is_a_reward_term_and_no_right_answer(questions: dict[str, list[Question]]) -> None:
    question = questions["spiral_matrix"][0]
    listed = as_list(question.answer[0])
    texts = [f"<answer>{text}</answer>" for text in (question.answer[0], listed, "7 7")] + ["no answer"]
    reward = make_reward({"score": {"function": "zero.grading.gym.score"}})
    grader = Grader(last_answer_tag, CHECK, last_answer_tag, reward)
    mixed = Question(question.text, question.answer, f"spiral_matrix{MARK}{question.id}", "", question.meta)
    CHECK.many([(question.answer[0], question)])
    for each in (question, mixed):
        prompt = Prompt(each, each.text, (1,), (0, 0, 0, 0))
        completions = [Completion((1,), (0.0,), text, True) for text in texts]
        if each is mixed:  # the checker of a mixture's source knows the question by its own id
            CHECK.many([(text[8:-9], question) for text in texts[:3]])
        (group,) = grader.grade([prompt], [completions], 10)
        assert [verdict.reward for verdict in group.verdicts] == pytest.approx([1.0, 0.1, 0.0, 0.0])
        assert [verdict.correct for verdict in group.verdicts] == [True, False, False, False]


def test_the_score_of_another_question_set_is_an_error() -> None:
    from zero.records import Response

    with pytest.raises(InputError, match="questions=gym"):
        score(Response(Question("?", ("1",), "x"), "", "1", 1, 1, True, Outcome.WRONG, Outcome.WRONG, "1"))

"""Curricula: a function of seed, round and history alone, what each prefers, and mixtures by tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.questions.test_mixture import mix, simple, source_of
from zero.config import check as configs
from zero.errors import InputError
from zero.questions import QuestionSet, Rows
from zero.questions.curriculum import Curriculum, Moment, Uniform, make_band, make_levels, make_pools
from zero.questions.history import FILE, History
from zero.questions.mixture import Mixture
from zero.questions.sampler import QuestionSampler
from zero.records import Completion, Group, Outcome, Prompt, Question, Verdict

POOLS: dict[str, Any] = {
    "pools": {
        "hard": {"up_to": 0.0, "weight": 0.1},
        "normal": {"up_to": 0.99, "weight": 0.8},
        "easy": {"up_to": 1.0, "weight": 0.1},
    },
    "unseen": 0.8,
    "memory": 0.5,
}
CURRICULA: dict[str, Curriculum] = {
    "uniform": Uniform(),
    "band": make_band(0.2, 0.8, 0.5, 0.5),
    "pools": make_pools(**POOLS),
    "levels": make_levels({0: [1], 3: None}),
}


def answered(question: Question, right: int, answers: int = 4, tokens: int = 5) -> Group:
    """A graded group with so many right answers."""
    outcomes = [Outcome.CORRECT] * right + [Outcome.WRONG] * (answers - right)
    verdicts = [Verdict(float(o is Outcome.CORRECT), o, o, None, str(o)) for o in outcomes]
    completion = Completion((1,) * tokens, (0.0,) * tokens, "", True)
    return Group(Prompt(question, "", (1,), (0,)), (completion,) * answers, tuple(verdicts))


def luck(question: Question, number: int) -> int:
    """How many of 4 answers are right: the same in every run, other for every row and round."""
    return (len(question.text) * 7 + int(question.answer[0]) * 3 + number * (int(question.answer[0]) % 3)) % 5


def rounds(sampler: QuestionSampler, first: int, last: int) -> list[list[str]]:
    """The ids that a run draws in steps first to last - 1, a step now and then with two rounds."""
    drawn = []
    for step in range(first, last):
        count = 2 if step % 3 == 1 else 1
        for r in range(count):
            questions = sampler.draw(step, r)
            assert questions == sampler.draw(step, r)  # drawing changes nothing
            drawn.append([q.id for q in questions])
            number = sampler.rounds.number(step, r)
            tokens = {"a": 3, "b": 11}
            sampler.record([answered(q, luck(q, number), tokens=tokens.get(q.kind, 5)) for q in questions], step, r)
        sampler.end(step, count)
        sampler.metrics()
    return drawn


def set_of(which: str) -> QuestionSet | Mixture:
    if which == "set":
        return simple("q", 30)
    mixture = mix({"a": 2, "b": 1}, train=12)
    return Mixture(
        mixture.name, mixture.rows, mixture.check, mixture.extract_any, mixture.weights, {}, which == "by tokens"
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CURRICULA)),
    st.sampled_from(["set", "by rows", "by tokens"]),
    st.integers(0, 9),
    st.integers(1, 9),
)
def test_a_run_that_goes_on_draws_what_an_uninterrupted_one_draws(
    tmp_path_factory: pytest.TempPathFactory, name: str, which: str, seed: int, stop: int
) -> None:
    def sampler() -> QuestionSampler:
        return QuestionSampler(set_of(which), CURRICULA[name], 4, seed)

    whole = rounds(sampler(), 0, 10)
    first, again, folder = sampler(), sampler(), tmp_path_factory.mktemp("checkpoint")
    before = rounds(first, 0, stop)
    first.save(folder)
    again.load(folder, stop)
    assert before + rounds(again, stop, 10) == whole
    keeps = name != "uniform" or which == "by tokens"
    assert (folder / FILE).exists() == keeps  # a run that needs no history has none in its checkpoints
    assert whole != rounds(QuestionSampler(set_of(which), CURRICULA[name], 4, seed + 1), 0, 10)


@pytest.mark.parametrize("which", ["set", "by rows"])
def test_uniform_is_the_order_of_the_set(which: str) -> None:
    questions = set_of(which)
    sampler = QuestionSampler(questions, Uniform(), 4, 3)
    for step in range(20):
        assert sampler.draw(step, 0) == questions.batch(step, 4, 3)
        sampler.end(step, 1)
    assert sampler.metrics() == {}


def drawn(curriculum: Curriculum, history: History, n: int = 200, rows: int = 40, step: int = 0) -> Counter[str]:
    """The pools of n questions drawn one at a time, each round by itself."""
    source = simple("q", rows).sources[""]
    chosen = (curriculum.choose(source, [0], history, Moment(step, number, 0))[0] for number in range(n))
    return Counter(curriculum.pool(question, history) for question in chosen)


def history_of(right: dict[int, int]) -> History:
    history = History(0.5)
    for number, count in right.items():
        history.record([answered(simple("q", 40).rows.train[number], count)], number)
    return history


def test_a_band_prefers_what_is_neither_solved_nor_hopeless() -> None:
    band = make_band(0.25, 0.75, 0.5, 0.5)
    history = history_of({0: 0, 1: 1, 2: 2, 3: 3, 4: 4})
    pools = drawn(band, history)
    assert set(pools) == {"band", "unseen"} and 70 < pools["band"] < 130
    everything = history_of({i: i % 5 for i in range(40)})
    assert set(drawn(band, everything)) == {"band"}  # nothing new is left
    hopeless = history_of({i: 4 * (i % 2) for i in range(40)})
    assert set(drawn(band, hopeless)) == {"below", "above"}  # and then nothing in the band
    # a step asks the rows of the band in turn, those asked longest ago first, and no row twice
    source = simple("q", 40).sources[""]
    ids = [q.id for q in make_band(0.25, 0.75, 0.0, 0.5).choose(source, range(24), everything, Moment(0, 41, 0))]
    assert ids == [f"q-{i}" for i in range(40) if i % 5 in (1, 2, 3)]


def test_rows_move_between_pools_and_are_asked_by_their_weights() -> None:
    pools = make_pools(**POOLS)
    history = history_of({i: (0, 2, 4, 2)[i % 4] for i in range(40)})
    counts = drawn(pools, history, n=500)
    assert counts["normal"] > 350 and 20 < counts["easy"] < 90 and 20 < counts["hard"] < 90
    row = simple("q", 40).rows.train[0]
    assert pools.pool(row, history) == "hard"
    history.record([answered(row, 2)], 50)
    assert pools.pool(row, history) == "normal"
    for number in range(51, 60):
        history.record([answered(row, 4)], number)
    assert pools.pool(row, history) == "easy"  # what it was weighs ever less
    forgetful = History(0.0)
    for count, name in ((0, "hard"), (1, "normal"), (4, "easy")):
        forgetful.record([answered(row, count)], count)
        assert pools.pool(row, forgetful) == name
    assert pools.pool(simple("q", 41).rows.train[40], history) == "unseen"


def test_levels_open_by_step() -> None:
    rows = [Question(f"{i}?", ("1",), str(i), meta={"level": f"Level {i % 3}"} if i % 4 else {}) for i in range(24)]
    questions = QuestionSet("q", Rows(rows, []), simple("q", 1).check)
    curriculum = make_levels({"0": [0], 5: [0, "Level 1"], 9: None})
    sampler = QuestionSampler(questions, curriculum, 6, 0)
    levels = [
        {q.level for step in steps for q in sampler.draw(step, 0)} for steps in (range(5), range(5, 9), range(9, 10))
    ]
    assert levels[0] <= {"0", ""} and levels[1] <= {"0", "1", ""}
    for step in range(12):
        for r in (0, 1):
            sampler.record([answered(q, 1) for q in sampler.draw(step, r)], step, r)
        sampler.end(step, 2)
    assert len({row for row, record in sampler.history.rows.items() if record.last >= 18}) == 24
    with pytest.raises(InputError, match=r"curriculum\.schedule\.0=.*no row of these levels; it has .*0, 1, 2"):
        make_levels({0: [7]}).check([QuestionSet("q", Rows(rows[1:4], []), questions.check).sources[""]])


def test_curves_say_where_rows_are_and_where_questions_came_from() -> None:
    sampler = QuestionSampler(simple("q", 40), CURRICULA["band"], 4, 0)
    sampler.record([answered(q, right) for q, right in zip(sampler.draw(0, 0), (0, 2, 2, 4), strict=True)], 0, 0)
    sampler.end(0, 1)
    assert sampler.metrics() == {
        "curriculum/rows/above": 0.025, "curriculum/rows/band": 0.05, "curriculum/rows/below": 0.025,
        "curriculum/rows/unseen": 0.9, "curriculum/drawn/above": 0, "curriculum/drawn/band": 0,
        "curriculum/drawn/below": 0, "curriculum/drawn/unseen": 1,
    }  # fmt: skip


def test_weights_by_tokens_are_shares_of_the_tokens() -> None:
    sampler = QuestionSampler(set_of("by tokens"), Uniform(), 8, 0)
    for step in range(40):
        tokens = {"a": 30, "b": 5 + step}  # the second source learns to write more
        questions = sampler.draw(step, 0)
        sampler.record([answered(q, 1, tokens=tokens[source_of(q)]) for q in questions], step, 0)
        sampler.end(step, 1)
    spent = {name: record.tokens for name, record in sampler.history.sources.items()}
    assert spent["a"] / sum(spent.values()) == pytest.approx(2 / 3, abs=0.02)
    draws = [row.draws for row in sampler.history.rows.values()]
    assert max(draws) - min(draws) > 1 and len(draws) == 24  # each source in epochs of its own


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("curriculum=band curriculum.low=0.9", r"curriculum\.low=0\.9: must lie between 0 and curriculum\.high"),
        ("curriculum=band curriculum.high=1.5", r"curriculum\.high=1\.5: must lie between 0 and 1"),
        ("curriculum=band curriculum.unseen=2", r"curriculum\.unseen=2\.0: must lie between 0 and 1"),
        ("curriculum=pools curriculum.pools.easy.up_to=0.5", r"curriculum\.pools=hard up to 0\.0.*must ascend"),
        ("curriculum=pools +curriculum.pools.x=1", r"curriculum\.pools\.x=1: must be \{up_to: NUMBER, weight: NUMBER\}"),
        ("curriculum=pools +curriculum.pools.easy.wieght=1", r"curriculum\.pools\.easy=.*must be \{up_to"),
        ("curriculum=pools curriculum.pools.hard.weight=-1", r"curriculum\.pools\.hard\.weight=-1\.0: must be 0 or more"),
        ("curriculum=levels", r"curriculum\.schedule=None: must map steps to lists of levels"),
        ("curriculum=levels curriculum.schedule={5:[1]}", r"curriculum\.schedule=.*must say which levels the run begins with"),
        ("curriculum=levels curriculum.schedule={0:1}", r"curriculum\.schedule=.*must map steps to lists of levels"),
        ("curriculum=bands", r"curriculum=bands: no such option; did you mean .*band"),
        ("questions=mixture questions.weight_by=words", r"questions\.weight_by=words: must be rows or tokens"),
    ],
)  # fmt: skip
def test_impossible_settings_are_one_line(words: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        configs.instantiate(configs.check("train", words.split())["curriculum"], "curriculum")

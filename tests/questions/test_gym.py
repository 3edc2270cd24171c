"""Rows of reasoning-gym: the same in every process, split by their texts, with settings that are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.grading.gym import GymChecker
from zero.questions import Rows, gym, row_cache
from zero.questions.gym import gym_rows, request_for
from zero.questions.mixture import Mixture
from zero.records import Outcome

pytest.importorskip("reasoning_gym")
FROZEN = Path(__file__).with_name("gym_digests.json")
SMALL = {"config": {}, "level": None, "train": 20, "heldout": 2, "seed": 0}
# Sets whose own rows follow the hash seed or the global generator, and some that do not
SAMPLE = (
    "isomorphic_strings list_functions polynomial_multiplication ransom_note word_ladder rush_hour chain_sum ab".split()
)
UNANSWERED = {"boxnet", "rush_hour"}  # the package has no answer of its own to them
DIGESTS = """
import json, sys
from zero.questions.gym import collected, draw, request_for
names = json.load(sys.stdin)
request = request_for(names, {}, None, 2, 0, 0)
rows = collected(request, draw(request))
print(json.dumps({name: rows[name].digest for name in names}))
"""


def rows_of(name: str | list[str], **settings: Any) -> Rows:
    """As `gym_rows` gives them, without a process of their own: it takes seconds to start."""
    from zero.questions.gym_generator import rows

    request = request_for(**{"name": name, **SMALL, **settings})
    collected = gym.collected(json.loads(json.dumps(request)), rows(request))
    return collected[name if isinstance(name, str) else name[0]]


def digests(names: list[str], hash_seed: str) -> dict[str, str]:
    """Of two rows of each set, as a process of its own draws them."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(
        command, input=json.dumps(names), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_all_sets_are_frozen_and_score_their_own_answers() -> None:
    """The digests that every machine must find, and the package's scorers on its own reference answers."""
    frozen = json.loads(FROZEN.read_text())
    assert len(frozen) == 105
    request = request_for(list(frozen), {}, None, 2, 0, 0)
    rows = gym.collected(request, gym.draw(request))
    assert {name: each.digest for name, each in rows.items()} == frozen
    answered = [q for each in rows.values() for q in each.train if q.answer[0] and "Integral" not in q.answer[0]]
    outcomes = GymChecker().many([(q.answer[0], q) for q in answered])
    wrong = [q.id for q, outcome in zip(answered, outcomes, strict=True) if outcome is not Outcome.CORRECT]
    assert wrong == [] and {name for name, each in rows.items() if each.train[0] not in answered} <= UNANSWERED


def test_times_are_of_a_fixed_day() -> None:
    rows = rows_of("time_intervals", train=8, heldout=0)
    entries = [str(question.meta["entry"]) for question in rows.train]
    assert any("2000-01-01 " in entry for entry in entries)
    assert not any(str(date.today()) in entry for entry in entries), "rows of today are others tomorrow"


def test_rows_are_frozen_whatever_the_hash_seed() -> None:
    frozen = json.loads(FROZEN.read_text())
    assert digests(SAMPLE, "3") == {name: frozen[name] for name in SAMPLE}


def test_rows_are_distinct_and_split_by_their_texts_alone() -> None:
    rows = rows_of("leg_counting", train=40, heldout=4)
    assert (len(rows.train), len(rows.heldout)) == (40, 4)
    texts = {question.text for question in (*rows.train, *rows.heldout)}
    assert len(texts) == 44
    other = rows_of("leg_counting", train=40, heldout=4, seed=7)
    assert other.digest != rows.digest
    assert not {question.text for question in other.train} & {question.text for question in rows.heldout}
    assert rows_of("leg_counting", train=0, heldout=4).train == []
    question = rows.train[0]
    assert question.id.startswith("leg_counting-") and question.answer == (question.solution,)
    assert question.meta["gym"] == "leg_counting" and question.answer[0].isdigit()


def test_the_digest_covers_what_only_a_scorer_reads() -> None:
    """rush_hour's question shows the board; its scorer reads the metadata."""
    rows = rows_of("rush_hour", train=1, heldout=0)
    assert "board_config" in rows.train[0].meta["entry"] and rows.train[0].answer == ("",)
    identity = rows.train[0].id
    assert identity != rows_of("rush_hour", train=1, heldout=0, seed=1).train[0].id


def test_settings_and_levels_change_the_rows() -> None:
    default, easy = rows_of("leg_counting"), rows_of("leg_counting", config={"min_animals": 1, "max_animals": 1})
    assert max(len(q.text) for q in easy.train) < min(len(q.text) for q in default.train)
    levels = [rows_of("chain_sum", level=level) for level in (0, 3)]
    assert levels[0].digest != levels[1].digest
    assert len(levels[0].train[0].text) < len(levels[1].train[0].text)
    two = rows_of("chain_sum", level=3, config={"min_terms": 2, "max_terms": 2})
    assert all(q.text.count("+") + q.text.count(" - ") == 1 for q in two.train)


def test_a_set_with_few_rows_says_so_by_their_number() -> None:
    rows = rows_of("dice", config={"num_dice": 1, "max_dice_size": 2}, train=500)
    assert 0 < len(rows.train) < 500


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "leg_countng"}, "questions.gym.name=leg_countng: reasoning-gym 0.1.25 has no such set; did you mean leg_counting"),
    ({"name": ["chain_sum", "sumdoku"]}, "questions.gym.name=sumdoku: .*; did you mean .*sudoku"),
    ({"name": "composite"}, "is a mixture of others"),
    ({"name": []}, r"questions.gym.name=\[\]: must name a set"),
    ({"name": ["dice", "dice"]}, "names a set twice"),
    ({"name": "leg_counting", "config": {"max_animal": 3}}, "questions.gym.config.max_animal=3: no such setting; did you mean "
        "max_animals"),
    ({"name": ["dice", "ab"], "config": {"dice": {"num": 3}}}, "questions.gym.config.dice.num=3: no such setting; .*num_dice"),
    ({"name": ["dice", "ab"], "config": {"num_dice": 3}}, "questions.gym.config.num_dice=3: names none of the sets"),
    ({"name": ["dice", "ab"], "config": {"dice": 3}}, "questions.gym.config.dice=3: must be a mapping"),
    ({"name": "dice", "config": {"seed": 3}}, "questions.gym.config.seed=3: is no difficulty"),
    ({"name": "leg_counting", "config": {"max_animals": "many"}}, "max_animals=many: must be of the kind of its default, 10"),
    ({"name": "basic_arithmetic", "config": {"operators": "+"}}, r"operators=\+: must be a list"),
    ({"name": "leg_counting", "config": {"min_animals": 9, "max_animals": 2}}, "leg_counting refuses it .*max_animals.*=2"),
    ({"name": 3}, "questions.gym.name=3: must name a set"),
    ({"name": "dice", "train": None}, "questions.gym.train=None: must be a whole number"),
    ({"name": "dice", "train": 8.5}, "questions.gym.train=8.5: must be a whole number"),
    ({"name": "chain_sum", "level": "x"}, "questions.gym.level=x: must be a whole number"),
    ({"name": "chain_sum", "level": 99}, "questions.gym.level=99: chain_sum has levels 0 to "),
    ({"name": "acre", "level": 1}, "questions.gym.level=1: acre has no levels"),
    ({"name": "dice", "train": -1}, "questions.gym.train=-1"),
    ({"name": "dice", "train": 10**9}, "questions.gym.train=1000000000: must be a whole number from 0 to 1000000"),
    ({"name": "dice", "seed": -1}, "questions.gym.seed=-1"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        rows_of(**settings)
    assert "\n" not in str(error.value)


GENERATORS = {
    "hangs": ("while True: pass", "drew no row for .* CPU seconds, after 0 rows"),
    "exits": ("import os; os._exit(3)", r"its generator died \(status 3\)"),
}
PACKAGE = """
import dataclasses
import zero.questions.gym as gym
gym.ROW_S = 0.3
@dataclasses.dataclass
class Config:
    seed: int = 0
    size: int = 1
class Misbehaving:
    def __init__(self, config): pass
    def __getitem__(self, index):
        PROGRAM
DATASETS, CURRICULA = {"misbehaving": (Misbehaving, Config)}, {}
"""


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_that_dies_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real generator process, with a set that misbehaves in place of the package, which takes seconds to import."""
    program, message = GENERATORS[kind]
    for folder in (tmp_path / "reasoning_gym", tmp_path / "reasoning_gym" / "arithmetic"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (tmp_path / "reasoning_gym" / "arithmetic" / "time_intervals.py").touch()  # whose day is set
    (tmp_path / "reasoning_gym" / "factory.py").write_text(PACKAGE.replace("PROGRAM", program))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=message):
        gym_rows(**{**SMALL, "name": "misbehaving"})


def test_rows_that_cannot_be_drawn_are_counted_and_none_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from reasoning_gym.arithmetic.dice import DiceDataset

    real = DiceDataset.__getitem__

    def every_third(self: Any, index: int) -> Any:
        if index % 3 == 0:
            raise KeyError("x")
        return real(self, index)

    monkeypatch.setattr(DiceDataset, "__getitem__", every_third)
    rows = rows_of("dice")
    assert len(rows.train) == 20
    assert [note for note in rows.notes if "could not be drawn, the first for KeyError: 'x'" in note]
    monkeypatch.setattr(DiceDataset, "__getitem__", lambda self, index: {}["x"])
    with pytest.raises(InputError, match=r"no row of dice can be drawn \(KeyError: 'x'\)"):
        rows_of("dice")


def test_by_its_yaml_one_set_or_a_mixture_and_a_set_is_drawn_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A single set comes from the cache that the mixture has filled; without the cache, or with a damaged one, it is drawn."""
    monkeypatch.setattr(row_cache, "cache_folder", lambda: tmp_path / "cache")
    rows = ["questions=gym", "questions.gym.train=8", "questions.gym.heldout=2"]
    several = ["questions.gym.name=[leg_counting,chain_sum]", "questions.gym.config.leg_counting.max_animals=4"]
    mixture = instantiate(check("train", [*rows, *several])["questions"])
    assert isinstance(mixture, Mixture) and mixture.name == "gym"
    assert [q.kind for q in mixture.batch(0, 4, 0)] == ["leg_counting", "chain_sum"] * 2

    drawn_sets = []

    def in_this_process(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from zero.questions.gym_generator import rows

        drawn_sets.append([each["name"] for each in request["sets"]])
        return rows(request)

    monkeypatch.setattr(gym, "draw", in_this_process)  # a process was started above
    config = check("train", [*rows, "questions.gym.name=leg_counting", "questions.gym.config.max_animals=4"])
    assert config["questions"]["gym"]["config"] == {"max_animals": 4}
    first = instantiate(config["questions"])
    assert first.name == "leg_counting" and len(first.rows.train) == 8 and drawn_sets == []
    request = request_for(**config["questions"]["gym"])
    file = tmp_path / "cache" / gym.cache_file(request["sets"][0], request)
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-9]), file.unlink, lambda: None):
        damage()
        gym._rows.cache_clear()
        assert instantiate(config["questions"]).rows.digest == first.rows.digest
    assert drawn_sets == [["leg_counting"]] * 2
    monkeypatch.setattr(row_cache, "cache_folder", lambda: file / "no folder")
    gym._rows.cache_clear()
    assert instantiate(config["questions"]).rows.digest == first.rows.digest and len(drawn_sets) == 3
    other = request | {"train": 9}
    assert gym.cache_file(request["sets"][0], other) != file.name
    with pytest.raises(InputError, match=r"questions\.gym\.name=.*is required"):
        check("train", ["questions=gym"])


def test_a_solution_takes_the_form_that_supervised_steps_shall_teach() -> None:
    settings = ["questions=gym", "questions.gym.name=gcd", "questions.gym.train=2", "questions.gym.heldout=1"]
    boxed = "The answer is \\boxed{{answer}}."
    plain, worded = (
        instantiate(check("train", [*settings, *form])["questions"]) for form in ([], [f"questions.solution='{boxed}'"])
    )
    for question, same in zip(worded.rows.train, plain.rows.train, strict=True):
        assert (
            question.solution == f"The answer is \\boxed{{{question.answer[0]}}}." and same.solution == same.answer[0]
        )
    with pytest.raises(InputError, match=r"must hold \{answer\}"):
        instantiate(check("train", [*settings, "questions.solution=42"])["questions"])

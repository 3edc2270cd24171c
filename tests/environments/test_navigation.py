"""Navigation: episodes written out under both rules, the verifier's tries and penalties, and the published file's form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.conftest import BASE
from tests.environments.episodes import play, seen
from tests.grading.hostile import TEXTS
from zero.environments import as_step
from zero.environments.navigation import Navigation
from zero.errors import InputError
from zero.questions import Rows
from zero.questions.navigation import (
    CORNERS,
    HELDOUT_DIGIT,
    Leg,
    Route,
    as_question,
    check_action,
    relative_turn,
    rows,
    rule_shift_rows,
)
from zero.questions.published_routes import published_set
from zero.questions.wordings import EMBEDDED, SFTVSRL
from zero.records import Question

# From the south to the northeast is 135 degrees to the left, from there to the north 45
SHORT = Route(
    180, (Leg(45, 1, "Battery Park is on your right behind"), Leg(0, 0, "The destination Cafe De Novo is on your left"))
)


def short(rule: str) -> Question:
    return as_question(SHORT, rule, 1, SFTVSRL)


def answer(observation: str, instruction: str, action: str) -> str:
    fields = (
        f'  "current observation": "{observation}"',
        f'  "current instruction": "{instruction}"',
        f'  "action": "{action}"',
    )
    return "{\n" + ",\n".join(fields) + ",\n}"


ABSOLUTE_SPACE = (
    '"forward()": indicates moving forward one step\n'
    '"turn_direction(x)": indicates adjust the ego agent direction towards x direction. x could be any following 8 directions '
    "['north', 'northeast', 'east', 'southeast', 'south', 'southwest', 'west', 'northwest']\n"
    '"stop()": indicates the navigation is finished.'
)
PROMPT = (
    "[Task Description]\nYou are an expert in navigation. You will receive a sequence of instructions to follow. You\nare also "
    "provided with your observation and action history in text. Your goal is to first analyze the instruction and identify the "
    "next sentence to be executed. \nThen, you need to provide the action to be taken based on the current observation and "
    "instruction.\n\n[Instruction]\n"
    "1. First, turn left to face northeast.\n"
    "2. Move forward until you reach next intersection where Battery Park is on your right behind.\n"
    "3. Turn slightly left to face north.\n"
    "4. Move forward until you reach destination where The destination Cafe De Novo is on your left.\n"
    "\n\n[Action space]\n{actions}\n\n[Observations and actions sequence]\n{seen}\n\n[Output]\n{{\n"
    '  "current observation": latest observation from the observation sequence,\n'
    '  "current instruction": analyze the full instruction and identify the sentence to be executed,\n'
    '  "action": the action to be taken chosen from the action space,\n}}'
)
CROSSING = "Battery Park is on your right behind; You observe an intersection"


def test_a_route_in_absolute_directions() -> None:
    """Every prompt is V-IRL's, with the whole history; the solution is its answer."""
    row = short("absolute")
    start = "O_1: No landmarks nearby; \nA_1: \n"
    assert row.text == PROMPT.format(actions=ABSOLUTE_SPACE, seen=start)
    assert (row.answer, row.meta["level"]) == (("turn_direction(northeast)",), 2)
    assert row.solution == answer("No landmarks nearby; ", "First, turn left to face northeast.", row.answer[0])
    environment = Navigation()
    first = environment.reset(row, 0)
    assert (first.text, first.fresh) == (row.text, True)
    history = ""
    steps = [
        ("turn_direction(northeast)", "No landmarks nearby; "),
        ("forward()", "No landmarks nearby; "),
        ("turn_direction(north)", CROSSING),
        ("forward()", "No landmarks nearby; "),
    ]
    seen_after = [
        "No landmarks nearby; ",
        CROSSING,
        "No landmarks nearby; ",
        "The destination Cafe De Novo is on your left; ",
    ]
    for number, ((action, observation), after) in enumerate(zip(steps, seen_after, strict=True), 1):
        step = as_step(environment.step(answer(observation, "whatever", action)))
        history += f"O_{number}: {observation}\nA_{number}: {action}\n"
        current = f"O_{number + 1}: {after}\nA_{number + 1}: \n"
        assert seen(step).text == PROMPT.format(actions=ABSOLUTE_SPACE, seen=history + current)
        assert (seen(step).fresh, step.reward, step.done, step.kind) == (True, 1.0, False, "right_action")
    end = as_step(environment.step(answer("", "", "stop()")))
    assert (end.reward, end.done, end.success) == (1.0, True, True)


def test_the_same_route_relative_to_where_one_faces() -> None:
    row = short("relative")
    assert "x could be any following ['left', 'right', 'slightly left', 'slightly right']\n" in row.text
    assert "8 directions" not in row.text
    actions = ["turn_direction(left)", "forward()", "turn_direction(slightly left)", "forward()", "stop()"]
    assert [step.kind for step in play(Navigation(), row, actions)] == ["right_action"] * 5
    assert row.id == short("absolute").id and row.text != short("absolute").text
    # the other rule's words are no action here
    assert play(Navigation(), row, ["turn_direction(northeast)"])[0].kind == "invalid_action"


def test_a_turn_is_named_by_walking_round_the_circle() -> None:
    """For every pair of whole headings, by turning right degree by degree."""
    for before in range(0, 360, 7):
        for after in range(360):
            degrees = 0
            while (before + degrees) % 360 != after:
                degrees += 1
            slight = degrees <= 45 or degrees >= 315
            to_the_right = 0 < degrees < 180
            assert relative_turn(before, after) == (2 if slight else 0) + (1 if to_the_right else 0)
    assert {relative_turn(0, corner % 360) for corner in CORNERS} == {0, 1, 2, 3}


def test_what_a_wrong_answer_costs() -> None:
    """The action alone decides what is right; of a wrong one the worst mistake is named."""
    row = short("absolute")
    turn, sentence = "turn_direction(northeast)", "First, turn left to face northeast."
    nothing = "No landmarks nearby; "
    cases = {
        answer(nothing, sentence, "forward()"): ("wrong_action", -1.0, "you make incorrect action"),
        answer(nothing, f"1. {sentence.upper()}", "forward()"): ("wrong_action", -1.0, "you make incorrect action"),
        answer(nothing, sentence, "turn_direction(up)"): ("invalid_action", -1.0, "you make incorrect action"),
        "": ("invalid_action", -1.0, "you make incorrect action"),
        answer(nothing, "Turn slightly left to face north.", "stop()"): (
            "wrong_instruction",
            -1.75,
            "not the next one",
        ),
        answer(CROSSING, "Turn back.", "stop()"): ("wrong_observation", -1.5, "you are not at any intersection."),
        answer(CROSSING, "Turn back.", turn): ("right_action", 1.0, ""),
        f"I think\n{turn}.": ("right_action", 1.0, ""),
        "turn_direction('northeast')": ("right_action", 1.0, ""),
        f"so \\boxed{{{turn}}} it is": ("right_action", 1.0, ""),
        f"{turn} or else": ("invalid_action", -1.0, "you make incorrect action"),
    }
    for text, (kind, reward, message) in cases.items():
        [step] = play(Navigation(), row, [text])
        assert (step.kind, step.reward, step.done) == (kind, reward, False), text
        if message:
            assert not step.observation.fresh
            assert (
                step.observation.text.startswith("You failed this trial because ") and message in step.observation.text
            )
    [*_, step] = play(Navigation(), row, [turn, "forward()", answer(nothing, "", "stop()")])
    assert (step.kind, step.observation.text.partition(".")[0]) == (
        "wrong_observation",
        "You failed this trial because you are at an intersection",
    )


def test_tries_are_counted_at_every_point() -> None:
    row = short("absolute")
    right = [point[2] for point in row.meta["rail"]]
    steps = play(Navigation(tries=2), row, [text for action in right for text in ("no", action)])
    assert [step.reward for step in steps] == [-1.0, 1.0] * 5
    assert (steps[-1].done, steps[-1].success) == (True, True)
    steps = play(Navigation(tries=2), row, [right[0], "no", "no"])
    assert [(step.done, step.success) for step in steps] == [(False, None), (False, None), (True, False)]
    steps = play(Navigation(tries=1, wrong_action=-0.5), row, ["no"])
    assert [(step.reward, step.done, step.success) for step in steps] == [(-0.5, True, False)]


def test_after_the_end_nothing_happens() -> None:
    environment = Navigation(tries=1)
    assert as_step(environment.step("forward()")).done  # before the start
    environment.reset(short("absolute"), 0)
    environment.step("no")
    step = as_step(environment.step("turn_direction(northeast)"))
    assert (step.reward, step.done, step.success, step.kind) == (0.0, True, False, "ended")


@pytest.mark.parametrize("rule", ["absolute", "relative"])
@pytest.mark.parametrize("wording", ["sftvsrl", "embedded"])
def test_a_solution_earns_everything(rule: str, wording: str) -> None:
    drawn = rows(rule, legs=[1, 3], straight=1, train=40, heldout=10, wording=wording)
    for row in (*drawn.train, *drawn.heldout):
        steps = play(Navigation(tries=1), row, row.meta["solution_turns"])
        assert sum(step.reward for step in steps) == len(row.meta["rail"]) == 2 * row.meta["level"] + 1 == len(steps)
        assert (steps[-1].done, steps[-1].success) == (True, True)
        assert check_action(row.solution, row) and not check_action("stop()" if wording == "sftvsrl" else "stop", row)
        assert all(step.observation.fresh for step in steps[:-1])


def test_hostile_answers_are_wrong_and_nothing_else() -> None:
    row = short("absolute")
    fields = ['"action": "' * 20_000, '"action":' + " " * 100_000, '"current observation": "' + "x" * 100_000]
    environment = Navigation()
    for text in (*TEXTS, *fields, "forward()\n" * 10_000 + "\ud800"):
        environment.reset(row, 0)
        assert as_step(environment.step(text)).kind in ("invalid_action", "wrong_action")


def test_the_chance_of_random_actions() -> None:
    """Ten actions, five points: by counting for one try, and for two."""
    row = short("absolute")
    assert Navigation(tries=1).chance(row) == pytest.approx(0.1**5)
    assert Navigation(tries=2).chance(row) == pytest.approx((0.1 + 0.9 * 0.1) ** 5)
    assert Navigation(tries=1).chance(short("relative")) == pytest.approx((1 / 6) ** 5)


def test_no_seed_rule_or_size_moves_a_route_to_the_other_split() -> None:
    some = [
        rows(rule, train=n, heldout=8, seed=s) for rule in ("absolute", "relative") for s in (0, 1) for n in (30, 90)
    ]
    train = {row.id for drawn in some for row in drawn.train}
    heldout = {row.id for drawn in some for row in drawn.heldout}
    assert train.isdisjoint(heldout)
    assert all((int(i.rpartition("-")[2][0], 16) < HELDOUT_DIGIT) == (i in heldout) for i in train | heldout)
    for drawn in some:
        texts = [row.text for row in (*drawn.train, *drawn.heldout)]
        assert len(set(texts)) == len(texts) == len(drawn.train) + 8


def test_the_same_arguments_give_the_same_rows() -> None:
    one, same, other = (rows(train=20, heldout=4, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_the_rule_shift_has_the_heldout_routes() -> None:
    trained, shifted = rows(train=100, heldout=12), rule_shift_rows(heldout=12)
    assert shifted.train == []
    assert [row.id for row in shifted.heldout] == [row.id for row in trained.heldout]
    assert {row.meta["rule"] for row in shifted.heldout} == {"relative"}
    assert all(row.answer[0] in {f"turn_direction({s})" for s in SFTVSRL.relative} for row in shifted.heldout)


def test_the_embedded_words_are_few_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    for rule in ("absolute", "relative"):
        drawn = rows(rule, legs=[2, 3], straight=1, landmarks=1.0, train=60, heldout=4, wording="embedded")
        for row in drawn.train:
            environment = Navigation()
            prompts = [environment.reset(row, 0).text]
            prompts += [seen(as_step(environment.step(t))).text for t in row.meta["solution_turns"][:-1]]
            assert max(len(tokenizer.encode(prompt).ids) for prompt in prompts) <= 110
            assert max(len(tokenizer.encode(turn).ids) for turn in row.meta["solution_turns"]) <= 8
            assert len(set(prompts)) > len(row.meta["rail"]) - row.meta["level"]  # turns are told apart


def test_an_embedded_route() -> None:
    route = Route(0, (Leg(90, 2, "Tom left"), Leg(135, 3, "Mia right")))
    row = as_question(route, "absolute", 1, EMBEDDED)
    instruction = "Use more right, E. Then Tom left. Use right, SE. Then Mia right, stop. "
    assert row.text == instruction + "Say N, NE, E, SE, S, SW, W, NW. here road?"
    steps = play(Navigation(), row, ["E", "go", "SE", "go", "stop"])
    ends = [step.observation.text.partition("NW.")[2] for step in steps[:-1]]
    assert ends == [
        " here road, E. here road?",
        " here road, go. here Tom left?",
        " here Tom left, SE. here road?",
        " here road, go. here Mia right?",
    ]
    assert steps[-1].success
    assert as_question(route, "relative", 1, EMBEDDED).meta["solution_turns"] == [
        "more right",
        "go",
        "right",
        "go",
        "stop",
    ]


# ------------------------------------------------------------------------------------------------------ the published file

MILESTONES = """{
"intersection_idx": "0",
"landmarks": "Battery Park is on your right behind",
"distance": "64 meters",
"human_heading": "180",
"to_next_intersection_heading": "45 (northeast)",
}
{
"intersection_idx": "1",
"landmarks": "No landmarks nearby",
"distance": "80 meters",
"human_heading": "45",
"to_next_intersection_heading": "350 (north)",
}
{
"intersection_idx": "2",
"landmarks": "The destination Joe's "Cafe" is on your left",
"distance": "12 meters",
"human_heading": "350",
"to_next_intersection_heading": "10 (north)",
}"""


def route_file(folder: Path, routes: Any) -> str:
    path = folder / "route_infos.json"
    path.write_text(json.dumps([routes, len(routes)] if isinstance(routes, list) else routes))
    return str(path)


def published(path: str, **settings: Any) -> Rows:
    return published_set("published_routes", check_action, path=path, **settings).rows


def test_the_routes_of_the_published_file(tmp_path: Path) -> None:
    entry = {"milestone_info": MILESTONES, "init_heading": 180, "start_place": {"relocated_geocode": [40.7, -74.0]}}
    path = route_file(tmp_path, [entry, entry, {**entry, "init_heading": 0}])
    loaded = published(path, rule="relative", straight=1, only_heldout=True)
    assert (len(loaded.train), len(loaded.heldout), len(loaded.notes)) == (0, 2, 1)
    row = loaded.heldout[0]
    assert row.meta["solution_turns"][-1].count('"action": "stop()"') == 1
    steps = play(Navigation(tries=1), row, row.meta["solution_turns"])
    assert (len(steps), steps[-1].success) == (7, True)
    turns = [point[2] for point in row.meta["rail"] if point[2].startswith("turn")]
    # 350 to 10 degrees is 20 to the right
    assert turns == [f"turn_direction({side})" for side in ("left", "left", "slightly right")]
    assert row.meta["rail"][4][:2] == (
        "No landmark nearby; You observe an intersection",
        "Turn slightly right to face north.",
    )
    assert "4. Move forward until you reach next intersection.\n" in row.text
    assert (
        """6. Move forward until you reach destination where The destination Joe's "Cafe" is on your left."""
        in row.text
    )
    split = published(path)
    assert {row.id for row in (*split.train, *split.heldout)} == {row.id for row in loaded.heldout}
    assert published(path) == split


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ({}, "must be [routes, number]"),
        ([{}], "route 1 has no text milestone_info"),
        ([{"milestone_info": "{}"}], "the milestone_info of route 1 names no crossing"),
        ([{"milestone_info": '{"landmarks": "x",}'}], "without a to_next_intersection_heading"),
        ([{"milestone_info": MILESTONES.replace("north)", "up)")}], "without a to_next_intersection_heading"),
        ([{"milestone_info": MILESTONES, "init_heading": 400}], "init_heading must be from 0 to 359"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, routes: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        published(route_file(tmp_path, routes))
    assert error.value.key == "questions.path" and message in str(error.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "none.json"), str(tmp_path)):
        with pytest.raises(InputError, match=r"^questions\.path"):
            published_set("published_routes", check_action, path=path)
    (tmp_path / "text.json").write_text("[")
    with pytest.raises(InputError, match="is not JSON"):
        published(str(tmp_path / "text.json"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rule": "up"}, "rule"),
        ({"wording": "x"}, "wording"),
        ({"legs": []}, "legs"),
        ({"legs": [9]}, "legs"),
        ({"straight": -1}, "straight"),
        ({"landmarks": 1.5}, "landmarks"),
        ({"train": 0}, "train"),
        ({"heldout": 0}, "heldout"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as error:
        rows(**changes)
    assert error.value.key == f"questions.rows.{key}"


@pytest.mark.parametrize(
    "start", [lambda: Navigation(tries=0), lambda: Navigation().reset(Question("2+2", ("4",), "q"), 0)]
)
def test_what_cannot_be_played_is_refused(start: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"^environment"):
        start()

"""Views of crossings: frozen to the pixel, and every shape and every arm where it belongs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.environments.episodes import play
from zero import images
from zero.environments import Observation, Status, as_step, pool
from zero.environments.navigation import Navigation
from zero.environments.pool import Transcript
from zero.environments.spec import environment_spec
from zero.errors import InputError
from zero.questions.crossings import BEHIND, CITIES, COLOURS, SHAPES, SIGNS, Views, can_draw, draw
from zero.questions.navigation import rows, rule_shift_rows
from zero.questions.wordings import EMBEDDED, EMBEDDED_VIEWS, SFTVSRL_VIEWS

FROZEN = {"harbor": "c92d5520b65faf70", "desert": "d3fd56f9b58bdb13"}
SMALL: dict[str, Any] = dict(legs=[2, 3], straight=1, landmarks=1.0, heldout=8, wording="embedded_views")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("city", CITIES)
def test_the_pixels_are_frozen(city: str) -> None:
    hashed = hashlib.sha256()
    for pixels in (48, 224):
        for shape in SHAPES:
            for arms, side in (((), "left"), ((0, 1, 3, BEHIND), "right behind")):
                hashed.update(draw(CITIES[city], pixels, arms, shape, side).tobytes())
    assert hashed.hexdigest()[:16] == FROZEN[city]


def test_the_arms_lead_where_they_should() -> None:
    city = CITIES["harbor"]
    edge = {0: (0, 24), 1: (0, 47), 2: (24, 47), 3: (47, 47), 4: (47, 24), 5: (47, 0), 6: (24, 0), 7: (0, 0)}
    for arms in ((0, BEHIND), (1, 2, BEHIND), (3, BEHIND, 5), (BEHIND, 6, 7)):
        view = draw(city, 48, arms, "", "")
        assert {arm for arm, (row, column) in edge.items() if tuple(view[row, column]) == city.road} == set(arms)
    assert (draw(city, 48, (), "", "") != draw(city, 48, (0, BEHIND), "", "")).any()  # a road is no crossing


def test_a_landmark_is_on_its_side_and_the_shapes_differ() -> None:
    for city in CITIES.values():
        plain = draw(city, 48, (2, BEHIND), "", "")
        views = {}
        for landmark in SIGNS:
            for side, (rows_, columns) in {
                "left": (slice(0, 24), slice(0, 24)),
                "right": (slice(0, 24), slice(24, 48)),
                "left behind": (slice(24, 48), slice(0, 24)),
                "right behind": (slice(24, 48), slice(24, 48)),
            }.items():
                view = draw(city, 48, (2, BEHIND), landmark, side)
                changed = (view != plain).any(-1)
                assert changed[rows_, columns].sum() == changed.sum() > 50
                views[landmark, side] = changed
        lefts = [views[landmark, "left"] for landmark in SIGNS]
        assert min((a != b).sum() for i, a in enumerate(lefts) for b in lefts[:i]) > 30  # by their shape alone


def test_colours_say_what_a_landmark_is_in_harbor_alone() -> None:
    for name, count in (("harbor", len(SIGNS)), ("desert", 1)):
        city = CITIES[name]
        known = {city.ground, city.road}
        views = (draw(city, 48, (), landmark, "left") for landmark in SIGNS)
        assert len({tuple(map(int, p)) for view in views for p in view.reshape(-1, 3)} - known) == count
    blue = draw(CITIES["desert"], 96, (), "Blue Ring", "right")
    assert (blue == COLOURS["blue"]).all(-1).any()


def test_every_landmark_with_views_can_be_drawn() -> None:
    assert all(map(can_draw, (*EMBEDDED_VIEWS.landmarks, *SFTVSRL_VIEWS.landmarks)))
    assert set(EMBEDDED_VIEWS.landmarks) < set(EMBEDDED.landmarks)
    assert not any(map(can_draw, ("Amber Cafe", "pens", "Very Red Ring", "")))


def test_a_view_is_what_the_text_says() -> None:
    text = {question.id: question for question in rows(train=40, **{**SMALL, "wording": "embedded"}).train}
    shown = rows(train=40, city="harbor", **SMALL).train
    assert text and len(shown) == 40
    for question in shown:
        rail, views = question.meta["rail"], question.meta["views"]
        assert len(rail) == len(views) and question.images == views[:1] and question.text.count("<image>") == 1
        assert " here <image>?" in question.text
        for (observation, _, _), digest in zip(rail, views, strict=True):
            view = np.asarray(images.load(digest))
            *name, side = observation.split(" ")
            if not name:
                assert (view == draw(CITIES["harbor"], 48, (), "", "")).all()
                continue
            quadrant = slice(0, 19) if side == "left" else slice(29, 48)
            colour = COLOURS[CITIES["harbor"].shapes[list(SHAPES).index(SIGNS[name[0]])]]
            assert (view[1:20, quadrant] == colour).all(-1).any()


def test_the_right_street_is_among_three() -> None:
    road, count = CITIES["harbor"].road, 0
    edges = {0: (0, 24), 2: (24, 47), 3: (47, 47), 5: (47, 0), 6: (24, 0)}  # an arm behind a landmark may end unseen
    for question in rows(train=40, city="harbor", **SMALL).train:
        turns = [EMBEDDED.absolute.index(action) for _, _, action in question.meta["rail"][:-1:2]]
        for before, after, digest in zip(turns, turns[1:], question.meta["views"][2::2], strict=False):
            view = np.asarray(images.load(digest))
            streets = {arm for arm, (row, column) in edges.items() if tuple(map(int, view[row, column])) == road}
            right = (after - before) % 8
            assert right in streets or right in (1, 7)
            assert 1 <= len(streets) <= 3 and tuple(map(int, view[47, 24])) == road
            count += 1
    assert count > 40


def test_the_same_routes_in_another_city_and_under_the_other_rule() -> None:
    trained = rows(train=1, city="harbor", **SMALL)
    other = rule_shift_rows(rule="absolute", city="desert", **SMALL)
    turned = rule_shift_rows(city="harbor", **SMALL)
    assert not other.train and [q.id for q in other.heldout] == [q.id for q in trained.heldout]
    for here, there, rule in zip(trained.heldout, other.heldout, turned.heldout, strict=True):
        assert here.text == there.text and not set(here.meta["views"]) & set(there.meta["views"])
        assert here.meta["views"] == rule.meta["views"] and here.answer != rule.answer and here.id == rule.id


def test_every_prompt_of_an_episode_shows_its_view() -> None:
    question = rows(train=1, city="harbor", **SMALL).train[0]
    environment = Navigation()
    seen = [environment.reset(question, 0).images]
    for solution in question.meta["solution_turns"][:-1]:
        assert as_step(environment.step("nonsense")).observation == Observation(
            "No."
        )  # which goes on after what was shown
        step = as_step(environment.step(solution))
        assert isinstance(step.observation, Observation) and step.reward == 1.0
        assert step.observation.text.count("<image>") == 1
        seen.append(step.observation.images)
    assert [digest for shown in seen for digest in shown] == list(question.meta["views"])
    assert play(Navigation(), question, question.meta["solution_turns"])[-1].success


def test_a_worker_that_can_be_killed_shows_the_same_views() -> None:
    question = rows(train=1, city="harbor", **SMALL).train[0]
    texts = ("nonsense", *question.meta["solution_turns"])
    make = {"_target_": "zero.environments.navigation.Navigation"}
    replies = {}
    for isolated in (True, False):
        environment = environment_spec(make, isolated, workers=1)
        replies[isolated] = pool.play([Transcript(environment, question, 0, texts[:n]) for n in range(len(texts) + 1)])
        pool.pool_of(environment).close()
    assert replies[True] == replies[False] and all(reply.status is Status.OK for reply in replies[True])
    shown = [reply.step.observation.images for reply in replies[True] if reply.step and not reply.step.done]
    assert shown == [(digest,) if n != 1 else () for n, digest in enumerate(_with_a_try(question.meta["views"]))]


def _with_a_try(views: tuple[str, ...]) -> list[str]:
    return [views[0], "the message to a wrong action", *views[1:]]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"questions\.rows\.city=paris: must be one of harbor, desert"):
        rows(train=1, city="paris", **SMALL)
    with pytest.raises(InputError, match=r"questions\.rows\.pixels=4096: must be"):
        rows(train=1, city="harbor", pixels=4096, **SMALL)
    with pytest.raises(InputError, match=r"questions\.rows\.wording=embedded: has landmarks that cannot be drawn"):
        rows(train=1, city="harbor", **{**SMALL, "wording": "embedded"})


def test_an_unwritable_store_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="store of images in the cache folder cannot be written"):
        Views("harbor", 17).digest(((), "", ""))

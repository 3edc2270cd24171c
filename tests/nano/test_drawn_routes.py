"""Documents of routes with views: never a held-out route, never the rule of the tests, desert rarely, each mark with its view."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from zero.nano import drawn_routes, rule_games
from zero.nano.drawn_routes import SETS, Document
from zero.questions import navigation
from zero.questions.crossings import CITIES
from zero.questions.wordings import EMBEDDED
from zero.records import Question

MIX = SimpleNamespace(end=0.9)


@cache
def documents(name: str) -> tuple[Document, ...]:
    rng = random.Random(f"test/{name}")
    return tuple(SETS[name](rng, MIX) for _ in range(300))


@pytest.mark.parametrize("name", SETS)
def test_each_mark_has_its_view(name: str) -> None:
    shares = []
    for text, ended, views in documents(name):
        assert text.count("<image>") == len(views) >= 1
        assert all(view.shape == (48, 48, 3) and view.dtype == np.uint8 for view in views)
        shares.append(ended)
        if name != "view_read":
            assert "here <image>?" in text and text.startswith("Use ")
    assert 0.8 < sum(shares) / len(shares) < 0.97
    grounds = [tuple(map(int, views[0][24, 0])) for _, _, views in documents(name)]
    desert = sum(ground in (CITIES["desert"].ground, CITIES["desert"].road) for ground in grounds)
    assert 0.03 * len(grounds) < desert < 0.2 * len(grounds)


@pytest.mark.parametrize("draw", [rule_games.draw_absolute, rule_games.draw_coded])
def test_no_held_out_route_and_never_the_tested_rule(draw: Callable[..., Question]) -> None:
    rng = random.Random(7)
    for _ in range(400):
        question = drawn_routes.draw_route(rng, draw)
        assert int(question.id.removeprefix("navigation-")[0], 16) >= navigation.HELDOUT_DIGIT
        tested = question.meta["rule"] == "relative" and set(EMBEDDED.relative) <= set(question.meta["actions"])
        assert not tested


def test_documents_end_as_the_environment_wants_it() -> None:
    for text, _, _ in documents("view_absolute"):
        last = text.splitlines()[-1]
        assert last in (*EMBEDDED.absolute, "go", "stop")

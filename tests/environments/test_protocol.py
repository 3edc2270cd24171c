"""What an environment may return, in whose shape, and what is no step."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.environments.worlds import Count, GemGuess, Pages, SkyRLSum, no_step
from zero.environments import NotAStep, Observation, Step, as_step, start
from zero.records import Question

ROW = Question("What is 1 + 2?", ("3",), "sum", meta={"max_turns": 2})


@pytest.mark.parametrize(
    ("result", "step"),
    [
        (("next", 1, False), Step(Observation("next"), 1.0, False)),
        ((Observation("next", fresh=True), 0.5, False), Step(Observation("next", fresh=True), 0.5, False)),
        (Step("next", -1, True, False, "bad_call"), Step(Observation("next"), -1.0, True, False, "bad_call")),
        ((None, True, np.bool_(True)), Step(Observation(""), 1.0, True)),
        (("x", Fraction(1, 4), 0), Step(Observation("x"), 0.25, False)),
        (("x", np.float32(0.5), False, False, {}), Step(Observation("x"), 0.5, False)),
        (("x", 1.0, True, False, {"success": np.bool_(True)}), Step(Observation("x"), 1.0, True, True)),
        (("x", 1.0, False, True, {"is_success": False}), Step(Observation("x"), 1.0, True, False)),
        (("x", 1.0, True, True, {"success": "perhaps"}), Step(Observation("x"), 1.0, True)),
        (
            {"observations": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], "reward": 0, "done": False},
            Step(Observation("a\nb"), 0.0, False),
        ),
        (
            {"observations": [], "reward": 1.0, "done": True, "metadata": {"correct": True}},
            Step(Observation(""), 1.0, True, True),
        ),
    ],
)  # fmt: skip
def test_every_form_of_a_step(result: Any, step: Step) -> None:
    assert as_step(result) == step


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (None, "of type NoneType"),
        ("next", "of type str"),
        (("next", 1.0), "a tuple of 2"),
        (("next", 1.0, False, {}), "a tuple of 4"),
        ({"observations": [], "reward": 1.0}, "a dict of 2"),
        ({"observations": [], "reward": 1.0, "done": False}, "no text but a list of 0"),
        ({"observations": [{"role": "user"}], "reward": 1.0, "done": False}, "no text but of type NoneType"),
        ((b"next", 1.0, False), "no text but of type bytes"),
        ((3, 1.0, False), "no text but of type int"),
        (("\udc80", 1.0, False), "half a surrogate pair"),
        ((Observation("x", images=[32 * "ab"]), 1.0, False), "images"),  # type: ignore[arg-type]
        ((Observation("x", images=("../../home/picture",)), 1.0, False), "digests"),
        ((Observation("x", fresh="no"), 1.0, False), "`fresh` is neither true nor false"),  # type: ignore[arg-type]
        (("x", float("nan"), False), "the reward is nan"),
        (("x", -float("inf"), False), "the reward is -inf"),
        (("x", 10**400, False), "the reward is inf"),
        (("x", 1e7, False), "not within 1e[+]06 of 0"),
        (("x", "1", False), "no number but of type str"),
        (("x", None, False), "no number but of type NoneType"),
        (("x", [1.0], False), "no number but a list of 1"),
        (("x", np.ones(2), False), "no number but of type ndarray"),
        (("x", 1j, False), "no number but of type complex"),
        (("x", 1.0, "no"), "`done` is neither"),
        (("x", 1.0, None), "`done` is neither"),
        (("x", 1.0, 2), "`done` is neither"),
        (("x", 1.0, False, None, {}), "`truncated` is neither"),
        (Step("x", 1.0, True, success="yes"), "`success` is neither"),  # type: ignore[arg-type]
        (Step("x", 1.0, True, kind="two words"), "the kind"),
        *(
            (Step("x", 1.0, True, kind=kind), "the kind")
            for kind in ("x" * 41, "a/b", "..", ".", "\u0444", "x\n", "\x1b[2J")
        ),
        (("x", complex(1, 0), False), "the reward is no number but of type complex"),
        (Step("x", 1.0, True, kind=["x"]), "the kind"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_step_is_refused(result: Any, problem: str) -> None:
    with pytest.raises(NotAStep, match=problem):
        as_step(result)


def test_control_characters_are_left_alone() -> None:
    text = "\x00\x1b[2J\r\n\t\u202e"
    assert as_step((text, 0.0, False)).observation == Observation(text)


def test_each_shape_begins_as_it_wants_to() -> None:
    assert start(Count(), ROW, 7) == Observation(ROW.text)
    assert start(Pages(), ROW, 7) == Observation("page 7", fresh=True, images=(32 * "ab",))
    gem = GemGuess()
    assert start(gem, ROW, 7) == Observation("Guess a number from 1 to 20.")
    secret = gem.secret
    start(gem, ROW, 7)
    assert gem.secret == secret
    sky = SkyRLSum(extras={"reward_spec": {"ground_truth": "3"}, "max_turns": 2})
    assert start(sky, ROW, 7) == Observation(ROW.text)


def test_a_start_that_is_none_is_refused() -> None:
    class Bare:
        def reset(self) -> str:
            return ""

    class OnlyText(GemGuess):
        def reset(self, seed: int | None = None) -> Any:
            return "no info"

    for environment, problem in (
        (Bare(), "neither a row nor a seed"),
        (no_step(3), "neither reset nor init"),
        (OnlyText(), r"instead of \(observation, info\)"),
    ):
        with pytest.raises(NotAStep, match=problem):
            start(environment, ROW, 0)


def test_a_row_with_a_seed_begins_an_environment_that_draws_its_task_with_it() -> None:
    class Drawn(GemGuess):
        def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            return f"task {seed}", {}

    assert start(Drawn(), Question("task 7", ("-",), "q", meta={"seed": 7}), 3).text == "task 7"
    assert start(Drawn(), Question("task 3", ("-",), "q"), 3).text == "task 3"

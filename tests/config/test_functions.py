"""Functions that a config names: each mistake in one is a line with its full key, before a model or an engine is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from zero.config import cli
from zero.config.check import check, instantiate
from zero.config.functions import CALLS, check_importable, check_partials
from zero.errors import InputError

MODULE = """
def adv(rewards_PG): return rewards_PG
def anything(rewards_PG, **settings): return rewards_PG
def check(answer): return True
NUMBER = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_functions.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_functions", raising=False)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (
            ["algo.advantage._target_=own_functions.adv"],
            "algo.advantage.eps=1e-08: own_functions.adv takes no such setting; it has none (a config that",
        ),
        (
            ["+algo.surrogate.nosuch=1"],
            "algo.surrogate.nosuch=1: zero.objective.clipped takes no such setting; it has low, high, dual (a config",
        ),
        (["+algo.surrogate.mask_NT=1"], "algo.surrogate.mask_NT=1: zero.objective.clipped takes no such setting"),
        (
            ["algo.weight._target_=zero.objective.group_mean"],
            "algo.weight._target_=zero.objective.group_mean: is a function of (rewards_PG), and this one is called with (mask_NT)",
        ),
        (
            ["algo.weight._target_=zero.objective.constant_length"],
            "algo.weight._target_=zero.objective.constant_length: missing",
        ),
        (["algo.kl._target_=zero.objective.nosuch"], "algo.kl._target_=zero.objective.nosuch: nothing of that name"),
        (["algo.kl._target_=own_functions.NUMBER"], "algo.kl._target_=own_functions.NUMBER: is no function but"),
        (["optimizer.make._target_=os.path.join"], "optimizer.make._target_=os.path.join: "),
        (["template.extract._target_=math.hypot2"], "template.extract._target_=math.hypot2: nothing of that name"),
        (
            ["template.extract._target_=zero.grading.check_equal"],
            "template.extract._target_=zero.grading.check_equal: is a",
        ),
        (["questions.check._target_=own_functions.check"], "questions.check._target_=own_functions.check: too many"),
        (["questions.check._target_=nosuch.f"], "questions.check._target_=nosuch.f: nothing of that name"),
        (
            ["learner._target_=nosuch.X"],
            "learner._target_=nosuch.X: nothing of that name can be imported (no module nosuch)",
        ),
        (["rollout._target_=zero.nosuch.X"], "rollout._target_=zero.nosuch.X: nothing of that name"),
        (
            ["questions.rows._target_=zero.nano.world.nosuch"],
            "questions.rows._target_=zero.nano.world.nosuch: nothing of",
        ),
    ],
)
def test_a_function_that_cannot_be_called_as_it_will_be_is_refused(
    own_module: None, overrides: list[str], error: str
) -> None:
    config = check("train", ["algo=grpo", *overrides])
    group = error.partition(".")[0]
    with pytest.raises(InputError) as caught:
        check_importable(config)
        instantiate(config[group], group)
    text = str(caught.value)
    assert text.startswith(error) and "\n" not in text, text


def test_a_function_with_any_settings_may_have_them(own_module: None) -> None:
    config = check("train", ["algo=grpo", "algo.advantage._target_=own_functions.anything"])
    check_partials(config["algo"], "algo")


@pytest.mark.parametrize(
    "override", ["learner._target_=nosuch.X", "algo.kl._target_=nosuch.f", "algo.kl._target_=own_functions.adv"]
)
def test_a_users_function_is_checked_before_the_program_starts(
    own_module: None, override: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", override])
    with pytest.raises(SystemExit) as end:
        cli.command_line("train", lambda: pytest.fail("started"))
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {override}: ")


def test_every_role_of_the_table_is_a_key_of_the_config() -> None:
    correction = "algo.correction={_target_: zero.objective.token_correction, _partial_: true, cap: 2.0}"
    turns = "algo.turn_advantage={_target_: zero.objective.turn_group_mean, _partial_: true}"
    config: Any = check("train", ["algo=ppo", correction, "questions=gsm8k"])
    generated = check("train", ["questions=countdown"])
    episodes = check("train", ["environment=navigation", turns])
    sections = [config[section] for section in ("algo", "optimizer", "template", "questions")]
    sections += [generated["questions"], episodes["algo"]]
    assert {role for role in CALLS for section in sections if section.get(role)} == CALLS.keys()
    for section in sections:
        check_partials({role: section[role] for role in CALLS if section.get(role)})

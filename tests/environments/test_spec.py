"""Which environments a config may name: each mistake is one line before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from zero.environments.spec import environment_spec
from zero.errors import InputError

WORLDS = "tests.environments.worlds"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "environment.make=None: must name a class"),
        ({}, "environment.make={}: must name a class"),
        ({"_target_": "nowhere.to.be.Found"}, "environment.make._target_=nowhere.to.be.Found: nothing of that name"),
        ({"_target_": f"{WORLDS}.Counted"}, "did you mean tests.environments.worlds.Count?"),
        ({"_target_": f"{WORLDS}.WORLDS"}, "environment.make._target_"),
        ({"_target_": f"{WORLDS}.Step"}, "has no method reset or init"),
        ({"_target_": f"{WORLDS}.Count", "size": 3}, "got an unexpected keyword argument 'size'; it takes start: [+]environment"),
        ({"_target_": f"{WORLDS}.Picky"}, "missing a required argument: 'size'; it takes size"),
        ({"_target_": f"{WORLDS}.Pages", "start": 3}, "it takes none"),
        ({"_target_": f"{WORLDS}.Count", "start": object()}, "its settings are no plain data"),
    ],
)  # fmt: skip
def test_a_factory_that_cannot_work_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        environment_spec(make)
    assert error.value.key.startswith("environment.make")


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("cpu_s", 0),
        ("wall_s", float("nan")),
        ("wall_s", float("inf")),
        ("memory_mb", 0.5),
        ("observation_chars", -1),
        ("workers", 1000),
        ("workers", True),
        ("cpu_s", "5"),
    ],
)
def test_limits_that_cannot_work_are_one_line(limit: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"environment.{limit}="):
        environment_spec({"_target_": f"{WORLDS}.Count"}, **{limit: value})


def test_an_environment_of_this_process_must_take_the_values_too() -> None:
    with pytest.raises(InputError, match=r"environment.make=.*ValueError at .*worlds.py:\d+: must be above 0"):
        environment_spec({"_target_": f"{WORLDS}.Picky", "size": 0}, isolated=False)
    assert environment_spec({"_target_": f"{WORLDS}.Picky", "size": 1}, isolated=False).settings == '{"size": 1}'


def test_all_but_our_own_are_isolated_unless_one_says_so() -> None:
    make = {"_target_": f"{WORLDS}.Count", "start": 3}
    assert environment_spec(make).isolated
    assert not environment_spec(make, isolated=False).isolated
    assert environment_spec(make).modules == (WORLDS,)
    assert environment_spec(make) == environment_spec(dict(reversed(make.items())))


def test_the_check_imports_nothing_heavy(tmp_path: Path) -> None:
    source = "class Light:\n    def reset(self, row, seed): ...\n    def step(self, text): ...\n"
    (tmp_path / "light.py").write_text(source)
    program = """
import sys
from zero.environments.spec import environment_spec
assert environment_spec({"_target_": "light.Light"}).isolated
assert not {"torch", "transformers", "numpy", "hydra"} & sys.modules.keys()
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)

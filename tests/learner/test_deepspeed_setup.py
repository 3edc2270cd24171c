"""The settings handed to DeepSpeed, without DeepSpeed; tests/engines runs the real one."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from zero.errors import InputError
from zero.learner.deepspeed_setup import check, settings


@pytest.mark.parametrize(
    ("stage", "offload", "message"),
    [
        (0, False, r"learner\.stage=0: must be 1, 2 or 3"),
        (2, True, r"learner\.offload_parameters=True: only stage 3"),
        (3, True, r"learner=deepspeed: DeepSpeed is not installed; pip install -e '\.\[deepspeed\]'"),
    ],
)
def test_impossible_settings_are_one_clear_line(
    stage: int, offload: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        check(stage, offload)


def test_offload_is_set_where_it_is_wanted() -> None:
    def zero(*flags: bool) -> set[str]:
        zero_settings = settings(3, *flags, True, 1.0, torch.device("cpu"))["zero_optimization"]
        return {name for name in zero_settings if name.startswith("offload")}

    assert zero(False, False) == set()
    assert zero(True, False) == {"offload_optimizer"} and zero(False, True) == {"offload_param"}

"""A run's identity: its resolved settings, however they were typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from zero.config.check import check
from zero.config.identity import refuse_if_different, science, signature
from zero.errors import InputError


def test_equal_science_has_one_signature_however_it_was_asked_for() -> None:
    plain = check("train", [])
    assert signature(plain) == signature(check("train", ["algo=drgrpo", "seed=0", "optimizer.lr=0.0002"]))
    assert signature(plain) == signature(check("train", ["run_dir=elsewhere", "tracker=jsonl", "checkpoint.every=3"]))


@pytest.mark.parametrize(
    "override",
    ["seed=1", "algo=grpo", "template=r1", "optimizer.lr=1e-4", "steps=7", "algo.beta=0.1", "questions=nano_gsm"],
)
def test_any_scientific_setting_changes_it(override: str) -> None:
    assert signature(check("train", [])) != signature(check("train", [override]))


def test_a_resume_with_other_science_is_refused_naming_the_keys(tmp_path: Path) -> None:
    stored, requested = check("train", []), check("train", ["optimizer.lr=1e-4", "seed=3"])
    with pytest.raises(InputError, match=r"optimizer.lr: 0.0002 -> 0.0001; seed: 0 -> 3"):
        refuse_if_different(stored, requested, tmp_path)
    refuse_if_different(stored, check("train", ["run_dir=x"]), tmp_path)


def test_science_holds_no_place_and_no_machine_path() -> None:
    flat = science(check("train", []))
    assert not any(key.startswith(("tracker", "run_dir", "checkpoint")) for key in flat)
    assert not any(str(value).startswith("/") for value in flat.values())

"""Training on reasoning-gym with the embedded model: a mixture, resumed, evaluated, refused when rows change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.integration.runs import reproducible, weights
from tests.warm import Process
from zero import run_folder
from zero.config.check import check
from zero.errors import InputError
from zero.question_sets import load_questions, manifest
from zero.questions import gym

pytest.importorskip("reasoning_gym")
GYM = [
    "algo=drgrpo",
    "template=none",
    "questions=gym",
    "questions.gym.name=[chain_sum,products]",
    "questions.gym.level=0",
    "questions.gym.train=24",
    "questions.gym.heldout=2",
    "reward=gym",
    "steps=3",
    "prompts=2",
    "group_size=4",
    "sampling.max_tokens=24",
    "evaluation.every=3",
    "checkpoint.every=1",
    "curves=false",
    "samples.every=1",
    "tracker=jsonl",
]


def test_rows_that_have_changed_since_a_run_began_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by another version of the package: other rows under the same settings."""
    from zero.questions.gym_generator import rows

    config = check("train", [*GYM, f"run_dir={tmp_path}"])
    request = gym.request_for(**config["questions"]["gym"])
    drawn = gym.collected(request, rows(request))
    monkeypatch.setattr(gym, "_rows", lambda request: drawn)
    stored = manifest(load_questions(config, tmp_path))
    (tmp_path / run_folder.QUESTIONS).write_text(yaml.safe_dump(stored))
    load_questions(config, tmp_path)
    for name, each in drawn.items():
        drawn[name] = replace(each, train=[*each.train[:-1], replace(each.train[-1], id="x")])
    with pytest.raises(InputError, match="question files have changed since"):
        load_questions(config, tmp_path)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one_and_is_evaluated(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        child = Process("zero.train", *GYM, f"run_dir={tmp_path / name}")
        if name == "killed":
            while not (tmp_path / name / "checkpoints" / "step_000001").exists():
                assert child.poll() is None, child.communicate()[0]
            child.kill()
            child.communicate()
            child = Process("zero.train", *GYM, f"run_dir={tmp_path / name}")
        output = child.communicate()[0]
        assert child.poll() == 0, output
    assert reproducible(tmp_path / "whole") == reproducible(tmp_path / "killed")
    line = reproducible(tmp_path / "whole")[-1]
    assert 0 <= line["reward/score"] <= 1 and 0 <= line["eval/gym/accuracy"] <= 1
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
    done = Process("zero.evaluate", f"run={tmp_path / 'whole'}", f"run_dir={tmp_path / 'evaluation'}")
    assert done.wait() == 0, done.communicate()[0]

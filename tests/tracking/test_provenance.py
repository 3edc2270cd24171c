"""What a run folder records of its starts."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from tests.conftest import BASE, ROOT
from zero import run_folder
from zero.config.check import check, instantiate, without_facts
from zero.rollout import ModelSpec
from zero.rollout.episodes import EpisodeEngine
from zero.tracking import provenance


def test_every_start_is_a_line_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    choices = {"algo": "grpo", "template": "none", "debug": "None", "hydra/launcher": "basic"}
    provenance.note(tmp_path, provenance.start(choices, "cpu", 2))
    provenance.note(tmp_path, provenance.start(choices, "NVIDIA H200", 8))
    with (tmp_path / provenance.FILE).open("a") as file:
        file.write('[1]\n{"choices": {"al')
    first, second = provenance.starts(tmp_path)
    assert first["choices"] == {"algo": "grpo", "template": "none"}  # what was chosen, and nothing of Hydra's own
    assert (first["device"], first["ranks"], second["device"], second["ranks"]) == ("cpu", 2, "NVIDIA H200", 8)
    assert first["host"] == platform.node() and first["processor"] and first["time"] <= second["time"]
    assert first["versions"]["python"] == platform.python_version()
    assert provenance.starts(tmp_path / "nowhere") == []


def test_a_line_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.note(tmp_path / "gone", provenance.start({}, "cpu", 1))
    assert "the run goes on" in capsys.readouterr().err


def test_the_commit_is_that_of_this_tree() -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = head.stdout.strip() if head.returncode == 0 else ""
    assert (provenance.git_commit() or "").removesuffix("-dirty") == commit


def test_a_frozen_copy_knows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a.py").write_text("a = 1")
    (tmp_path / provenance.FROZEN).write_text(json.dumps({"commit": "c0ffee", "digest": "d1"}))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_commit() == "c0ffee"
    assert provenance.start({}, "cpu", 1)["code"] == "d1"
    (tmp_path / provenance.FROZEN).unlink()
    assert provenance.git_commit() is None
    before = provenance.code_digest()
    assert before == provenance.digest(tmp_path) and len(before) == 16
    (tmp_path / "zero" / "a.py").write_text("a = 2")
    assert provenance.code_digest() != before


def test_the_engine_that_samples_is_recorded_however_many_are_around_it(tokenizer: Any) -> None:
    settings = check("train", ["rollout=gold", "algo=sft", "environment=guess_number"])
    spec = ModelSpec(AutoConfig.from_pretrained(BASE), tokenizer, 64, torch.float32, torch.device("cpu"))
    gold = instantiate(without_facts(settings["rollout"]))(spec)
    environment, template = (instantiate(settings[key]) for key in ("environment", "template"))
    line = provenance.start({}, "cpu", 1)
    assert provenance.on_engine(line, EpisodeEngine(gold, environment, template, tokenizer, 64)).startswith(
        "engine   NativeEngine in float32"
    )
    assert line["engine"] == "NativeEngine"


def test_the_meaning_of_auto_is_recorded_and_another_engine_later_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = check("train", ["model=hf", f"model.path={BASE}"])["rollout"]
    config, tokenizer = AutoConfig.from_pretrained(BASE), AutoTokenizer.from_pretrained(BASE)
    engine = instantiate(settings)(ModelSpec(config, tokenizer, 64, torch.float32, torch.device("cpu")))
    first_start = provenance.start({}, "cpu", 1)
    line = provenance.on_engine(first_start, engine, "bfloat16")
    assert line == "engine   NativeEngine in float32, on cpu; the learner in bfloat16"
    assert provenance.other_engine(tmp_path, first_start) == "", "the first start"
    provenance.note(tmp_path, first_start)
    assert provenance.other_engine(tmp_path, first_start) == ""
    elsewhere = first_start | {"engine": "VllmEngine", "engine_precision": "bfloat16"}
    line = provenance.other_engine(tmp_path, elsewhere)
    assert "from NativeEngine in float32 and come from VllmEngine in bfloat16" in line
    steps = {"steps": 2}
    run_folder.begin(tmp_path, elsewhere, run_folder.Settings(steps, steps, {}, steps), 1)
    assert f"note: {line}" in capsys.readouterr().err

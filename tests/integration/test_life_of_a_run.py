"""How a run starts, stops, resumes and what it refuses: real runs, signals to real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from launch.submit import prepare
from launch.sweep.compose import launcher_settings
from tests.conftest import BASE
from tests.integration.runs import journal, reproducible, train_here, weights
from tests.warm import Process
from zero.algorithm import Algorithm
from zero.config.check import check
from zero.config.cli import command_line
from zero.distributed import World
from zero.errors import Broken, InputError
from zero.failures import explain_failures
from zero.learner.optimizer import Optimizer
from zero.learner.trainable import LOST, TrainableModule
from zero.rollout import NotFinite
from zero.run_folder import refuse_unless_adjustable, with_changes

TINY = (
    "steps=2",
    "curves=false",
    "prompts=4",
    "group_size=4",
    "evaluation.every=0",
    "sampling.max_tokens=24",
    "checkpoint.every=1",
    "benchmarks.limit=4",
    "samples.every=0",
)
CRITIC = "algo.critic.optimizer"


def begin(*words: str) -> Process:
    """Start a program of this package."""
    return Process(*words, cwd=Path.cwd())


def wait_for(path: Path, child: Process, lines: int = 0) -> None:
    while not path.exists() or path.read_text().count("\n") < lines:
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.02)


def test_ctrl_c_saves_once_and_stops_at_once_the_second_time(tmp_path: Path) -> None:
    """Also: a second process in the folder learns which one owns it; the same command names the step it resumes at."""
    run_dir = tmp_path / "run"
    words = ["zero.train", *TINY, "tracker=jsonl", f"run_dir={run_dir}", "steps=500", "checkpoint.every=0"]
    child = begin(*words)
    wait_for(run_dir / "metrics.jsonl", child, lines=2)
    other = begin(*words).communicate()[0]
    assert f"error: run_dir={run_dir}: is in use by process {child.pid} on " in other.splitlines()[-1], other
    child.send_signal(signal.SIGINT)
    text = child.communicate()[0]
    assert child.returncode == 75 and "Traceback" not in text, text
    assert "saving after this step; Ctrl-C again stops at once" in text
    done = journal(run_dir)[-1]["step"]
    assert f"Ctrl-C after step {done} of 500: saved; the same command continues" in text
    child = begin(*words)
    wait_for(run_dir / "metrics.jsonl", child, lines=done + 2)
    child.send_signal(signal.SIGINT)
    time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    text = child.communicate()[0]
    assert f"continues after step {done} of 500" in text and "Traceback" not in text
    assert child.returncode in (130, 75)  # 75: the step ended between the two
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["status"], result["target_steps"]) == ("preempted", 500)
    assert result["steps"] == journal(run_dir)[-1]["step"]


@pytest.mark.slow
def test_a_closed_terminal_during_the_first_evaluation_saves_that(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [
        *TINY,
        "benchmarks.limit=256",
        "questions.rows.heldout=256",
        "questions.rows.train=64",
        "sampling.max_tokens=128",
    ]
    child = begin("zero.train", *words, "tracker=jsonl", f"run_dir={run_dir}")
    wait_for(run_dir / "starts.jsonl", child, lines=1)
    child.send_signal(signal.SIGHUP)
    text = child.communicate()[0]
    assert child.returncode == 75 and "SIGHUP after step 0 of 2: saved" in text, text
    assert (run_dir / "checkpoints" / "step_000000").is_dir()
    before = journal(run_dir)
    train_here(run_dir, *words)
    assert journal(run_dir)[0] == before[0]  # step 0 was not evaluated again


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_program_whose_folder_another_copy_took_over_gives_way_in_one_line(tmp_path: Path, program: str) -> None:
    """Evaluation and training alike: exit code 76, no result, and answers given before are kept."""
    (tmp_path / "lease").write_text('{"token": "theirs"}')
    words = {
        "train": [*TINY, "tracker=jsonl"],
        "evaluate": ["benchmarks.limit=8", "at_once=4", "sampling.max_tokens=8"],
    }
    lease = os.environ | {"ZERO_LEASE": f"{tmp_path / 'lease'}:ours"}
    done = Process(
        f"zero.{program}", *words[program], f"run_dir={tmp_path / 'run'}", env=lease, errors=True
    ).completed()
    assert done.returncode == 76 and "Traceback" not in done.stderr, done.stderr
    assert "theirs has taken this run over; nothing more is written here" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    if program == "evaluate":
        (answers,) = (tmp_path / "run").glob("completions_*.jsonl")
        assert len(answers.read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("program", ["pretrain", "evaluate"])
def test_ctrl_c_saves_in_the_other_programs_too(tmp_path: Path, program: str) -> None:
    folder = tmp_path / "folder"
    words, file = {
        "pretrain": ([f"out={folder}", "corpus=nano_plain", "log_every=1", "sequences=2"], folder / "pretrain.jsonl"),
        "evaluate": ([f"run_dir={folder}", "at_once=4"], folder / "completions_nano_math.jsonl"),
    }[program]
    child = begin(f"zero.{program}", *words)
    wait_for(file, child, lines=1)
    child.send_signal(signal.SIGINT)
    text = child.communicate()[0]
    assert child.returncode == 75 and "Traceback" not in text and "saving after th" in text, text
    assert "saved; the same command continues" in text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps; copied before it is touched."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_here(folder, *TINY)
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_finished_run_says_so_and_names_settings_without_effect(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(finished, *TINY, "lens=every10")
    output = capsys.readouterr().out
    assert output.startswith("already finished on ") and "after 2 steps; nothing was run: lens.every=10" in output
    assert train_here(finished, *TINY, "debug=probe") == {"status": "probed"}
    assert "the longest step fits" in capsys.readouterr().out


def test_a_run_that_is_prolonged_equals_one_that_was_as_long_from_its_start(finished: Path, tmp_path: Path) -> None:
    train_here(tmp_path / "long", *TINY, "steps=4")
    train_here(finished, *TINY, "resume_with={steps:4}")
    lines, straight = reproducible(finished), reproducible(tmp_path / "long")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[3:] == straight[3:] and lines[1] == straight[1] and weights(finished) == weights(tmp_path / "long")
    assert straight[2].items() <= lines[2].items()  # its former end was evaluated
    starts = [json.loads(line) for line in (finished / "starts.jsonl").read_text().splitlines()]
    assert [(s["after_step"], s.get("resume_with")) for s in starts] == [(0, None), (2, {"steps": 4})]
    assert "steps: 2" in (finished / "config.yaml").read_text()  # the settings it began with
    assert "steps: 4" in (finished / "config_000002.yaml").read_text()
    before = journal(finished)
    for more in ((), ("steps=4",)):  # the command that it began with, and one with its present settings
        assert train_here(finished, *TINY, *more)["steps"] == 4
    assert journal(finished) == before


def test_the_identity_of_a_run_cannot_be_changed_in_its_folder(finished: Path, tmp_path: Path) -> None:
    for words, message in {
        "{algo.beta:0.1}": r"resume_with=algo.beta=0.1: is part of what the run is .*model.path=.*run/model",
        "optimizer=lora": r"optimizer=lora: holds settings of its own; give those that change, such as optimizer.lr=VALUE",
        "samples=3": "samples=3: holds settings of its own; .* such as samples.every=VALUE",
        "{prompts:8}": "prompts=8: is part of what the run is",
        "{learner:lora}": "trains other weights",
        "'learner=[torch]'": "no such option; there are deepspeed, ",
        "{optimizer.betas:0.9}": "optimizer.betas=0.9: optimizer.betas is a list",
        "'learner.micro_tokens={a: 1}'": "learner.micro_tokens is one value",
        "{optimizer.lt:0.1}": "no such setting; did you mean optimizer.lr",
        "{optimizer.lr:-1}": "optimizer.lr=-1: must be above 0",
        "{lens.every:5}": "give lens.every=5 by itself",
        "optimizer": "is no list of settings",
    }.items():
        with pytest.raises(InputError, match=message):
            train_here(finished, *TINY, f"resume_with={words}")
    with pytest.raises(InputError, match="there is no run in"):
        train_here(tmp_path / "new", *TINY, "resume_with={steps:4}")
    with pytest.raises(
        InputError, match=r"optimizer.lr: 0.0002 -> 0.1\); .*take them out and add resume_with='optimizer.lr=0.1'"
    ):
        train_here(finished, *TINY, "optimizer.lr=0.1")


def test_a_diverged_policy_is_one_line_and_goes_on_with_a_lower_rate(tmp_path: Path) -> None:
    words = (*TINY, "optimizer.lr=1e30", "optimizer.warmup=0", "sync_check.every=0")
    message = (
        r"not finite.*in step 1: gradient norm .*add resume_with='optimizer.lr=1e\+29': .* from checkpoint step_000001"
    )
    with pytest.raises(Broken, match=message):
        train_here(tmp_path / "run", *words)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["steps"], result["target_steps"]) == ("failed", 1, 2)
    train_here(tmp_path / "run", *words, "resume_with={optimizer.lr:1e-5}")
    assert journal(tmp_path / "run")[-1]["loss/learning_rate"] == pytest.approx(1e-5)


def test_checkpoints_that_hold_the_diverged_weights_are_named(tmp_path: Path) -> None:
    places = [tmp_path / "checkpoints" / f"step_{step:06d}" for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    for place, ending in zip(places, ("the start", "checkpoint step_000001"), strict=True):
        place.mkdir(parents=True)
        lost = int(place.name[-1])
        message = (
            rf"not finite after {lost} steps.*: remove {place}, whose weights are lost.* add resume_with=.*{ending}$"
        )
        with pytest.raises(Broken, match=message), explain_failures(tmp_path, check("train", [])):
            raise NotFinite(lost)


def test_adapters_go_on_with_another_learner_and_keep_their_size() -> None:
    config = check("train", ["learner=lora", "learner.lora.rank=4"])
    refuse_unless_adjustable("learner", "deepspeed_lora", config, Path("run"))
    learner = with_changes(config, {"learner": "deepspeed_lora"})["learner"]
    assert learner["_target_"] == "zero.learner.deepspeed.DeepSpeedLearner" and learner["lora"]["rank"] == 4
    assert learner["stage"] == 2 and learner["micro_tokens"] == config["learner"]["micro_tokens"]
    with pytest.raises(InputError, match="trains other weights"):
        refuse_unless_adjustable("learner", "deepspeed", config, Path("run"))


def test_a_run_cannot_go_on_where_its_checkpoints_are_gone_or_further(finished: Path) -> None:
    before = journal(finished)
    (finished / "result.json").write_text('{"status": "preempted", "steps": 2}')
    with pytest.raises(InputError, match="steps=1: the run has taken 2 steps already"):
        train_here(finished, *TINY, "resume_with={steps:1}")
    (finished / "result.json").write_text('{"status": "finished", "steps": 2}')
    shutil.rmtree(finished / "checkpoints")
    with pytest.raises(
        InputError, match=r"its checkpoints are gone; train on from its weights: model.path=.*run/model"
    ):
        train_here(finished, *TINY, "resume_with={steps:4}")
    assert journal(finished) == before


def test_a_diverged_critic_names_the_rate_of_the_critic(tmp_path: Path) -> None:
    critic = TrainableModule(
        torch.nn.Linear(1, 1), Optimizer(0.1, (0.9, 0.9), 0, 0, 0, "constant", 0), 1, World(), setting=CRITIC
    )
    config = check("train", ["algo=ppo", f"{CRITIC}.lr=0.1"])
    for step in (2, 3, 4):
        (tmp_path / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    lines = [{"step": step} | ({"critic/skipped_updates": 1.0} if step > 3 else {}) for step in range(5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = (
        f"is nan, and 7 before it were not finite: lower {CRITIC}.lr; .* remove .*step_000003 .*step_000004, whose "
    )
    message += f".* add resume_with='{CRITIC}.lr=0.01': it goes on from checkpoint step_000002"
    with pytest.raises(Broken, match=message), explain_failures(tmp_path, config):
        for _ in range(LOST):
            critic.module(torch.full((1, 1), torch.nan)).sum().backward()
            critic.step()


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted_and_a_resumed_run_does_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss, seen = Algorithm.loss, 0

    def broken(self: Algorithm, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        value, sums = loss(self, *arguments)
        return value * (torch.nan if seen in bad else 1.0), sums

    monkeypatch.setattr(Algorithm, "loss", broken)
    bad = range(0)
    train_here(tmp_path / "counts", *TINY, "steps=1")
    a_step, words = seen, (*TINY, "steps=3", "checkpoint.every=1", "checkpoint.keep=9")
    seen, bad = 0, range(a_step + 1, 2 * a_step + 1)
    train_here(tmp_path / "whole", *words)
    lines = journal(tmp_path / "whole")
    assert [line.get("loss/skipped_updates") for line in lines] == [None, None, 1.0, None]
    assert lines[2]["loss/grad_norm"] is None and lines[3]["loss/grad_norm"] > 0
    assert "gradient norm of optimizer step 1 is nan: skipped" in capsys.readouterr().err
    first, second = (tmp_path / "whole" / "checkpoints" / f"step_00000{i}" / "policy.safetensors" for i in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_000003")
    (tmp_path / "resumed" / "result.json").unlink()
    bad = range(0)
    train_here(tmp_path / "resumed", *words)
    assert reproducible(tmp_path / "resumed") == reproducible(tmp_path / "whole")
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_a_refused_run_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = "reward.terms.mine.function=nomod.f: nothing of that name can be imported"
    words = ["reward.terms.mine.function=nomod.f", f"run_dir={tmp_path / 'run'}"]
    for argv in (words, ["-m", "reward.terms.mine.function=nomod.f", "seed=0,1"]):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", ["train", *argv])
            command_line("train", lambda: pytest.fail("it started"))
        assert end.value.code == 2 and lost.split("=")[1] in capsys.readouterr().err
    for more in (
        ("reward.terms.mine.function=nomod.f",),
        ("model.context=4",),
        ("algo.estimator={_target_: nomod.f, _partial_: true}",),
    ):
        with pytest.raises(InputError):
            train_here(tmp_path / "run", *TINY, *more)
        assert not (tmp_path / "run").exists(), more
    for launcher in ("local", "slurm"):
        with pytest.raises(InputError, match=r"nomod\.f: nothing of that name"):
            prepare(
                "train", [words[0], "seed=0,1"], launcher_settings([f"hydra/launcher={launcher}"], launcher), dry=True
            )
        own = {**launcher_settings([f"hydra/launcher={launcher}"], launcher), "python": "apptainer exec i.sif python"}
        assert "nomod.f" in " ".join(prepare("train", [words[0], "seed=0,1"], own, dry=True).notes)


def test_out_of_memory_is_one_line_with_settings_that_need_less(tmp_path: Path) -> None:
    config = check("train", [])
    needs_less = r"out of memory \(.*resume_with='learner.micro_tokens=1024 learner.gradient_checkpointing=true'"
    with pytest.raises(Broken, match=needs_less), explain_failures(tmp_path, config):
        torch.empty(2**50)


DAMAGE = {
    "result.json": ('{"status": "fini', "its result.json is damaged .*remove that file"),
    "config.yaml": ("steps: [2", "its config.yaml is damaged .*restore it"),
    "questions.yaml": ("", "its questions.yaml is damaged"),
    "checkpoints": ("[]", "no checkpoint is left that can be read .*step_000001, step_000002 are damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_folder_is_one_line_and_keeps_its_journal(finished: Path, name: str) -> None:
    text, message = DAMAGE[name]
    if name != "result.json":
        (finished / "result.json").unlink()
    paths = (finished / name).glob("*/manifest.json") if name == "checkpoints" else [finished / name]
    for path in paths:
        path.write_text(text)
    before = journal(finished)
    with pytest.raises(InputError, match=message):
        train_here(finished, *TINY)
    assert journal(finished) == before


def test_a_model_that_changed_is_refused(tmp_path: Path) -> None:
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    words = (*TINY, "steps=1", f"model.path={base}", f"run_dir={tmp_path / 'run'}")
    train_here(tmp_path / "run", *words)
    (tmp_path / "run" / "result.json").unlink()
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values()))[0, 7] += 1e-3
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"model.path=.*base: its model has changed since the run began"):
        train_here(tmp_path / "run", *words)

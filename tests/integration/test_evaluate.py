"""Whole evaluations as a user starts them: killed and resumed to the same bytes, and of a run's checkpoints."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tests.conftest import ROOT
from tests.integration.runs import journal, train_here
from tests.warm import Process
from zero.config.check import check, quoted
from zero.errors import InputError
from zero.evaluate import run
from zero.models.weights import as_computed, weights_of
from zero.paths import CONF
from zero.subjects import paths_of, read_run, with_run
from zero.tracking.provenance import FILE as STARTS

SETS = ("nano_math", "nano_gsm", "nano_asdiv", "nano_countdown")
SMALL = ["benchmarks.limit=24", "n=2", "k=[1,2]", "sampling=default", "sampling.max_tokens=48", "at_once=8"]
SMALL += [f"benchmarks.sets.{name}.rows.train=64" for name in SETS]  # building them takes longer than the answers


def config_of(*overrides: str) -> dict[str, Any]:
    """As `main` and `task` build it."""
    check("evaluate", overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return with_run(compose("evaluate", overrides=list(overrides)), overrides)


def evaluate_here(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """In this process."""
    return run(config_of(*overrides, f"run_dir='{run_dir}'"), run_dir.name, {})


def start(run_dir: Path, *overrides: str) -> Process:
    return Process("zero.evaluate", *overrides, f"run_dir={run_dir}")


def files(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name not in ("config.yaml", STARTS)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; its name has a `=`, as names of runs do."""
    folder = tmp_path_factory.mktemp("trained") / "steps=6"
    train_here(folder.parent / "made", "checkpoint.keep=9", "evaluation.every=2", "evaluation.n=2")
    return (folder.parent / "made").rename(folder)


def test_after_a_kill_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    straight = evaluate_here(tmp_path / "straight", *SMALL)
    killed = tmp_path / "killed"
    process = start(killed, *SMALL)
    file = killed / "completions_nano_gsm.jsonl"  # the second of four sets
    deadline = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.communicate()[0]
    assert not (killed / "result.json").exists()
    capfd.readouterr()
    evaluate_here(killed, *SMALL)
    out, err = capfd.readouterr()
    assert "macro average" in out
    assert "nano_math" not in err and "nano_countdown: 4 of 24 questions" in err  # the first set was done
    assert files(killed) == files(tmp_path / "straight")
    assert straight["evaluation"].keys() == set(SETS)
    for name in SETS:
        numbers = straight["evaluation"][name]
        assert (numbers["questions"], numbers["n"]) == (24, 2)
        assert numbers[f"eval/{name}/pass@2"] >= numbers[f"eval/{name}/accuracy"] == numbers[f"eval/{name}/pass@1"]
    mean = sum(straight["evaluation"][name][f"eval/{name}/accuracy"] for name in SETS) / 4
    assert straight["macro"]["eval/macro/accuracy"] == pytest.approx(mean)


def test_a_finished_evaluation_samples_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate_here(tmp_path, *SMALL)
    monkeypatch.setattr("zero.rollout.native.NativeEngine.generate", lambda *_: pytest.fail("it sampled again"))
    assert evaluate_here(tmp_path, *SMALL) == first
    # another view of the same answers
    more = evaluate_here(tmp_path, *SMALL, "k=[2]", "published=Qwen/Qwen2.5-Math-7B")
    assert more["evaluation"]["nano_math"].items() >= {("n", 2), ("questions", 24)}
    with pytest.raises(InputError, match=r"other settings .*seed: 0 -> 1"):
        evaluate_here(tmp_path, *SMALL, "seed=1")


def test_checkpoints_measure_as_the_run_itself_did(trained: Path, tmp_path: Path) -> None:
    result = evaluate_here(tmp_path / "all", f"run='{trained}'", "step=all")
    assert list(result["steps"]) == ["2", "4", "6"]
    for line in journal(trained):
        if line["step"] in (2, 4, 6):
            measured = result["steps"][str(line["step"])]["evaluation"]["nano_math"]
            theirs = {name: value for name, value in line.items() if name.startswith("eval/")}
            assert theirs and measured.items() >= theirs.items()
    assert result["evaluation"] == result["steps"]["6"]["evaluation"]
    lines = [json.loads(t) for t in (tmp_path / "all/step_000004/completions_nano_math.jsonl").read_text().splitlines()]
    saved = (trained / "completions" / "eval_nano_math_000004.jsonl").read_text().splitlines()
    assert lines == [json.loads(text) for text in saved]


@pytest.mark.parametrize("learner", ["torch", "lora"])
def test_a_run_with_rounded_weights_is_evaluated_with_rounded_weights(learner: str, tmp_path: Path) -> None:
    """A checkpoint holds weights in a higher precision than those that the run computed with and exported."""
    tiny = ["steps=1", "prompts=2", "group_size=1", "benchmarks.limit=2", "optimizer.warmup=1", "checkpoint.every=1"]
    run_dir = tmp_path / "run"
    train_here(
        run_dir,
        *tiny,
        "algo=sft",
        "rollout=gold",
        f"learner={learner}",
        "learner.precision=bfloat16",
        "model.dtype=float32",
    )
    config = read_run(str(run_dir))

    def weights(folder: str) -> dict[str, Any]:
        return dict(weights_of(run_dir / folder, config["model"], config["learner"].get("lora")))

    saved, exported = weights("checkpoints/step_000001"), weights("model")
    assert saved.keys() == exported.keys() and any(not torch.equal(saved[name], exported[name]) for name in saved)
    seen = dict(as_computed(saved.items(), run_dir))
    assert all(torch.equal(seen[name].float(), exported[name].float()) for name in saved)


def test_a_step_of_a_run_and_the_trained_model(trained: Path, tmp_path: Path) -> None:
    before = evaluate_here(tmp_path / "zero", f"run='{trained}'", "step=0")["evaluation"]["nano_math"]
    assert before.items() >= {n: v for n, v in journal(trained)[0].items() if n.startswith("eval/")}.items()
    last = evaluate_here(tmp_path / "last", f"run='{trained}'")
    checkpoint = trained / "checkpoints" / "step_000006"
    aside = checkpoint.rename(trained / "aside")
    try:
        exported = evaluate_here(tmp_path / "exported", f"run='{trained}'")
    finally:
        aside.rename(checkpoint)
    assert exported["evaluation"] == last["evaluation"] and list(last["steps"]) == ["6"]


def test_typed_settings_take_precedence_over_those_of_the_run(trained: Path) -> None:
    typed = ["template=r1", "sampling.temperature=0.5", "benchmarks=heldout", "benchmarks.limit=5"]
    config = config_of(f"run='{trained}'", *typed)
    assert config["template"]["name"] == "r1"
    assert config["sampling"] == {"max_tokens": 48, "temperature": 0.5, "top_p": 1.0, "top_k": 0}
    assert (config["n"], config["seed"], config["benchmarks"]["limit"]) == (2, 0, 5)
    assert config["benchmarks"]["sets"]["heldout"]["rows"]["train"] == 64  # of the run's own questions


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run={run}", "step=5"], "step=5: no such step in .*; there are 0, 2, 4, 6 and all"),
        (["run={run}", "step=latest"], "step=latest: no such step"),
        (["run={run}", "step=true"], "step=True: no such step"),
        (["run={run}/checkpoints"], "is no folder of a training run"),
        (["run={evaluated}"], "is no folder of a training run"),
        (["step=2"], r"step=2: belongs to a training run; add run=FOLDER"),
        (["benchmarks=heldout"], r"benchmarks.sets.heldout=null: .* name one \(questions=...\)"),
        (["at_once=0"], "at_once=0: must be above 0"),
        (["run={run}", "n=1", "k=[2]"], "k=2: pass@k needs"),
        (
            ["n=2", "sampling=greedy"],
            "n=2: at temperature 0 all answers to a question are the same; add sampling=default",
        ),
        (["benchmarks.sets.nano_gsm.name=nano_math"], "benchmarks=nano_math: names a benchmark twice"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    trained: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "config.yaml").write_text("model: {}\n")
    options = [
        o.replace("{run}", f"'{trained}'").replace("{evaluated}", str(tmp_path / "evaluated")) for o in overrides
    ]
    options = [o.replace("'/checkpoints", "/checkpoints'") for o in options]
    with pytest.raises(InputError, match=message) as caught:
        evaluate_here(tmp_path / "out", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_and_other_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    path = trained / "checkpoints" / "step_000002" / "policy.safetensors"
    data = path.read_bytes()
    try:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(InputError, match=r"step=step_000002: .*damaged \(policy.safetensors has changed\)"):
            evaluate_here(tmp_path / "damaged", f"run='{trained}'", "step=2")
    finally:
        path.write_bytes(data)
    model, other = trained / "model", tmp_path / "model"
    small = ["model=hf", "benchmarks.limit=4", "benchmarks=heldout", "questions=nano_gsm", f"model.path={other}"]
    other.symlink_to(model)
    evaluate_here(tmp_path / "out", *small)
    other.unlink()
    other.symlink_to(ROOT / "zero" / "nano" / "base")
    with pytest.raises(InputError, match="holds answers of other weights"):
        evaluate_here(tmp_path / "out", *small)


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("run=runs/a-steps=3", "run='runs/a-steps=3'"),
        ("run='runs/a=b'", "run='runs/a=b'"),
        ("run=runs/a", "run=runs/a"),
        ("step=all", "step=all"),
    ],
)
def test_names_of_runs_need_no_quotes(typed: str, seen: str) -> None:
    assert quoted(typed) == seen


def test_a_stray_folder_among_the_checkpoints_is_not_taken_for_a_step(tmp_path: Path) -> None:
    for name in ("step_000002", "step_x", "step_"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert paths_of({"run": str(tmp_path), "step": "all"}) == {2: tmp_path / "checkpoints" / "step_000002"}

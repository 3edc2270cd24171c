"""What single algorithms need of a run: more rounds of questions, solutions, a critic, a KL in the reward. That each of them
learns: test_golden.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.runs import SMALL, journal, killed, reproducible, train_here, weights
from zero.config.check import check
from zero.train import run


@pytest.mark.slow
def test_dynamic_sampling_replaces_groups_without_signal_and_survives_a_kill(tmp_path: Path) -> None:
    options = ["algo=dapo", "group_size=2", "prompts=6", "steps=4", "checkpoint.every=1", "sampling.max_tokens=32"]
    train_here(tmp_path / "straight", *options)
    lines = reproducible(tmp_path / "straight")
    prompts = [line["tokens/prompt"] for line in lines[1:]]
    train_here(tmp_path / "plain", *options, "algo.resample_rounds=0")
    plain = [line["tokens/prompt"] for line in reproducible(tmp_path / "plain")[1:]]
    assert all(line["groups/zero_advantage"] > 0.5 for line in lines[1:])  # two siblings of a weak model mostly agree
    assert all(2 * few < many <= 5 * few for many, few in zip(prompts, plain, strict=True))
    killed(tmp_path / "cut", 2, *options)
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == lines
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


def test_supervised_learning_on_the_solutions_goes_through_the_same_loop(tmp_path: Path) -> None:
    options = [
        "algo=sft",
        "rollout=gold",
        "group_size=1",
        "prompts=16",
        "steps=4",
        "sampling.max_tokens=64",
        "optimizer.warmup=1",
    ]
    train_here(tmp_path / "run", *options, "evaluation.every=4", "benchmarks.limit=8")
    lines = journal(tmp_path / "run")
    assert all(line["train/accuracy"] == 1 and line["length/truncated"] == 0 for line in lines[1:])
    assert lines[4]["loss/policy"] < lines[1]["loss/policy"]
    of_samples = [name for line in lines for name in line if name.startswith("mismatch/")]
    assert set(of_samples) <= {"mismatch/canary"}  # nothing was sampled except for evaluation
    assert lines[4]["eval/nano_math/length"] != lines[0]["eval/nano_math/length"]  # evaluation does sample
    before = journal(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    train_here(tmp_path / "run", *options, "evaluation.every=4", "benchmarks.limit=8")
    assert journal(tmp_path / "run") == before


def test_sampled_completions_of_a_file_are_learnt_from_as_solutions(tmp_path: Path) -> None:
    """Distillation: one row a completion, several of them for a question, under the file's own column names."""
    rows = [
        {"q": f"Start with {i}, add 1. What is the result?", "a": str(i + 1), "completion": f"{way}\\boxed{{{i + 1}}}."}
        for i in range(40)
        for way in (f"{i}+1={i + 1}.\nThe answer is ", "So it is ")
    ]
    file = tmp_path / "completions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["questions.question=q", "questions.answer=a", "questions.solution=completion", "questions.heldout=8"]
    small = [option for option in SMALL if not option.startswith("questions.")]
    config = check(
        "train",
        [
            *small,
            "tracker=jsonl",
            f"run_dir={tmp_path / 'run'}",
            "algo=sft",
            "rollout=gold",
            "group_size=2",
            "questions=file",
            f"questions.path={file}",
            *columns,
            "optimizer.warmup=1",
        ],
    )
    run(config, {}, "run")
    lines = journal(tmp_path / "run")[1:]
    assert all(line["train/accuracy"] == 1 for line in lines) and lines[-1]["loss/policy"] < lines[0]["loss/policy"]
    responses = [json.loads(line) for line in (tmp_path / "run/completions/step_000002.jsonl").read_text().splitlines()]
    pairs = [{responses[i]["response"], responses[i + 1]["response"]} for i in range(0, len(responses), 2)]
    assert len(pairs) == 4 and all(len(pair) == 2 for pair in pairs)


@pytest.mark.parametrize("name", ["ppo", pytest.param("vineppo", marks=pytest.mark.slow)])
def test_a_run_with_a_critic_survives_a_kill(name: str, tmp_path: Path) -> None:
    options = [f"algo={name}", "updates=2", "steps=4", "checkpoint.every=1", "sampling.max_tokens=32"]
    train_here(tmp_path / "straight", *options)
    lines = reproducible(tmp_path / "straight")
    assert any(line.get("critic/explained_variance", line["step"]) for line in lines[1:])
    killed(tmp_path / "cut", 2, *options)
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == lines
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


@pytest.mark.parametrize("name", ["drgrpo", "ppo"])
def test_a_kl_in_the_reward_reaches_the_policy(name: str, tmp_path: Path) -> None:
    options = [f"algo={name}", "steps=3", "optimizer.warmup=1", "optimizer.lr=1e-3", "sampling.max_tokens=32"]
    penalty = ["algo.kl_in=reward", "algo.kl._target_=zero.objective.k1"]
    train_here(tmp_path / "free", *options, "algo.measure_kl=true")
    train_here(tmp_path / "held", *options, *penalty, "algo.beta=1.0")
    free, held = journal(tmp_path / "free"), journal(tmp_path / "held")
    assert held[1]["train/reward"] == free[1]["train/reward"]  # the reward that is shown is the answer's own
    assert held[1]["loss/kl"] == pytest.approx(0, abs=1e-5)  # the first step is the reference's
    assert weights(tmp_path / "free") != weights(tmp_path / "held")

"""Every learner, critic and algorithm, and what else a run may have, with episodes: each in a tiny real run. Half of the turns
begin with a whole new prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.integration.runs import SMALL, journal, killed, reproducible, texts, train_here, weights
from tests.integration.test_ranks import end, start
from zero.errors import InputError

WORLD = [
    "environment=own",
    "environment.make._target_=tests.integration.test_environments.Thirds",
    "environment.isolated=false",
    "environment.turns=3",
    "environment.turn_tokens=6",
    "reward=environment",
]
TINY = [
    "steps=2",
    "prompts=2",
    "sampling.max_tokens=16",
    "evaluation.every=2",
    "benchmarks.limit=2",
    "optimizer.warmup=0",
]
GOLD = ["rollout=gold", "algo=sft", "group_size=1"]
CREDIT = "algo.turn_advantage={_target_: zero.objective.turn_group_mean, _partial_: true, gamma: 0.9}"
RUNS = {
    "adapters, KL to the reference": ["learner=lora", "algo=grpo", "algo.beta=0.05", "updates=2"],
    "GSPO": ["algo=gspo", "updates=2"],
    "RLOO, KL in the reward of turns": ["algo=rloo", "algo.beta=0.05", "algo.kl_in=reward", CREDIT],
    "a learned critic of tokens, two epochs": ["algo=ppo", "epochs=2"],
    "a learned critic of turns": ["algo=ppo", "algo.critic.steps=turn"],
    "sampled values": ["algo=vineppo", "algo.critic.every=3", "algo.critic.samples=2"],
    "dynamic sampling": ["algo=dapo", CREDIT],
    "micro-batches of one episode, checkpointing": ["learner.micro_tokens=1", "learner.gradient_checkpointing=true"],
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, id=name, marks=[pytest.mark.slow] * ("learner=lora" in o)) for name, o in RUNS.items()],
)
def test_it_learns_from_episodes(options: list[str], tmp_path: Path) -> None:
    train_here(tmp_path / "run", *WORLD, *TINY, *options)
    lines = journal(tmp_path / "run")[1:]
    assert any(line["loss/grad_norm"] > 0 for line in lines)
    for line in lines:
        assert line["mismatch/logprob_gap_max"] < 1e-3, "engine and learner see the same contexts"
        assert line["episode/turns"] > 1 and line["tokens/generated"] <= 8 * 16 * 3
    if "algo.beta=0.05" in options:
        assert lines[-1]["loss/kl"] != 0
    if "algo=ppo" in options:
        assert all(line["critic/grad_norm"] > 0 for line in lines)
    if "algo=vineppo" in options:
        assert all(line["critic/tokens"] > 0 for line in lines)


@pytest.mark.slow
def test_sources_of_a_mixture_go_on_in_their_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.runs.SMALL", [text for text in SMALL if not text.startswith("questions.")])
    rows = [f"questions.sources.{name}.questions.rows.train=64" for name in ("nano_math", "nano_gsm")]
    own = ["questions=mixture", *rows, "+template@questions.sources.nano_gsm.template=r1", "curriculum=band"]
    train_here(tmp_path / "run", *WORLD, *TINY, *own, "samples.every=1")
    assert all(line["mismatch/logprob_gap_max"] < 1e-3 for line in journal(tmp_path / "run")[1:])
    table = [json.loads(row) for text in texts(tmp_path / "run").values() for row in text.splitlines()]
    again = [row for row in table if len(row["turns"]) > 1]
    assert {row["kind"] for row in again} == {"nano_math", "nano_gsm"}
    assert all(("The User asks" in row["response"]) == (row["kind"] == "nano_gsm") for row in again)


def test_rounded_weights_learn_from_episodes(tmp_path: Path) -> None:
    """The engine samples in float32, so that the gap is that of bfloat16 alone."""
    train_here(tmp_path / "run", *WORLD, *TINY, "steps=1", "evaluation.every=0", "learner.precision=bfloat16")
    line = journal(tmp_path / "run")[-1]
    assert line["loss/grad_norm"] > 0 and 0 < line["mismatch/logprob_gap"] < 0.05


@pytest.mark.parametrize("environment", ["navigation", "guess_number"])
def test_reference_episodes_are_learnt_turn_by_turn(environment: str, tmp_path: Path) -> None:
    gold = [f"environment={environment}", "model=nano", *GOLD, "optimizer.lr=3e-3"]
    train_here(tmp_path / "run", *gold, *TINY, "prompts=8", "steps=3", "evaluation.every=3", "sampling.max_tokens=200")
    lines = journal(tmp_path / "run")[1:]
    assert all(line["train/accuracy"] == line["episode/done"] == 1 for line in lines), "what is shown is right"
    assert lines[-1]["loss/policy"] < lines[0]["loss/policy"] and lines[0]["episode/turns"] > 1


@pytest.mark.slow
def test_episodes_sampled_a_step_ahead_go_on_after_a_kill_to_the_same_bits(tmp_path: Path) -> None:
    stale = [*WORLD, *TINY, "rollout.staleness=1", "steps=3", "evaluation.every=3", "checkpoint.every=1", CREDIT]
    train_here(tmp_path / "whole", *stale)
    assert [line["mismatch/staleness"] for line in journal(tmp_path / "whole")[1:]] == [0, 1, 1]
    killed(tmp_path / "cut", 1, *stale)
    train_here(tmp_path / "cut", *stale)
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[CREDIT], ["algo=ppo", "algo.critic.steps=turn"]], ids=["turns", "critic"])
def test_two_ranks_play_the_episodes_of_one(options: list[str], tmp_path: Path) -> None:
    line = [*WORLD, *TINY, "samples.every=1", *options]
    assert end(start(tmp_path / "two", *line)) == [0, 0]
    train_here(tmp_path / "one", *line, "checkpoint.every=1")
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    for one, two in zip(*(reproducible(tmp_path / name) for name in ("one", "two")), strict=True):
        played = [name for name in one if name.startswith(("episode/", "turn/", "turns/", "train/", "eval/"))]
        assert {name: two[name] for name in played} == {name: one[name] for name in played}
        if "loss/grad_norm" in one:
            assert two["loss/grad_norm"] == pytest.approx(one["loss/grad_norm"], rel=1e-3)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all((first[key] - second[key]).abs().max() < 1e-4 for key in first)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([*GOLD, "environment.turn_tokens=60", "sampling.max_tokens=130"], "turn 2, has no solution: rollout=gold"),
        (["rollout.staleness=1", "algo=dapo"], r"rollout\.staleness=1: this algorithm resamples after grading"),
        (["algo=ppo", CREDIT], r"algo\.turn_advantage=.*this algorithm has an estimator"),
        ([CREDIT.replace("0.9", "2.0")], r"algo\.turn_advantage\.gamma=2\.0: must lie between 0 and 1"),
        (["algo=reinforce", "group_size=1", CREDIT], r"group_size=1: algo\.turn_advantage compares siblings"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line) as refusal:
        train_here(tmp_path / "run", *WORLD, *TINY, *options)
    assert "\n" not in str(refusal.value)

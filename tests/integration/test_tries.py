"""Several tries at a question: any algorithm, the same bits again, and accuracy that stays pass@1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import reproducible, texts, train_here, weights
from tests.integration.test_evaluate import evaluate_here
from zero.errors import InputError

MANY = ["environment=tries", "questions=nano_countdown", "sampling.max_tokens=128", "optimizer.warmup=1"]
TINY = ["steps=3", "evaluation.every=3", "benchmarks.limit=8", "checkpoint.every=1", "samples.every=1"]


def without_tries(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    new = ("tries/", "episode/", "turn/", "turns/", "eval/nano_countdown/solved", "eval/nano_countdown/tries")
    new += ("eval/nano_countdown/turns", "eval/nano_countdown/reward")
    return [{name: value for name, value in line.items() if not name.startswith(new)} for line in lines]


@pytest.mark.parametrize("algo", ["drgrpo", "ppo", pytest.param("vineppo", marks=pytest.mark.slow)])
def test_an_algorithm_learns_from_several_tries_and_resumes_to_the_bit(algo: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_here(run_dir, f"algo={algo}", *MANY, *TINY)
    lines, trained, completions = reproducible(run_dir), weights(run_dir), texts(run_dir)
    assert any(line["loss/grad_norm"] > 0 for line in lines[1:])
    for line in lines[1:]:
        assert line["tries/mean"] > 1.2 and line["tries/solved"] >= line["train/accuracy"]
        assert line["mismatch/logprob_gap_max"] < 1e-4  # the learner sees exactly the sampler's context
        rows = [json.loads(row) for row in completions[f"step_{line['step']:06d}.jsonl"].splitlines()]
        assert len(rows) == 16 and sum(row["tokens"] for row in rows) == line["tokens/generated"]
        assert all(row["observed"] > 0 and row["tokens"] <= 128 for row in rows if len(row["turns"]) > 1)
        again = [row for row in rows if len(row["turns"]) > 1]
        assert all("\nYou failed this trial because " in row["response"] for row in again)
        assert not any("You failed" in turn["text"] for row in rows for turn in row["turns"])
    for line in (lines[0], lines[3]):
        assert line["eval/nano_countdown/tries"] > 1
        assert line["eval/nano_countdown/solved"] >= line["eval/nano_countdown/accuracy"]
    (run_dir / "result.json").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "step_000003")
    train_here(run_dir, f"algo={algo}", *MANY, *TINY)
    assert (reproducible(run_dir), weights(run_dir), texts(run_dir)) == (lines, trained, completions)


def test_one_attempt_is_the_inner_engine_and_more_keep_its_accuracy(tmp_path: Path) -> None:
    plain = ["questions=nano_countdown", "sampling.max_tokens=128", *TINY, "steps=1", "evaluation.every=1"]
    train_here(tmp_path / "native", *plain)
    train_here(tmp_path / "once", *plain, "environment=tries", "environment.make.attempts=1")
    train_here(tmp_path / "many", *plain, "environment=tries")
    native, single, many = (reproducible(tmp_path / name) for name in ("native", "once", "many"))
    assert without_tries(single) == native != single and weights(tmp_path / "once") == weights(tmp_path / "native")
    assert [line["eval/nano_countdown/tries"] for line in single] == [1.0, 1.0]
    for name in ("accuracy", "accuracy_low", "accuracy_high"):
        assert many[0][f"eval/nano_countdown/{name}"] == native[0][f"eval/nano_countdown/{name}"]
    assert many[1]["train/accuracy"] == native[1]["train/accuracy"]
    assert many[1]["tries/mean"] > 1


def test_the_games_of_cards_and_another_template(tmp_path: Path) -> None:
    options = ["questions=general_points", "template=qwen_math", "reward=general_points", "sampling.max_tokens=96"]
    turn = 'environment.say="<|im_end|>\n<|im_start|>user\n{observation}<|im_end|>\n<|im_start|>assistant\n"'
    train_here(tmp_path / "run", "environment=tries", *options, *TINY, "steps=1", turn)
    assert reproducible(tmp_path / "run")[1]["tries/mean"] > 1
    rows = [json.loads(row) for row in texts(tmp_path / "run")["step_000001.jsonl"].splitlines()]
    again = [row["response"] for row in rows if len(row["turns"]) > 1]
    assert all("<|im_end|>\n<|im_start|>user\n" in text and "<|im_end|><|im_end|>" not in text for text in again)


def test_a_model_is_measured_with_feedback(tmp_path: Path) -> None:
    options = ["benchmarks=heldout", "questions=nano_countdown", "benchmarks.limit=12", "sampling.max_tokens=128"]
    few = ["questions.rows.train=64", "questions.rows.heldout=16", "sampling=default", "n=2", "at_once=8", "k=[1,2]"]
    plain = evaluate_here(tmp_path / "plain", *options, *few)["evaluation"]["nano_countdown"]
    # the embedded model can use another attempt
    again = [*few, "environment=tries", 'environment.make.turn="{question}"']
    got = evaluate_here(tmp_path / "feedback", *options, *again)["evaluation"]["nano_countdown"]
    assert got["eval/nano_countdown/tries"] > 1 and "eval/nano_countdown/tries" not in plain
    assert got["eval/nano_countdown/solved"] > got["eval/nano_countdown/accuracy"]
    for name in ("accuracy", "pass@1", "pass@2"):
        assert got[f"eval/nano_countdown/{name}"] == plain[f"eval/nano_countdown/{name}"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["questions=nano_math", "environment=tries"], "has no numbers and target"),
        (
            [*MANY, "environment.make.explain._target_=zero.grading.explain.nothing"],
            "nothing of that name can be imported",
        ),
        ([*MANY, "environment.make.turn=no"], r"environment\.make\.turn=no: must hold \{message\}"),
        ([*MANY, "environment.make.attempts=0"], r"environment\.make\.attempts=0: must be above 0"),
        ([*MANY, "environment.say=no"], r"environment\.say=no: must hold \{observation\}"),
        ([*MANY, "environment.turns=0"], r"environment\.turns=0: must be above 0"),
        ([*MANY, "environment.make._target_=zero.environments.tries.Trial"], "nothing of that name can be imported"),
    ],
)
def test_impossible_settings_are_one_line(options: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        train_here(tmp_path / "run", *options, *TINY, "steps=1")

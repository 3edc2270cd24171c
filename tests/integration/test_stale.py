"""rollout.staleness=1: a step's samples come from the weights before the last update, and a resumed run has the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.runs import journal, killed, reproducible, texts, train_here, weights
from tests.integration.test_ranks import end, start
from zero.errors import InputError

STALE = ["rollout.staleness=1", "steps=4", "checkpoint.every=1", "checkpoint.keep=9", "samples.every=1", "prompts=12"]


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stale") / "run"
    train_here(folder, *STALE)
    return folder


def test_every_token_is_one_step_old_but_the_first_steps(stale: Path) -> None:
    assert [line["mismatch/staleness"] for line in journal(stale)[1:]] == [0, 1, 1, 1]
    assert max(line["mismatch/canary"] for line in journal(stale) if "mismatch/canary" in line) < 1e-4
    late = [line["mismatch/logprob_gap"] for line in journal(stale)[1:]]
    assert late[0] < 1e-5 < 1e-4 < min(late[1:])  # the update that the sampler had not received


def test_they_are_the_samples_of_the_weights_before(stale: Path, tmp_path: Path) -> None:
    """With a tiny learning rate step 1 samples from the initial weights, as the stale run's step 1 did."""
    train_here(tmp_path / "still", *STALE[1:], "steps=2", "optimizer.lr=1e-30")
    names = ("step_000001.jsonl", "step_000002.jsonl")
    assert texts(tmp_path / "still", names) == texts(stale, names)
    train_here(tmp_path / "prompt", *STALE[1:])
    on_policy = texts(tmp_path / "prompt")
    assert [texts(stale)[f"step_00000{k}.jsonl"] == on_policy[f"step_00000{k}.jsonl"] for k in (1, 2)] == [True, False]


def test_a_killed_run_goes_on_to_the_same_bits(stale: Path, tmp_path: Path) -> None:
    killed(tmp_path / "cut", 2, *STALE)
    train_here(tmp_path / "cut", *STALE)
    assert reproducible(tmp_path / "cut") == reproducible(stale)
    assert weights(tmp_path / "cut") == weights(stale) and texts(tmp_path / "cut") == texts(stale)


def test_two_ranks_sample_the_same(stale: Path, tmp_path: Path) -> None:
    assert end(
        start(tmp_path / "two", *STALE, "sampling.max_tokens=48", "evaluation.every=3", "optimizer.warmup=0")
    ) == [
        0,
        0,
    ]
    for k in (1, 2):
        name = (f"step_00000{k}.jsonl",)
        assert texts(tmp_path / "two", name) == texts(stale, name)


def test_an_algorithm_that_resamples_after_grading_cannot_sample_ahead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rollout.staleness=1: this algorithm resamples after grading"):
        train_here(tmp_path / "run", *STALE, "algo=dapo")

"""Whole runs on questions with images: killed anywhere they go on to the same bits, with cards and with views of an episode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.runs import journal, killed, reproducible, texts, train_here, weights
from zero.errors import InputError

ALL = ("questions.rows.train=null", "questions.rows.heldout=null")  # hands
CARDS = ("model=nano_vl", "questions=nano_cards_vl", *ALL, "steps=4", "checkpoint.every=1", "benchmarks.limit=8")
VIEWS = (
    "model=nano_vl",
    "environment=navigation",
    "questions=nano_navigation_vl",
    "environment.turn_tokens=12",
    "sampling.max_tokens=96",
    "steps=4",
    "checkpoint.every=1",
    "benchmarks.limit=8",
)


@pytest.mark.parametrize(
    "options",
    [
        (*CARDS, "model.vision=trained"),
        pytest.param((*CARDS, "algo=ppo", "updates=2"), marks=pytest.mark.slow),
        pytest.param((*VIEWS, "model.vision=trained"), marks=pytest.mark.slow),
    ],
)
def test_a_run_with_images_survives_a_kill(options: tuple[str, ...], tmp_path: Path) -> None:
    train_here(tmp_path / "straight", *options)
    killed(tmp_path / "cut", 2, *options)
    train_here(tmp_path / "cut", *options)
    assert reproducible(tmp_path / "cut") == reproducible(tmp_path / "straight")
    assert texts(tmp_path / "cut") == texts(tmp_path / "straight")
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")
    last = journal(tmp_path / "straight")[-1]
    assert last["tokens/image"] > 0 and last["mismatch/canary"] < 1e-5
    assert list((tmp_path / "straight" / "images").glob("*.png"))
    assert (tmp_path / "straight" / "model" / "processor_config.json").is_file()


def test_a_model_of_text_refuses_images_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads text alone"):
        train_here(tmp_path / "run", "questions=nano_cards_vl", *ALL)
    assert not (tmp_path / "run").exists()

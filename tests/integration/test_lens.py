"""The lens through a whole run: its numbers are in the journal, and the run is unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tests.integration.runs import journal, reproducible, start, texts, train_here, weights
from zero.config.check import check, instantiate, options
from zero.errors import InputError
from zero.paths import CONF
from zero.tracking.glossary import describe

LENS = ["lens.every=2"]
TURNS = "algo.turn_advantage={_target_: zero.objective.turn_group_mean, _partial_: true}"


def without_lens(run_dir: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if not k.startswith("lens/")} for line in reproducible(run_dir)]


@pytest.mark.parametrize(
    "options",
    [
        ("steps=3", "algo=ppo", "prompts=2"),
        ("steps=2", "algo=grpo", "updates=2", "epochs=2", "algo.beta=0.05", "algo.entropy=0.001"),
        ("steps=2", "algo=sft", "rollout=gold", "group_size=1", "prompts=8"),
        ("steps=2", "environment=navigation", "environment.turn_tokens=8", "sampling.max_tokens=24", TURNS),
    ],
    ids=lambda options: options[1],
)
def test_a_run_with_the_lens_is_the_same_run(options: tuple[str, ...], tmp_path: Path) -> None:
    train_here(tmp_path / "plain", *options)
    train_here(tmp_path / "lens", *LENS, *options)
    assert reproducible(tmp_path / "plain") == without_lens(tmp_path / "lens")
    assert weights(tmp_path / "plain") == weights(tmp_path / "lens")
    assert texts(tmp_path / "plain") == texts(tmp_path / "lens")
    lines = journal(tmp_path / "lens")
    looked = [line["step"] for line in lines if "time/lens" in line]
    assert looked == [step for step in range(2, len(lines)) if step % 2 == 0 or step == len(lines) - 1]
    names = [name for name in lines[2] if name.startswith("lens/")]
    assert names and all(describe(name)[1] for name in names)


def test_it_works_inside_a_hydra_task(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "algo=grpo", "steps=1", "prompts=16", "group_size=8", *LENS)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    last = journal(tmp_path / "run")[-1]
    assert last["lens/grpo/cosine"] == pytest.approx(1) and 0 < last["lens/drgrpo/cosine"] < 1
    assert last["lens/drgrpo/length_bias"] == pytest.approx(1) and last["lens/grpo/length_bias"] < 0.9


def test_options_are_what_the_command_line_would_compose() -> None:
    config = check("train", ["sampling.max_tokens=77", "algo=grpo", "algo.beta=0.5"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        algorithms = options("algo", config)
        assert GlobalHydra.instance().hydra is running
    assert algorithms["drgrpo"] == check("train", ["sampling.max_tokens=77"])["algo"]
    assert algorithms["drgrpo"]["weight"]["length"] == 77 and algorithms["grpo"]["beta"] == 0
    assert algorithms["ppo"] == check("train", ["sampling.max_tokens=77", "algo=ppo"])["algo"]
    assert instantiate(algorithms["rloo"]).min_group == 2


def test_it_is_off_unless_chosen() -> None:
    assert check("train", [])["lens"]["every"] == 0 and check("train", ["lens=every10"])["lens"]["every"] == 10
    with pytest.raises(InputError, match=r"lens\.every=-3: must be 0 or more"):
        check("train", ["lens.every=-3"])

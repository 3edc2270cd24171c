"""Plans on paper: the formulas against numbers worked out by hand, and what the published sizes need."""

from __future__ import annotations

import re
from typing import Any

import pytest

from launch.cost.formulas import (
    CARDS,
    MFU,
    NETWORK,
    NODE_LINK,
    PROMPT,
    cell_cost,
    decode_seconds,
    episode,
    learner_gb,
    parse_node,
    seen,
)
from launch.cost.shapes import SHAPES
from launch.plan import cost_lines, distinct_cells, main
from launch.sweep.cells import plan
from zero.config import experiments
from zero.config.check import check
from zero.errors import InputError
from zero.paths import conf_file

SMALL, LARGE = SHAPES["qwen2_5_math_1_5b"], SHAPES["qwen2_5_math_7b"]
A100, H200 = CARDS["A100-40G"], CARDS["H200"]


def learner(**settings: Any) -> dict[str, Any]:
    return {
        "precision": "bfloat16",
        "gradient_checkpointing": True,
        "micro_tokens": 0,
        "reference_offload": False,
    } | settings


def test_bytes_of_a_parameter_are_those_of_the_learner() -> None:
    head = 1024 * SMALL.vocabulary * 12 / 1e9  # the chunk of logits that is always there
    n = SMALL.parameters / 1e9
    # 18 is the hint of conf/model
    assert learner_gb(learner(), SMALL, 8, False) == pytest.approx((12 * n, 18 * n + head))
    assert learner_gb(learner(precision="float32"), SMALL, 8, False) == pytest.approx((12 * n, 16 * n + head))
    assert learner_gb(learner(stage=1), SMALL, 8, False) == pytest.approx((3.5 * n, 7.5 * n + head))
    assert learner_gb(learner(stage=2), SMALL, 8, False) == pytest.approx((3.5 * n, 4 * n + head))
    resident, update = learner_gb(learner(stage=3), SMALL, 8, False)
    assert resident == pytest.approx(14 / 8 * n) and update == pytest.approx(18 / 8 * n + 4 + head)
    assert learner_gb(learner(stage=2, offload_optimizer=True), SMALL, 8, False)[0] == pytest.approx(2 * n)
    assert learner_gb(learner(), SMALL, 8, True)[0] == pytest.approx(14 * n)
    assert learner_gb(learner(reference_offload=True), SMALL, 8, True)[0] == pytest.approx(12 * n)


def test_adapters_train_a_hundredth_of_the_parameters() -> None:
    head, n = 1024 * LARGE.vocabulary * 12 / 1e9, LARGE.parameters / 1e9
    adapters = LARGE.adapters(16) / 1e9
    assert adapters == pytest.approx(0.0404, rel=0.01)  # what peft counts for rank 16 on all linear layers of the 7B
    resident, update = learner_gb(learner(lora={"rank": 16}), LARGE, 1, reference=True)
    assert resident == pytest.approx(4 * n + 8 * adapters), "with its adapters off the model is its own reference"
    assert update == pytest.approx(6 * n + 12 * adapters + head)


def test_the_host_of_a_node_holds_a_model_a_rank() -> None:
    config = check("train", ["model=qwen2_5_math_7b", "learner=deepspeed"])
    assert cell_cost(config, LARGE, 16, A100).host == pytest.approx(8 * 4 * LARGE.parameters / 1e9)
    offloading = check("train", ["model=qwen2_5_math_7b", "learner=deepspeed", "learner.offload_optimizer=true"])
    assert cell_cost(offloading, LARGE, 8, A100).host == pytest.approx((8 * 4 + 12) * LARGE.parameters / 1e9)


def test_decoding_is_bound_by_memory_then_by_arithmetic() -> None:
    read = 2 * LARGE.parameters + 1000 * LARGE.cached
    assert decode_seconds(LARGE, H200, 1, 1000, 1) == pytest.approx(read / (0.6 * 4.8e12))
    assert decode_seconds(LARGE, H200, 1, 1000, 2) == pytest.approx(read / 2 / (0.6 * 4.8e12))
    assert decode_seconds(LARGE, H200, 4096, 0, 1) == pytest.approx(2 * LARGE.parameters * 4096 / 989e12)
    assert LARGE.cached == 56 * 1024  # Qwen2.5-7B: 56 KiB a token


def test_a_plan_of_the_papers_7b() -> None:
    """216 A100-hours in the paper, evaluation and saving included: the formulas give the same order of magnitude."""
    config = check(
        "train",
        [
            "size=paper",
            "algo=drgrpo",
            "model=qwen2_5_math_7b",
            "template=qwen_math",
            "questions=math_lvl3to5",
            "learner.stage=3",
            "steps=290",
        ],
    )
    cost = cell_cost(config, LARGE, 8, A100)
    assert not cost.misfit and cost.steps == 290
    assert 216 / 2 < 8 * cost.hours < 216
    tokens = 1024 * (PROMPT + 1000)
    assert cost.training == pytest.approx(tokens / 8 * 8 * LARGE.parameters / (0.4 * 312e12))
    assert cell_cost(config, LARGE, 8, A100, mean=500).hours < cost.hours
    single = cell_cost(config, LARGE, 1, A100)
    assert "lower learner.micro_tokens, add GPUs" in single.misfit, "its stage cannot be raised"
    lower = dict(config) | {"learner": dict(config["learner"]) | {"stage": 2}}
    assert "raise learner.stage, add GPUs" in cell_cost(lower, LARGE, 1, A100).misfit
    whole = dict(config) | {"learner": {k: v for k, v in config["learner"].items() if k != "stage"}}
    assert "learner=deepspeed over several GPUs, or learner=lora" in cell_cost(whole, LARGE, 1, A100).misfit
    small = dict(config) | {"rollout": dict(config["rollout"]) | {"memory": 0.1}}
    assert "raise rollout.memory" in cell_cost(small, LARGE, 8, A100).misfit


def test_reference_solutions_cost_no_sampling() -> None:
    config = check(
        "train", ["algo=sft", "rollout=gold", "group_size=1", "model=qwen2_5_math_1_5b", "questions=nano_math"]
    )
    cost = cell_cost(config, SMALL, 1, H200)
    assert (cost.sampling, cost.tail) == (0, 0) and cost.training > 0


PUBLISHED = [name for name in experiments.known() if (e := experiments.read(name)).root == "train" and e.claims]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_fits_a_node_or_its_header_says_that_it_does_not(name: str) -> None:
    cells = [cell for cell in plan([f"experiment={name}", "size=paper", "seed=0"]).cells.values() if cell.config]
    fits = [
        all(not cell_cost(c.config or {}, SHAPES[c.choices["model"].partition("+")[0]], n, card).misfit for c in cells)
        for n, card in ((8, A100), (1, H200))
    ]
    head = re.sub(r"\s*\n#\s*", " ", conf_file(f"experiment/{name}.yaml").read_text().partition("\ntitle:")[0])
    assert any(fits) != ("fits neither 8 x A100-40G nor one H200" in head)


def test_the_published_sizes_with_images_fit_one_h200_or_the_header_says_what_does_not() -> None:
    cells = [c for c in plan(["experiment=sftvsrl_vl", "size=paper", "seed=0"]).cells.values() if c.config]
    costs = [cell_cost(c.config or {}, SHAPES[c.choices["model"].partition("+")[0]], 1, H200) for c in cells]
    assert len(costs) == 6 and not any(cost.misfit for cost in costs)
    assert 14 < max(cost.hours for cost in costs) < 16 and min(cost.hours for cost in costs) < 0.1
    options = ["size=paper", "template=chat", "model=llama3_2_vision_11b", "sampling.max_tokens=2048", "steps=60"]
    theirs = SHAPES["llama3_2_vision_11b"]
    hours = []
    for game in (
        ["environment=tries", "questions=general_points_vl"],
        ["environment=navigation", "questions=navigation_vl"],
    ):
        cost = cell_cost(check("train", [*options, "algo=drgrpo", *game]), theirs, 8, H200)
        assert not cost.misfit
        hours.append(cost.hours)
    assert hours == [pytest.approx(1.4, abs=0.1), pytest.approx(6.4, abs=0.1)]
    critic = cell_cost(check("train", [*options, "algo=ppo", "questions=general_points_vl"]), theirs, 8, H200)
    assert critic.update == pytest.approx(206, abs=1) and "the critic 170 of them" in critic.misfit


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["experiment=fig6_length", "size=paper"]
    assert main([*line, "--node", "8xA100-40G"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line for line in lines if "math_12k" in line]
    assert (
        len(cells) == 2 and cells[0].startswith("grpo r1 math_12k qwen2_5_1_5b ") and cells[0].rstrip().endswith("yes")
    )
    assert main(["experiment=simplerl_zero", "size=paper", "--node=1xH200"]) == 1
    output = capsys.readouterr()
    assert "the critic 122 of them on every GPU" in output.out and "host GB: CPU memory of a node" in output.out
    assert main(["model=qwen2_5_math_1_5b", "optimizer.lr=1e-3", "--node=1xH200"]) == 0
    assert "qwen2_5_math_1_5b: optimizer.lr=0.001 is known to ruin" in capsys.readouterr().err, (
        "the doubts of a run's start"
    )
    assert main(["algo=grpo"]) == 1 and "such as model=qwen2_5_1_5b" in capsys.readouterr().out
    assert main([*line, "--node", "8xB1"]) == 2
    assert "error: --node=8xB1: must be COUNTxCARD with a card of A100-40G" in capsys.readouterr().err
    assert parse_node("H200") == (1, H200) and parse_node("16xH100")[0] == 16
    with pytest.raises(InputError):
        parse_node("0xH100")


def test_an_image_takes_its_tokens_and_its_patches() -> None:
    qwen, qwen3 = SHAPES["qwen2_5_vl_3b"].tower, SHAPES["qwen3_vl_4b"].tower
    small, llava, gemma = (SHAPES[name].tower for name in ("smolvlm_256m", "llava_1_5_7b", "gemma3_4b"))
    assert qwen and qwen3 and small and llava and gemma
    assert qwen.tokens(448, 448) == 16 * 16 and qwen.patches(448, 448) == 32 * 32 and qwen.tokens(14, 14) == 4
    assert qwen3.tokens(512, 256) == 16 * 8 and qwen3.tokens(48, 48) == 64, "scaled up to 256 x 256"
    assert small.tokens(448, 448) == 17 * 64 and small.tokens(512, 256) == 9 * 64 and small.patches(9, 9) == 17 * 1024
    assert llava.tokens(10, 999) == llava.patches(10, 999) == 576
    assert gemma.tokens(10, 999) == 256 and gemma.patches(10, 999) == 64 * 64


def test_a_plan_with_images() -> None:
    shape, options = SHAPES["qwen2_5_vl_3b"], ["model=qwen2_5_vl_3b", "template=chat", "sampling.max_tokens=300"]
    config = check("train", [*options, "questions=general_points_vl"])
    text = check("train", [*options, "questions=general_points"])
    assert (
        shape.tower and seen(config, shape) == (shape.tower.patches(512, 256), 18 * 9) and seen(text, shape) == (0, 0)
    )
    seeing, patches = shape.parameters - shape.decoder, seen(config, shape)[0]
    responses, tokens = config["prompts"] * config["group_size"], PROMPT + 18 * 9 + 100
    work = responses * (tokens * 8 * shape.decoder + 2 * seeing * patches)
    assert cell_cost(config, shape, 1, H200).training == pytest.approx(work / (MFU * H200.flops))
    trained = dict(config) | {"model": dict(config["model"]) | {"vision": "trained"}}
    learning, frozen = cell_cost(trained, shape, 1, H200), cell_cost(config, shape, 1, H200)
    assert learning.training - frozen.training == pytest.approx(responses * 6 * seeing * patches / (MFU * H200.flops))
    assert learning.update - frozen.update == pytest.approx(12 * seeing / 1e9), "gradients and moments"
    assert frozen.sampling > cell_cost(text, shape, 1, H200).sampling
    tries = [*options, "environment=tries", "questions=general_points_vl"]
    once, again = (
        check("train", [*tries, f"environment.make.turn='{turn}'"]) for turn in ("wrong: {message}", "{question}")
    )
    more = responses * 4 * (18 * 9 * 8 * shape.decoder + 2 * seeing * patches)  # in the four turns after the first
    asked, shown_once = cell_cost(again, shape, 1, H200), cell_cost(once, shape, 1, H200)
    assert asked.training - shown_once.training == pytest.approx(more / (MFU * H200.flops))
    assert asked.sampling > shown_once.sampling
    drawn = check("train", [*options, "environment=navigation", "questions=navigation_vl"])
    assert seen(drawn, shape) == (16 * 16, 8 * 8), "224 pixels a side"
    with pytest.raises(InputError, match="questions=general_points_vl: has images, and the model sees none"):
        cell_cost(config, SMALL, 1, H200)


def test_links_cost_nothing_alone_and_more_between_nodes() -> None:
    config = check("train", ["size=paper", "model=qwen2_5_math_1_5b", "questions=math_12k"])
    assert cell_cost(config, SMALL, 1, A100).links == 0
    weights, gradients = 2 * SMALL.parameters, 4 * SMALL.parameters * 8  # ZeRO-2: reduced once in each of eight updates
    assert cell_cost(config, SMALL, 8, A100).links == pytest.approx((weights + gradients) * 7 / 8 / NODE_LINK)
    assert cell_cost(config, SMALL, 16, A100).links == pytest.approx((weights + gradients) * 15 / 16 / NETWORK)
    deeper = dict(config) | {"learner": dict(config["learner"]) | {"stage": 3}}
    assert cell_cost(deeper, SMALL, 8, A100).links > cell_cost(config, SMALL, 8, A100).links


def test_scale_out_on_paper(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["model=qwen2_5_math_7b", "questions=math_12k", "size=paper", "learner.stage=3"]
    assert main([*line, "--scale"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[2:]]
    counts = [int(row[4]) for row in rows]
    assert counts == [1, 2, 4, 8, 16, 32, 64]
    shares = [row[10] for row in rows]
    assert shares[:3] == ["-"] * 3 and shares[3] == "100%", "the first that fits is the measure"
    falling = [int(share.rstrip("%")) for share in shares[3:]]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 60, "the tail does not get shorter"
    assert main([*line, "learner.stage=2", "algo=ppo", "--scale"]) == 1, "fits nowhere"


def test_cells_of_one_plan_are_one_row() -> None:
    cells = plan(["experiment=oat_zero_countdown", "size=paper", "seed=0,1"]).cells
    assert len(cells) == 4 and len(distinct_cells(cells.values())) == 1, "neither rewards nor seeds change a plan"


def test_a_dry_run_prints_the_estimated_cost_of_its_cells() -> None:
    lines = cost_lines(plan(["experiment=table4_recipe", "size=paper"]).cells.values(), 8)
    assert lines[0].startswith("on paper, 8 GPUs a cell") and len(lines) == 3 + 3
    seven = next(line for line in lines if "qwen2_5_math_7b" in line)
    assert seven.split()[4:6] != ["no"] and " h, " in seven
    assert cost_lines(plan(["algo=grpo"]).cells.values(), 8) == []


def test_an_episode_reads_what_its_environment_says_before_each_turn(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["model=qwen2_5_math_1_5b", "size=paper", "environment=guess_number", "environment.make.turns=5"]
    config = check("train", [*options, "environment.turn_tokens=100", "sampling.max_tokens=1000"])
    alone = check("train", [*options[:2], "questions=nano_guess_number", "sampling.max_tokens=500"])
    assert (episode(config), episode(alone)) == ((5, 500), (1, 500))
    cost, single = cell_cost(config, SMALL, 8, A100), cell_cost(alone, SMALL, 8, A100)
    mean, responses = 500 / 3, alone["prompts"] * alone["group_size"]
    assert cost.training / single.training == pytest.approx((5 * PROMPT + mean) / (PROMPT + mean))
    prefill = responses / 8 * 4 * PROMPT * 2 * SMALL.parameters / (MFU * A100.flops)
    assert single.sampling + prefill < cost.sampling < 1.5 * (single.sampling + prefill), "and its cache is longer"
    assert single.tail < cost.tail < 1.5 * single.tail
    assert main([*options, "--node=8xA100-40G"]) == 0
    assert (
        "episodes of 5 turns, all of them taken, in which the policy says up to 3000 tokens" in capsys.readouterr().out
    )
    assert main([*options[:2], "questions=math_12k"]) == 0 and "episodes" not in capsys.readouterr().out

"""size=paper of every experiment, for two steps: a random model of the same architecture cut to two layers, the experiment's own
template, questions, reward and algorithm, rows in the published files' form, and the engine and learner of a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.conftest import BASE
from tests.integration.runs import journal
from zero.config import experiments
from zero.config.check import cells, check
from zero.train import run

# What a CPU and two steps replace: engines, budget, hub sets; keys, or beginnings of keys
REPLACED = (
    "size",
    "model",
    "learner",
    "rollout.memory",
    "rollout.engine.memory",
    "rollout@",
    "benchmarks",
    "steps",
    "prompts",
    "group_size",
    "updates",
    "seed",
    "sampling.max_tokens",
    "evaluation",
    "questions.train",
    "optimizer.warmup",
)
BUDGET = [
    "steps=2",
    "prompts=2",
    "updates=1",
    "sampling.max_tokens=24",
    "evaluation.max_tokens=24",
    "evaluation.every=2",
    "checkpoint.every=2",
    "curves=false",
    "tracker=jsonl",
    "benchmarks=heldout",
    "benchmarks.limit=4",
    "model=hf",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS: dict[str, Any] = {
    "gsm8k": lambda i: {"question": f"What is {i} + {i}?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}"},
    "asdiv": lambda i: {"problem": f"{i} apples and {i} apples?", "answer": f"{2 * i} (apples)"},
    "countdown_tinyzero": lambda i: {"target": 3 * i + 5, "nums": [i, 2 * i, 5]},
    "distilled": lambda i: {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "generations": [f"\\boxed{{{2 * i}}}"],
                            "correctness_math_verify": [True]},
    "verifiable_coding": lambda i: {"problem": f"Read a number, print twice its value: {i}", "verification_info": {
        "language": "python", "test_cases": [{"input": f"{i}", "output": f"{2 * i}"}]}},
    "": lambda i: {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "level": 4, "solution": f"It is \\boxed{{{2 * i}}}."},
}  # fmt: skip
# Lines that name a published model; what remains trains the embedded model, which other tests do.
LINES = [
    (experiment.name, line)
    for experiment in (experiments.read(name, "paper") for name in experiments.with_claims())
    if experiment.root == "train"
    for line in experiment.lines
    if any(experiments.key_of(text) == "model" for text in line.overrides)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Qwen2 and Llama of two layers with the embedded world's tokenizer."""
    home = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = CHATML
    shape: dict[str, Any] = dict(
        vocab_size=608,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=1,
    )
    folders = {}
    for family, config, kind in (("qwen", Qwen2Config, Qwen2ForCausalLM), ("llama", LlamaConfig, LlamaForCausalLM)):
        torch.manual_seed(0)
        kind(config(**shape, tie_word_embeddings=family == "qwen")).save_pretrained(home / family)
        tokenizer.save_pretrained(home / family)
        folders[family] = home / family
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), LINES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(LINES)])
def test_two_steps(name: str, line: experiments.Line, models: dict[str, Path], tmp_path: Path) -> None:
    settings = {experiments.key_of(text): text.partition("=")[2] for text in line.overrides}
    family = "llama" if "llama" in settings["model"] else "qwen"
    overrides = [
        text
        for text in line.overrides
        if not experiments.key_of(text).startswith(REPLACED) and not text.startswith("rollout@")
    ]
    group = 1 if settings.get("group_size") == "1" and settings["algo"] != "ppo" else 2
    first = cells([*overrides, *BUDGET, f"model.path={models[family]}", f"group_size={group}"])[0]
    questions = next(text.partition("=")[2] for text in first if text.startswith("questions="))
    if questions not in ("general_points", "navigation"):
        row = ROWS.get(questions, ROWS[""])
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(1, 65)))
        first += [f"questions.path={path}"]
        first += (
            ["questions.train=48", "questions.heldout_from=48", "questions.heldout=8"]
            if questions == "countdown_tinyzero"
            else ["questions.heldout=8"]
        )
    config = check("train", [*first, f"run_dir={tmp_path / 'run'}"])
    choices = {
        "algo": settings["algo"].split(",")[0],
        "template": config["template"]["name"],
        "questions": questions,
        "model": "hf",
    }
    assert run(config, choices, name)["status"] == "finished"
    lines = journal(tmp_path / "run")
    assert [at["step"] for at in lines] == [0, 1, 2] and all("train/reward" in at for at in lines[1:])

"""The workloads: a folder each with a model, its tokenizer, prompts and settings, that every side reads and nothing else.

W1  the embedded base, 0.6 M parameters       16 prompts x 8, at most 128 tokens, it ends by itself
W2  a Qwen2 shape of 5 M, random weights        8 prompts x 8, 64 tokens
W3  the same, ending after some 55 tokens       8 prompts x 8, at most 256 tokens
W4  a Llama shape of 135 M, random weights      4 prompts x 8, 128 tokens
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BASE = Path(__file__).resolve().parent.parent / "zero" / "nano" / "base"
SETTINGS, PROMPTS = "workload.json", "prompts.jsonl"
END = 0  # the tokenizer's end of text
# Standard deviation of the logit of END in W3; every run prints the mean length that it gives
ENDS = 5.5


@dataclass(frozen=True)
class Workload:
    """`micro`: rows of the peer's micro-batch; `steps`: measured in a process, after one that is not."""

    name: str
    prompts: int
    group: int
    tokens: int
    lr: float
    micro: int = 16
    steps: int = 3


WORKLOADS = {
    "W1": Workload("W1", 16, 8, 128, 2e-4),
    "W2": Workload("W2", 8, 8, 64, 1e-5),
    # all but standing still: a real step moves the lengths, each side's elsewhere
    "W3": Workload("W3", 8, 8, 256, 1e-9),
    "W4": Workload("W4", 4, 8, 128, 1e-6, steps=1),
}


def make(workload: Workload, folder: Path) -> None:
    """Write the folder of a workload; the same bytes every time. Its shape goes by its name, W2's for any other name."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

    from zero.nano.world import rows

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    if workload.name == "W1":
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    else:
        ends: dict[str, Any] = dict(bos_token_id=None, eos_token_id=END, pad_token_id=1, max_position_embeddings=1024)
        if workload.name == "W4":  # SmolLM2-135M's shape
            config: Any = LlamaConfig(
                vocab_size=49152,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                tie_word_embeddings=True,
                **ends,
            )
        else:
            config = Qwen2Config(
                vocab_size=4096,
                hidden_size=256,
                intermediate_size=1024,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=True,
                **ends,
            )
        tokenizer.add_tokens([f"<w{i}>" for i in range(len(tokenizer), config.vocab_size)])  # none is cut from the head
        model = AutoModelForCausalLM.from_config(config).float()
        if workload.name == "W3":
            with torch.no_grad():
                row = model.get_output_embeddings().weight[END]
                row.normal_().mul_(ENDS / config.hidden_size**0.5)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    questions = rows("math", 2 * workload.prompts * (workload.steps + 1), 1).train
    (folder / PROMPTS).write_text(
        "".join(json.dumps({"prompt": q.text, "answer": q.answer[0]}) + "\n" for q in questions)
    )
    (folder / SETTINGS).write_text(json.dumps(asdict(workload)))


def read(folder: Path) -> tuple[Workload, list[str]]:
    """(settings, prompts in the order in which steps take them)."""
    prompts = [json.loads(line)["prompt"] for line in (folder / PROMPTS).read_text().splitlines()]
    return Workload(**json.loads((folder / SETTINGS).read_text())), prompts


def reward(text: str) -> float:
    """Some responses are worth 1 and some nothing, whoever wrote them: the parity of the number of characters."""
    return float(len(text) % 2)

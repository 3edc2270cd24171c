"""python -m zero.pretrain out=FOLDER: next-token training, of a new nano base or on from any causal language model.

One loop for both: documents -> ids -> one endless stream cut into sequences -> cross-entropy. The stages of the corpus
share one learning-rate schedule. The same config on the same machine gives the same weights. A run is not resumable.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zero import config as configs
from zero.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Document = tuple[str, bool]  # text, and whether an end-of-text token follows it
Source = Callable[..., Iterator[Document]]  # seed=... -> endless documents

CHUNK = 512  # documents tokenized at once


def read_documents(path: str, fields: str, seed: int) -> Iterator[Document]:
    """Endless documents of a .jsonl file (its `fields`, such as "question+answer", joined by newlines) or of a .txt file
    (blank lines separate documents), shuffled anew each epoch. Raises InputError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError("corpus.path", path, "no such file; give a .jsonl or .txt file")
    content = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), 1)
        texts = [_join(line, fields.split("+"), f"{path}:{n}") for n, line in lines if line.strip()]
    elif file.suffix == ".txt":
        texts = [text.strip() for text in content.split("\n\n") if text.strip()]
    else:
        raise InputError("corpus.path", path, "must end in .jsonl or .txt")
    if not texts:
        raise InputError("corpus.path", path, "holds no document")
    return _shuffled(texts, random.Random(f"zero.pretrain/{seed}"))


def _join(line: str, fields: Sequence[str], place: str) -> str:
    try:
        row = json.loads(line)
        return "\n".join(str(row[field]) for field in fields)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("corpus.path", place, f"not an object with {', '.join(fields)} ({error!r})") from error


def _shuffled(texts: list[str], rng: random.Random) -> Iterator[Document]:
    while True:
        for text in rng.sample(texts, len(texts)):
            yield text, True


def run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train one checked config, write the model folder and its pretrain.jsonl; returns the last log entry."""
    out = Path(config["out"]).expanduser()
    if (out / "config.json").exists():
        raise InputError("out", out, "already holds a model; choose another folder or remove it")
    stages = config["corpus"]["stages"]
    sources = {name: configs.instantiate(stage["documents"]) for name, stage in stages.items()}
    streams = {name: source(seed=config["seed"]) for name, source in sources.items()}  # bad files are refused here
    configs.writable_folder(out)

    import torch
    from transformers.utils import logging

    from zero.runtime import has_bfloat16, prepare

    logging.disable_progress_bar()
    device = prepare(config["threads"])
    torch.manual_seed(config["seed"])
    model, tokenizer = load(config["model"]) if config["model"]["path"] else create(config, sources)
    model.to(device).train()
    optimizers = make_optimizers(model, config["optimizer"])
    batches = make_batches(streams, stages, tokenizer, config["length"], config["sequences"])
    with (out / "pretrain.jsonl").open("w") as log:
        last = train(model, batches, optimizers, config, has_bfloat16(device), log)
    model.to(getattr(torch, config["dtype"])).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return last


def load(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The causal language model that the config names, in float32, and its tokenizer. Raises InputError."""
    from zero.build import load_model

    return load_model(config)[:2]


def create(config: Mapping[str, Any], sources: Mapping[str, Source]) -> tuple[Any, Any]:
    """A Qwen2 with random weights, and a tokenizer trained on the first stage."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from zero.nano.tokenizer import train_tokenizer

    first = next(iter(sources.values()))(seed=config["seed"])
    texts = [text for text, _ in islice(first, config["tokenizer"]["documents"])]
    tokenizer = train_tokenizer(texts, config["tokenizer"]["size"], config["model"]["new"]["max_position_embeddings"])
    shape = Qwen2Config(
        **config["model"]["new"],
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(shape), tokenizer


def make_optimizers(model: Any, settings: Mapping[str, Any]) -> list[Any]:
    """One optimizer for the matrices of the layers, one for embeddings, head, biases and norms."""
    ends = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
    rest = [p for p in model.parameters() if p.ndim != 2 or id(p) in ends]
    made = configs.instantiate(settings)
    return [made["matrices"](matrices), made["rest"](rest)]


def make_batches(
    streams: Mapping[str, Iterator[Document]], stages: Mapping[str, Any], tokenizer: Any, length: int, sequences: int
) -> Iterator[tuple[float, Tensor]]:
    """(share of all tokens seen before, ids [sequences, length + 1]) until every stage has given its tokens.

    Rows follow one another in the stream; each row's last id is the next row's first, so every token is predicted once.
    """
    import torch

    total = sum(stage["tokens"] for stage in stages.values())
    seen, goal, step, ids = 0, 0, sequences * length, list[int]()
    for name, stage in stages.items():
        goal += stage["tokens"]
        while seen < goal:
            while len(ids) <= step:
                texts, ended = zip(*islice(streams[name], CHUNK), strict=True)
                for row, end in zip(tokenizer(list(texts), add_special_tokens=False).input_ids, ended, strict=True):
                    ids += [*row, tokenizer.eos_token_id] if end else row
            yield seen / total, torch.tensor(ids[: step + 1]).unfold(0, length + 1, length)
            del ids[:step]
            seen += step


def train(
    model: Any,
    batches: Iterator[tuple[float, Tensor]],
    optimizers: Sequence[Any],
    config: Mapping[str, Any],
    autocast: bool,
    log: Any,
) -> dict[str, Any]:
    """Minimize the mean cross-entropy (nats a token); one line to `log` and to the screen every log_every steps."""
    import torch
    import torch.nn.functional as F

    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    began, losses, entry = time.perf_counter(), list[float](), dict[str, Any]()
    for step, (seen, ids) in enumerate(batches):
        rate = min(1.0, (step + 1) / config["warmup"])
        rate *= max(config["floor"], min(1.0, (1 - seen) / (1 - config["decay_from"])))
        loss = 0.0
        for part in ids.to(model.device).split(config["micro_sequences"]):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                logits = model(input_ids=part[:, :-1], use_cache=False).logits
            part_loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten()) * len(part) / len(ids)
            part_loss.backward()
            loss += part_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip"])
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss)
        if (step + 1) % config["log_every"] == 0:
            recent = losses[-config["log_every"] :]
            entry = {
                "step": step + 1,
                "tokens": (step + 1) * (ids.numel() - len(ids)),
                "loss": sum(recent) / len(recent),
            }
            entry |= {"lr": optimizers[0].param_groups[0]["lr"], "seconds": round(time.perf_counter() - began, 1)}
            print(json.dumps(entry), file=log, flush=True)
            print("step {step}  tokens {tokens}  loss {loss:.4f}  {seconds:.0f} s".format(**entry), flush=True)
    return entry


@hydra.main(version_base="1.3", config_path=str(configs.CONF), config_name="pretrain")
def task(config: DictConfig) -> None:
    """One Hydra job."""
    try:
        run(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """The console entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
    configs.command_line("pretrain", task)


if __name__ == "__main__":
    main()

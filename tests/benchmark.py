"""make benchmark: tokens per second of rollout and update, seconds of a step by stage, share of the machine's peak.

CPU seconds of this process, one thread: they do not depend on what else the machine is doing. Each figure is the median of
several repetitions after a warm-up. Models, questions and the step are those of the demo.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zero import provenance
from zero.config import check, instantiate
from zero.loop import Run, step
from zero.records import Prompt
from zero.train import build, load_questions

REPEATS = 5


def cpu_seconds(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median CPU seconds of a call, after one that does not count."""
    work()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def peak_flops() -> float:
    """Float32 FLOP/s of one thread on a large square product: the roof for everything below."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / cpu_seconds(lambda: a @ b, 20)


def model_flops(config: Any) -> float:
    """Products of one token's forward pass without attention scores: 2 FLOP per weight that multiplies."""
    d, heads, kv = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    attention = d * d * 2 + 2 * d * (d // heads) * kv
    return 2.0 * (config.num_hidden_layers * (attention + 3 * d * config.intermediate_size) + d * config.vocab_size)


def training(prompts: int, group_size: int, folder: str) -> Run:
    options = [
        f"prompts={prompts}",
        f"group_size={group_size}",
        "tracker=jsonl",
        "evaluation.every=0",
        f"run_dir={folder}",
    ]
    config = check("train", options)
    light = {key: instantiate(config[key]) for key in ("template", "reward")}
    place = Path(folder)
    return build(config, place, "benchmark", load_questions(config, place), provenance.start({}, "cpu", 1), **light)


def generate_with_transformers(run: Run, prompts: list[Prompt]) -> int:
    """The same prompts, samples and stops through transformers.generate; returns tokens up to each sample's end."""
    model, pad = run.learner.model, run.tokenizer.pad_token_id  # type: ignore[attr-defined]
    width = max(len(p.ids) for p in prompts)
    rows = [[pad] * (width - len(p.ids)) + list(p.ids) for p in prompts for _ in range(run.group_size)]
    ids = torch.tensor(rows)
    mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts for _ in range(run.group_size)])
    out = model.generate(
        ids, attention_mask=mask, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=run.sampling.max_tokens,
        eos_token_id=list(run.sampling.stop_ids), pad_token_id=pad,
    )[:, width:]  # fmt: skip
    ends = torch.isin(out, torch.tensor(run.sampling.stop_ids)).int()
    return int(torch.where(ends.any(1), ends.argmax(1) + 1, out.shape[1]).sum())


def measure(prompts: int, group_size: int, roof: float, against_transformers: bool) -> None:
    with TemporaryDirectory() as folder:
        run = training(prompts, group_size, folder)
        run.engine.sync(run.learner.weights(), version=0)
        flops = model_flops(run.learner.model.config)  # type: ignore[attr-defined]
        questions = run.questions.batch(0, prompts, 0)
        inputs = [run.template.prompt(q, run.tokenizer, (0, 0, 0, i)) for i, q in enumerate(questions)]
        groups = run.engine.generate(inputs, group_size, run.sampling)
        sampled = sum(len(c.ids) for g in groups for c in g)
        rollout = cpu_seconds(lambda: run.engine.generate(inputs, group_size, run.sampling))
        print(f"\n{prompts} prompts x {group_size} samples, one thread, float32")
        print(
            f"  rollout   {sampled / rollout:9,.0f} tokens/CPU-s   {sampled * flops / rollout / roof:6.1%} of the peak"
        )
        if against_transformers:
            torch.manual_seed(0)
            began, tokens = time.process_time(), 0
            for _ in range(3):
                tokens += generate_with_transformers(run, inputs)
            speed = tokens / (time.process_time() - began)
            print(f"  generate  {speed:9,.0f} tokens/CPU-s   native is {sampled / rollout / speed:.1f} times as fast")
        seen: dict[str, list[float]] = {}
        trained: list[float] = []
        for t in range(REPEATS + 1):
            began = time.process_time()
            _, metrics = step(run, t)
            spent = time.process_time() - began
            if t == 0:
                continue  # warm-up
            for stage in ("rollout", "grade", "update", "sync"):
                seen.setdefault(stage, []).append(metrics[f"time/{stage}"])
            seen.setdefault("step, CPU seconds", []).append(spent)
            trained.append(metrics["speed/update"])
        update = statistics.median(trained)
        print(
            f"  update    {update:9,.0f} tokens/s       {update * 3 * flops / roof:6.1%} of the peak (6 FLOP a weight)"
        )
        for stage, values in seen.items():
            print(f"  {stage:20} {statistics.median(values):8.4f} s")
        print(f"  peak memory so far   {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:8.2f} GiB")


def main() -> None:
    torch.set_num_threads(1)
    roof = peak_flops()
    print(f"peak of one thread, float32, 1024 x 1024 products: {roof / 1e9:.0f} GFLOP/s; torch {torch.__version__}")
    measure(16, 8, roof, against_transformers=True)
    if "--quick" not in sys.argv:
        measure(64, 16, roof, against_transformers=False)


if __name__ == "__main__":
    main()

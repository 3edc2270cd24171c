"""Whole training steps beside TRL's GRPOTrainer, on the same weights, prompts, samples, budgets and update.

    python -m benchmarks.peer --trl .venv-trl/bin/python [--workloads W1,W2] [--pairs 5] [--check] [--write]
    python -m benchmarks.peer                                                   without TRL: beside a loop in plain torch
    python -m benchmarks.peer --environment --workloads W1 --steps 20           beside the same run in a one-turn environment

Each side is a process of its own on one thread, in turn (A B A B ...); figures are tokens per CPU second, a ratio is the median
over the pairs with its smallest and largest. Roof: a 1024 x 1024 product of this processor in the same precision; work: what
cannot be left out, 2 x parameters a generated token, 6 x parameters a distinct token of the update. `--check` compares the
ratios with baseline.json and fails if one fell by more than 15 %; `--write` writes that file anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.workloads import WORKLOADS, Workload, make, read
from zero.errors import ArgumentParser

BASELINE = Path(__file__).parent / "baseline.json"
FALL = 0.15
RATIOS = {"whole step": "cpu", "generation": "generation", "training": "training"}


def run(python: str, side: str, folder: Path) -> dict[str, Any]:
    """What one process of a side measured."""
    done = subprocess.run([python, "-m", "benchmarks.side", side, str(folder)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(figures: dict[str, float], stage: str) -> float:
    """Tokens per CPU second of a stage; those of `cpu` are of whole steps."""
    return figures["tokens"] / figures[stage] if figures[stage] else 0.0


def roof(folder: Path) -> tuple[float, int]:
    """(FLOP/s of one thread, parameters that multiply)."""
    import time

    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.side import has_bfloat16

    torch.set_num_threads(1)
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    a, b = torch.randn(1024, 1024, dtype=dtype), torch.randn(1024, 1024, dtype=dtype)
    a @ b
    seconds = []
    for _ in range(20):
        began = time.process_time()
        a @ b
        seconds.append(time.process_time() - began)
    model = AutoModelForCausalLM.from_pretrained(folder)
    lookups = {"model.embed_tokens.weight"} if not model.config.tie_word_embeddings else set()  # only looked up
    count = sum(weight.numel() for name, weight in model.named_parameters() if name not in lookups)
    return 2 * 1024**3 / median(seconds), count


def compare(workload: Workload, folder: Path, other: str, python: str, pairs: int) -> dict[str, float]:
    """Run the pairs and the other sides, print, return the ratios."""
    results: dict[str, list[dict[str, Any]]] = {"ours": [], other: []}
    for pair in range(1, pairs + 1):
        results["ours"].append(run(sys.executable, "ours", folder))
        results[other].append(run(python, other, folder))
        ratio = speed(results["ours"][-1], "cpu") / speed(results[other][-1], "cpu")
        print(f"{workload.name}, pair {pair} of {pairs}: {ratio:.2f} times {other}", file=sys.stderr, flush=True)
    for side in {"loop", "generate"} - set(results) if other != "episode" else ():
        results[side] = [run(python, side, folder)]
    if len({one.pop("asked") for all_of in results.values() for one in all_of}) > 1:
        sys.exit(f"{workload.name}: the sides took other prompts; nothing was compared")
    flops, parameters = roof(folder)
    size = f"{workload.prompts} prompts x {workload.group}, at most {workload.tokens} tokens"
    print(f"\n{workload.name}: {size}, {parameters / 1e6:.1f} M parameters, roof {flops / 1e9:.0f} GFLOP/s")
    print(
        f"  {'':10}{'tokens/CPU-s':>14}{'generation':>12}{'of roof':>9}{'training':>10}{'of roof':>9}{'peak GB':>9}{'mean':>7}"
    )
    prompt = prompt_tokens(folder)
    for side, all_of in results.items():
        middle = {key: median(one[key] for one in all_of) for key in all_of[0]}
        cells = [
            f"{speed(middle, 'cpu'):14,.0f}",
            f"{speed(middle, 'generation'):12,.0f}",
            f"{2 * parameters * speed(middle, 'generation') / flops:9.1%}",
        ]
        if middle["training"]:
            distinct = 1 + prompt / (workload.group * middle["mean"])  # tokens of the update for one that was generated
            work = 6 * parameters * distinct * speed(middle, "training")
            cells += [f"{speed(middle, 'training'):10,.0f}", f"{work / flops:9.1%}"]
        else:
            cells += [" " * 19]
        print(f"  {side:10}{''.join(cells)}{middle['memory'] / 1e9:9.2f}{middle['mean']:7.1f}")
    ratios = {}
    for name, stage in RATIOS.items():
        each = [speed(a, stage) / speed(b, stage) for a, b in zip(results["ours"], results[other], strict=True)]
        ratios[name] = round(median(each), 3)
        print(f"  {name:10} {median(each):6.2f} times {other} ({min(each):.2f} to {max(each):.2f})", flush=True)
    memory = [b["memory"] / a["memory"] for a, b in zip(results["ours"], results[other], strict=True)]
    ratios["memory"] = round(median(memory), 3)
    print(f"  {'memory':10} {1 / median(memory):6.2f} of {other}'s", flush=True)
    return ratios


def prompt_tokens(folder: Path) -> float:
    """Mean tokens of a prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    _, prompts = read(folder)
    return sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts) / len(prompts)


def regressions(ratios: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]) -> list[str]:
    """The ratios that are more than FALL below what was written down."""
    return [
        f"{name}, {what}: {measured[what]:.2f}, was {before:.2f}"
        for name, measured in ratios.items()
        for what, before in baseline.get(name, {}).items()
        if what in measured and measured[what] < before * (1 - FALL)
    ]


def main() -> int:
    parser = ArgumentParser("python -m benchmarks.peer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trl", help="the interpreter of an environment with trl")
    parser.add_argument("--environment", action="store_true", help="what a one-turn environment costs")
    parser.add_argument("--workloads", default="W1,W2,W3,W4", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="measured in a process (default: the workload's)")
    parser.add_argument("--check", action="store_true", help="fail if a ratio fell by more than 15 %%")
    parser.add_argument("--write", action="store_true", help="write baseline.json")
    options = parser.parse_args()
    names = options.workloads.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"--workloads: no {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if (options.check or options.write) and not options.trl:
        parser.error("--check and --write are about TRL; give --trl .venv-trl/bin/python")
    other = ("episode" if options.environment else "loop", sys.executable)
    other = ("trl", options.trl) if options.trl else other
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as home:
        for name in names:
            workload = replace(WORKLOADS[name], steps=options.steps or WORKLOADS[name].steps)
            make(workload, Path(home) / name)
            ratios[name] = compare(workload, Path(home) / name, *other, options.pairs)
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if options.write:
        BASELINE.write_text(json.dumps(baseline | ratios, indent=1) + "\n")
    worse = regressions(ratios, baseline) if options.check else []
    for line in worse:
        print(f"fell by more than {FALL:.0%}: {line}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())

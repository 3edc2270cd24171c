"""make check-real: Dr. GRPO on a real pretrained model, SmolLM2-135M-Instruct, with its own chat template.

GSM8K for a few steps (is every part sound on real text?), then Countdown with two and three small numbers for long enough
that its reward must rise. The verdict is a difference of means with its standard error, not a look at a curve.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "runs" / "smollm2"
COMMON = [
    "algo=drgrpo",
    "template=chat",
    "model=hf",
    f"model.path={MODEL}",
    "model.context=1024",
    "evaluation.every=0",
    "checkpoint.every=10",
    "checkpoint.keep=1",
    "samples.every=5",
    "tracker=jsonl",
    "learner.micro_tokens=1024",
]
GSM8K = [
    "questions=file",
    "prompts=2",
    "group_size=4",
    "sampling.max_tokens=160",
    "optimizer.lr=2e-6",
    "benchmarks.limit=4",
]
COUNTDOWN = [  # easy on purpose: this model must find right answers before it can learn from them
    "questions=countdown",
    "questions.rows.counts=[2,2,2,3]",
    "questions.rows.high=9",
    "questions.rows.smallest=2",
    "questions.rows.largest=30",
    "questions.rows.train=1024",
    "questions.rows.heldout=64",
    "questions.rows.text='Use each of the numbers {numbers} once with + - * / to make {target}. Reply with the equation only.'",
    "template.system='Reply with one equation.'",
    "template.extract._target_=zero.template.last_expression",
    "reward=tinyzero",
    "reward.terms.form.weight=0.02",
    "reward.terms.correct.weight=0.98",
    "prompts=6",
    "group_size=8",
    "sampling.max_tokens=24",
    "optimizer.lr=1e-5",
    "optimizer.warmup=2",
    "benchmarks.limit=16",
]


def train(run_dir: Path, options: list[str], minutes: float) -> list[dict[str, Any]]:
    """Train in a process of its own, asking it to stop after so many minutes; returns the journal's training lines."""
    words = [sys.executable, "-m", "zero.train", *COMMON, f"run_dir={run_dir}", *options]
    child = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": os.environ.get("THREADS", "1")})
    try:
        code = child.wait(timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)  # saves at the end of the step and exits with 75
        code = child.wait(timeout=600)
    if code not in (0, 75):
        sys.exit(f"training failed with exit code {code}")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"] > 0]


def check_sound(lines: list[dict[str, Any]]) -> None:
    """What must hold on any model in float32, whatever is learnt."""
    for line in lines:
        assert line["mismatch/logprob_gap"] < 1e-4, f"sampler and learner disagree at step {line['step']}"
        assert all(math.isfinite(value) for value in line.values())


def check_rises(lines: list[dict[str, Any]], window: int) -> bool:
    """Whether the mean reward of the last `window` steps exceeds that of the first by three standard errors."""
    first, last = ([line["train/reward"] for line in steps] for steps in (lines[:window], lines[-window:]))
    rise = statistics.fmean(last) - statistics.fmean(first)
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / window)
    print(
        f"Countdown: reward {statistics.fmean(first):.3f} in the first {window} of {len(lines)} steps, "
        f"{statistics.fmean(last):.3f} in the last {window}: a rise of {rise:.3f}, standard error {error:.3f}"
    )
    return rise > 3 * error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gsm8k", default="", help="a JSON Lines file with columns problem and answer; without it, skipped"
    )
    parser.add_argument("--gsm-steps", type=int, default=10)
    parser.add_argument("--countdown-steps", type=int, default=60, help="0: no Countdown")
    parser.add_argument("--minutes", type=float, default=30, help="limit for Countdown")
    typed = parser.parse_args()
    subprocess.run([sys.executable, "-m", "tests.real.fetch_smollm2", MODEL], cwd=ROOT, check=True)
    stamp = ROOT / "runs" / f"check-real-{time.strftime('%Y%m%d-%H%M%S')}"
    if typed.gsm8k:
        began = time.monotonic()
        options = [*GSM8K, f"questions.path={Path(typed.gsm8k).resolve()}", f"steps={typed.gsm_steps}"]
        lines = train(stamp / "gsm8k", options, minutes=60)
        check_sound(lines)
        print(f"GSM8K: {len(lines)} steps in {time.monotonic() - began:.0f} s, all sound")
    else:
        print("GSM8K: skipped, no file given (make check-real GSM8K=FILE)")
    if not typed.countdown_steps:
        return
    began = time.monotonic()
    lines = train(stamp / "countdown", [*COUNTDOWN, f"steps={typed.countdown_steps}"], typed.minutes)
    check_sound(lines)
    print(f"Countdown: {len(lines)} steps in {time.monotonic() - began:.0f} s, all sound")
    if len(lines) >= 30 and not check_rises(lines, window=len(lines) // 3):
        sys.exit("the Countdown reward did not rise")


if __name__ == "__main__":
    main()

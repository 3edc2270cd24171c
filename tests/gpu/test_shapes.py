"""Engines and learners on random models of published size: a step's memory and speed, and that both still agree.

On the CPU the same functions run on a toy of the same kind, so that what is to run on a GPU has run before. Each step is
printed (pytest -s) and, where the environment names a folder OUT, appended to OUT/shapes.jsonl.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from launch.cost.shapes import ENGINE, TRAINING
from tests.conftest import BASE, ROOT
from tests.emulated.accelerator import installed
from tests.gpu.shapes import qwen2_shape
from tests.integration.runs import SMALL, reproducible
from zero.batching import make_batch, rewards
from zero.config.check import check, instantiate
from zero.distributed import World
from zero.models.load import load_model
from zero.records import Batch, Group, Outcome, Prompt, Question, Sampling, Verdict


@dataclass(frozen=True)
class Case:
    """One engine and one learner on one model. Tokens of the prompt, of the response, and of a micro-batch."""

    device: str
    size: str
    learner: str = "torch"
    rollout: str = "native"
    precision: str = "float32"
    prompts: int = 2
    group: int = 4
    prompt: int = 12
    response: int = 16
    micro: int = 64


REAL: Any = dict(prompts=16, group=8, prompt=128, response=512, micro=8192)
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ENGINES = [pytest.mark.engines]
CASES = [
    pytest.param(Case("cpu", "tiny"), id="cpu"),
    pytest.param(Case("cpu", "tiny", precision="bfloat16"), id="cpu-bfloat16"),
    pytest.param(Case("emu", "tiny", precision="bfloat16"), id="emulated"),
    pytest.param(Case("cpu", "tiny", learner="deepspeed"), id="cpu-deepspeed", marks=ENGINES),
    pytest.param(Case("cpu", "tiny", rollout="vllm"), id="cpu-vllm", marks=ENGINES),
    pytest.param(Case("cuda", "0.5b", **REAL), id="0.5b", marks=CUDA),
    pytest.param(Case("cuda", "0.5b", precision="bfloat16", **REAL), id="0.5b-bfloat16", marks=CUDA),
    pytest.param(Case("cuda", "1.5b", precision="bfloat16", **REAL), id="1.5b-bfloat16", marks=CUDA),
    pytest.param(
        Case("cuda", "0.5b", learner="deepspeed", precision="bfloat16", **REAL), id="0.5b-deepspeed", marks=CUDA
    ),
    pytest.param(Case("cuda", "0.5b", rollout="vllm", precision="bfloat16", **REAL), id="0.5b-vllm", marks=CUDA),
]


def tokenizer_of(size: int) -> Any:
    """The nano tokenizer with as many entries as the model's vocabulary: every id has a text."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(size - len(tokenizer))])
    return tokenizer


@pytest.fixture
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A size -> the folder of a random model of that size, in the precision that such models are published in."""

    def folder_of(size: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"shape_{size}"
        if not folder.exists():
            shape = qwen2_shape(size)
            torch.manual_seed(0)
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
                model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
            model.to(torch.float32 if size == "tiny" else torch.bfloat16).save_pretrained(folder)
            tokenizer_of(shape.vocab_size).save_pretrained(folder)
        return folder

    return folder_of


def parts_of(case: Case, folder: Path) -> tuple[Any, Any, Any, Any]:
    """(engine, learner, algorithm, model's config) as a run builds them, around a model as it loads it: on the CPU."""
    from zero import build

    overrides = [
        "algo=drgrpo",
        f"learner={case.learner}",
        f"learner.precision={case.precision}",
        f"rollout={case.rollout}",
        f"learner.micro_tokens={case.micro}",
        "optimizer.lr=1e-4",
        "sampling.temperature=1.0",
    ]
    config = check("train", overrides)
    device = torch.device(case.device)
    model, tokenizer, _ = load_model({"path": str(folder), "revision": None, "context": None})
    algo, optimizer = instantiate(config["algo"]), instantiate(config["optimizer"])
    engine = build.make_engine(config["rollout"], model, tokenizer, case.prompt + case.response, device)
    learner = build.make_learner(config, model, tokenizer, algo, optimizer, device, World())
    return engine, learner, algo, model.config


def prompts_of(case: Case, vocabulary: int, step: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(8, vocabulary, (case.prompts, case.prompt), generator=generator).tolist()
    return [Prompt(Question("", ("",), str(p)), "", tuple(row), (0, 0, step, p)) for p, row in enumerate(ids)]


def groups_of(engine: Any, prompts: Sequence[Prompt], case: Case) -> list[Group]:
    """Sampled completions of which every second one is rewarded. No token ends them: each has the whole length."""
    with engine.awake():
        completions_PG = engine.generate(prompts, case.group, Sampling(case.response))
    verdicts = tuple(Verdict(float(i % 2), Outcome.WRONG, Outcome.WRONG, None, "") for i in range(case.group))
    return [Group(prompt, tuple(own), verdicts) for prompt, own in zip(prompts, completions_PG, strict=True)]


def gap(learner: Any, batch: Batch) -> float:
    """Mean distance of the sampler's log-probabilities from the learner's, in nats."""
    assert batch.sampler_NT is not None
    return float(((learner.logprobs(batch) - batch.sampler_NT).abs() * batch.mask_NT).sum() / batch.mask_NT.sum())


def timed(case: Case, work: Any) -> tuple[Any, float, float]:
    """The result of `work`, its seconds, and the peak memory of torch meanwhile in GB (on a CPU: of the process)."""
    cuda = case.device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, time.perf_counter() - began, peak / 1e9


def note(numbers: dict[str, Any]) -> None:
    print(json.dumps(numbers))
    if folder := os.environ.get("OUT"):
        with (Path(folder) / "shapes.jsonl").open("a") as file:
            file.write(json.dumps(numbers) + "\n")


@pytest.mark.parametrize("case", CASES)
def test_a_step_samples_learns_and_syncs_within_its_memory(case: Case, folders: Callable[[str], Path]) -> None:
    for library in {case.learner, case.rollout} & {"deepspeed", "vllm"}:
        pytest.importorskip(library)
    with installed() if case.device == "emu" else nullcontext():
        engine, learner, algo, shape = parts_of(case, folders(case.size))
    parameters = sum(tensor.numel() for _, tensor in learner.weights())
    bound = 1e-3 if case.precision == "float32" else 0.05
    for step in range(2):  # the first includes one-time setup
        engine.sync(learner.weights(), version=step)
        before = [tensor.detach().cpu().clone() for _, tensor in learner.weights()]
        prompts = prompts_of(case, shape.vocab_size, step)
        groups, rollout_seconds, rollout_peak = timed(case, lambda: groups_of(engine, prompts, case))  # noqa: B023
        batch = algo.with_advantages(make_batch(groups, algo, pad_id=1), rewards(groups))
        assert int(batch.mask_NT.sum()) == case.prompts * case.group * case.response
        assert gap(learner, batch) < bound, "the engine has other weights than the learner"
        metrics, update_seconds, update_peak = timed(case, lambda: learner.update(batch, algo))  # noqa: B023
        assert metrics["loss/grad_norm"] > 0
        after = [tensor.detach().cpu() for _, tensor in learner.weights()]
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    held = torch.cuda.memory_allocated() / 1e9 if case.device == "cuda" else None
    if held is not None and (case.learner, case.rollout) == ("torch", "native"):
        assert held < (TRAINING + ENGINE) * parameters / 1e9 + 1, "more than the models' hints say"
    tokens = case.prompts * case.group * case.response
    note(
        asdict(case)
        | {
            "parameters": parameters,
            "rollout_tokens_per_second": round(tokens / rollout_seconds, 1),
            "update_tokens_per_second": round(float(batch.length_N.sum()) / update_seconds, 1),
            "rollout_peak_gb": round(rollout_peak, 3),
            "update_peak_gb": round(update_peak, 3),
            "held_gb": held and round(held, 3),
            "logprob_gap": metrics["mismatch/logprob_gap"],
        }
    )


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=ENGINES), pytest.param("cuda", marks=[*CUDA, *ENGINES])])
def test_deepspeed_learns_what_torch_learns(device: str, folders: Callable[[str], Path]) -> None:
    pytest.importorskip("deepspeed")
    ended = []
    for learner_name in ("torch", "deepspeed"):
        case = Case(device, "tiny", learner=learner_name)
        engine, learner, algo, shape = parts_of(case, folders("tiny"))
        engine.sync(learner.weights(), version=0)
        for step in range(2):
            groups = groups_of(engine, prompts_of(case, shape.vocab_size, step), case)
            learner.update(algo.with_advantages(make_batch(groups, algo, pad_id=1), rewards(groups)), algo)
        ended.append({name: tensor.detach().cpu().float().clone() for name, tensor in learner.weights()})
    assert ended[0].keys() == ended[1].keys()
    for name, exact in ended[0].items():
        torch.testing.assert_close(ended[1][name], exact, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=CUDA)])
def test_one_process_under_torchrun_is_one_process(device: str, tmp_path: Path) -> None:
    """RANK=0 and WORLD_SIZE=1 with torchrun's other variables change nothing that a run computes."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    environment = os.environ | hidden | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    for name, launcher in (("alone", [sys.executable]), ("torchrun", torchrun)):
        command = [*launcher, "-m", "zero.train", *SMALL, "steps=1", "tracker=jsonl", f"run_dir={tmp_path / name}"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
    journals = [reproducible(tmp_path / name) for name in ("alone", "torchrun")]
    assert [line["step"] for line in journals[0]] == [line["step"] for line in journals[1]] == [0, 1]
    if device == "cpu":  # a GPU may add in another order
        assert journals[0] == journals[1]

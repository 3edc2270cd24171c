"""Try the longest step that a run could have before the run: does it fit into memory, and how long does it take?

Every prompt is as long as the longest one, every response fills the token budget and has a gradient. A run that passes
cannot run out of memory on its third night because answers grew.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice

import torch

from zero.errors import InputError
from zero.loop import Run, score_batch, update
from zero.records import Completion, Group, Outcome, Prompt, Verdict
from zero.rollout.episodes import EpisodeEngine, without_environment

CANDIDATES = 64  # questions with the longest texts, which are tokenized to find the longest prompt
LESS_ROLLOUT = "lower rollout.max_rows or the engine's share of memory (rollout.memory), or take rollout=vllm_server"
LESS_UPDATE = (
    "lower learner.micro_tokens (one response of the longest kind is the least), set learner.gradient_checkpointing=true, "
    "or take learner=deepspeed (learner.stage=3) or learner=lora"
)


def probe(run: Run) -> None:
    """Print the time and memory of the longest possible step; the run's weights are spoilt afterwards."""
    longest_step(run, print if run.world.is_main else lambda line: None)
    if run.world.is_main:
        print("the longest step fits; nothing was trained: the same command without debug=probe does it")


def longest_step(run: Run, report: Callable[[str], None]) -> None:
    """One step of the longest possible sequences: sampling, scoring, update, sync.

    `report` gets a line for each stage with the time and peak memory of this rank. Trains the run's own weights: throw the
    run away. When memory runs out, InputError names the setting to change.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    budget = replace(run.sampling, stop=(), stop_ids=())
    prompts = longest_prompts(run)
    size, responses = len(prompts[0].ids), run.prompts * run.group_size
    engine = without_environment(run.engine)
    if isinstance(run.engine, EpisodeEngine):  # an episode may fill the context with the environment's words
        budget = replace(budget, max_tokens=run.engine.context - size)
    report(f"longest prompt {size} tokens, {responses} responses of {budget.max_tokens}, {run.world.size} ranks")
    with _measured("rollout", device, report, LESS_ROLLOUT):
        engine.sync(run.learner.weights(), version=0)
        with engine.awake():
            completions_PG = engine.generate(run.world.shard(prompts), run.group_size, budget)
    groups = run.world.all_gather(_graded(run.world.shard(prompts), completions_PG))
    with _measured("scores of old and initial policy, critic", device, report, LESS_UPDATE):
        batch = score_batch(run, groups)
    with _measured("update", device, report, LESS_UPDATE):
        update(run, batch)
    with _measured("sync", device, report, LESS_ROLLOUT):
        run.engine.sync(run.learner.weights(), version=1)


def longest_prompts(run: Run) -> list[Prompt]:
    """The step's first prompts, each filled up with its own ids to the length of the longest prompt of the training set."""
    longest = sorted(run.questions.rows.train, key=lambda q: len(q.text), reverse=True)[:CANDIDATES]
    size = max(len(run.template.prompt(q, run.tokenizer, (0,)).ids) for q in longest)
    prompts = [
        run.template.prompt(q, run.tokenizer, (0, run.seed, 0, i))
        for i, q in enumerate(run.questions.batch(0, run.prompts, run.seed))
    ]
    return [replace(p, ids=tuple(islice(cycle(p.ids), size)), max_tokens=None, stop=None) for p in prompts]


def _graded(prompts: Sequence[Prompt], completions_PG: Sequence[Sequence[Completion]]) -> list[Group]:
    """Groups whose rewards differ, so that every response has a gradient."""
    groups = []
    for prompt, c_G in zip(prompts, completions_PG, strict=True):
        verdicts = [Verdict(float(g % 2), Outcome.WRONG, Outcome.WRONG, None, "probe") for g in range(len(c_G))]
        finished = tuple(replace(c, finished=True) for c in c_G)  # else mask_truncated would mask them all
        groups.append(Group(prompt, finished, tuple(verdicts)))
    return groups


@contextmanager
def _measured(stage: str, device: torch.device, report: Callable[[str], None], remedy: str) -> Iterator[None]:
    start = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error).lower():
            raise InputError("debug", "probe", f"out of memory in {stage}: {remedy}") from error
        raise
    report(f"{stage}: {time.perf_counter() - start:.1f} s, {_peak(device)}")


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"peak {torch.cuda.max_memory_reserved() / 2**30:.1f} of {total / 2**30:.1f} GiB on the GPU"
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB so far"  # KiB on Linux
